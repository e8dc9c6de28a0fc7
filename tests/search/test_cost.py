"""How many trials a search takes at most."""

import itertools

import pytest

from autocompress.search import SingleTrial, StepHalving
from autocompress.search.cost import max_trials, of_trials, search_length
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings

RULES = [
    StepHalving(),
    StepHalving(initial_step=0.3, minimal_step=0.01),
    StepHalving(initial_rate=0.1, initial_step=0.05, minimal_step=0.05),
    StepHalving(minimal_rate=0.5, initial_rate=0.5, maximal_rate=0.5),
]


def tried(rule, edge):
    """The rates that are tried where all up to the edge are feasible."""
    position, rates = rule.start(), []
    while position is not None:
        rates.append(position.rate)
        position = rule.advance(position, position.rate <= edge)
    return set(rates)


@pytest.mark.parametrize("rule", RULES)
def test_no_edge_takes_more_and_one_takes_as_many(rule):
    counts = [len(tried(rule, edge / 2000)) for edge in range(-1, 2002)]
    assert max_trials(rule) == max(counts)


def test_trials_have_an_evaluation_before_their_first_epoch():
    assert of_trials(3, 5, 2) == type(of_trials(0, 0, 1))(trials=3, epochs=15, evaluations=3 * 4)


def test_a_mix_trains_in_each_of_its_stages():
    (search,) = AccuracyAwareSettings().searches(default_space(["l2"]))
    one, two = (search_length([search], [stages], 1) for stages in (1, 2))
    assert one.trials == two.trials == max_trials(search.rule)
    assert one.epochs == 5 + 3 * (one.trials - 1)
    assert two.epochs == 2 * one.epochs


def test_several_searches_and_the_maximal_total_epochs():
    settings = AccuracyAwareSettings(maximal_total_epochs=7)
    (search,) = settings.searches(default_space(["l2"]))
    both = search_length([search, SingleTrial("qat", 4)], [1, 1], 1)
    assert both.epochs == 7 + 4
    assert both.trials == max_trials(search.rule) + 1


def test_it_holds_for_every_rule_that_is_likely():
    for start, step in itertools.product((0.1, 0.5, 0.9), (0.025, 0.1, 0.4)):
        rule = StepHalving(initial_rate=start, initial_step=step)
        assert max_trials(rule) >= len(tried(rule, start)), rule
