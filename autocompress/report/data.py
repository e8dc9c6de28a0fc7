"""The data of a report: an experiment's files, read once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.budget import accuracy_margin
from autocompress.errors import command
from autocompress.plan import ExperimentPlan, LoopPlan
from autocompress.records import ModelSizes, Proposal, TrialRecord
from autocompress.report.diagnosis import POOR, diagnosis
from autocompress.report.verdict import number
from autocompress.search import OBJECTIVES, best, require_objective
from autocompress.search.noise import AccuracyNoise
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger, Verdict


@dataclass(frozen=True)
class ReportData:
    """An experiment as reports show it."""

    directory: Path  # its files
    plan: ExperimentPlan  # what was searched, with its baseline
    records: tuple[TrialRecord, ...]  # of all trials in the order they ended
    best: TrialRecord | None  # the best feasible one; None where there is none
    verdicts: Mapping[str, Verdict]  # of trials whose checkpoint was loaded afresh, by key
    proposals: Mapping[str, Proposal]  # of the search rule, by key; none where a built-in tuner chose
    # learning curves, of the 200 trials of the highest scores, by key: objects with `epoch` (from 1) and `accuracy`
    curves: Mapping[str, list[dict[str, Any]]]
    sizes: ModelSizes | None  # the best model's layers beside the uncompressed ones; None before it was verified
    diagnosis: Sequence[str] = ()  # what kept the search from removing more, where it found nothing or little

    @property
    def module(self) -> str:
        """Name of the user's class."""
        return self.plan.model_name

    @property
    def algorithms(self) -> list[str]:
        """Names of the algorithms that were tried, in that order."""
        return list(dict.fromkeys(record.algorithm for record in self.records))

    @property
    def verdict(self) -> Verdict | None:
        """What the best model evaluated to when loaded afresh."""
        return self.verdicts.get(self.best.key) if self.best else None

    @property
    def holdout_threshold(self) -> float | None:
        """The worst accuracy on hold-out data that the same budget tolerates there; None without such data."""
        baseline, budget = self.plan.measured, self.plan.settings.budget
        if baseline.holdout_accuracy is None:
            return None
        return budget.threshold(baseline.holdout_accuracy, higher_is_better=baseline.higher_is_better)

    @property
    def holdout_margin(self) -> float | None:
        """How far the best model's hold-out accuracy is inside the threshold there; None where it is not known."""
        threshold, verdict = self.holdout_threshold, self.verdict
        if threshold is None or verdict is None or verdict.holdout_accuracy is None:
            return None
        return self.margin(verdict.holdout_accuracy, threshold)

    def margin(self, accuracy: float, threshold: float) -> float:
        """How far an accuracy is inside a threshold; below 0 outside."""
        return accuracy_margin(accuracy, threshold, higher_is_better=self.plan.measured.higher_is_better)

    @property
    def nearest_failure(self) -> TrialRecord | None:
        """The infeasible trial that removed least beyond the best one, of the same algorithm."""
        if self.best is None:
            return None
        reached = self.reduction(self.best) or 0.0
        outside = [
            record
            for record in self.records
            if record.algorithm == self.best.algorithm
            and record.accuracy is not None
            and not record.feasible
            and (self.reduction(record) or 0.0) >= reached
        ]
        return min(outside, key=lambda record: self.reduction(record) or 0.0, default=None)

    def reduction(self, record: TrialRecord) -> float | None:
        """The objective's achieved reduction of a trial."""
        value: float | None = getattr(record, OBJECTIVES[self.plan.objective])
        return value

    def simulated_margin(self, record: TrialRecord) -> float:
        """How far a trial was inside the threshold while rounding was simulated; minus infinity where it was not."""
        simulated = record.simulated_accuracy
        return -math.inf if simulated is None else self.margin(simulated, self.plan.threshold)

    def standard_error(self, accuracy: float | None) -> float | None:
        """The standard error of an accuracy by itself; None where nothing is known of it."""
        noise = AccuracyNoise.of(self.plan.measured, self.plan.settings.budget)
        return None if accuracy is None else noise.of_accuracy(accuracy)

    def error_of(self, record: TrialRecord | None) -> float | None:
        """The standard error of a trial's accuracy margin, or, for None, of the uncompressed accuracy."""
        if record is None:
            measured = self.plan.measured
            return measured.accuracy_error or self.standard_error(measured.accuracy)
        return self.standard_error(record.accuracy) if record.accuracy_error is None else record.accuracy_error

    def spread(self, record: TrialRecord) -> tuple[float, float] | None:
        """The lowest and the highest accuracy of a trial's learning curve, from its first epoch on."""
        curve = self.curves.get(record.key, ())
        accuracies = [point["accuracy"] for point in curve if "accuracy" in point and point.get("epoch") != 0]
        return (min(accuracies), max(accuracies)) if len(accuracies) > 1 else None


_MOST_CURVES = 200


def best_scored(records: Sequence[TrialRecord], most: int) -> list[TrialRecord]:
    """The trials of the highest scores, at most so many; those without a score are the last."""
    if len(records) <= most:
        return list(records)
    scores = [-math.inf if record.score is None else record.score for record in records]
    order = sorted(range(len(records)), key=lambda index: scores[index], reverse=True)
    return [records[index] for index in order[:most]]


def pareto_front(records: Iterable[TrialRecord], *, higher_is_better: bool) -> list[TrialRecord]:
    """The records that no other surpasses in both bytes saved and accuracy, by rising savings."""
    sign = 1.0 if higher_is_better else -1.0

    def rank(record: TrialRecord) -> tuple[float, float]:
        share, accuracy = saved(record)
        return share, sign * accuracy

    front: list[TrialRecord] = []
    for record in sorted(records, key=rank, reverse=True):
        if not front or rank(record)[1] > rank(front[-1])[1]:
            front.append(record)
    return front[::-1]


def saved(record: TrialRecord) -> tuple[float, float]:
    """The share of bytes saved and the accuracy of a trial; 0 for what is not known."""
    return record.size_removed or 0.0, record.accuracy or 0.0


def read_report_data(directory: ExperimentDirectory) -> ReportData:
    """Read the data of the experiment in a directory.

    Raises:
        StoreError: there is none, its baseline has not been measured, or its files are damaged.
        ConfigError: its settings or its objective break a rule.
    """
    plan, ledger = ExperimentPlan.read(directory), Ledger(directory)
    found = best(ledger.not_disproved)
    curved = {record.key for record in best_scored(ledger.records, _MOST_CURVES)} | ({found.key} if found else set())
    require_objective(plan.objective)
    _ = plan.measured
    little = found is None or (found.score or 0.0) < POOR
    return ReportData(
        directory=directory.path,
        plan=plan,
        records=tuple(ledger.records),
        best=found,
        verdicts=ledger.verdicts,
        proposals={key: trial.proposal for key, trial in ledger.proposed.items() if trial.proposal},
        curves={key: directory.trial(key).curve() for key in curved},
        sizes=directory.trial(found.key).sizes() if found else None,
        diagnosis=diagnosis(plan, ledger.records, lambda key: directory.trial(key).curve()) if little else (),
    )


def reasons(data: ReportData) -> list[str]:
    """Why each record's rate was tried, in their order."""
    latest: dict[str, Proposal] = {}
    texts = []
    for record in data.records:
        proposal = data.proposals.get(record.key)
        texts.append(_reason(data, proposal, latest.get(record.algorithm)))
        if proposal is not None:
            latest[record.algorithm] = proposal
    return texts


_PURPOSES = {
    "learning_rate": "to choose a learning rate",
    "beyond": "outside by no more than the noise, so one step beyond it",
    "final": "the best one, trained to the end",
}


def _reason(data: ReportData, proposal: Proposal | None, before: Proposal | None) -> str:
    if proposal is None:
        return f"chosen by {data.plan.tuner}"
    if proposal == before:
        return "run again, as its process was killed"
    if proposal.purpose in _PURPOSES:
        return _PURPOSES[proposal.purpose]
    if proposal.requested_rate is None:
        return "the algorithm has no rate: tried once"
    if not proposal.direction:
        return "the initial rate"
    found, way = ("within", "up") if proposal.direction > 0 else ("outside", "down")
    turned = before is not None and proposal.step < before.step
    return f"{found}, so {way} by {number(proposal.step)}{' (turned: smaller steps)' if turned else ''}"


_BY_OPTION = {
    "maximal_relative_accuracy_degradation": "--max-relative-drop",
    "maximal_absolute_accuracy_degradation": "--max-absolute-drop",
    "seed": "--seed",
}


@dataclass(frozen=True)
class Recipe:
    """How to run the same search again."""

    what: str  # the kind of file that is needed
    file: str  # its name
    content: Any  # its content, as JSON
    command: str  # the command line, or the lines of Python
    changed: list[tuple[str, Any]]  # settings that must be given besides, by name


def recipe(data: ReportData) -> Recipe:
    """The command line of an experiment or a study; the code of a training loop, or of a call."""
    engine = data.plan.engine
    if isinstance(engine, LoopPlan):
        return Recipe("configuration", "config.json", engine.config, _loop(data), [])
    changed = _changed_settings(data)
    if "file" in data.plan.module or "module" in data.plan.module:
        return Recipe("search space", "space.json", data.plan.search_space, _command(data), changed)
    return Recipe("search space", "space.json", data.plan.search_space, _call(data, dict(changed)), [])


def _loop(data: ReportData) -> str:
    settings = data.plan.settings.to_dict()
    names = ("minimal_compression_rate", "maximal_compression_rate", "validate_before_training", "seed")
    given = ", ".join(f"{name}={settings[name]!r}" for name in names)
    preflight = "" if settings["preflight"] else ", preflight=False"
    return "\n".join(
        [
            'config = CompressionConfig.from_json("config.json")',
            "compression_ctrl, model = create_compressed_model(model, config)",
            f"loop = create_accuracy_aware_training_loop(config, compression_ctrl, {data.plan.measured.accuracy!r},",
            f"    {given})",
            f"loop.run(model, train_epoch_fn, validate_fn, configure_optimizers_fn{preflight})",
        ]
    )


def _call(data: ReportData, changed: dict[str, Any]) -> str:
    """The call of a search that was given a model and functions."""
    settings = data.plan.settings.to_dict()
    given = {name: settings[name] for name in _BY_OPTION if settings[name] is not None} | changed
    given |= {} if settings["preflight"] else {"preflight": False}
    return "\n".join(
        [
            "autocompress.compress(model, evaluate, train_epoch, optimizer,",
            f'    search_space="space.json", objective={data.plan.objective!r}, settings={given!r})',
        ]
    )


def _command(data: ReportData) -> str:
    settings = data.plan.settings.to_dict()
    module = data.plan.module
    place = module.get("file") or module.get("module")
    words = ["autocompress", "run", f"{place}:{module['class_name']}", "--search-space", "space.json"]
    engine = data.plan.engine
    words += [] if engine is None or engine.name == "nni" else ["--engine", engine.name]
    words += ["--objective", data.plan.objective]
    for name, option in _BY_OPTION.items():
        words += [] if settings[name] is None else [option, f"{settings[name]:g}"]
    baseline = data.plan.measured
    if data.plan.settings.budget.unusual(baseline.accuracy, higher_is_better=baseline.higher_is_better) is not None:
        words.append("--yes")
    words += [] if settings["preflight"] else ["--no-preflight"]
    if not data.plan.ends_by_itself:
        words += ["--tuner", data.plan.tuner, "--trials", str(len(data.records))]
    return command(*words)


def _changed_settings(data: ReportData) -> list[tuple[str, Any]]:
    """Name and value of the settings that differ from the defaults and have no option of their own."""
    defaults = AccuracyAwareSettings().to_dict()
    given = data.plan.settings.to_dict()
    return [
        (name, given[name])
        for name in defaults
        if name not in {*_BY_OPTION, "preflight"} and given[name] != defaults[name]
    ]
