"""What an experiment is, as it is written to `experiment.json`: enough to go on from, on any engine."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any, ClassVar, Literal, TypedDict, TypeVar, cast

from autocompress.errors import ConfigError, StoreError, short
from autocompress.records import Baseline, Proposal, TrialRecord
from autocompress.registry import algorithm
from autocompress.search import AdaptiveSearch, RateAxis, SearchRule, SingleTrial, proposals, require_objective
from autocompress.search.adaptive import search_length
from autocompress.search_space import SearchSpace, requested_rate
from autocompress.search_space.space import ALGORITHM_KEY
from autocompress.search_space.trial_parameters import RATE_KEY
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.typed_fields import checked, from_fields

ADAPTIVE_TUNER = "AdaptiveCompression"
"""Name of our own tuner and assessor, beside which NNI's are named."""
EARLY_EXIT = "early_exit"
"""NNCF's mode of a training loop that has one trial; stands where other plans name their tuner."""


class EnginePlan:
    """What is particular to the engine that runs an experiment.

    Attributes:
        name: the engine's.
        has_workers: whether processes that do not hold the directory's lock may run its trials.
    """

    name: str
    has_workers: ClassVar[bool] = False

    @property
    def maximal_trials(self) -> int | None:
        """After how many trials the engine ends the search; None: it ends by itself or not at all."""
        return None


@dataclass(frozen=True)
class NniPlan(EnginePlan):
    """An experiment on NNI.

    Attributes:
        id: NNI's id of the experiment: letters, digits, `_` and `-`.
        config: NNI's own configuration, complete.
    """

    id: str
    config: dict[str, Any]
    name: Literal["nni"] = "nni"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.id):
            raise StoreError(f"NNI's id must be of letters and digits; got {short(self.id)}")
        checked(_NniConfig, "engine.config", self.config)

    @property
    def maximal_trials(self) -> int | None:
        """After how many trials NNI ends the search; None: no limit."""
        return cast("int | None", self.config.get("maxTrialNumber"))


class _NniConfig(TypedDict):
    maxTrialNumber: int | None


@dataclass(frozen=True)
class OptunaPlan(EnginePlan):
    """A study on Optuna.

    Attributes:
        study: its name in the storage.
        storage: the storage's address without a password; None: the file in the directory, or none that has an address.
        artefacts: where trials' files are kept for all machines; None: in the directory.
    """

    study: str
    storage: str | None = None
    artefacts: str | None = None
    name: Literal["optuna"] = "optuna"
    has_workers: ClassVar[bool] = True


@dataclass(frozen=True)
class LoopPlan(EnginePlan):
    """A training loop in the user's process, on the user's model object.

    Attributes:
        model: name of the model's class.
        algorithm: what compresses, as records name it.
        mode: of NNCF's accuracy-aware training.
        config: NNCF's own configuration.
    """

    model: str
    algorithm: str
    mode: Literal["adaptive_compression_level", "early_exit"]
    config: dict[str, Any]
    name: Literal["loop"] = "loop"

    def search(self, settings: AccuracyAwareSettings, initial_rate: float | None = None) -> SearchRule:
        """The search of the loop's rates; a single trial in the mode `early_exit`.

        Args:
            settings: of the search.
            initial_rate: at which the first trial ended, where its schedule had not reached the target.
        """
        if self.mode == EARLY_EXIT:
            return SingleTrial(self.algorithm, settings.maximal_total_epochs, settings.seed)
        if initial_rate is not None:
            settings = settings.with_changes({"initial_compression_rate": initial_rate})
        axis = RateAxis(settings.minimal_compression_rate, settings.maximal_compression_rate)
        return settings.adaptive_search(self.algorithm, axis)


@dataclass(frozen=True)
class LocalPlan(EnginePlan):
    """A search of a user's module in one process, trials included."""

    name: Literal["local"] = "local"


@dataclass(frozen=True)
class BuiltinTunerPlan(EnginePlan):
    """One of NNI's own tuners without NNI's manager, as comparisons run them."""

    name: Literal["nni-tuner"] = "nni-tuner"


_Plan = TypeVar("_Plan", bound=EnginePlan)
_ENGINES: dict[str, type[EnginePlan]] = {
    "local": LocalPlan,
    "loop": LoopPlan,
    "nni": NniPlan,
    "nni-tuner": BuiltinTunerPlan,
    "optuna": OptunaPlan,
}

_PACKAGES = ("autocompress", "torch", "torch-pruning", "torchao", "nni", "numpy")


@dataclass(frozen=True)
class ExperimentPlan:
    """An experiment's settings, all checked.

    Attributes:
        module: reference to the user's module, as JSON; empty for a training loop, which is given a model.
        search_space: the search space in NNI's wire format; empty for a training loop, which has a configuration.
        settings: the search's settings, the accuracy budget among them.
        objective: what trials are compared by.
        tuner: name of the tuner.
        tuner_arguments: its class arguments.
        assessor: name of the assessor; None for none.
        assessor_arguments: its class arguments.
        engine: what is particular to the engine that runs it; None until an engine takes it over.
        versions: of Python and of the packages that matter.
        baseline: the uncompressed model; None until it has been measured.
    """

    module: dict[str, str]
    search_space: dict[str, Any]
    settings: AccuracyAwareSettings
    objective: str
    tuner: str
    tuner_arguments: dict[str, Any] = field(default_factory=dict)
    assessor: str | None = None
    assessor_arguments: dict[str, Any] = field(default_factory=dict)
    engine: EnginePlan | None = None
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    baseline: Baseline | None = None

    @classmethod
    def of(
        cls,
        module: dict[str, str],
        space: SearchSpace,
        settings: AccuracyAwareSettings,
        objective: str | None,
        tuner: str,
        **others: Any,
    ) -> ExperimentPlan:
        """The plan of a search of a module, its bounds checked; `others` are further fields.

        Raises:
            ConfigError: the range is empty, a bound breaks a rule, or no objective has that name.
        """
        plan = cls(module, space.wire, settings, choose_objective(space, objective), tuner, **others)
        _ = plan.searches  # an empty range or a bad bound is found here
        return plan

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, read."""
        return SearchSpace.parse(self.search_space)

    @property
    def measured(self) -> Baseline:
        """The baseline, which must have been measured."""
        if self.baseline is None:
            raise StoreError("experiment.json holds no baseline")
        return self.baseline

    @property
    def threshold(self) -> float:
        """The worst tolerable accuracy."""
        baseline = self.measured
        return self.settings.budget.threshold(baseline.accuracy, higher_is_better=baseline.higher_is_better)

    @property
    def model_name(self) -> str:
        """Name of the user's module, or of the class of the model that a training loop was given."""
        return self.engine.model if isinstance(self.engine, LoopPlan) else str(self.module["class_name"])

    @property
    def searches(self) -> tuple[SearchRule, ...]:
        """One search for each algorithm."""
        return self._searches(())

    @property
    def ends_by_itself(self) -> bool:
        """Whether our own search chooses the trials; NNI's and Optuna's need a limit."""
        return self.tuner == ADAPTIVE_TUNER or isinstance(self.engine, LoopPlan)

    @property
    def most_trials(self) -> int | None:
        """The most trials of the search; None where that is not known."""
        if not self.ends_by_itself:
            return self.maximal_trials
        most = search_length(self.searches, [1] * len(self.searches), 1).trials
        return min(most, self.maximal_trials or most)

    def proposals(self, records: Sequence[TrialRecord]) -> list[Proposal]:
        """What our own search tries next: at most one proposal for each algorithm, none at its end."""
        return proposals(self._searches(records), records) if self.ends_by_itself else []

    def _searches(self, records: Sequence[TrialRecord]) -> tuple[SearchRule, ...]:
        if isinstance(self.engine, LoopPlan):
            return (self.engine.search(self.settings, records[0].requested_rate if records else None),)
        return self.settings.searches(self.space)

    @property
    def stages(self) -> int:
        """The most algorithms that a trial applies one after the other, each with its own epochs."""
        if isinstance(self.engine, LoopPlan):
            return 1
        return max(len(algorithm(space.name).stages) for space in self.space.algorithms)

    @property
    def maximal_total_epochs(self) -> int:
        """The most epochs of all trials: each adaptive search has its own share of so many."""
        adaptive = sum(isinstance(search, AdaptiveSearch) for search in self.searches)
        return self.settings.maximal_total_epochs * max(1, adaptive)

    @property
    def search_fields(self) -> dict[str, Any]:
        """What every trial's parameters have under `search`, whoever chose them."""
        probe = None if self.baseline is None else self.baseline.probe
        return {
            **self.settings.trial_fields,
            "seed": self.settings.seed,
            "validate_every_n_epochs": self.settings.validate_every_n_epochs,
            "objective": self.objective,
            **({} if probe is None else {"probe": probe}),
        }

    @property
    def builtin_search_fields(self) -> dict[str, Any]:
        """What the parameters of trials that other tuners choose have under `search`: they say nothing of epochs."""
        return {**self.search_fields, "default_epochs": self.settings.patience_epochs}

    def trial_parameters(self, proposal: Proposal) -> dict[str, Any]:
        """The JSON object of the trial that a proposal asks for."""
        if isinstance(self.engine, LoopPlan):
            chosen: dict[str, Any] = {ALGORITHM_KEY: {"_name": self.engine.algorithm}}
        else:
            chosen = self.settings.parameters(self.space, proposal.algorithm, proposal.requested_rate)
        known: dict[str, Any] = {
            "purpose": proposal.purpose,
            "steps_per_epoch": proposal.steps_per_epoch,
            "second_chance_epochs": proposal.second_chance_epochs,
        }
        once = {} if requested_rate(chosen) is not None else {RATE_KEY: proposal.requested_rate}
        search = {
            **once,
            "lr_factor": proposal.lr_factor,
            "start_from": proposal.start_from,
            "epochs": proposal.epochs,
            "initial": proposal.initial,
        }
        if self.settings.fine_tuning_schedule == "constant":
            del known["steps_per_epoch"]
        search |= {name: value for name, value in known.items() if value not in (None, 0, "rate")}
        return {**chosen, "search": {**search, **self.search_fields}}

    def engine_as(self, kind: type[_Plan]) -> _Plan:
        """What is particular to the engine that runs it, which must be of one kind.

        Raises:
            StoreError: another engine runs it.
        """
        if not isinstance(self.engine, kind):
            runs = "none" if self.engine is None else repr(self.engine.name)
            raise StoreError(f"the experiment must be of the engine {kind.name!r}; it is of {runs}")
        return self.engine

    @property
    def maximal_trials(self) -> int | None:
        """After how many trials the engine ends the search; None: it ends by itself or not at all."""
        return self.engine.maximal_trials if self.engine else None

    def with_baseline(self, baseline: Baseline, engine: EnginePlan | None) -> ExperimentPlan:
        """The same plan, ready to start."""
        return dataclasses.replace(self, baseline=baseline, engine=engine)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        plain["settings"] = self.settings.to_dict()
        plain["engine"] = dict(vars(self.engine)) if self.engine else None
        plain["baseline"] = self.baseline.to_dict() if self.baseline else None
        return {**plain, "threshold": self.threshold if self.baseline else None}

    @classmethod
    def read(cls, directory: ExperimentDirectory) -> ExperimentPlan:
        """The plan of the experiment in a directory.

        Raises:
            StoreError: there is none, it was written by another version, or is damaged.
        """
        return cls.from_dict(directory.settings())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExperimentPlan:
        """The plan that `to_dict` wrote.

        Raises:
            StoreError: a field is missing or broken.
        """
        if not isinstance(data, Mapping):
            raise StoreError(f"an experiment's plan must be an object; got {short(data)}")
        plain = {name: value for name, value in data.items() if name != "threshold"}
        try:
            _require_all(data)
            plain["settings"] = AccuracyAwareSettings.from_record(data["settings"])
            plain["engine"] = _engine(data["engine"])
            plain["baseline"] = None if data["baseline"] is None else Baseline.from_dict(data["baseline"])
            plan = from_fields(cls, plain)
        except (ConfigError, StoreError) as error:
            raise StoreError(f"experiment.json is damaged: {error}") from error
        if "class_name" not in plan.module and not isinstance(plan.engine, LoopPlan):
            raise StoreError("experiment.json is damaged: module must have class_name; it does not")
        return plan


def _engine(data: Any) -> EnginePlan | None:
    if data is None:
        return None
    name = data.get("name") if isinstance(data, Mapping) else None
    if name not in _ENGINES:
        raise StoreError(f"engine must have a name ({', '.join(_ENGINES)}); got {short(data)}")
    return from_fields(_ENGINES[name], data)


def _require_all(data: Mapping[str, Any]) -> None:
    """All are written; with the default of one that is lost it would be another search."""
    for each in dataclasses.fields(ExperimentPlan):
        if each.name not in data:
            raise StoreError(f"it must have {each.name}; it does not")


def choose_objective(space: SearchSpace, objective: str | None) -> str:
    """The objective: the one given, else `rate` for a single algorithm and `size` for several.

    Raises:
        ConfigError: no objective has that name.
    """
    if objective is not None:
        return require_objective(objective)
    return "rate" if len(space.algorithms) == 1 else "size"


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
