"""Experiments as they lie on disk, written through the store: nothing is trained here."""

from autocompress.compression.module_loading import ModuleReference
from autocompress.plan import ExperimentPlan, NniPlan
from autocompress.records import Baseline, Measurement, TrialRecord
from autocompress.search_space import load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import PendingTrial
from tests import curve_modules
from tests.e2e.launch import search_space

SPACE = load_search_space(search_space("l2"))


def plan(**changes):
    fields = {
        "module": ModuleReference.of(curve_modules.Cliff).to_dict(),
        "search_space": SPACE.wire,
        "settings": AccuracyAwareSettings(),
        "objective": "rate",
        "tuner": "AdaptiveCompression",
        "engine": NniPlan("written-by-hand", {"trainingService": {"platform": "local"}}),
        "baseline": Baseline(0.9, 0.88, True, Measurement(1000, 1000, 800, 5000), "f", 0.1),
    }
    return ExperimentPlan(**{**fields, **changes})


def record(key, rate, *, feasible):
    return TrialRecord(
        key=key,
        algorithm="l2",
        state="completed",
        requested_rate=rate,
        accuracy=0.895 if feasible else 0.5,
        accuracy_margin=0.004 if feasible else -0.391,
        feasible=feasible,
        score=rate if feasible else -0.4,
        achieved_rate=rate,
        parameters_removed=rate,
        macs_removed=rate,
        size_removed=rate,
        bytes=2500,
        epochs=3,
        seconds=1.5,
        checkpoint=f"trials/{key}/checkpoint",
    )


def propose(ledger, experiment=None):
    """Open the trial that the rule asks for; its key is `key<number of trials before>`."""
    experiment = experiment or plan()
    proposal = experiment.searches[0].next(ledger.records)
    key = f"key{len(ledger.records)}"
    ledger.propose(PendingTrial(key, experiment.trial_parameters(proposal), proposal))
    return key, proposal.requested_rate


def finish(ledger, edge=0.58):
    """Run the search to its end: feasible up to `edge`."""
    while plan().searches[0].next(ledger.records) is not None:
        key, rate = propose(ledger)
        ledger.add(record(key, rate, feasible=rate < edge))
