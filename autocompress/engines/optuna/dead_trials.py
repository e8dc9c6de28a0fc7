"""Running trials whose worker was killed."""

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
    """Identity of this process among those of all machines."""
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


class Liveness:
    """Finds running trials whose worker is dead.

    On this machine its process has ended. On others its heartbeat has not changed for so many seconds of this process'
    own clock; clocks are never compared.
    """

    def __init__(self, silence: float = _SILENCE_SECONDS) -> None:
        self._silence = silence
        self._heard: dict[int, tuple[Any, float]] = {}

    def dead(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that the storage has as running and no worker runs."""
        running = [each for each in trials if each.state is TrialState.RUNNING and OWNER in each.user_attrs]
        return [trial for trial in running if not self._alive(trial)]

    def fail_dead_trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """Let the dead trials of a study fail, so that they run again; all its trials afterwards."""
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
    """The workers that run a trial; those of other machines count as alive."""
    trials = list(trials)
    dead = {each.number for each in Liveness().dead(trials)}
    running = [each for each in trials if each.state is TrialState.RUNNING and each.number not in dead]
    return sorted({_named(each.user_attrs[OWNER]) for each in running if OWNER in each.user_attrs})


def _named(owner: dict[str, Any]) -> str:
    process = f"process {owner['pid']}"
    return process if owner["host"] == _host() else f"{process} on {owner['host'].partition('/')[0]}"


def _runs(owner: dict[str, Any]) -> bool:
    try:
        return bool(abs(_started(owner["pid"]) - owner["started"]) < 1)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def _started(pid: int) -> float:
    """When a process began, in seconds since the boot, which does not depend on the clock's setting."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return float(psutil.Process(pid).create_time() - psutil.boot_time())
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{platform.node()}/{boot.read_text().strip()}" if boot.exists() else platform.node()
