"""An experiment's directory, written atomically.

experiment.json   settings, seed, versions, baseline
journal.jsonl     proposals, results, verdicts; the truth
uncompressed.json the uncompressed model's value for each sample, where the evaluator returns these
trials/<key>/     record.json, curve.jsonl, checkpoint/, of the best one layers.json
report.html       and plots/, where a report was written
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from autocompress.errors import StoreError, command, short
from autocompress.plain_json import dumps, parse
from autocompress.records import SCHEMA_VERSION, ModelSizes, TrialRecord
from autocompress.store.journal import Journal, sealed, unsealed
from autocompress.store.locks import lock, lock_holder, this_process, write_holder
from autocompress.typed_fields import DIRECTORY_NAME, checked


def write_json(path: Path, content: Mapping[str, Any], *, checksum: bool = False) -> None:
    """Write a JSON file to a temporary one, sync it to disk, and rename it; `checksum`: as its last key."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    text = dumps(content, indent=2)
    text = sealed(text) if checksum else text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def read_json(path: Path, *, checksum: bool = False) -> dict[str, Any]:
    """The JSON object in a file; `checksum`: that was written with one."""
    try:
        content = unsealed(path.read_bytes()) if checksum else parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} must hold a JSON object; got {type(content).__name__}")
    return content


_MOST_BYTES = 1 << 18
"""Of what is read of a process' output."""


def read_end(path: Path) -> str:
    """The end of a text file that may be very long."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES))
            return file.read().decode(errors="replace")
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 1 << 16
_MARK = f"{StoreError.__module__}.{StoreError.__name__}: "
_CODES = ("SQLITE_FULL", "ENOSPC")
"""Of data bases and NNI's manager for a full disk."""


def require_writable(directory: Path) -> None:
    """Create a directory and check that files can be written there."""
    done = "made"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        done = "written to"
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        if is_full(error):
            raise StoreError(disk_full_message(directory)) from error
        raise StoreError(f"the output directory {directory} cannot be {done}: {error} (name another one)") from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or a cause of it, is that of a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def require_space(directory: Path, output: str) -> None:
    """Raise StoreError if a process failed because the disk is full, from its output or by writing a file."""
    last = next(iter(output.splitlines()[-1:]), "")
    if last.startswith(_MARK):
        raise StoreError(last.removeprefix(_MARK))
    if any(code in output for code in _CODES):
        raise StoreError(disk_full_message(directory))
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if is_full(error):
            raise StoreError(disk_full_message(directory)) from error
        raise


def disk_full_message(directory: Path) -> str:
    """Message for a full disk."""
    return f"the disk of {directory} is full: free some space, then resume"


_LOCK = ".lock"


@contextlib.contextmanager
def removed_if_unused(path: Path) -> Iterator[None]:
    """Remove a directory, and parents of it, that the block has created and that hold at most the lock's file."""
    new = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]  # noqa: PTH110
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # another process has made something there meanwhile
            for folder in new:
                if [entry.name for entry in folder.iterdir()] == [_LOCK]:
                    (folder / _LOCK).unlink()
                folder.rmdir()


class _Epoch(TypedDict):
    """A line of a learning curve."""

    epoch: int
    accuracy: float
    accuracy_margin: float


class _Values(TypedDict):
    """The uncompressed model's values."""

    fingerprint: str
    values: tuple[float, ...]


_VALUES = "uncompressed.json"


class _Found(dict[str, Any]):
    """A file's content; a missing key is a StoreError."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise StoreError(f"{self._path} must have {name}; it does not")


def usable_path(path: str | Path) -> Path:
    """The path, absolute.

    Raises:
        StoreError: no file can have it: NUL, half a surrogate pair, too long, below a directory that cannot be entered.
    """
    try:
        found = Path(path).expanduser().resolve()
        found.exists()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home directory of a `~user`
        raise StoreError(f"a path must be one that a file can have; got {short(str(path))}: {error}") from error
    return found


class ExperimentDirectory:
    """The files of one experiment; the directory need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = usable_path(path)
        self.journal = Journal(self.path / "journal.jsonl")

    @property
    def settings_path(self) -> Path:
        """`experiment.json`."""
        return self.path / "experiment.json"

    def exists(self) -> bool:
        """Whether an experiment has been written here."""
        return os.path.exists(self.settings_path)  # noqa: PTH110 - False where it may not be looked at

    def create(self) -> None:
        """Create the directory for a new experiment.

        Raises:
            StoreError: it holds an experiment already, or other files, or cannot be made.
        """
        if self.exists():
            raise StoreError(
                f"the output directory must not belong to another experiment; {self.path} does (resume it with "
                f"`{command('autocompress', 'resume', self.path)}`, or name another directory)"
            )
        require_writable(self.path)
        others = sorted(entry.name for entry in self.path.iterdir() if entry.name != ".lock")
        if others:
            raise StoreError(f"the output directory must be empty; {self.path} holds {', '.join(others[:5])}")

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Write `experiment.json`."""
        write_json(self.settings_path, {"schema_version": SCHEMA_VERSION, **settings}, checksum=True)

    def settings(self) -> dict[str, Any]:
        """The content of `experiment.json`.

        Raises:
            StoreError: there is no experiment here, it was written by another version, or is damaged.
        """
        if not self.exists():
            raise StoreError(f"{self.path} holds no experiment: experiment.json is missing")
        if read_json(self.settings_path).get("schema_version") != SCHEMA_VERSION:
            raise StoreError(f"{self.settings_path} was written by another version of autocompress")
        settings = read_json(self.settings_path, checksum=True)
        del settings["schema_version"]
        return settings

    def uncompressed_values(self, fingerprint: str) -> tuple[float, ...] | None:
        """The uncompressed model's values, one for each sample; None where they are not kept here, or are damaged.

        Args:
            fingerprint: of the module.
        """
        path = self.path / _VALUES
        try:
            content = checked(_Values, str(path), read_json(path, checksum=True))
        except StoreError:
            return None
        return content.get("values") if content.get("fingerprint") == fingerprint else None

    def write_uncompressed_values(self, fingerprint: str, values: Sequence[float]) -> None:
        """Keep the uncompressed model's values."""
        numbers = [int(each) if each in (0.0, 1.0) else each for each in values]  # shorter where these are all
        write_json(self.path / _VALUES, {"fingerprint": fingerprint, "values": numbers}, checksum=True)

    def trial(self, key: str) -> TrialDirectory:
        """The directory of the trial with that key; StoreError for a key that would lead elsewhere."""
        if not DIRECTORY_NAME.holds(key):
            raise StoreError(f"a trial's key must be {DIRECTORY_NAME.text}; got {short(key)}")
        return TrialDirectory(self.path / "trials" / key)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the experiment: one launcher at a time. StoreError where another process holds it."""
        require_writable(self.path)
        path = self.path / _LOCK
        with contextlib.ExitStack() as held:
            try:
                file = held.enter_context(lock(path))
            except BlockingIOError as error:
                holder = path.read_text(errors="replace").strip() or "unknown"
                raise StoreError(f"the experiment in {self.path} is being run by process {holder}") from error
            except OSError as error:
                raise StoreError(f"the experiment in {self.path} cannot be locked: {error}") from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


class TrialDirectory:
    """The files of one trial."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """The checkpoint, a directory."""
        return self.path / "checkpoint"

    @property
    def pruned(self) -> Path:
        """The checkpoint of a mix before quantization, from which trials at higher rates start."""
        return self.path / "pruned"

    def record(self) -> TrialRecord | None:
        """The trial's record, None when it has not ended."""
        path = self.path / "record.json"
        return TrialRecord.from_dict(read_json(path, checksum=True)) if path.exists() else None

    def write_record(self, record: TrialRecord) -> None:
        """Write the trial's record, which marks it as ended."""
        write_json(self.path / "record.json", record.to_dict(), checksum=True)

    def sizes(self) -> ModelSizes | None:
        """Layer sizes of the model and of the uncompressed one; None where the model was never verified."""
        path = self.path / "layers.json"
        return ModelSizes.from_dict(read_json(path, checksum=True)) if path.exists() else None

    def write_sizes(self, sizes: ModelSizes) -> None:
        """Write the layer sizes."""
        write_json(self.path / "layers.json", sizes.to_dict(), checksum=True)

    def append_epoch(self, epoch: Mapping[str, Any]) -> None:
        """Add a line to the learning curve."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(sealed(dumps(epoch)) + "\n")

    def curve(self) -> list[dict[str, Any]]:
        """The learning curve so far: one object for each evaluated epoch."""
        path = self.path / "curve.jsonl"
        return [_Found(path, checked(_Epoch, str(path), epoch)) for epoch in Journal(path).read()]

    def write_traceback(self, text: str) -> None:
        """Write the output of a failed trial."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "traceback.txt").write_text(text, encoding="utf-8", errors="replace")

    def traceback(self) -> str | None:
        """The end of the output of a failed trial; None where nothing failed."""
        path = self.path / "traceback.txt"
        return read_end(path) if path.exists() else None

    def clear(self) -> None:
        """Remove the files of an earlier attempt."""
        self.clear_curve()
        for name in ("record.json", "traceback.txt"):
            (self.path / name).unlink(missing_ok=True)

    def clear_curve(self) -> None:
        """Remove the learning curve."""
        (self.path / "curve.jsonl").unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, launcher: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Hold the trial: a second process waits, and then finds the record. A killed holder releases it.

        Args:
            launcher: identity of the process that started this one and looks after it; None: this one itself.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with lock(self.path / _LOCK, None) as file:
            write_holder(file, launcher=launcher or this_process())
            yield

    def holder(self) -> dict[str, Any] | None:
        """Identity of the process that runs the trial, its `launcher` among it; None where none does."""
        return lock_holder(self.path / _LOCK)
