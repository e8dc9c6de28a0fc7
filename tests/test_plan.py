"""What trials are compared by."""

import re

import pytest

from autocompress.errors import ConfigError, StoreError
from autocompress.plan import ExperimentPlan, choose_objective
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
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
    assert one.of_others == {**one.common, "default_epochs": 7}
    assert "default_epochs" not in one.common, "adaptive trials have epochs of their own, and their keys stay"


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
        ({"engine": []}, "engine must have a name (local, nni, nni-tuner, optuna); got []"),
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
