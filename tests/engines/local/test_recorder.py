from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from autocompress.engines.local.recorder import Recorder, Scalars
from autocompress.errors import StoreError
from autocompress.records import TrialRecord
from autocompress.store import ExperimentDirectory, Ledger

SECONDS = 10


@dataclass
class Trial:
    """An outcome that tells when it is saved.

    Attributes:
        key: of the trial.
        fails: whether its model cannot be written.
    """

    key: str
    fails: bool = False
    model: threading.Event = field(default_factory=threading.Event)
    rest: threading.Event = field(default_factory=threading.Event)

    @property
    def record(self) -> TrialRecord:
        return TrialRecord(key=self.key, algorithm="l1", state="completed", epochs=2)

    def save_model(self) -> None:
        if self.fails:
            raise StoreError("no space left")
        self.model.set()

    def save_rest(self) -> TrialRecord:
        self.rest.set()
        return TrialRecord(key=self.key, algorithm="l1", state="completed", epochs=2, bytes=7)


@pytest.fixture
def store(tmp_path):
    directory = ExperimentDirectory(tmp_path / "run")
    directory.create()
    return directory


@pytest.fixture
def recorder(store):
    with Recorder(store, Scalars(None, 0.9, higher_is_better=True)) as found:
        yield found


def test_nothing_is_saved_before_it_is_released(recorder, store):
    trial = Trial("a")
    recorder.hold()
    recorder.add(trial)
    assert not trial.model.wait(0.2)
    recorder.release()
    assert trial.rest.wait(SECONDS)
    recorder.wait()
    assert [record.bytes for record in Ledger(store).records] == [7]
    assert [record.bytes for record in recorder.records] == [7], "what was measured is known here too"
    assert recorder.epochs == 2


def test_a_model_can_be_had_while_what_comes_after_it_waits(recorder):
    first, second = Trial("a"), Trial("b")
    recorder.hold()
    recorder.add(first)
    recorder.add(second)
    recorder.wait_for_model("b")
    assert first.rest.is_set(), "what came before the model is written before it"
    assert second.model.is_set()
    assert not second.rest.wait(0.2)
    recorder.release()
    assert second.rest.wait(SECONDS)


def test_the_model_of_an_earlier_run_is_not_waited_for(recorder):
    recorder.hold()
    recorder.add(Trial("a"))
    recorder.wait_for_model("of an earlier run")


def test_without_its_model_a_trial_has_no_record(store):
    trial = Trial("a", fails=True)
    with (
        pytest.raises(StoreError, match="no space left"),
        Recorder(store, Scalars(None, 0.9, higher_is_better=True)) as recorder,
    ):
        recorder.add(trial)
    assert not trial.rest.is_set()
    assert Ledger(store).records == []


def test_a_process_that_does_not_lead_only_remembers(store):
    trial = Trial("a")
    with Recorder(store, Scalars(None, 0.9, higher_is_better=True), leads=False) as recorder:
        recorder.add(trial)
        recorder.wait_for_model("a")
        assert [record.key for record in recorder.records] == ["a"]
    assert not trial.model.is_set()
    assert Ledger(store).records == []
