"""What trials are compared by."""

import re

import pytest

from autocompress.errors import ConfigError, StoreError
from autocompress.plan import EARLY_EXIT, ExperimentPlan, LoopPlan, choose_objective
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from tests.search.support import trial
from tests.written import plan


@pytest.mark.parametrize(
    ("algorithms", "given", "chosen"),
    [
        (["l2"], None, "rate"),
        (["l2+qat"], None, "rate"),
        (["l2", "level"], None, "size"),
        (["l2"], "latency", "latency"),
        (["l2", "qat"], "macs", "macs"),
    ],
)
def test_rate_for_one_algorithm_and_size_for_several(algorithms, given, chosen):
    assert choose_objective(default_space(algorithms), given) == chosen


def test_an_unknown_objective_is_refused():
    with pytest.raises(ConfigError, match="unknown objective 'speed'"):
        choose_objective(default_space(["l2"]), "speed")


def test_trials_that_other_tuners_choose_are_fine_tuned_with_patience():
    one = plan(settings=AccuracyAwareSettings(patience_epochs=7))
    assert one.builtin_search_fields == {**one.search_fields, "default_epochs": 7}
    assert "default_epochs" not in one.search_fields, "adaptive trials have epochs of their own, and their keys stay"


def test_a_plan_that_was_written_is_read():
    written = plan(settings=AccuracyAwareSettings(maximal_relative_accuracy_degradation=0.1)).to_dict()
    assert ExperimentPlan.from_dict(written).to_dict() == written


@pytest.mark.parametrize("lost", [name for name in plan().to_dict() if name != "threshold"])
def test_what_a_plan_lacks_is_an_error(lost):
    """Above all the settings, whose budget would be the default one."""
    written = {name: value for name, value in plan().to_dict().items() if name != lost}
    with pytest.raises(StoreError, match=f"experiment.json is damaged: it must have {lost}; it does not"):
        ExperimentPlan.from_dict(written)


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ({"module": "x"}, "module must be an object; got 'x'"),
        ({"module": {"file": 3}}, "module must be a string; got {'file': 3}"),
        ({"objective": 1}, "objective must be a string; got 1"),
        ({"engine": []}, "engine must have a name (local, loop, nni, nni-tuner, optuna); got []"),
        ({"baseline": [1]}, "Baseline must be an object; got [1]"),
    ],
)
def test_what_a_plan_has_of_another_type_is_an_error(tmp_path, written, rule):
    directory = ExperimentDirectory(tmp_path)
    directory.write_settings({**plan().to_dict(), **written})
    with pytest.raises(StoreError, match=rf"^experiment\.json is damaged: (ExperimentPlan: )?{re.escape(rule)}$"):
        ExperimentPlan.read(directory)


def test_a_plan_without_its_budget():
    written = plan().to_dict()
    del written["settings"]["maximal_relative_accuracy_degradation"]
    with pytest.raises(StoreError, match="damaged: settings must have maximal_relative_accuracy_degradation"):
        ExperimentPlan.from_dict(written)


def loop_plan(mode="adaptive_compression_level", **settings):
    engine = LoopPlan("Net", "filter_pruning+qat", mode, {"log_dir": None})
    return plan(module={}, search_space={}, engine=engine, settings=AccuracyAwareSettings.from_dict(settings),
                tuner=EARLY_EXIT if mode == EARLY_EXIT else "AdaptiveCompression")  # fmt: skip


def test_the_plan_of_a_loop_needs_no_module_and_no_search_space():
    written = loop_plan().to_dict()
    read = ExperimentPlan.from_dict(written)
    assert read.to_dict() == written
    assert (read.model_name, read.stages, read.ends_by_itself, read.maximal_trials) == ("Net", 1, True, None)
    with pytest.raises(StoreError, match="module must have class_name"):
        ExperimentPlan.from_dict({**plan().to_dict(), "module": {}})


def test_the_trials_of_a_loop_have_their_rate_once():
    one = loop_plan(initial_compression_rate=0.4, seed=3)
    (proposal,) = one.proposals([])
    parameters = one.trial_parameters(proposal)
    assert parameters["algorithm_name"] == {"_name": "filter_pruning+qat"}
    assert (parameters["search"]["requested_rate"], parameters["search"]["seed"]) == (0.4, 3)


def test_the_search_of_a_loop_goes_on_from_where_its_schedule_was():
    one, name = loop_plan(initial_compression_rate=0.5), "filter_pruning+qat"
    for feasible, rate in ((True, 0.37), (False, 0.17)):
        (proposal,) = one.proposals([trial(0.27, feasible, algorithm=name)])
        assert proposal.requested_rate == pytest.approx(rate)


def test_a_loop_with_one_rate_has_one_trial():
    one = loop_plan(initial_compression_rate=0.5, minimal_compression_rate=0.5, maximal_compression_rate=0.5)
    (proposal,) = one.proposals([])
    assert proposal.requested_rate == 0.5
    assert not one.proposals([trial(0.5, algorithm="filter_pruning+qat")])


def test_early_exit_is_one_trial_of_all_epochs():
    one = loop_plan(EARLY_EXIT, maximal_total_epochs=40)
    (proposal,) = one.proposals([])
    assert (proposal.requested_rate, proposal.epochs, proposal.initial) == (None, 40, True)
    assert not one.proposals([trial(None, algorithm="filter_pruning+qat")])


def test_other_tuners_choose_by_themselves():
    assert not plan(tuner="TPE").ends_by_itself
    assert plan(tuner="TPE").proposals([]) == []
