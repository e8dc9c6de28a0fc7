"""Whether the worker of a running trial still lives: a killed one cannot tell."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from autocompress.engines.optuna.convert import INTERRUPTED

OWNER = "autocompress:owner"
"""User attribute of a trial: the process of its worker."""

BEAT = "autocompress:beat"
"""User attribute of a trial: a number that its worker counts up."""

BEAT_SECONDS = 10.0
_SILENCE_SECONDS = 90.0


def this_process() -> dict[str, Any]:
    """What tells this process from all others, on this machine and elsewhere."""
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


class Liveness:
    """Finds running trials that nobody runs any more.

    On this machine the process tells. Of others the beat does: a worker is dead when its beat stays the same for so
    long by this process' own clock; clocks are never compared.

    Args:
        silence: seconds.
    """

    def __init__(self, silence: float = _SILENCE_SECONDS) -> None:
        self._silence = silence
        self._heard: dict[int, tuple[Any, float]] = {}

    def dead(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the trials that run by the storage, but not in fact."""
        running = [each for each in trials if each.state is TrialState.RUNNING and OWNER in each.user_attrs]
        return [trial for trial in running if not self._alive(trial)]

    def bury(self, study: optuna.Study) -> list[FrozenTrial]:
        """End the dead trials of a study, which are no results and will run again; all its trials afterwards."""
        trials = study.get_trials(deepcopy=False)
        dead = self.dead(trials)
        for trial in dead:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):  # another was first
                study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
                study.tell(trial.number, state=TrialState.FAIL)
        return study.get_trials(deepcopy=False) if dead else trials

    def _alive(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs[OWNER]
        if owner["host"] == _host():
            return _runs(owner)
        beat, now = trial.user_attrs.get(BEAT), time.monotonic()
        heard, since = self._heard.setdefault(trial.number, (beat, now))
        if heard != beat:
            self._heard[trial.number] = (beat, now)
            return True
        return now - since < self._silence


def owners(trials: Iterable[FrozenTrial]) -> list[str]:
    """Which workers run a trial, as far as one look can tell: those of other machines count as alive."""
    trials = list(trials)
    dead = {each.number for each in Liveness().dead(trials)}
    running = [each for each in trials if each.state is TrialState.RUNNING and each.number not in dead]
    return sorted({_told(each.user_attrs[OWNER]) for each in running if OWNER in each.user_attrs})


def _told(owner: dict[str, Any]) -> str:
    process = f"process {owner['pid']}"
    return process if owner["host"] == _host() else f"{process} on {owner['host'].partition('/')[0]}"


def _runs(owner: dict[str, Any]) -> bool:
    try:
        return bool(abs(_started(owner["pid"]) - owner["started"]) < 1)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def _started(pid: int) -> float:
    """When a process began, in seconds since the boot: a clock that is set anew changes it on no worker."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float(psutil.Process(pid).create_time() - psutil.boot_time())
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}/{boot.read_text().strip()}" if boot.exists() else platform.node()
