"""Every adaptive case of NNCF 2.19's own loop, replayed through our rule.

The departures of autocompress from NNCF are the only differences, and each has a test of its own below.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from autocompress.budget import AccuracyBudget, accuracy_margin
from autocompress.errors import ConfigError
from autocompress.search import AdaptiveSearch, Position, RateAxis, StepHalving
from tests.search.support import run_search, trial

ORACLE = json.loads((Path(__file__).parents[1] / "data" / "nncf_2_19_cases.json").read_text())
DEFAULTS = ORACLE["meta"]["defaults"]
ADAPTIVE = [case for case in ORACLE["cases"] if case["mode"] == "adaptive_compression_level"]
CLOSE = 1e-6

REFUSED = {"reduction_factor_1.0"}
REPLAYED = [case for case in ADAPTIVE if case["name"] not in REFUSED]

PAST_THE_MAXIMUM_UNTRIED = {"step_r0_0.95", "recover_slope_patience_6", "decay_first_epoch_only"}
AT_THE_MAXIMUM = {"always_feasible_ir0.05_st0.1", "always_feasible_ir0.35_st0.3", "maximal_0.8_float"}
PAST_THE_MINIMUM_UNTRIED = {"never_feasible_from_0.25"}
AT_THE_MINIMUM = {
    "patience_1_need_4",
    "patience_3_need_4",
    "never_feasible",
    "never_feasible_from_0.7",
    "zero_metric",
}
OUT_OF_EPOCHS = {"max_epochs_0", "max_epochs_1", "max_epochs_3"}


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case["name"])


def named(names):
    return by_name([case for case in ADAPTIVE if case["name"] in names])


def setting(case, name):
    return case.get(name, case["params"].get(name, DEFAULTS.get(name)))


def first_rate(case):
    """The rate in force when the initial phase ends: a ramp goes one rate an epoch and may be cut short."""
    ramp = case.get("ramp")
    return ramp[min(initial_epochs(case), len(ramp)) - 1] if ramp else case["initial_rate"]


def rule_of(case):
    maximal = min(setting(case, "maximal_compression_rate"), case.get("ctrl_maximal", 1.0))
    return StepHalving(
        initial_rate=first_rate(case),
        initial_step=setting(case, "initial_compression_rate_step"),
        minimal_step=setting(case, "minimal_compression_rate_step"),
        reduction_factor=setting(case, "compression_rate_step_reduction_factor"),
        lr_reduction_factor=setting(case, "lr_reduction_factor"),
        minimal_rate=setting(case, "minimal_compression_rate"),
        maximal_rate=maximal,
    )


def budget_of(case):
    return AccuracyBudget(
        case["params"].get("maximal_relative_accuracy_degradation"),
        case["params"].get("maximal_absolute_accuracy_degradation"),
    )


def threshold_of(case):
    return budget_of(case).threshold(case["uncompressed_accuracy"])


def rows_of(case):
    return case["result"]["rates"]


def initial_epochs(case):
    rows = rows_of(case)
    return rows[0]["from_epoch"] if rows else case["result"]["final"]["total_epochs"]


def first_verdict(case):
    """The validation after the initial phase, which decides the first direction: one before it and one an epoch."""
    accuracy = case["result"]["acc_sequence"][initial_epochs(case) + 1]
    return accuracy_margin(accuracy, threshold_of(case)) >= 0


def visits(case):
    """(row, accuracies) of each visited rate within the bounds, in order."""
    sequence = case["result"]["acc_sequence"]
    begin = initial_epochs(case) + 2
    for row in rows_of(case):
        if row["rate"] < -1e-9:
            return  # below the minimal rate the counter of epochs is stale: nothing was trained
        yield row, sequence[begin : begin + row["epochs"]]
        begin += row["epochs"]


@dataclass(frozen=True)
class Replay:
    """Where our rule and NNCF's loop part.

    Attributes:
        moves: the (position, verdict) that both went through, the first at the initial rate.
        ours: our next position; None when our search is finished.
        row: NNCF's next row; None when it has none.
    """

    moves: list
    ours: Position | None
    row: dict | None


def replay(case):
    rule, rows = rule_of(case), rows_of(case)
    moves = [(rule.start(), first_verdict(case))]
    for row in rows:
        ours = rule.advance(*moves[-1])
        seen = (ours.rate, ours.step, ours.lr_factor) if ours else None
        if seen != pytest.approx((row["rate"], row["step"], row["lr_factor"]), abs=CLOSE):
            return Replay(moves, ours, row)
        moves.append((ours, row["accepted"]))
    return Replay(moves, rule.advance(*moves[-1]), None)


def departure(case, seen):
    """The name of the listed departure that explains where the two part; None where none does."""
    if seen.row is None:
        return "total epochs" if case["result"]["final"]["stopped_by"] == "maximal_total_epochs" else None
    if seen.row is not rows_of(case)[-1]:
        return None
    rule = rule_of(case)
    if seen.row["step"] < rule.minimal_step:
        trailing = seen.ours is None and seen.row["epochs"] == 1
        return "trailing visit below the minimal step" if trailing else None
    bounds = {True: rule.maximal_rate, False: rule.minimal_rate}
    beyond = seen.row["rate"] > rule.maximal_rate + 1e-9 or seen.row["rate"] < rule.minimal_rate - 1e-9
    position, verdict = seen.moves[-1]
    if not beyond or (seen.row["rate"] > position.rate) is not verdict:
        return None
    if seen.ours is None:
        return "at a bound" if position.rate == bounds[verdict] else None
    return "clamped to a bound" if seen.ours.rate == bounds[verdict] else None


def test_the_oracle_is_whole():
    modes = Counter(case["mode"] for case in ORACLE["cases"])
    assert modes == {"adaptive_compression_level": 68, "early_exit": 10}
    assert len({case["name"] for case in ADAPTIVE}) == 68, "two cases have the same name"
    assert len(REPLAYED) == 67
    rows = sum(len(rows_of(case)) for case in ADAPTIVE)
    assert rows >= 400, f"the oracle has only {rows} rows"


@by_name(REPLAYED)
def test_every_decision_is_that_of_nncf(case):
    seen = replay(case)
    assert departure(case, seen) is not None, f"after {len(seen.moves)} moves: ours {seen.ours}, NNCF's {seen.row}"
    compared, recorded = len(seen.moves) - 1, len(rows_of(case))
    assert compared == recorded - (seen.row is not None), f"only {compared} of {recorded} rows were compared"


def test_nothing_but_the_listed_departures():
    seen = Counter(departure(case, replay(case)) for case in REPLAYED)
    bounds = {
        "clamped to a bound": len(PAST_THE_MAXIMUM_UNTRIED | PAST_THE_MINIMUM_UNTRIED),
        "at a bound": len(AT_THE_MAXIMUM | AT_THE_MINIMUM),
        "total epochs": len(OUT_OF_EPOCHS),
    }
    assert seen == {**bounds, "trailing visit below the minimal step": 67 - sum(bounds.values())}


def test_departure_no_trailing_visit_below_the_minimal_step():
    """NNCF trains the rate of the step that has fallen below the minimum, for one epoch; ours ends."""
    endings = {case["name"]: replay(case) for case in REPLAYED}
    trailing = {name: seen for name, seen in endings.items() if seen.row and seen.row["step"] < 0.025 - 1e-9}
    defaults = [case["name"] for case in REPLAYED if setting(case, "minimal_compression_rate_step") == 0.025]
    assert len(trailing) > 40, f"only {len(trailing)} cases have it: {sorted(trailing)}"
    assert set(defaults) - set(trailing) == (
        PAST_THE_MAXIMUM_UNTRIED | AT_THE_MAXIMUM | PAST_THE_MINIMUM_UNTRIED | AT_THE_MINIMUM | OUT_OF_EPOCHS
    )
    assert all(seen.ours is None for seen in trailing.values())


@named({"absolute_0.05", "adapt_3"})
def test_departure_a_trailing_visit_that_was_feasible_is_given_up(case):
    """What the departure costs: at most the minimal step."""
    last = rows_of(case)[-1]
    ours = max(position.rate for position, feasible in replay(case).moves if feasible)
    assert last["accepted"]
    assert 0 < last["rate"] - ours < setting(case, "minimal_compression_rate_step"), (last["rate"], ours)


@named(PAST_THE_MAXIMUM_UNTRIED)
def test_departure_a_target_above_the_maximum_is_clamped_and_tried_once(case):
    seen, rule = replay(case), rule_of(case)
    assert seen.row["epochs"] == 0, f"NNCF trained {seen.row}"
    assert seen.row["rate"] > rule.maximal_rate
    assert seen.ours.rate == rule.maximal_rate
    assert rule.advance(seen.ours, True) is None
    back = rule.advance(seen.ours, False)
    assert (back.step, back.direction) == (seen.ours.step * rule.reduction_factor, -1)


@named(AT_THE_MAXIMUM)
def test_departure_a_feasible_maximum_ends_the_search_without_a_row_beyond_it(case):
    seen, rule = replay(case), rule_of(case)
    assert seen.row["epochs"] == 0, f"NNCF trained {seen.row}"
    assert seen.moves[-1][0].rate == rule.maximal_rate, "NNCF's float sum stops short of it by 1e-16"
    assert seen.ours is None


@named(PAST_THE_MINIMUM_UNTRIED)
def test_departure_a_target_below_the_minimum_is_clamped_and_tried_once(case):
    seen, rule = replay(case), rule_of(case)
    assert seen.row["rate"] < 0
    assert case["result"]["final"]["rate_reported"] < 0, "NNCF reports the negative rate"
    assert seen.ours.rate == rule.minimal_rate == 0
    assert rule.advance(seen.ours, False) is None
    assert rule.advance(seen.ours, True).direction == 1


@named(AT_THE_MINIMUM)
def test_departure_an_infeasible_minimum_ends_the_search_without_a_row_below_it(case):
    seen = replay(case)
    assert seen.row["rate"] < 0
    assert seen.moves[-1][0].rate == 0, "2.8e-17 and 0 are the same rate"
    assert seen.ours is None


def test_departure_rates_are_rounded_so_that_equal_rates_are_equal():
    """NNCF visits 0.3, 0.30000000000000004 and 0.29999999999999993 as three rates."""
    theirs = {row["rate"] for case in ADAPTIVE for row in rows_of(case)}
    ours = {position.rate for case in REPLAYED for position, _ in replay(case).moves}
    assert ours == {round(rate, 9) for rate in ours}
    close = sum(abs(a - b) < 1e-9 for a in theirs for b in theirs if a < b)
    assert close > 0
    assert not [(a, b) for a in ours for b in ours if 0 < b - a < 1e-9]


def test_departure_a_reduction_factor_of_one_is_refused():
    """The step would never fall: NNCF's search ends by its total epochs only."""
    (case,) = (case for case in ADAPTIVE if case["name"] in REFUSED)
    assert case["result"]["final"]["stopped_by"] == "maximal_total_epochs"
    with pytest.raises(ConfigError, match=r"^reduction_factor must be in \(0, 1\); got 1\.0$"):
        rule_of(case)


def search_of(case, **settings):
    rule = rule_of(case)
    return AdaptiveSearch("l1", RateAxis(rule.minimal_rate, rule.maximal_rate), rule, **settings)


def verdicts_of(case):
    """rate -> verdicts in order of NNCF's visits, the initial rate's among them, as far as ours follows."""
    verdicts = {}
    for position, feasible in replay(case).moves:
        verdicts.setdefault(position.rate, []).append(feasible)
    return verdicts


CHANGING = {
    "initial_epochs_0_need2",
    "initial_epochs_1_need2",
    "patience_1_need_4",
    "patience_3_need_4",
    "noisy_knee_seed5",
    "noisy_flat_seed0",
    "adapt_3",
}
"""Cases where a rate got another verdict when NNCF trained it again, from other weights."""


def test_a_revisit_gets_the_same_verdict_in_all_but_the_known_cases():
    changing = {case["name"] for case in REPLAYED if any(len(set(v)) > 1 for v in verdicts_of(case).values())}
    assert changing == CHANGING


@by_name([case for case in REPLAYED if case["name"] not in CHANGING | OUT_OF_EPOCHS])
def test_departure_revisits_are_answered_by_the_memo(case):
    """The search proposes NNCF's rates in NNCF's order, each once."""
    seen, verdicts = replay(case), verdicts_of(case)
    if seen.ours is not None:  # the bound that NNCF did not try
        verdicts[seen.ours.rate] = [seen.moves[-1][1]]
    proposals, records = run_search(search_of(case), lambda rate: verdicts[rate][0])
    assert [proposal.requested_rate for proposal in proposals] == list(verdicts)
    walked = [position for position, _ in seen.moves] + ([seen.ours] if seen.ours else [])
    assert [move.position for move in search_of(case).steps(records)] == walked


def test_departure_revisits_save_trials():
    """0.3 is visited twice by NNCF (as 0.30000000000000004 and 0.3), and once by ours."""
    (case,) = (case for case in ADAPTIVE if case["name"] == "step_r0_0.3")
    assert sum(abs(row["rate"] - 0.3) < CLOSE for row in rows_of(case)) == 2
    proposals, records = run_search(search_of(case), lambda rate: rate <= 0.3)
    assert [proposal.requested_rate for proposal in proposals] == [0.5, 0.4, 0.3, 0.35, 0.325]
    moves = search_of(case).steps(records)
    assert [move.rate for move in moves] == [0.5, 0.4, 0.3, 0.35, 0.325, 0.3]
    assert [move.trained for move in moves] == [True, True, True, True, True, False]


@named({"initial_epochs_0_need2", "initial_epochs_1_need2"})
def test_departure_a_rate_decided_against_stays_decided(case):
    """What the memo costs: NNCF decides against 0.5 too early, for it when it comes back, and reaches 0.7."""
    verdicts = verdicts_of(case)
    assert verdicts[0.5] == [False, True]
    assert case["result"]["final"]["rate_reported"] == pytest.approx(0.7)
    proposals, _ = run_search(search_of(case), lambda rate: rate != 0.5 and rate <= case["acc"]["r0"])
    assert [proposal.requested_rate for proposal in proposals] == [0.5, 0.4, 0.45, 0.475]


@named({"patience_1_need_4", "patience_3_need_4"})
def test_departure_a_rate_decided_for_stays_decided(case):
    """What the memo gains: NNCF decides for 0.5, against it when it comes back, and ends with a negative target."""
    assert verdicts_of(case)[0.5] == [True, False]
    assert case["result"]["final"]["rate_target"] < 0
    proposals, _ = run_search(search_of(case), lambda rate: rate == 0.5)
    assert [proposal.requested_rate for proposal in proposals] == [0.5, 0.6, 0.55, 0.525]


NOT_ABOVE = {"reduction_factor_0.6", "reduction_factor_0.9"}
"""A step of more than half the last one leads below the highest feasible rate: NNCF starts from it nevertheless."""

ZERO_IS_UNCOMPRESSED = {"feasible_only_at_zero_filter_pruning_like", "feasible_only_at_zero_step_0.125"}
"""NNCF does not take the weights of rate 0 for a checkpoint there, and goes on from the current ones."""


def warm_starts(case):
    """(position, our start's rate, NNCF's start's rate) of each first visit that has a feasible rate to start from."""
    moves = replay(case).moves
    search = search_of(case)
    initial, first = moves[0]
    records = [trial(initial.rate, first)]
    for (position, feasible), row in zip(moves[1:], rows_of(case), strict=False):
        rates = {record.key: record.requested_rate for record in records}
        if position.rate in rates.values():
            continue
        proposal = search.next(records)
        if proposal is None or proposal.requested_rate != position.rate:
            assert case["name"] in CHANGING, f"ours {proposal}, NNCF's {row}"
            return
        theirs = row["start_weights"]
        if any(record.feasible for record in records):
            # Without an epoch in the initial phase its weights are the pretrained ones, noted at rate 0.
            yield position, rates.get(proposal.start_from), theirs["rate"] if theirs["epoch"] else initial.rate
        else:
            assert proposal.start_from is None, f"{proposal} although nothing is feasible"
        records.append(trial(position.rate, feasible))


@by_name([case for case in REPLAYED if case["name"] not in NOT_ABOVE | ZERO_IS_UNCOMPRESSED])
def test_warm_starts_are_those_of_nncf(case):
    """From the checkpoint of the highest feasible rate so far."""
    for position, ours, theirs in warm_starts(case):
        assert ours == pytest.approx(theirs, abs=CLOSE), f"at {position}"


def test_enough_warm_starts_are_compared():
    compared = sum(1 for case in REPLAYED for _ in warm_starts(case))
    assert compared > 200, f"only {compared} starts were compared"


@named(NOT_ABOVE)
def test_departure_no_warm_start_from_a_higher_rate(case):
    """Removed filters cannot come back."""
    different = [start for start in warm_starts(case) if start[1] != pytest.approx(start[2], abs=CLOSE)]
    assert different
    assert all(ours <= position.rate < theirs for position, ours, theirs in different), different


@named(ZERO_IS_UNCOMPRESSED)
def test_departure_rate_zero_is_a_start_like_any_other(case):
    different = [start for start in warm_starts(case) if start[1] != pytest.approx(start[2], abs=CLOSE)]
    assert different
    assert {ours for _, ours, _ in different} == {0.0}, different


@named(OUT_OF_EPOCHS - {"max_epochs_0"})
def test_the_search_ends_where_nncf_runs_out_of_epochs(case):
    """maximal_total_epochs 0 is refused by the settings: not even the initial rate could be trained."""
    moves = replay(case).moves
    epochs = [initial_epochs(case), *(row["epochs"] for row in rows_of(case))]
    records = [trial(position.rate, ok, epochs=spent) for (position, ok), spent in zip(moves, epochs, strict=True)]
    search = search_of(case, maximal_total_epochs=setting(case, "maximal_total_epochs"))
    assert search.next(records) is None
    longer = search_of(case, maximal_total_epochs=sum(epochs) + 1)
    assert longer.next(records).epochs == 1


@by_name(ADAPTIVE + [case for case in ORACLE["cases"] if case["mode"] == "early_exit" and case["result"]["final"]])
def test_the_threshold_is_that_of_nncf_to_the_last_bit(case):
    assert threshold_of(case) == case["result"]["final"]["minimal_tolerable_accuracy"]


@by_name(ADAPTIVE)
def test_budgets_and_ties_are_those_of_nncf_to_the_last_bit(case):
    threshold, compared = threshold_of(case), 0
    for row, accuracies in visits(case):
        best = max((accuracy_margin(accuracy, threshold) for accuracy in accuracies), default=None)
        assert best == row["best_budget"], f"at {row['rate']}"
        assert (None if best is None else best >= 0) == row["accepted"], f"at {row['rate']}"
        compared += 1
    inside = [row for row in rows_of(case) if row["rate"] >= -1e-9]
    assert compared == len(inside), f"{compared} of {len(inside)} rows compared"


@named({"tie_exact_zero_budget", "tie_relative_float", "tie_relative_float_98", "decay_first_epoch_only"})
def test_an_accuracy_exactly_at_the_threshold_is_feasible(case):
    threshold = threshold_of(case)
    ties = [row for row, accuracies in visits(case) if threshold in accuracies]
    assert ties, f"no accuracy of {case['result']['acc_sequence']} is exactly {threshold!r}"
    assert all(row["accepted"] and row["best_budget"] == 0 for row in ties), ties
