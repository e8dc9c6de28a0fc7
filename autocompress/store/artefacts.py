"""Trials' files at an address that all machines reach, where they share no directory."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from autocompress.errors import StoreError

_MANIFEST = "manifest.json"
_KEPT = ("checkpoint", "pruned", "record.json", "curve.jsonl", "traceback.txt")


class Artefacts:
    """Copies of trials' directories under any address that fsspec knows: a mounted directory, S3, SSH, ...

    A copy is whole when its manifest is there, which comes last and has every file's checksum.

    Args:
        url: such as `s3://bucket/search`, `sftp://host/search`, or a path.

    Raises:
        StoreError: fsspec knows no such protocol, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec  # comes with torch; slow to import

        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StoreError(f"artefacts must be at an address that fsspec knows; got {url!r}: {error}") from error

    def push(self, key: str, directory: Path) -> None:
        """Copy a trial's files there.

        Raises:
            StoreError: the address cannot be written.
        """
        files = [path for name in _KEPT for path in _files_of(directory / name)]
        manifest = {path.relative_to(directory).as_posix(): _checksum(path.read_bytes()) for path in files}
        try:
            self._files.makedirs(self._place(key), exist_ok=True)
            for name in manifest:
                self._write(key, name, (directory / name).read_bytes())
            self._write(key, _MANIFEST, json.dumps(manifest).encode())
        except Exception as error:  # every protocol has errors of its own
            raise StoreError(f"the artefacts of trial {key} cannot be written to {self.url}: {error}") from error

    def pull(self, key: str, directory: Path) -> bool:
        """Bring a trial's files here, where they are not; whether there are any.

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
            for entry in sorted(beside.iterdir(), reverse=True):  # the checkpoint, which tells that all is here, last
                entry.replace(directory / entry.name)
        return True

    def _manifest(self, key: str) -> dict[str, str] | None:
        if not self._files.exists(f"{self._place(key)}/{_MANIFEST}"):
            return None
        manifest: dict[str, str] = json.loads(self._read(key, _MANIFEST))
        return manifest

    def _place(self, key: str) -> str:
        return f"{self._root}/trials/{key}"

    def _write(self, key: str, name: str, content: bytes) -> None:
        path = f"{self._place(key)}/{name}"
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(path, content)

    def _read(self, key: str, name: str) -> bytes:
        try:
            content: bytes = self._files.cat_file(f"{self._place(key)}/{name}")
        except Exception as error:  # every protocol has errors of its own
            raise StoreError(f"{self.url}: {name} of trial {key} cannot be read: {error}") from error
        return content


def _files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _checksum(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()
