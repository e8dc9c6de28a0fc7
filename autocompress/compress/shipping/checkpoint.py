"""Compressed models on disk: a directory with `weights.pt` and `structure.json`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import nn

from autocompress.compress.copying import copied
from autocompress.compress.hooks import fresh_model
from autocompress.compress.loading import ModuleReference
from autocompress.compress.module import ModuleClass
from autocompress.compress.quantizing.int8 import Int8Model
from autocompress.compress.shipping.archive import plain_value, read_archive
from autocompress.compress.shipping.dtypes import DTYPES, name_of
from autocompress.compress.shipping.grammar import (
    ANY_NAME,
    MOST_BYTES,
    integer,
    mapping,
    optional,
    parsed,
    record,
    shown,
    text,
    word,
)
from autocompress.compress.shipping.storage import STORED, decode, encode
from autocompress.compress.shipping.structure import apply_structure, structure_of
from autocompress.errors import ModuleError, StoreError

SCHEMA_VERSION = 2
WEIGHTS, STRUCTURE = "weights.pt", "structure.json"
FLOAT, INT8 = "float", "int8"
"""Kinds of checkpoints: differences to the uncompressed model, or a graph of its own."""


def _reference(value: Any, where: str) -> Any:
    try:
        return ModuleReference.from_dict(value).to_dict()
    except ModuleError as error:
        raise StoreError(f"{where}: {error}") from error


_DIGEST = text("[0-9a-f]{64}|", "a checksum")
_CHECKPOINT = record(
    schema_version=integer(SCHEMA_VERSION, SCHEMA_VERSION),
    sha256=_DIGEST,
    weights_sha256=_DIGEST,
    kind=word(FLOAT, INT8),
    module=optional(_reference),
    structure=lambda value, where: value,  # by kind, when the model is made
    storage=mapping(ANY_NAME, STORED),
)


def save_checkpoint(
    model: nn.Module,
    directory: str | os.PathLike[str],
    original: nn.Module,
    module: ModuleReference | None = None,
    *,
    plain: bool = False,
) -> None:
    """Write a finished compressed model, replacing what is there; a reader sees the old checkpoint or the new one.

    Args:
        model: the compressed model, masks folded.
        directory: the checkpoint's directory; its parents are made.
        original: the uncompressed model.
        module: where the uncompressed model can be had again; None: it must be given to `load_compressed`.
        plain: write an ordinary state dict, zeros and all; else each tensor as compactly as `storage` can.

    Raises:
        StoreError: the model cannot be described by differences to the original, or the files cannot be written.
    """
    target = Path(directory)
    structure = model.to_dict() if isinstance(model, Int8Model) else structure_of(model, original)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _restore(target)
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
        try:
            kind = INT8 if isinstance(model, Int8Model) else FLOAT
            _write(model.state_dict(), beside, {"kind": kind, **_about(module), "structure": structure}, plain=plain)
            _replace(target, beside)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"the checkpoint must be writable; {str(target)!r} is not: {error}") from error


def load_compressed(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    module: ModuleClass | str | None = None,
    trust_module: bool = False,
) -> nn.Module:
    """The compressed model of a checkpoint, computing exactly what the saved one did.

    Whoever wrote the checkpoint, no code of theirs runs unless `trust_module` is given: what is read is checked against
    a closed grammar, and the module that the checkpoint names is used only where this process has imported it already.

    Args:
        path: the checkpoint's directory.
        model: the uncompressed model, copied, not changed. An int8 model does not need it.
        module: instead of `model`: the class whose `model()` gives it, or where to import it from, as
            `package.module:ClassName` or `path/to/file.py:ClassName`.
        trust_module: instead of both: import the file that the checkpoint names, which runs it.

    Raises:
        StoreError: no checkpoint there, a damaged one, or one of another model; or the uncompressed model is needed and
            not given.
        ModuleError: the module cannot be loaded.
    """
    directory = Path(path)
    description, weights = _read(directory)
    if description["kind"] == INT8:
        return _int8(description["structure"], weights, directory)
    loaded = copied(model) if model is not None else _uncompressed(description, directory, module, trust_module)
    try:
        apply_structure(loaded, description["structure"])
        _require_fitting(loaded.state_dict(), weights)
        loaded.load_state_dict(weights, strict=True)
    except Exception as error:  # a model of the user's may do anything with state that is not its own
        raise StoreError(f"the checkpoint {str(directory)!r} is of another model: {error}") from error
    return loaded


def _require_fitting(state: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Each tensor of the model's must be there, in its shape and type: `load_state_dict` would convert them."""
    odd = sorted(state.keys() ^ weights.keys())
    if odd:
        raise StoreError(f"the weights must be those of the model; these are not: {', '.join(map(shown, odd[:5]))}")
    for name, value in state.items():
        found = weights[name]
        if not isinstance(value, torch.Tensor):
            continue
        if not isinstance(found, torch.Tensor) or (found.shape, found.dtype) != (value.shape, value.dtype):
            raise StoreError(f"{name} must be {value.dtype} of shape {tuple(value.shape)}")


def _int8(structure: Any, weights: Mapping[str, Any], directory: Path) -> nn.Module:
    try:
        loaded = Int8Model.from_dict(structure, weights)
        _require_fitting(loaded.state_dict(), weights)
    except StoreError as error:
        raise StoreError(f"the checkpoint {str(directory)!r} is damaged: {error}") from error
    return loaded


def module_of(path: str | os.PathLike[str]) -> ModuleReference | None:
    """The module that a checkpoint names.

    Raises:
        StoreError: no checkpoint there, or a damaged one.
    """
    reference = _description(Path(path))["module"]
    return None if reference is None else ModuleReference.from_dict(reference)


def loading_line(path: str | os.PathLike[str]) -> str:
    """The line of Python that loads a checkpoint of one's own, from any directory.

    Raises:
        StoreError: no checkpoint there, or a damaged one.
    """
    place, description = repr(str(Path(path).resolve())), _description(Path(path))
    if description["kind"] == INT8:
        return f"autocompress.load_compressed({place})"
    if description["module"] is None:
        return f"autocompress.load_compressed({place}, model)  # model: the uncompressed one"
    return f"autocompress.load_compressed({place}, trust_module=True)  # runs {description['module']['file']!r}"


def _write(state: Mapping[str, Any], folder: Path, about: Mapping[str, Any], *, plain: bool) -> None:
    state = _storable_state(state)
    folder.mkdir()
    stored, storage = (state, {}) if plain else encode(state)
    with (folder / WEIGHTS).open(
        "w+b"
    ) as file:  # a file object: the archive's inner names, so its size, are always the same
        torch.save(stored, file)
        _flush(file.fileno(), file)
    with (folder / WEIGHTS).open("rb") as file:
        digest = _sha256(file)
    description = {"schema_version": SCHEMA_VERSION, "weights_sha256": digest, **about, "storage": storage}
    _CHECKPOINT({**description, "sha256": ""}, STRUCTURE)
    with (folder / STRUCTURE).open("w", encoding="utf-8") as text:
        json.dump({**description, "sha256": _digest(description)}, text, indent=1, allow_nan=False)
        _flush(text.fileno(), text)
    _sync_folder(folder)


def _storable_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state dict as it is stored; the versions of its modules are an attribute, which others' readers look at."""
    storable: Any = OrderedDict((name, _storable(name, value)) for name, value in state.items())
    vars(storable).update(getattr(state, "__dict__", {}))
    return cast(Mapping[str, Any], storable)


def _storable(name: str, value: Any) -> Any:
    """A tensor as the archive's reader takes it: dense, with memory of its own for each element; or plain data.

    Raises:
        StoreError: it is neither.
    """
    if not isinstance(value, torch.Tensor):
        return plain_value(value, name)
    tensor = value.detach()
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise StoreError(f"a checkpoint holds dense tensors and plain values; {name} is a {type(value).__qualname__}")
    if name_of(tensor.dtype) not in DTYPES:
        raise StoreError(f"a checkpoint's tensors must be {', '.join(DTYPES)}; {name} is {tensor.dtype}")
    tensor = tensor.resolve_conj().resolve_neg()
    return tensor.contiguous() if tensor.nbytes > tensor.untyped_storage().nbytes() else tensor


def _about(module: ModuleReference | None) -> dict[str, Any]:
    return {"module": None if module is None else module.to_dict()}


def _flush(descriptor: int, file: Any) -> None:
    file.flush()
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _previous(target: Path) -> Path:
    return target.parent / f".{target.name}.previous"


def _replace(target: Path, beside: Path) -> None:
    """A directory cannot be renamed over a full one: the old one steps aside first, and `_restore` knows where."""
    previous = _previous(target)
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        target.rename(previous)
    beside.rename(target)
    _sync_folder(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _restore(target: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    if not target.exists() and _previous(target).exists():
        _previous(target).rename(target)


def _standing(directory: Path) -> Path:
    """Where a checkpoint is to be read: reading changes nothing, half a replacement is not undone."""
    return _previous(directory) if not directory.exists() and _previous(directory).exists() else directory


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    description = _description(directory)
    with _opened(
        _standing(directory) / WEIGHTS, f"a checkpoint must have {WEIGHTS}; {str(directory)!r} has none"
    ) as file:
        if _sha256(file) != description["weights_sha256"]:
            raise StoreError(
                f"the checkpoint {str(directory)!r} is damaged: {WEIGHTS} does not have the checksum in {STRUCTURE}"
            )
        try:
            state = read_archive(file)
            values = {name: state.pop(name) for name, value in list(state.items()) if type(value) is not torch.Tensor}
            weights = decode(state, description["storage"])
            return description, weights | {name: plain_value(value, name) for name, value in values.items()}
        except StoreError as error:
            raise StoreError(
                f"the checkpoint {str(directory)!r} is damaged: {WEIGHTS} cannot be read: {error}"
            ) from error


def _description(directory: Path) -> dict[str, Any]:
    missing = f"a checkpoint must be a directory with {STRUCTURE}; {str(directory)!r} has none"
    with _opened(_standing(directory) / STRUCTURE, missing) as file:
        data = file.read(MOST_BYTES + 1)
    try:
        description = parsed(data)
    except StoreError as error:
        raise StoreError(
            f"the checkpoint {str(directory)!r} is damaged: {STRUCTURE} cannot be read: {error}"
        ) from error
    version = description.get("schema_version") if isinstance(description, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise StoreError(f"{STRUCTURE}: schema_version must be {SCHEMA_VERSION}; got {shown(version)}")
    checked: dict[str, Any] = _CHECKPOINT(description, STRUCTURE)
    digest = description.pop("sha256")
    if digest != _digest(description):
        raise StoreError(f"the checkpoint {str(directory)!r} is damaged: {STRUCTURE} does not have its checksum")
    return checked


@contextlib.contextmanager
def _opened(file: Path, missing: str) -> Iterator[BinaryIO]:
    """A plain file of a checkpoint, opened for reading: neither a link to elsewhere nor a pipe that blocks."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(file, flags)
    except OSError as error:
        if not file.is_symlink() and not file.exists():
            raise StoreError(missing) from error
        raise StoreError(f"{file.name} must be a plain file; {str(file)!r} is not, or cannot be read") from error
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreError(f"{file.name} must be a plain file; {str(file)!r} is not")
        yield opened


def _uncompressed(
    description: Mapping[str, Any], directory: Path, module: ModuleClass | str | None, trust_module: bool
) -> nn.Module:
    if module is not None:
        named = ModuleReference.parse(module) if isinstance(module, str) else None
        return _model_of(module if named is None else named.load(), named)  # type: ignore[arg-type]
    if description["module"] is None:
        raise StoreError(
            f"the checkpoint {str(directory)!r} names no module: give load_compressed the uncompressed model"
        )
    reference = ModuleReference.from_dict(description["module"])
    try:
        known = reference.load() if trust_module else reference.imported()
        if known is not None:
            return _model_of(known, reference)
    except ModuleError as error:
        raise ModuleError(f"the checkpoint {str(directory)!r} needs its module: {error}") from error
    what = f"the checkpoint {str(directory)!r}"
    raise StoreError(
        reference.untrusted(what, lambda given: f"autocompress.load_compressed({str(directory)!r}, {given})")
    )


def _model_of(module: ModuleClass, reference: ModuleReference | None) -> nn.Module:
    with reference.on_path() if reference is not None else contextlib.nullcontext():
        return fresh_model(module)


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _digest(description: Mapping[str, Any]) -> str:
    """Of everything else in the file, in its order: found where something was changed by accident."""
    return hashlib.sha256(json.dumps(description, separators=(",", ":")).encode()).hexdigest()
