"""Copies of trials' files at an address that all machines can reach."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from autocompress.errors import StoreError, short
from autocompress.plain_json import parse
from autocompress.store.directory import write_json
from autocompress.typed_fields import INNER_PATH

_MANIFEST = "manifest.json"
_KEPT = ("checkpoint", "pruned", "record.json", "curve.jsonl", "traceback.txt")


class Artefacts:
    """Copies of trials' directories at an fsspec address: a mounted directory, S3, SSH, ...

    A copy is complete when it has its manifest, which is written last and has every file's checksum.
    """

    def __init__(self, files: Any, root: str, url: str) -> None:
        self._files, self._root, self.url = files, root, url

    @classmethod
    def at(cls, url: str) -> Artefacts:
        """The copies at an address such as `s3://bucket/search`, `sftp://host/search`, or a path.

        Raises:
            StoreError: fsspec knows no such protocol, or the package for it is not installed.
        """
        import fsspec  # comes with torch; slow to import

        try:
            files, root = fsspec.core.url_to_fs(url)
            return cls(files, root, url)
        except (ValueError, ImportError) as error:
            raise StoreError(f"artefacts must be at an address that fsspec knows; got {url!r}: {error}") from error

    def push(self, key: str, directory: Path) -> None:
        """Copy a trial's files there."""
        manifest = _manifest_of(directory)
        for name in manifest:
            self.write(f"trials/{key}/{name}", (directory / name).read_bytes())
        self.write(f"trials/{key}/{_MANIFEST}", json.dumps(manifest).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write a file there."""
        path = f"{self._root}/{name}"
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, content)
        except Exception as error:  # every protocol has errors of its own
            raise StoreError(f"{name} cannot be written to {self.url}: {error}") from error

    def texts(self, pattern: str) -> list[str]:
        """The texts of all files that match a pattern, by name."""
        return [self._files.cat_file(path).decode(errors="replace") for path in sorted(self._files.glob(pattern))]

    def holds(self, key: str) -> bool:
        """Whether there is a complete copy of a trial's files."""
        return bool(self._files.exists(f"{self._place(key)}/{_MANIFEST}"))

    def pull(self, key: str, directory: Path) -> bool:
        """Copy a trial's files here unless they exist; False where there is no complete copy.

        Raises:
            StoreError: they cannot be read, or are not what was written.
        """
        if (directory / "checkpoint").exists():
            return True
        manifest = self._manifest(key)
        if manifest is None:
            return False
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".pull-") as folder:
            beside = Path(folder)
            for name, checksum in manifest.items():
                content = self._read(key, name)
                if _checksum(content) != checksum:
                    raise StoreError(f"{self.url}: {name} of trial {key} is damaged; its checksum is another one")
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                (beside / name).write_bytes(content)
            for entry in sorted(beside.iterdir(), reverse=True):  # the checkpoint marks a copy as complete: last
                _put(entry, directory / entry.name)
        return True

    def _manifest(self, key: str) -> dict[str, str] | None:
        if not self.holds(key):
            return None
        try:
            manifest = parse(self._read(key, _MANIFEST))
        except ValueError as error:
            raise StoreError(f"{self.url}: {_MANIFEST} of trial {key} is damaged: {error}") from error
        if not isinstance(manifest, dict) or not all(_is_kept(name) for name in manifest):
            raise StoreError(f"{self.url}: {_MANIFEST} of trial {key} must name a trial's files; got {short(manifest)}")
        return manifest

    def _place(self, key: str) -> str:
        return f"{self._root}/trials/{key}"

    def _read(self, key: str, name: str) -> bytes:
        try:
            content: bytes = self._files.cat_file(f"{self._place(key)}/{name}")
        except Exception as error:  # every protocol has errors of its own
            raise StoreError(f"{self.url}: {name} of trial {key} cannot be read: {error}") from error
        return content


def _put(entry: Path, target: Path) -> None:
    try:
        entry.replace(target)
    except OSError:
        if not target.is_dir():
            raise  # else another process has copied the same directory here meanwhile


def write_manifest(directory: Path) -> None:
    """Write the manifest of a trial's files, which marks them as complete for other machines."""
    write_json(directory / _MANIFEST, _manifest_of(directory))


def _manifest_of(directory: Path) -> dict[str, str]:
    places = [directory / name for name in _KEPT]
    files = [each for path in places for each in (path, *sorted(path.rglob("*"))) if each.is_file()]
    return {path.relative_to(directory).as_posix(): _checksum(path.read_bytes()) for path in files}


def _is_kept(name: str) -> bool:
    return INNER_PATH.holds(name) and name.split("/")[0] in _KEPT


def _checksum(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()
