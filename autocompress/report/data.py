"""What a report is made of: an experiment's files, read once."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.budget import accuracy_margin
from autocompress.plan import ExperimentPlan, LocalEngine, LoopEngine, OptunaEngine
from autocompress.records import Baseline, ModelSizes, Proposal, TrialRecord
from autocompress.report.format import number
from autocompress.search import OBJECTIVES, best, require_objective
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger, Verdict


@dataclass(frozen=True)
class Story:
    """An experiment as it is told.

    Attributes:
        directory: its files.
        plan: what was searched, with its baseline.
        records: of all trials in the order they ended.
        best: the best feasible one; None where there is none.
        verdicts: of trials whose checkpoint was loaded afresh, by key.
        proposals: what the rule asked, by key; none where a stock tuner chose.
        curves: learning curves, by key: objects with `epoch` (from 1) and `accuracy`.
        sizes: the best model's layers beside the uncompressed ones; None before it was verified.
    """

    directory: Path
    plan: ExperimentPlan
    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    verdicts: Mapping[str, Verdict]
    proposals: Mapping[str, Proposal]
    curves: Mapping[str, list[dict[str, Any]]]
    sizes: ModelSizes | None

    @property
    def module(self) -> str:
        """Name of the user's class."""
        return self.plan.model_name

    @property
    def baseline(self) -> Baseline:
        """The uncompressed model."""
        return self.plan.measured

    @property
    def threshold(self) -> float:
        """The worst tolerable accuracy."""
        return self.plan.threshold

    @property
    def objective(self) -> str:
        """What trials are compared by."""
        return self.plan.objective

    @property
    def tuner(self) -> str:
        """Name of what chose the trials."""
        return self.plan.tuner

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
        if self.baseline.holdout_accuracy is None:
            return None
        budget = self.plan.settings.budget
        return budget.threshold(self.baseline.holdout_accuracy, higher_is_better=self.baseline.higher_is_better)

    @property
    def holdout_margin(self) -> float | None:
        """How far the best model's hold-out accuracy is inside the threshold there; None where it is not known."""
        threshold, verdict = self.holdout_threshold, self.verdict
        if threshold is None or verdict is None or verdict.holdout_accuracy is None:
            return None
        return accuracy_margin(verdict.holdout_accuracy, threshold, higher_is_better=self.baseline.higher_is_better)

    @property
    def nearest_failure(self) -> TrialRecord | None:
        """The trial outside the budget that removed least beyond the best one, of the best one's algorithm."""
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
        value: float | None = getattr(record, OBJECTIVES[self.objective])
        return value

    def simulated_margin(self, record: TrialRecord) -> float:
        """How far a trial was inside the threshold while rounding was simulated; minus infinity where it was not."""
        if record.simulated_accuracy is None:
            return -math.inf
        higher = self.baseline.higher_is_better
        return accuracy_margin(record.simulated_accuracy, self.threshold, higher_is_better=higher)

    def spread(self, record: TrialRecord) -> tuple[float, float] | None:
        """The lowest and the highest accuracy that a trial had while it was fine-tuned."""
        accuracies = [point["accuracy"] for point in self.curves.get(record.key, ()) if "accuracy" in point]
        return (min(accuracies), max(accuracies)) if len(accuracies) > 1 else None


def story_of(directory: ExperimentDirectory) -> Story:
    """The story of the experiment in a directory.

    Raises:
        StoreError: there is none, its baseline has not been measured, or its files are damaged.
        ConfigError: its settings or its objective break a rule.
    """
    plan, ledger = ExperimentPlan.read(directory), Ledger(directory)
    found = best(ledger.standing)
    require_objective(plan.objective)
    _ = plan.measured
    return Story(
        directory=directory.path,
        plan=plan,
        records=tuple(ledger.records),
        best=found,
        verdicts=ledger.verdicts,
        proposals={key: asked.proposal for key, asked in ledger.asked.items() if asked.proposal},
        curves={record.key: directory.trial(record.key).curve() for record in ledger.records},
        sizes=directory.trial(found.key).sizes() if found else None,
    )


def reasons(story: Story) -> list[str]:
    """One for each record, in their order."""
    latest: dict[str, Proposal] = {}
    told = []
    for record in story.records:
        proposal = story.proposals.get(record.key)
        told.append(_reason(story, proposal, latest.get(record.algorithm)))
        if proposal is not None:
            latest[record.algorithm] = proposal
    return told


def _reason(story: Story, proposal: Proposal | None, before: Proposal | None) -> str:
    if proposal is None:
        return f"chosen by {story.tuner}"
    if proposal == before:
        return "run again, as its process was killed"
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
    """How to run the same search again.

    Attributes:
        what: the kind of file that is needed.
        file: its name.
        content: its content, as JSON.
        command: the command line, or the lines of Python.
        changed: settings that must be given besides, by name.
    """

    what: str
    file: str
    content: Any
    command: str
    changed: list[tuple[str, Any]]


def recipe(story: Story) -> Recipe:
    """Of an experiment or a study its command line; of a training loop what makes it."""
    engine = story.plan.engine
    if isinstance(engine, LoopEngine):
        return Recipe("configuration", "config.json", engine.config, _loop(story), [])
    return Recipe("search space", "space.json", story.plan.search_space, _command(story), _changed_settings(story))


def _loop(story: Story) -> str:
    settings = story.plan.settings.to_dict()
    names = ("minimal_compression_rate", "maximal_compression_rate", "validate_before_training", "seed")
    given = ", ".join(f"{name}={settings[name]!r}" for name in names)
    preflight = "" if settings["preflight"] else ", preflight=False"
    return "\n".join(
        [
            'config = CompressionConfig.from_json("config.json")',
            "compression_ctrl, model = create_compressed_model(model, config)",
            f"loop = create_accuracy_aware_training_loop(config, compression_ctrl, {story.baseline.accuracy!r},",
            f"    {given})",
            f"loop.run(model, train_epoch_fn, validate_fn, configure_optimizers_fn{preflight})",
        ]
    )


def _command(story: Story) -> str:
    settings = story.plan.settings.to_dict()
    words = ["autocompress", "run", _module(story), "--search-space", "space.json"]
    engine = story.plan.engine
    words += ["--engine", engine.name] if isinstance(engine, OptunaEngine | LocalEngine) else []
    words += ["--objective", story.objective]
    for name, option in _BY_OPTION.items():
        words += [] if settings[name] is None else [option, f"{settings[name]:g}"]
    baseline = story.baseline
    if story.plan.settings.budget.unusual(baseline.accuracy, higher_is_better=baseline.higher_is_better) is not None:
        words.append("--yes")
    words += [] if settings["preflight"] else ["--no-preflight"]
    if story.tuner != "AdaptiveCompression":
        words += ["--tuner", story.tuner, "--trials", str(len(story.records))]
    return shlex.join(words)


def _changed_settings(story: Story) -> list[tuple[str, Any]]:
    """Name and value of the settings that are not the defaults and have no option of their own."""
    defaults = AccuracyAwareSettings().to_dict()
    given = story.plan.settings.to_dict()
    return [
        (name, given[name])
        for name in defaults
        if name not in {*_BY_OPTION, "preflight"} and given[name] != defaults[name]
    ]


def _module(story: Story) -> str:
    module = story.plan.module
    place = module.get("file") or module.get("module")
    return f"{place}:{module['class_name']}"
