"""Tasks that need the user's module, run in a child process; trials whose launcher is dead are ended.

The launching process never loads a model: it holds no device memory, and a model's code cannot disturb it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from autocompress import errors
from autocompress.errors import AutoCompressError, ModuleError, TrialError
from autocompress.records import Baseline, Preflight
from autocompress.search_space.space import ALGORITHM_KEY
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import TrialDirectory, Verdict
from autocompress.store.locks import is_running, named, this_host, this_process
from autocompress.trial.forkserver import fork_server
from autocompress.trial.process import GRACE_SECONDS, LAUNCHER

IN_CHILD = "AUTOCOMPRESS_CHILD"
"""Environment variable that is set in processes that load the user's module for us."""


def refuse_in_child(rule: str) -> None:
    """Check that this is no child process: importing a user's script there must not launch a search again."""
    if os.environ.get(IN_CHILD):
        raise ModuleError(
            f"{rule} while a trial loads your module: put the launching code of your script under "
            '`if __name__ == "__main__":`'
        )


def measure_in_child(
    module: Mapping[str, Any],
    search_space: Mapping[str, Any],
    directory: Path,
    settings: AccuracyAwareSettings | None = None,
    *,
    confirmed: bool = True,
) -> Baseline:
    """Check the search space against the model, run the preflight, and measure the uncompressed model.

    Its limit is that of a trial, once for the model and once for each algorithm, all of which are checked.

    Raises:
        TrialError: it took too long, or its process was killed.
        AutoCompressError: what is wrong with the module or the search space.
    """
    algorithms = len(search_space.get(ALGORITHM_KEY, {}).get("_value", ()))
    task = {"module": module, "search_space": search_space, "settings": _plain(settings), "confirmed": confirmed}
    return Baseline.from_dict(_run("measure", task, directory, _times(settings, 1 + algorithms)))


def verify_in_child(
    module: Mapping[str, Any],
    checkpoint: Path,
    threshold: float,
    directory: Path,
    settings: AccuracyAwareSettings | None = None,
) -> Verdict:
    """Load a checkpoint afresh and evaluate it, on the hold-out data too.

    Its limit is that of two trials, as a damaged checkpoint's trial is trained again.

    Raises:
        TrialError: it took too long, or its process was killed.
        AutoCompressError: the checkpoint or the module cannot be loaded.
    """
    task = {"module": module, "checkpoint": str(checkpoint), "threshold": threshold}
    return Verdict(**_run("verify", task, directory, _times(settings, 2)))


def holdouts_in_child(
    module: Mapping[str, Any], checkpoints: Iterable[Path], settings: AccuracyAwareSettings | None = None
) -> dict[Path, float | None]:
    """Evaluate checkpoints on hold-out data; None for each without such data. Its limit is that of as many trials."""
    places = [str(each) for each in checkpoints]
    result = _run("holdout", {"module": module, "checkpoints": places}, None, _times(settings, len(places)))
    return {Path(place): accuracy for place, accuracy in result["accuracies"].items()}


def check_in_child(
    module: Mapping[str, Any], search_space: Mapping[str, Any] | None, settings: AccuracyAwareSettings | None = None
) -> tuple[list[dict[str, Any]], Preflight]:
    """Run the preflight and `check.check_module`; the checks as JSON, and what the preflight found."""
    task = {"module": module, "search_space": search_space, "settings": _plain(settings)}
    result = _run("check", task, None)
    checks: list[dict[str, Any]] = result["checks"]
    return checks, Preflight.from_dict(result["preflight"])


def _times(settings: AccuracyAwareSettings | None, trials: int) -> float | None:
    """The limit of so many trials, in seconds; None where trials have none."""
    limit = None if settings is None else settings.maximal_trial_seconds
    return None if limit is None else trials * limit


def _plain(settings: AccuracyAwareSettings | None) -> dict[str, Any]:
    return (settings or AccuracyAwareSettings()).to_dict()


def _run(task: str, content: Mapping[str, Any], directory: Path | None, seconds: float | None = None) -> dict[str, Any]:
    """What a task gives back; it is ended after so many seconds, from outside where it is stopped."""
    with tempfile.TemporaryDirectory(prefix="autocompress-") as temporary:
        request, result, late = (Path(temporary, name) for name in ("request.json", "result.json", "late.txt"))
        order = {"task": task, "directory": directory and str(directory), "seconds": seconds, **content}
        request.write_text(json.dumps(order), encoding="utf-8")
        code = _code([str(each) for each in (request, result, late)], seconds)
        if code is None:
            raise TrialError(_late(task, seconds))
        if result.exists():
            return _unpacked(json.loads(result.read_text(encoding="utf-8")))
        if late.exists() and (traceback := late.read_text(encoding="utf-8", errors="replace")):
            raise TrialError(_late(task, seconds), traceback)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise TrialError(f"the process that was to {task} the model {how}")


def _code(arguments: Sequence[str], seconds: float | None) -> int | None:
    """The exit code of the process of a task; None where it had to be killed, as it was stopped."""
    environment = {**os.environ, IN_CHILD: "1", LAUNCHER: json.dumps(this_process())}
    process = fork_server().start("autocompress.trial.tasks", arguments, environment, (1, 2, 2))
    end = None if seconds is None else time.monotonic() + seconds + GRACE_SECONDS
    try:
        while (code := process.poll()) is None and (end is None or time.monotonic() < end):
            time.sleep(_POLL_SECONDS / 10)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    return code


def _late(task: str, seconds: float | None) -> str:
    return (
        f"the process that was to {task} the model must end within {seconds:g} s, by maximal_trial_seconds; it did "
        "not, and was ended"
    )


def _unpacked(result: dict[str, Any]) -> dict[str, Any]:
    if "error" not in result:
        return result
    kind = getattr(errors, result["error"], None)
    if isinstance(kind, type) and issubclass(kind, AutoCompressError) and kind is not TrialError:
        raise kind(result["message"]) from TrialError("in the process that loads the module", result["traceback"])
    raise TrialError(f"{result['error']}: {result['message']}", result["traceback"])


_POLL_SECONDS = 0.1
_IDLE_SECONDS = 60.0
_LONGEST_EPOCH_SECONDS = 3600.0
_SAVING_SECONDS = 20.0


def end_orphan(trial: TrialDirectory, logger: logging.Logger, stopping: Callable[[], bool] = lambda: False) -> None:
    """Wait for a trial whose launcher is dead, as its result counts; one that hangs is ended, so that it can run again.

    It hangs where it does not compute for a minute, or has evaluated nothing for an hour.

    Args:
        trial: that is to run.
        logger: says who holds it.
        stopping: whether to wait no longer.
    """
    holder = _orphan(trial)
    if holder is None:
        return
    logger.warning(
        "trial %s still runs in %s, whose launcher (%s) is dead; waiting for it, unless it does nothing for %g s",
        *(trial.path.name, named(holder), named(holder["launcher"]), _IDLE_SECONDS),
    )
    computed = evaluated = (time.monotonic(), _work(trial, holder))
    while _orphan(trial) == holder and not stopping():
        now = (time.monotonic(), _work(trial, holder))
        computed = now if now[1] != computed[1] else computed
        evaluated = now if now[1][0] != evaluated[1][0] else evaluated
        if now[0] - computed[0] > _IDLE_SECONDS or now[0] - evaluated[0] > _LONGEST_EPOCH_SECONDS:
            logger.warning("%s hangs: it is ended, and trial %s runs again", named(holder), trial.path.name)
            with contextlib.suppress(psutil.NoSuchProcess):
                end_process(psutil.Process(holder["pid"]), _SAVING_SECONDS)
            return
        time.sleep(_POLL_SECONDS)


def _orphan(trial: TrialDirectory) -> dict[str, Any] | None:
    """The process of this machine that runs a trial for a launcher that is dead."""
    holder = trial.holder()
    if not holder or holder.get("host") != this_host() or not isinstance(holder.get("launcher"), dict):
        return None
    return None if is_running(holder["launcher"]) else holder


def _work(trial: TrialDirectory, holder: Mapping[str, Any]) -> tuple[int, int]:
    """How much a trial has evaluated, and whole seconds that it has computed."""
    curve = trial.path / "curve.jsonl"
    try:
        times = psutil.Process(holder["pid"]).cpu_times()
    except psutil.NoSuchProcess:
        return 0, 0
    return (curve.stat().st_size if curve.exists() else 0), int(times.user + times.system)


def end_process(process: psutil.Process | None, patience: float = _SAVING_SECONDS) -> None:
    """End a process and its children: SIGTERM, then SIGKILL after `patience` seconds."""
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=patience)
        for straggler in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                straggler.kill()
        psutil.wait_procs(alive, timeout=5)
