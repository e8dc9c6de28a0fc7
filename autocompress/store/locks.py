"""Locks on files: held by a process, not by what it forks, and naming their holder."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from autocompress.errors import StoreError

_POLL_SECONDS = 0.05


def this_process() -> dict[str, Any]:
    """Identity of this process among those of all machines: `host`, `pid` and `started`."""
    return identity_of(os.getpid())


def identity_of(pid: int) -> dict[str, Any]:
    """Identity of a process of this machine.

    Raises:
        ProcessLookupError: it does not run.
    """
    return {"host": this_host(), "pid": pid, "started": _started(pid)}


def is_running(process: Mapping[str, Any]) -> bool:
    """Whether a process of this machine still runs, by its identity: ids are given again, and zombies do not run."""
    try:
        return bool(abs(_started(int(process["pid"])) - float(process["started"])) < 1)
    except (ProcessLookupError, KeyError, TypeError, ValueError):
        return False


def is_stopped(process: Mapping[str, Any]) -> bool:
    """Whether a running process of this machine is stopped, as by SIGSTOP or a debugger."""
    try:
        return str(psutil.Process(int(process["pid"])).status()) in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return False


def this_host() -> str:
    """Name of this machine since its last boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}/{boot.read_text().strip()}" if boot.exists() else platform.node()


def _started(pid: int) -> float:
    """When a process began, in seconds since the boot, which does not depend on the clock's setting."""
    try:
        if not Path("/proc/self/stat").exists():
            return float(psutil.Process(pid).create_time() - psutil.boot_time())
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, psutil.NoSuchProcess) as error:
        raise ProcessLookupError(f"no process {pid}") from error
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


_open: set[IO[str]] = set()


@functools.cache
def _let_forks_go() -> None:
    """A forked process closes the files of its parent's locks: with them open it would hold the locks too."""

    def close_all() -> None:
        for file in _open:
            file.close()
        _open.clear()

    os.register_at_fork(after_in_child=close_all)


@contextlib.contextmanager
def lock(path: Path, seconds: float | None = 0.0) -> Iterator[IO[str]]:
    """Hold a file's lock; a process that ends, or is killed, lets it go. The file is made, and given open to append.

    Args:
        path: of the file.
        seconds: how long the lock is waited for; None: for ever.

    Raises:
        BlockingIOError: another one holds it all that time.
    """
    _let_forks_go()
    deadline = None if seconds is None else time.monotonic() + seconds
    with path.open("a+", encoding="utf-8") as file:
        while not _taken(file, fcntl.LOCK_EX):
            if deadline is not None and time.monotonic() >= deadline:
                raise BlockingIOError(f"{path} is locked")
            time.sleep(_POLL_SECONDS)
        _open.add(file)
        try:
            yield file
        finally:
            _open.discard(file)


def write_holder(file: IO[str], **about: Any) -> None:
    """Write into a lock's file which process holds it, and what else is to be known of that."""
    file.truncate(0)
    file.write(json.dumps({**this_process(), **about}))
    file.flush()


@contextlib.contextmanager
def short_lock(path: Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold a lock that every process holds for moments only.

    Raises:
        StoreError: one of them does not let it go, as one that is stopped.
    """
    with contextlib.ExitStack() as held:
        try:
            write_holder(held.enter_context(lock(path, seconds)))
        except BlockingIOError as error:
            who = named(lock_holder(path) or {})
            raise StoreError(
                f"{path} must be free within {seconds:g} s; {who} holds it: if that is stopped, let it go on or end it"
            ) from error
        yield


def lock_holder(path: Path) -> dict[str, Any] | None:
    """What the holder of a file's lock wrote about itself: empty where it wrote nothing; None where nothing holds it.

    Looking keeps no process from taking the lock while the one that the file names does not run.
    """
    try:
        with path.open(encoding="utf-8") as file:
            about = _about(file.read())
            if about.get("host", this_host()) == this_host() and "pid" in about and not is_running(about):
                return None
            if _taken(file, fcntl.LOCK_SH):
                fcntl.flock(file, fcntl.LOCK_UN)
                return None
            return about
    except OSError:
        return None


def named(process: Mapping[str, Any]) -> str:
    """A process in words: `process 12`, or `process 12 on host`."""
    if "pid" not in process:
        return "another process"
    elsewhere = process.get("host", this_host()) != this_host()
    return f"process {process['pid']}" + (f" on {str(process['host']).partition('/')[0]}" if elsewhere else "")


def _taken(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _about(text: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
