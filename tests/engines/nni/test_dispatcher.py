import time

import pytest
from nni.assessor import Assessor, AssessResult
from nni.runtime.tuner_command_channel import CommandType
from nni.tuner import Tuner

from autocompress.engines.nni.dispatcher import AdaptiveCompressionAssessor, Dispatcher
from autocompress.errors import ConfigError, EngineError

CHANNEL = "ws://_unittest_nowhere"  # NNI's own way of not connecting


class Calm(Tuner):
    def __init__(self):
        self.adopted = {}

    def adopt(self, parameter_id, parameters):
        self.adopted[parameter_id] = parameters

    def update_search_space(self, search_space):
        raise ZeroDivisionError("in the tuner")


class Broken(Assessor):
    def assess_trial(self, trial_job_id, trial_history):
        raise ConfigError("in the assessor")


@pytest.fixture
def make():
    made = []

    def _make(tuner, assessor=None):
        dispatcher = Dispatcher(CHANNEL, tuner, assessor, lambda *_: None)
        dispatcher.default_worker.start()
        dispatcher.assessor_worker.start()
        made.append(dispatcher)
        return dispatcher

    yield _make
    for dispatcher in made:
        dispatcher.stopping = True


def until_raised(dispatcher):
    for _ in range(100):
        dispatcher.raise_error()
        time.sleep(0.05)


def test_an_exception_of_the_tuner_reaches_the_user_with_its_cause(make):
    dispatcher = make(Calm())
    dispatcher.enqueue_command(CommandType.UpdateSearchSpace, {})
    with pytest.raises(
        EngineError, match=r"the tuner or assessor failed: ZeroDivisionError\('in the tuner'\)"
    ) as caught:
        until_raised(dispatcher)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_exception_of_the_assessor_reaches_the_user(make):
    dispatcher = make(Calm(), Broken())
    metric = {"type": "PERIODICAL", "parameter_id": 0, "trial_job_id": "a", "sequence": 0, "value": "0.5"}
    dispatcher.enqueue_command(CommandType.ReportMetricData, metric)
    with pytest.raises(ConfigError, match="in the assessor"):
        until_raised(dispatcher)


def test_trials_that_run_again_are_adopted(make):
    tuner = Calm()
    again = [{"parameter_id": 4, "parameters": {"x": 1}}, {"parameter_id": None, "parameters": {}}]
    make(tuner).handle_add_customized_trial(again)
    assert tuner.adopted == {4: {"x": 1}}


def history(epochs):
    return [{"default": 0.5, "epoch": epoch} for epoch in range(1, epochs + 1)]


def test_a_trial_goes_on_within_its_patience():
    assessor = AdaptiveCompressionAssessor(maximal_total_epochs=100, patience=3)
    assert [assessor.assess_trial("a", history(n)) for n in (1, 2, 3)] == [AssessResult.Good] * 3
    assert assessor.assess_trial("a", history(4)) is AssessResult.Bad


def test_the_epochs_of_all_trials_count_together():
    assessor = AdaptiveCompressionAssessor(maximal_total_epochs=10, epochs_before=4)
    assert assessor.assess_trial("a", history(3)) is AssessResult.Good
    assert assessor.assess_trial("b", history(3)) is AssessResult.Good
    assert assessor.assess_trial("b", history(4)) is AssessResult.Bad
