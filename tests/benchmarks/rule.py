"""What the rule's answer costs after many trials: `python -m tests.benchmarks.rule [--trials 10000]`.

Median of several askings, from records in memory, and from the trials of an Optuna study in memory.
"""

import argparse
import statistics
import time

import optuna

from autocompress.engines.optuna.convert import ORDER, RECORD, records_of
from autocompress.records import TrialRecord
from autocompress.search import AdaptiveSearch, RateAxis, StepHalving, proposals


def search(trials):
    """Which walks up in steps so small that all trials are on its path."""
    rule = StepHalving(initial_rate=0.0, initial_step=0.9 / trials, minimal_step=0.9 / trials)
    return AdaptiveSearch("l2", RateAxis(0.0, 0.95), rule, maximal_total_epochs=100 * trials)


def records_of_path(walking, trials):
    position = walking.rule.start()
    for number in range(trials):
        yield record(number, walking.axis.snap(position.rate))
        position = walking.rule.advance(position, True)


def record(number, rate):
    return TrialRecord(
        key=str(number),
        algorithm="l2",
        state="completed",
        requested_rate=rate,
        feasible=True,
        accuracy_margin=0.1,
        epochs=3,
        checkpoint="somewhere",
        parameters={"algorithm_name": {"_name": "l2", "config_list::Conv2d::::sparsity": rate}, "search": {"seed": 0}},
    )


def frozen(number, each):
    order = {"key": each.key, "parameters": each.parameters, "proposal": None}
    attributes = {ORDER: order, RECORD: each.to_dict()}
    trial = optuna.trial.create_trial(value=0.5, user_attrs=attributes)
    trial.number = number
    return trial


def milliseconds(ask, times=15):
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        assert ask()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    number = parser.parse_args().trials
    searches = (search(number),)
    records = list(records_of_path(searches[0], number))
    trials = [frozen(number, each) for number, each in enumerate(records)]
    rule = milliseconds(lambda: proposals(searches, records))
    read = {}
    study = milliseconds(lambda: proposals(searches, records_of(trials, read)))
    print(f"after {number} trials: {rule:.1f} ms from records, {study:.1f} ms from an Optuna study's trials")


if __name__ == "__main__":
    main()
