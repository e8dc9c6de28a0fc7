"""Running the searches of a comparison, some at a time, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from autocompress.compare.one_search import SearchSpec
from autocompress.store.disk import read_json, write_json

_STOPPING_SECONDS = 90.0


def run_all(orders: Sequence[SearchSpec], jobs: int, on_end: Callable[[SearchSpec, str | None], None]) -> None:
    """Run searches, or go on with them. Ctrl-C ends them cleanly.

    Args:
        orders: one for each search.
        jobs: how many at a time.
        on_end: told of each search that has ended, from this thread, with the error if it has no result.
    """
    running = Running(max(1, (os.cpu_count() or 1) // jobs))
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        ended = {pool.submit(running.run, order): order for order in orders}
        try:
            for future in as_completed(ended):
                on_end(ended[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise


class Running:
    """The processes that run.

    Args:
        threads: of each, unless `OMP_NUM_THREADS` says another number; more than there are cores would get in each
            other's way.
    """

    def __init__(self, threads: int) -> None:
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, order: SearchSpec) -> str | None:
        """One search to its end; the error, if it has no result. What it prints is in `<directory>.log`.

        Only its owner can read that: it may have the address of NNI's page in it.
        """
        log = order.directory.with_name(f"{order.directory.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        log.touch(mode=0o600)
        with tempfile.TemporaryDirectory(prefix="autocompress-") as folder, log.open("wb") as output:
            request, answer = Path(folder, "order.json"), Path(folder, "answer.json")
            write_json(request, order.to_dict())
            command = [sys.executable, "-m", "autocompress.compare.one_search", str(request), str(answer)]
            with self._lock:
                process = subprocess.Popen(
                    command, stdout=output, stderr=output, env=self._environment, start_new_session=True
                )
                self._processes.add(process)
            code = process.wait()
            self._processes.discard(process)
            if answer.exists():
                error: str | None = read_json(answer)["error"]
                return _with_hint(order, error)
        return f"its process ended with code {code}; what it printed is in {log}"

    def stop(self) -> None:
        """End them; what has been found stays."""
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _with_hint(order: SearchSpec, error: str | None) -> str | None:
    if error is None or "not installed" not in error or order.tuner.install is None:
        return error
    return f"{error} (pip install {order.tuner.install})"
