"""Compressed models on disk: a directory with `weights.pt` and `structure.json`."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.compression.model_state import copy_model, without_wrappers
from autocompress.compression.module import ModuleClass, fresh_model
from autocompress.compression.module_loading import ModuleReference
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.state_values import prepare_state
from autocompress.errors import ModuleError, StoreError
from autocompress.formats.files import (
    FLOAT,
    INT8,
    read_files,
    replace_files,
    restore_files,
    write_files,
)
from autocompress.formats.structure import apply_structure, load_weights, structure_of


def save_checkpoint(
    model: nn.Module,
    directory: str | os.PathLike[str],
    original: nn.Module,
    module: ModuleReference | None = None,
    *,
    plain: bool = False,
) -> None:
    """Write a finished compressed model atomically: a reader sees the old checkpoint or the new one.

    Args:
        model: the compressed model, masks folded.
        directory: the checkpoint's directory; its parents are made.
        original: the uncompressed model.
        module: the module that returns the uncompressed model; None: it must be passed to `load_compressed`.
        plain: write an ordinary state dict; else each tensor as compactly as possible.

    Raises:
        StoreError: the model differs from the original in more than sizes, has something that a checkpoint does not
            allow, or cannot be loaded again (then the old checkpoint stays); or the files cannot be written.
    """
    target = Path(directory)
    state = prepare_state(model.state_dict())
    structure = model.to_dict() if isinstance(model, Int8Model) else structure_of(model, original)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        restore_files(target)
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
        try:
            kind = INT8 if isinstance(model, Int8Model) else FLOAT
            about = {"kind": kind, "module": None if module is None else module.to_dict(), "structure": structure}
            write_files(state, beside, about, plain=plain)
            _require_readable(beside, original)
            replace_files(target, beside)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"the checkpoint must be writable; {str(target)!r} is not: {error}") from error


@checked_arguments
def load_compressed(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    module: ModuleClass | str | None = None,
    trust_module: bool = False,
) -> nn.Module:
    """The compressed model of a checkpoint, with exactly the outputs of the saved one.

    Checkpoints may come from an untrusted source: no code of theirs runs unless `trust_module` is given. Everything
    read is checked against a closed grammar, and the module named in it is used only if this process has already
    imported it.

    Args:
        path: the checkpoint's directory.
        model: the uncompressed model, copied, not changed. An int8 model does not need it.
        module: instead of `model`: the class whose `model()` returns it, or where to import it from, as
            `package.module:ClassName` or `path/to/file.py:ClassName`.
        trust_module: instead of both: import the file that the checkpoint names, which executes it.

    Raises:
        StoreError: no checkpoint there, a damaged one, or one of another model; or the uncompressed model is needed and
            not given.
        ModuleError: the module cannot be loaded.
    """
    directory = Path(path)
    description, weights = read_files(directory)
    if description["kind"] == INT8:
        try:
            return Int8Model.from_dict(description["structure"], weights)
        except StoreError as error:
            raise StoreError(f"the checkpoint {str(directory)!r} is damaged: {error}") from error
    original = _uncompressed(description, directory, module, trust_module) if model is None else without_wrappers(model)
    loaded = copy_model(original)
    try:
        apply_structure(loaded, description["structure"])
        load_weights(loaded, weights)
    except Exception as error:  # user modules define how they load state
        raise StoreError(f"the checkpoint {str(directory)!r} is of another model: {error}") from error
    return loaded


def _require_readable(folder: Path, original: nn.Module) -> None:
    """Check that a new checkpoint can be loaded: modules may define how their state is loaded."""
    try:
        description, weights = read_files(folder)
        if description["kind"] == INT8:
            Int8Model.from_dict(description["structure"], weights)
            return
        again = copy_model(original)
        apply_structure(again, description["structure"])
        load_weights(again, weights)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise StoreError(f"the model must be loadable from its checkpoint; {type(error).__name__}: {reason}") from error


def _uncompressed(
    description: Mapping[str, Any], directory: Path, module: ModuleClass | str | None, trust_module: bool
) -> nn.Module:
    if isinstance(module, str):
        return _model_of(ModuleReference.parse(module))
    if module is not None:
        return fresh_model(module)
    if description["module"] is None:
        raise StoreError(
            f"the directory {str(directory)!r} holds the weights of a compressed model, as an export without a suffix "
            "or a training loop writes them, and not the model that they are of: give the uncompressed model, as in "
            f"autocompress.load_compressed({str(directory)!r}, model=MyModule.model())"
        )
    reference = ModuleReference.from_dict(description["module"])
    if not trust_module and reference.in_memory() is None:
        raise StoreError(
            reference.untrusted_message(
                f"the checkpoint {str(directory)!r}",
                lambda given: f"autocompress.load_compressed({str(directory)!r}, {given})",
            )
        )
    try:
        return _model_of(reference)
    except ModuleError as error:
        raise ModuleError(f"the checkpoint {str(directory)!r} needs its module: {error}") from error


def _model_of(reference: ModuleReference) -> nn.Module:
    with reference.on_path():
        return fresh_model(reference.load())
