"""What trials are compared by."""

import pytest

from autocompress.config import AccuracyAwareSettings, default_space
from autocompress.engines.plan import choose_objective
from autocompress.errors import ConfigError
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
