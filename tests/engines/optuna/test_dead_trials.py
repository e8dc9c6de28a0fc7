"""Running trials whose workers are gone are found; those that run are left alone."""

import json
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.engines.optuna.convert import INTERRUPTED
from autocompress.engines.optuna.worker import BEAT, OWNER, Liveness, owners
from autocompress.store.locks import identity_of, this_process


@pytest.fixture
def study():
    return optuna.create_study()


def begun(study, owner=None, beat=None):
    trial = study.ask()
    if owner is not None:
        trial.set_user_attr(OWNER, owner)
    if beat is not None:
        trial.set_user_attr(BEAT, beat)
    return trial


def ended_process():
    module = "autocompress.store.locks"
    code = f"import json; from {module} import identity_of, this_process; print(json.dumps(this_process()))"
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_of_this_machine_the_process_tells(study):
    alive, dead = begun(study, this_process()), begun(study, ended_process())
    without = begun(study)
    assert [each.number for each in Liveness().dead(study.trials)] == [dead.number]
    assert owners(study.trials) == [f"process {os.getpid()}"]
    left = Liveness().fail_dead_trials(study)
    assert [each.state for each in left] == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]
    assert left[dead.number].user_attrs[INTERRUPTED] is True
    assert (alive.number, without.number) == (0, 2)


def test_a_process_id_that_is_another_ones_now_is_dead(study):
    begun(study, {**this_process(), "started": 12.0})
    assert len(Liveness().dead(study.trials)) == 1


def test_of_other_machines_the_beat_tells(study):
    elsewhere = {"host": "other/boot", "pid": 1, "started": 1.0}
    trial = begun(study, elsewhere, beat=1)
    liveness = Liveness(silence=0.2)
    assert not liveness.dead(study.trials), "it is heard for the first time"
    time.sleep(0.25)
    trial.set_user_attr(BEAT, 2)
    assert not liveness.dead(study.trials), "it beats"
    time.sleep(0.25)
    assert len(liveness.dead(study.trials)) == 1
    assert owners(study.trials) == ["process 1 on other"]


def test_of_a_process_that_is_stopped_the_beat_tells(study):
    stopped = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        begun(study, identity_of(stopped.pid), beat=1)
        liveness = Liveness(silence=0.2)
        assert not liveness.dead(study.trials)
        time.sleep(0.25)
        assert not liveness.dead(study.trials), "it runs, and need not beat"
        stopped.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        assert not liveness.dead(study.trials), "it is heard for the first time"
        time.sleep(0.25)
        assert len(liveness.dead(study.trials)) == 1
    finally:
        stopped.kill()
        stopped.communicate()
