"""The two files of a checkpoint: written whole, and read by a closed grammar."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from autocompress.compress.loading import ModuleReference
from autocompress.compress.shipping.archive import plain_value, read_archive
from autocompress.compress.shipping.dtypes import DTYPES, name_of
from autocompress.compress.shipping.grammar import (
    ANY_NAME,
    MOST_BYTES,
    anything,
    integer,
    mapping,
    optional,
    parsed,
    record,
    text,
    word,
)
from autocompress.compress.shipping.storage import STORED, decode, encode
from autocompress.errors import ModuleError, StoreError, short

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
    structure=anything,  # by kind, when the model is made
    storage=mapping(ANY_NAME, STORED),
)


def write_files(state: Mapping[str, Any], folder: Path, about: Mapping[str, Any], *, plain: bool) -> None:
    """Write weights and their description into a new folder, flushed to the disk.

    Args:
        state: the state dict.
        folder: to be made.
        about: `kind`, `module` and `structure`.
        plain: store tensors as they are.

    Raises:
        StoreError: the state dict has what no checkpoint may have.
    """
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


def replace_files(target: Path, beside: Path) -> None:
    """A directory cannot be renamed over a full one: the old one steps aside first, and `_restore` knows where."""
    previous = _previous(target)
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        target.rename(previous)
    beside.rename(target)
    _sync_folder(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def restore_files(target: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    if not target.exists() and _previous(target).exists():
        _previous(target).rename(target)


def _standing(directory: Path) -> Path:
    """Where a checkpoint is to be read: reading changes nothing, half a replacement is not undone."""
    return _previous(directory) if not directory.exists() and _previous(directory).exists() else directory


def read_files(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The description of a checkpoint, all but its structure checked, and its weights.

    Raises:
        StoreError: no checkpoint there, or a damaged one.
    """
    description = read_description(directory)
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


def read_description(directory: Path) -> dict[str, Any]:
    """The description of a checkpoint, all but its structure checked.

    Raises:
        StoreError: no checkpoint there, or a damaged one.
    """
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
        raise StoreError(f"{STRUCTURE}: schema_version must be {SCHEMA_VERSION}; got {short(version)}")
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


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _digest(description: Mapping[str, Any]) -> str:
    """Of everything else in the file, in its order: found where something was changed by accident."""
    return hashlib.sha256(json.dumps(description, separators=(",", ":")).encode()).hexdigest()
