"""Every case of NNCF 2.19's own loops, adaptive and early exit, through the whole loop.

What `tests/search/test_oracle.py` says of the rule is said here of everything around it: validations, epochs, learning
rates, checkpoints, the model that is given back. The departures are those that are named there.
"""

import itertools
import math

import pytest

from autocompress.budget import accuracy_margin
from autocompress.errors import InfeasibleBudgetError
from autocompress.store import Ledger
from tests.engines.local.support import config_of, loop_of
from tests.search import test_oracle as rule

pytestmark = pytest.mark.usefixtures("no_report")

CLOSE = 1e-6
EARLY_EXIT = [case for case in rule.ORACLE["cases"] if case["mode"] == "early_exit"]
NO_EPOCHS = {"ee_never_zero_epochs", "max_epochs_0"}
"""maximal_total_epochs 0 is refused by the configuration."""
LESS_THAN_THE_INITIAL_PHASE = {"max_epochs_1"}
"""Ours does not train more than maximal_total_epochs; NNCF's initial phase does."""
PLAYED = [case for case in rule.REPLAYED if case["name"] not in NO_EPOCHS]


def closed_form(acc, rate, at_rate, total):
    """The accuracies of the oracle's README, for rates that NNCF did not visit."""
    kind = acc["type"]
    if kind == "const":
        value = acc["a"]
    elif kind == "linear":
        value = acc["A0"] - acc["c"] * rate
    elif kind == "knee":
        gap = acc.get("gap", 0.0) * rate * acc.get("q", 1.0) ** at_rate
        value = acc["A0"] - acc["drop"] / (1 + math.exp((acc["r0"] - rate) / acc["s"])) - gap
    elif kind == "step":
        value = acc["hi"] if rate <= acc["r0"] + 1e-9 and at_rate >= acc["need"] else acc["lo"]
    elif kind == "recover":
        needed = math.ceil(acc["need0"] + acc["slope"] * rate - 1e-9)
        value = acc["hi"] if rate <= acc["r0"] + 1e-9 and at_rate >= needed else acc["lo"]
    elif kind == "decay":
        value = acc["A0"] - acc["d"] * at_rate - acc["c"] * rate
    elif kind == "table":
        points = sorted(acc["points"])
        value = points[0][1] if rate <= points[0][0] else points[-1][1]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            if x0 <= rate <= x1:
                value = y0 + (y1 - y0) * (rate - x0) / (x1 - x0)
    else:
        raise AssertionError(f"no closed form of {kind}")
    noise = acc.get("noise")
    return round(value + (noise[total % len(noise)] if noise else 0.0), 6)


class Recorded:
    """Tells what was recorded: of the initial phase by epochs, of each rate by its first visit's epochs."""

    def __init__(self, case):
        self.case = case
        whole = case["mode"] == "early_exit"
        self.initial = case["result"]["acc_sequence"][: None if whole else rule.initial_epochs(case) + 1]
        self.visits = {}
        for row, accuracies in () if whole else rule.visits(case):
            self.visits.setdefault(round(row["rate"], 6), accuracies)

    def __call__(self, rate, at_rate, total):
        known = self.visits.get(round(rate, 6))
        if total < len(self.initial):
            return self.initial[total]
        if known is not None and 0 < at_rate <= len(known):
            return known[at_rate - 1]
        return closed_form(self.case["acc"], rate, at_rate, total)


def played(case, tmp_path, **arguments):
    """The case through our loop: its records, the moves, the error or the model."""
    params = dict(case["params"])
    config = config_of(params, mode=case["mode"], target=case["initial_rate"], ramp=case.get("ramp"))
    bounds = {name: case[name] for name in ("minimal_compression_rate", "maximal_compression_rate") if name in case}
    loop, model, teller = loop_of(config, case["uncompressed_accuracy"], Recorded(case), **bounds, **arguments)
    above = case.get("early_stop_above")
    stop = None if above is None else lambda accuracy: accuracy > above
    error = returned = None
    try:
        returned = loop.run(
            model, teller.train_epoch, teller.validate, preflight=False, log_dir=tmp_path, early_stopping_fn=stop
        )
    except InfeasibleBudgetError as infeasible:
        error = infeasible
    return loop, teller, returned, error


def expected_rows(case):
    """What our loop must try: NNCF's rows as far as the rule follows, each rate once; with how many were revisits."""
    seen = rule.replay(case)
    rows, known = [], {round(seen.moves[0][0].rate, 6)}
    for (position, feasible), row in zip(seen.moves[1:], rule.rows_of(case), strict=False):
        if round(position.rate, 6) not in known:
            known.add(round(position.rate, 6))
            rows.append((position, feasible, row))
    return rows


@rule.by_name([case for case in PLAYED if case["name"] not in rule.CHANGING | rule.OUT_OF_EPOCHS])
def test_the_whole_loop_decides_as_nncf(case, tmp_path):
    loop, _, _, error = played(case, tmp_path)
    records = loop.result.records
    first, rows = rule.rule_of(case).start(), expected_rows(case)
    assert records[0].requested_rate == pytest.approx(first.rate, abs=CLOSE)
    assert (records[0].epochs, records[0].feasible) == (rule.initial_epochs(case), rule.first_verdict(case))
    asked = Ledger(loop.result.directory).proposed
    told = [
        (record.requested_rate, asked[record.key].proposal.step, record.lr_factor, record.epochs, record.feasible)
        for record in records[1:]
    ]
    wanted = [
        (position.rate, row["step"], row["lr_factor"], row["epochs"], feasible) for position, feasible, row in rows
    ]
    assert told[: len(wanted)] == [pytest.approx(row, abs=CLOSE) for row in wanted]
    beyond = rule.replay(case).ours  # the bound that NNCF did not try; the search goes on from there
    assert [row[0] for row in told[len(wanted) :][:1]] == ([] if beyond is None else [beyond.rate]), told
    assert (error is None) == any(record.feasible for record in records)


@rule.by_name([case for case in PLAYED if case["name"] not in rule.CHANGING | rule.OUT_OF_EPOCHS])
def test_every_returned_model_is_within_the_limit_and_that_of_the_best_rate(case, tmp_path):
    loop, _, model, error = played(case, tmp_path)
    records, threshold = loop.result.records, rule.threshold_of(case)
    if error is not None:
        assert error.threshold == threshold
        assert not any(record.feasible for record in records)
        return
    best = max((record for record in records if record.feasible), key=lambda record: record.requested_rate)
    assert accuracy_margin(loop.statistics.compressed_accuracy, threshold) >= 0
    index = records.index(best)
    assert int(model.trained[2]) == sum(record.epochs for record in records[: index + 1]), "weights of its last epoch"
    assert float((model.layer.weight == 0).float().mean()) == pytest.approx(best.requested_rate, abs=1 / 3600)
    final = case["result"]["final"]
    departed = case["name"] in rule.PAST_THE_MAXIMUM_UNTRIED | rule.PAST_THE_MINIMUM_UNTRIED
    trailing = bool(rule.rows_of(case)) and rule.rows_of(case)[-1]["accepted"]
    if not departed and not trailing and final["acc"] >= threshold:
        assert best.requested_rate == pytest.approx(max(final["rate_reported"], 0.0), abs=CLOSE)


def test_where_nncf_returned_weights_outside_the_limit_ours_are_inside(tmp_path):
    outside = [
        case
        for case in PLAYED
        if case["result"]["final"]["acc"] < rule.threshold_of(case)
        and any(row["accepted"] for row in rule.rows_of(case))
        and case["acc"]["type"] != "adapt"
    ]
    assert len(outside) >= 3, [case["name"] for case in outside]
    for case in outside:
        loop, _, _, error = played(case, tmp_path / case["name"])
        assert error is None, case["name"]
        assert loop.statistics.accuracy_margin >= 0, case["name"]


@rule.named(rule.OUT_OF_EPOCHS - NO_EPOCHS)
def test_no_more_than_the_maximal_total_epochs(case, tmp_path):
    loop, teller, _, _ = played(case, tmp_path)
    most = case["params"]["maximal_total_epochs"]
    assert teller.total == most
    if case["name"] not in LESS_THAN_THE_INITIAL_PHASE:
        assert [record.epochs for record in loop.result.records] == [
            rule.initial_epochs(case),
            *(row["epochs"] for row in rule.rows_of(case)),
        ]


@pytest.mark.parametrize("case", [c for c in EARLY_EXIT if c["name"] not in NO_EPOCHS], ids=lambda case: case["name"])
def test_early_exit_trains_as_long_as_nncf(case, tmp_path):
    """Where NNCF gives back a model outside the limit or raises TypeError, ours says that nothing is inside it."""
    loop, teller, model, error = played(case, tmp_path)
    threshold, sequence = rule.threshold_of(case), case["result"]["acc_sequence"]
    (record,) = loop.result.records
    final = case["result"]["final"]
    if final is not None:
        assert [accuracy for _, _, accuracy in teller.told[: len(sequence)]] == sequence
        assert record.epochs == teller.total == final["total_epochs"]
    reached = record.accuracy is not None and accuracy_margin(record.accuracy, threshold) >= 0
    assert (error is None) == reached
    if final is not None and final["acc"] >= threshold:
        assert loop.statistics.compressed_accuracy == final["acc"]
        assert int(model.trained[2]) == final["weights_from"]["epoch"]
