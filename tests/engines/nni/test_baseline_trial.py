"""What NNI is sent: the uncompressed model first, of which the tuner never hears, and parameters in NNI's form."""

from autocompress.engines.nni.baseline_trial import BaselineFirstTuner
from autocompress.engines.nni.tuner import DeferredParameters
from autocompress.engines.nni.wire_format import from_page_parameters, to_page_parameters
from autocompress.records import Baseline, Measurement
from autocompress.trial.baseline import is_uncompressed, uncompressed_parameters, uncompressed_result

OTHER = {"algorithm_name": {"_name": "l2"}, "search": {"requested_rate": 0.5, "start_from": None}}
SENT = {"algorithm_name": {"_name": "l2"}, "search/requested_rate": 0.5, "search/start_from": None}
FIRST = {"algorithm_name": {"_name": "uncompressed"}, "search/requested_rate": 0.0}


class Listens:
    """A tuner that writes down what it is told."""

    def __init__(self, generated=list):
        self.told = []
        self.generated = generated

    def generate_multiple_parameters(self, ids, st_callback=None, **_):
        self.told.append(("asked", ids))
        return self.generated(ids)

    def __getattr__(self, name):
        return lambda *told, **_: self.told.append((name, *told))


def test_it_comes_first_and_once():
    inner = Listens(lambda ids: [OTHER] * len(ids))
    tuner = BaselineFirstTuner(inner, begun=False)
    assert list(tuner.generate_multiple_parameters([0, 1, 2])) == [FIRST, SENT, SENT]
    assert list(tuner.generate_multiple_parameters([3])) == [SENT]
    assert inner.told == [("asked", [1, 2]), ("asked", [3])]


def test_a_single_worker_shows_it_alone():
    inner = Listens()
    answer = BaselineFirstTuner(inner, begun=False).generate_multiple_parameters([0])
    assert list(answer) == [FIRST]
    assert len(answer) == 1, "a shorter answer would tell NNI that there are no more trials"


def test_trials_that_are_sent_later_are_still_promised():
    answer = BaselineFirstTuner(
        Listens(lambda ids: DeferredParameters(len(ids))), begun=False
    ).generate_multiple_parameters([0, 1])
    assert list(answer) == [FIRST]
    assert len(answer) == 2


def test_a_tuner_with_nothing_left_is_not_covered_up():
    answer = BaselineFirstTuner(Listens(lambda ids: []), begun=False).generate_multiple_parameters([0, 1])
    assert len(answer) == 1, "shorter than what was asked for: there are no more trials"


def test_the_tuner_hears_of_its_own_trials_only():
    inner = Listens()
    tuner = BaselineFirstTuner(inner, begun=False)
    tuner.generate_multiple_parameters([0])
    tuner.receive_trial_result(0, FIRST, {"default": 0.0})
    tuner.trial_end(0, True)
    tuner.receive_trial_result(1, SENT, {"default": 0.5})
    tuner.trial_end(1, True)
    assert [told for told in inner.told if told[0] != "asked"] == [
        ("receive_trial_result", 1, OTHER, {"default": 0.5}),
        ("trial_end", 1, True),
    ]


def test_after_a_resume_it_is_not_shown_again():
    inner = Listens(lambda ids: [OTHER] * len(ids))
    tuner = BaselineFirstTuner(inner, begun=True)
    tuner.adopt(0, FIRST)
    tuner.adopt(1, SENT)
    tuner.import_data([{"parameter": FIRST, "value": 0}, {"parameter": SENT, "value": 1}])
    tuner.trial_end(0, True)
    assert list(tuner.generate_multiple_parameters([2])) == [SENT]
    assert inner.told == [("adopt", 1, OTHER), ("import_data", [{"parameter": OTHER, "value": 1}]), ("asked", [2])]


def test_its_result_is_what_was_measured():
    baseline = Baseline(0.1, None, False, Measurement(10, 10, 20, 30), "f", 0.1)
    result = uncompressed_result(baseline, 0.101)
    assert is_uncompressed(uncompressed_parameters())
    assert not is_uncompressed(OTHER)
    assert (result["default"], result["accuracy"], result["requested_rate"], result["bytes"]) == (0.0, 0.1, 0.0, 30)
    assert abs(result["accuracy_margin"] - 0.001) < 1e-12, "better is lower"


def test_parameters_come_back_as_they_were():
    assert to_page_parameters(OTHER) == SENT
    assert from_page_parameters(SENT) == OTHER
    assert from_page_parameters(to_page_parameters({"algorithm_name": {"_name": "qat"}})) == {
        "algorithm_name": {"_name": "qat"}
    }


def test_trials_that_are_sent_one_by_one_are_shown_too():
    sent = []
    inner = Listens()
    inner.generate_multiple_parameters = lambda ids, st_callback, **_: (
        st_callback(ids[0], OTHER) or DeferredParameters(1)
    )
    BaselineFirstTuner(inner, begun=True).generate_multiple_parameters([4], st_callback=lambda *told: sent.append(told))
    assert sent == [(4, SENT)]
