"""Compressed models on disk: a directory with `weights.pt` and `structure.json`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.compress.copying import copied
from autocompress.compress.hooks import fresh_model
from autocompress.compress.loading import ModuleReference
from autocompress.compress.quantizing.int8 import Int8Model
from autocompress.compress.shipping.storage import decode, encode
from autocompress.compress.shipping.structure import apply_structure, structure_of
from autocompress.errors import ModuleError, StoreError

SCHEMA_VERSION = 1
WEIGHTS, STRUCTURE = "weights.pt", "structure.json"
FLOAT, INT8 = "float", "int8"
"""Kinds of checkpoints: differences to the uncompressed model, or a graph of its own."""


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


def load_compressed(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The compressed model of a checkpoint, computing exactly what the saved one did.

    Args:
        path: the checkpoint's directory.
        model: the uncompressed model, copied, not changed; None: taken from the module that the checkpoint names. An
            int8 model does not need it.

    Raises:
        StoreError: no checkpoint there, a damaged one, or one of another model.
        ModuleError: the module that the checkpoint names cannot be loaded.
    """
    directory = Path(path)
    description, weights = _read(directory)
    if description["kind"] == INT8:
        return _int8(description["structure"], weights, directory)
    loaded = _uncompressed(description, directory) if model is None else copied(model)
    try:
        apply_structure(loaded, description["structure"])
        loaded.load_state_dict(weights, strict=True)
    except (StoreError, RuntimeError, AttributeError, TypeError, KeyError) as error:
        raise StoreError(f"the checkpoint {str(directory)!r} is of another model: {error}") from error
    return loaded


def _int8(structure: Mapping[str, Any], weights: Mapping[str, torch.Tensor], directory: Path) -> nn.Module:
    loaded = Int8Model.from_dict(structure)
    try:
        loaded.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise StoreError(f"the checkpoint {str(directory)!r} is damaged: {error}") from error
    return loaded


def module_of(path: str | os.PathLike[str]) -> ModuleReference | None:
    """The module that a checkpoint names.

    Raises:
        StoreError: no checkpoint there, or a damaged one.
    """
    reference = _description(Path(path))["module"]
    return None if reference is None else ModuleReference.from_dict(reference)


def _write(state: Mapping[str, torch.Tensor], folder: Path, about: Mapping[str, Any], *, plain: bool) -> None:
    folder.mkdir()
    stored, storage = (state, {}) if plain else encode(state)
    with (folder / WEIGHTS).open(
        "w+b"
    ) as file:  # a file object: the archive's inner names, so its size, are always the same
        torch.save(stored, file)
        _flush(file.fileno(), file)
    description = {
        "schema_version": SCHEMA_VERSION,
        "weights_sha256": _sha256(folder / WEIGHTS),
        **about,
        "storage": storage,
    }
    with (folder / STRUCTURE).open("w", encoding="utf-8") as text:
        json.dump(description, text, indent=1)
        _flush(text.fileno(), text)
    _sync_folder(folder)


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


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    description = _description(directory)
    file = directory / WEIGHTS
    if not file.is_file():
        raise StoreError(f"a checkpoint must have {WEIGHTS}; {str(directory)!r} has none")
    if _sha256(file) != description["weights_sha256"]:
        raise StoreError(
            f"the checkpoint {str(directory)!r} is damaged: {WEIGHTS} does not have the checksum in {STRUCTURE}"
        )
    try:
        weights = decode(torch.load(file, map_location="cpu", weights_only=True), description["storage"])
    except Exception as error:
        raise StoreError(f"the checkpoint {str(directory)!r} is damaged: {WEIGHTS} cannot be read: {error}") from error
    return description, weights


def _description(directory: Path) -> dict[str, Any]:
    _restore(directory)
    file = directory / STRUCTURE
    if not file.is_file():
        raise StoreError(f"a checkpoint must be a directory with {STRUCTURE}; {str(directory)!r} has none")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the checkpoint {str(directory)!r} is damaged: {STRUCTURE} cannot be read: {error}"
        ) from error
    version = description.get("schema_version") if isinstance(description, dict) else None
    if version != SCHEMA_VERSION:
        raise StoreError(f"{STRUCTURE}: schema_version must be {SCHEMA_VERSION}; got {version!r}")
    missing = {"kind", "module", "weights_sha256", "storage", "structure"} - description.keys()
    if missing:
        raise StoreError(f"{STRUCTURE}: {', '.join(sorted(missing))} must be there; {str(directory)!r} lacks them")
    return dict(description)


def _uncompressed(description: Mapping[str, Any], directory: Path) -> nn.Module:
    if description["module"] is None:
        raise StoreError(
            f"the checkpoint {str(directory)!r} names no module: give load_compressed the uncompressed model"
        )
    try:
        return fresh_model(ModuleReference.from_dict(description["module"]).load())
    except ModuleError as error:
        raise ModuleError(f"the checkpoint {str(directory)!r} needs its module: {error}") from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while part := data.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
