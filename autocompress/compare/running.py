"""Run the searches of a comparison, some at a time, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from autocompress.compare.one_search import SPECS, SearchSpec
from autocompress.store.disk import read_json

_STOPPING_SECONDS = 90.0


def run_all(specs: Sequence[SearchSpec], jobs: int, on_end: Callable[[SearchSpec, str | None], None]) -> None:
    """Run or resume searches; `on_end` is called with each and its error. Ctrl-C stops them cleanly."""
    running = SearchProcesses(max(1, (os.cpu_count() or 1) // jobs))
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        ended = {pool.submit(running.run, spec): spec for spec in specs}
        try:
            for future in as_completed(ended):
                on_end(ended[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise


class SearchProcesses:
    """The running search processes, each with `threads` threads unless `OMP_NUM_THREADS` is set."""

    def __init__(self, threads: int) -> None:
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, spec: SearchSpec) -> str | None:
        """Run one search and return its error, if any. Its output goes to `<directory>.log`.

        Only its owner can read the log, as it may contain the secret address of NNI's page.
        """
        log = spec.directory.with_name(f"{spec.directory.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        log.touch(mode=0o600)
        with tempfile.TemporaryDirectory(prefix="autocompress-") as folder, log.open("wb") as output:
            request, result = Path(folder, "request.json"), Path(folder, "result.json")
            request.write_bytes(SPECS.dump_json(spec))
            command = [sys.executable, "-m", "autocompress.compare.one_search", str(request), str(result)]
            with self._lock:
                process = subprocess.Popen(
                    command, stdout=output, stderr=output, env=self._environment, start_new_session=True
                )
                self._processes.add(process)
            code = process.wait()
            self._processes.discard(process)
            if result.exists():
                error: str | None = read_json(result)["error"]
                hint = f" (pip install {spec.tuner.install})" if spec.tuner.install is not None else ""
                return f"{error}{hint}" if error is not None and "not installed" in error else error
        return f"its process ended with code {code}; what it printed is in {log}"

    def stop(self) -> None:
        """Terminate all searches; completed trials are kept."""
        with self._lock:
            processes = list(self._processes)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
