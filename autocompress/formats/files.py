"""The two files of a checkpoint: written atomically, and read by a closed grammar."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from autocompress.compression.module_loading import ModuleReference
from autocompress.compression.state_values import with_versions
from autocompress.compression.weight_storage import STORED, decode, encode
from autocompress.errors import ModuleError, StoreError, short
from autocompress.formats.archive import read_archive
from autocompress.plain_json import (
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

SCHEMA_VERSION = 2
WEIGHTS, STRUCTURE = "weights.pt", "structure.json"
FLOAT, INT8 = "float", "int8"
"""Kinds of checkpoints: differences to the uncompressed model, or a graph of its own."""
_PATIENCE_SECONDS = 10.0
"""How long a checkpoint is looked for that is replaced meanwhile."""
_TRIES, _POLL_SECONDS = 3, 0.01
"""How often one is looked for where there is none: it may have been between its two renames."""


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
        state: as `state_values.prepare_state` returns it.
        folder: to be made.
        about: `kind`, `module` and `structure`.
        plain: store tensors as they are.

    Raises:
        StoreError: the description has something that checkpoints do not allow.
    """
    folder.mkdir()
    stored, storage = (state, {}) if plain else encode(state)
    with (folder / WEIGHTS).open("w+b") as file:
        torch.save(stored, file)  # not by name, which would be part of the archive
        _flush(file.fileno(), file)
        file.seek(0)
        digest = _sha256_of(file)
    description = {"schema_version": SCHEMA_VERSION, "weights_sha256": digest, **about, "storage": storage}
    _CHECKPOINT({**description, "sha256": ""}, STRUCTURE)
    with (folder / STRUCTURE).open("w", encoding="utf-8") as text:
        json.dump({**description, "sha256": _digest(description)}, text, indent=1, allow_nan=False)
        _flush(text.fileno(), text)
    _sync_folder(folder)


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
    """Put a new directory in the place of an old one, which is removed.

    Where the file system can, both are exchanged at once, so that there is a whole checkpoint at any moment. Else the
    old one is moved away first, to where readers look for it.

    Raises:
        OSError: the file system does not allow it.
    """
    restore_files(target)
    while not _moved(beside, target) and not _exchange(beside, target):
        shutil.rmtree(_previous(target), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):  # another writer was first
            _moved(target, _previous(target))
    _sync_folder(target.parent)
    for old in (beside, _previous(target)):
        shutil.rmtree(old, ignore_errors=True)


def _moved(beside: Path, target: Path) -> bool:
    """Move a directory to where none is; False where there is one."""
    try:
        beside.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux' renameat2."""


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories at once; False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and not rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )


def restore_files(target: Path) -> None:
    """Undo a replacement that was killed between its two renames."""
    with contextlib.suppress(OSError):  # another writer was first
        if not target.exists() and _previous(target).exists():
            _previous(target).rename(target)


def read_files(directory: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The checked description of a checkpoint, its structure excepted, and its weights.

    Both files are of one version, even while the checkpoint is replaced, and each is read once: what is checked is
    used.

    Raises:
        StoreError: no checkpoint there, or a damaged one.
    """
    with _opened(directory, STRUCTURE, WEIGHTS) as (structure, weights):
        description = _description(structure, directory)
        try:
            return description, _state(weights, description)
        except StoreError as error:
            raise StoreError(f"the checkpoint {str(directory)!r} is damaged: {WEIGHTS} {error}") from error


def _state(file: BinaryIO, description: Mapping[str, Any]) -> Mapping[str, Any]:
    data = _read_into_memory(file)
    if hashlib.sha256(data).hexdigest() != description["weights_sha256"]:
        raise StoreError(f"does not have the checksum in {STRUCTURE}")
    try:
        state = read_archive(data)
        values = {name: state.pop(name) for name, value in list(state.items()) if type(value) is not torch.Tensor}
        return with_versions(state, {**decode(state, description["storage"]), **values})
    except StoreError as error:
        raise StoreError(f"cannot be read: {error}") from error


def read_description(directory: Path) -> dict[str, Any]:
    """The checked description of a checkpoint, its structure excepted.

    Raises:
        StoreError: no checkpoint there, or a damaged one.
    """
    with _opened(directory, STRUCTURE) as (structure,):
        return _description(structure, directory)


def _description(file: BinaryIO, directory: Path) -> dict[str, Any]:
    try:
        description = parsed(file.read(MOST_BYTES + 1))
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
def _opened(directory: Path, *names: str) -> Iterator[list[BinaryIO]]:
    """Open files of one version of a checkpoint; look again if it is replaced meanwhile."""
    deadline, tries = time.monotonic() + _PATIENCE_SECONDS, 0
    while True:
        with contextlib.ExitStack() as stack:
            place, folder = _folder(stack, directory)
            files = [stack.enter_context(_plain_file(place / name)) for name in names]
            missing = [_missing(name, directory) for name, file in zip(names, files, strict=True) if file is None]
            if folder is not None and _is_at(folder, place):
                if missing:
                    raise StoreError(missing[0])
                yield cast(list[BinaryIO], files)
                return
            tries += folder is None
        if tries > _TRIES:
            raise StoreError(missing[0])
        if time.monotonic() > deadline:
            raise StoreError(f"the checkpoint {str(directory)!r} must be readable; it is replaced all the time")
        time.sleep(_POLL_SECONDS)


def _folder(stack: contextlib.ExitStack, directory: Path) -> tuple[Path, int | None]:
    """Where a checkpoint is, and that directory, open; None if there is none.

    A half-replaced one is where it was moved, which reading does not undo. While the directory is open, no other one
    can be taken for it.
    """
    for place in (directory, _previous(directory)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            return place, descriptor
    return directory, None


def _is_at(folder: int, place: Path) -> bool:
    """Whether an open directory is still there: nothing has taken its place."""
    try:
        return os.path.samestat(place.stat(), os.fstat(folder))
    except OSError:
        return False


def _missing(name: str, directory: Path) -> str:
    what = "have" if name == WEIGHTS else "be a directory with"
    return f"a checkpoint must {what} {name}; {str(directory)!r} has none"


@contextlib.contextmanager
def _plain_file(file: Path) -> Iterator[BinaryIO | None]:
    """Open a regular file, neither a link nor a pipe; None if it does not exist."""
    rule = f"{file.name} must be a plain file; {str(file)!r} is not"
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        raise StoreError(f"{rule}, or cannot be read") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(rule)
    with os.fdopen(descriptor, "rb") as opened:
        yield opened


def _read_into_memory(file: BinaryIO) -> memoryview:
    """The content of a file, in memory aligned as torch's is."""
    size = os.fstat(file.fileno()).st_size
    try:
        data = torch.empty(size, dtype=torch.uint8).numpy().data
    except RuntimeError as error:
        raise StoreError(f"is too large: there must be memory for its {size:,} bytes") from error
    if cast(io.BufferedReader, file).readinto(data) != size:
        raise StoreError("must not be written to while it is read")
    return data


def _sha256_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _digest(description: Mapping[str, Any]) -> str:
    """Checksum of the rest of the file, in its order, to detect accidental changes."""
    return hashlib.sha256(json.dumps(description, separators=(",", ":")).encode()).hexdigest()
