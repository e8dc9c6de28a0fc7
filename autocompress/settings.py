"""Settings of the adaptive search: NNCF's accuracy-aware training, by its names and with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator

from autocompress.argument_checks import checked_arguments
from autocompress.budget import AccuracyBudget
from autocompress.errors import ConfigError
from autocompress.records import PROBE_BATCHES, PROBE_WIDTHS
from autocompress.search import AdaptiveSearch, RateAxis, SearchRule, SingleTrial, StepHalving
from autocompress.search.adaptive import with_second_chance
from autocompress.search_space.space import AlgorithmSpace, SearchSpace
from autocompress.setting_fields import (
    Confidence,
    Count,
    Degradation,
    Factor,
    Flag,
    LearningRateFactors,
    LrFactor,
    Positive,
    PositiveCount,
    Rate,
    Seconds,
    Section,
    Seed,
    broken_rules,
)

_Params = TypeVar("_Params", bound="EarlyExitParams")

DEFAULT_RELATIVE_DEGRADATION = 1.0
"""Percent; NNCF's default where no degradation is given."""

_RELATIVE = "maximal_relative_accuracy_degradation"
_ABSOLUTE = "maximal_absolute_accuracy_degradation"


class KnowledgeDistillation(Section):
    """How the uncompressed model teaches the compressed one while that is fine-tuned; NNCF's names and defaults.

    Attributes:
        type: `softmax` compares softened class probabilities, `mse` the outputs themselves; `auto` is `softmax` where
            the module's criterion is a cross entropy, `mse` where it is a distance of outputs, and none for others.
        scale: factor on the distillation loss, which is added to the user's.
        temperature: of `softmax`: higher is softer.
        loss_scale: factor on the user's loss; NNCF has none.
    """

    type: Annotated[Literal["softmax", "mse", "auto"], Field(description="'softmax', 'mse' or 'auto'")]
    scale: Positive = 1.0
    temperature: Positive = 1.0
    loss_scale: Positive = 1.0


class EarlyExitParams(Section):
    """Training until the accuracy is within the budget: NNCF's mode `early_exit`, its names and defaults.

    Attributes:
        maximal_relative_accuracy_degradation: tolerated loss in percent of the uncompressed accuracy's magnitude; 1.0
            where neither degradation is given.
        maximal_absolute_accuracy_degradation: tolerated loss in the evaluator's unit; excludes the relative one.
        maximal_total_epochs: epochs of all trials of an algorithm, after which its search ends.
        validate_every_n_epochs: epochs of fine-tuning between two evaluations.

    Raises:
        ConfigError: naming the setting, what is allowed, and the value.
    """

    noun: ClassVar[str] = "setting"
    whole: ClassVar[str] = ""
    ordered: ClassVar[tuple[tuple[str, str], ...]] = ()  # the first of each pair is at most the second
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # what is not given

    maximal_relative_accuracy_degradation: Degradation = None
    maximal_absolute_accuracy_degradation: Degradation = None
    maximal_total_epochs: PositiveCount = 10_000
    validate_every_n_epochs: PositiveCount = 1

    @model_validator(mode="wrap")
    @classmethod
    def _validated(cls, data: Any, handler: ModelWrapValidatorHandler[_Params], info: ValidationInfo) -> _Params:
        """Fill in the default degradation, and turn pydantic's errors into ours."""
        if isinstance(data, EarlyExitParams):
            return handler(data)  # checked when it was made
        where = (info.context or {}).get("where", "")
        if isinstance(data, Mapping) and _RELATIVE not in data and data.get(_ABSOLUTE) is None:
            data = {**data, _RELATIVE: DEFAULT_RELATIVE_DEGRADATION}
        if isinstance(data, Mapping):
            data = {**cls.presets.get(str(data.get("preset")), {}), **data}
        try:
            params = handler(data)
        except ValidationError as error:
            raise ConfigError(broken_rules(cls, error, where)) from error
        try:
            params.check()
        except ConfigError as error:
            joint = "." if str(error).split()[0] in cls.model_fields else ": "
            raise ConfigError(f"{where}{joint}{error}" if where else str(error)) from error
        return params

    def check(self) -> None:
        """Check the rules between settings."""
        _ = self.budget  # both or neither is an error
        for low, high in self.ordered:
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{low} must be <= {high} ({getattr(self, high)!r}); got {getattr(self, low)!r}")

    @property
    def budget(self) -> AccuracyBudget:
        """The tolerated accuracy degradation."""
        return AccuracyBudget(self.maximal_relative_accuracy_degradation, self.maximal_absolute_accuracy_degradation)


class AdaptiveParams(EarlyExitParams):
    """Searching the highest rate within the budget: NNCF's mode `adaptive_compression_level`, its names and defaults.

    Attributes:
        initial_training_phase_epochs: the most epochs of the first trial, at the initial rate.
        patience_epochs: the most epochs of every other trial; it ends at its first feasible epoch.
        minimal_compression_rate_step: the search ends when the step falls below it, in rates.
        initial_compression_rate_step: first move of the rate, in rates.
        compression_rate_step_reduction_factor: factor on the step where the search turns.
        lr_reduction_factor: factor on fine-tuning's learning rates where the search turns.
    """

    ordered: ClassVar[tuple[tuple[str, str], ...]] = (
        ("minimal_compression_rate_step", "initial_compression_rate_step"),
    )

    initial_training_phase_epochs: Count = 5
    patience_epochs: PositiveCount = 3
    initial_compression_rate_step: Positive = 0.1
    compression_rate_step_reduction_factor: Factor = 0.5
    lr_reduction_factor: LrFactor = 0.5
    minimal_compression_rate_step: Positive = 0.025


NNCF: dict[str, Any] = {
    "validate_before_training": False,
    "fine_tuning_schedule": "constant",
    "learning_rate_factors": (1.0,),
    "knowledge_distillation": None,
    "weight_averaging": None,
    "pruning_steps": 1,
    "confidence": 0.5,
    "second_chance": False,
    "look_beyond": False,
    "final_training_epochs": 0,
}
"""What `preset="nncf"` stands for, NNCF's own search; also what a trial does of which its parameters say nothing."""

_OF_TRIALS = NNCF.keys() - {"learning_rate_factors", "second_chance", "look_beyond", "final_training_epochs"}
"""Those of them that every trial knows; what the others decide is in its proposal."""


class AccuracyAwareSettings(AdaptiveParams):
    """How the highest compression rate within the accuracy budget is searched: NNCF's settings and ours.

    Attributes:
        preset: what is not given: `default` is what was best in the benchmark, `nncf` NNCF's own search.
        validate_before_training: whether every trial is evaluated before its first epoch, and not trained if it is
            within the budget, nor the uncompressed model at rate 0; else only the first trial is evaluated.
        fine_tuning_schedule: how a trial's learning rates go on over its epochs: they stay, or go to zero. A
            `lr_scheduler_factory` of the module takes its place.
        learning_rate_factors: on the learning rates, tried at the initial rate, an epoch each; the search goes on with
            the best of them. A single one is not tried.
        weight_averaging: whether the last epoch's weights are averaged and evaluated too: `ema` weighs the latest most.
        confidence: probability with which a model must be within the budget, where the evaluator returns one value for
            each sample, which tells; 0.5: as the accuracy itself says.
        second_chance: whether a trial that ends outside the budget by no more than the noise of its accuracy is
            trained on, for half as many epochs, its learning rates starting anew.
        look_beyond: whether the search tries the next higher rate, too, before it turns at such a trial.
        final_training_epochs: for which the best model is trained on at the end of the search, without leaving early.
        pruning_steps: in how many steps a trial removes filters, with some of its epochs between them.
        minimal_compression_rate: lowest rate that is requested.
        maximal_compression_rate: highest rate that is requested.
        initial_compression_rate: rate of the first trial, clamped into the range of each algorithm.
        warm_start: start trials from the checkpoint of the highest feasible rate, else from the pretrained model.
        knowledge_distillation: how the uncompressed model teaches; None: it does not.
        maximal_trial_seconds: a trial that takes longer, as one that hangs does, has failed; measuring the uncompressed
            model and verifying the best one may take as long for each model and algorithm; None: there is no limit.
        preflight: whether the module is looked at before the search, and refused where it cannot guide one. Without
            that the uncompressed model is evaluated, and the hooks that algorithms need must be there, all the same.
        probe_batches: batches of inputs on which the sensitivity of layers is measured, where an allocation needs it;
            fewer where measuring would take longer than two epochs.
        probe_widths: widths at which each layer is measured, beside its full one.
        seed: of every trial.

    Raises:
        ConfigError: naming the setting, what is allowed, and the value.
    """

    ordered: ClassVar[tuple[tuple[str, str], ...]] = (
        *AdaptiveParams.ordered,
        ("minimal_compression_rate", "maximal_compression_rate"),
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {"nncf": NNCF}

    preset: Annotated[Literal["default", "nncf"], Field(description="'default' or 'nncf'")] = "default"
    validate_before_training: Flag = True
    fine_tuning_schedule: Annotated[
        Literal["constant", "linear", "cosine"], Field(description="'constant', 'linear' or 'cosine'")
    ] = "linear"
    learning_rate_factors: LearningRateFactors = (1.0,)
    weight_averaging: Annotated[Literal["ema", "swa"] | None, Field(description="'ema', 'swa' or null")] = None
    confidence: Confidence = 0.5
    second_chance: Flag = True
    look_beyond: Flag = False
    final_training_epochs: Count = 0
    pruning_steps: PositiveCount = 1
    minimal_compression_rate: Rate = 0.0
    maximal_compression_rate: Rate = 0.95
    initial_compression_rate: Rate = 0.5
    warm_start: Flag = True
    knowledge_distillation: Annotated[
        KnowledgeDistillation | None, Field(description="an object with type, scale and temperature, or null")
    ] = KnowledgeDistillation(type="auto", scale=0.5, temperature=2.0, loss_scale=0.5)
    maximal_trial_seconds: Seconds = None
    preflight: Flag = True
    probe_batches: PositiveCount = PROBE_BATCHES
    probe_widths: PositiveCount = PROBE_WIDTHS
    seed: Seed = 0

    @checked_arguments
    def with_budget(self, budget: AccuracyBudget) -> AccuracyAwareSettings:
        """The same settings with another budget."""
        return self.with_changes(
            {
                _RELATIVE: budget.maximal_relative_accuracy_degradation,
                _ABSOLUTE: budget.maximal_absolute_accuracy_degradation,
            }
        )

    @checked_arguments
    def with_changes(self, changes: Mapping[str, Any]) -> AccuracyAwareSettings:
        """The same settings with some changed; a given degradation replaces the other kind.

        Raises:
            ConfigError: naming the setting, what is allowed, and the value.
        """
        kept = self.to_dict()
        if changes.get("preset", self.preset) != self.preset:
            kept = {name: value for name, value in kept.items() if name not in NNCF}
        if changes.get(_RELATIVE) is not None or changes.get(_ABSOLUTE) is not None:
            kept |= {_RELATIVE: None, _ABSOLUTE: None}
        return self.from_dict({**kept, **changes})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready object with all settings."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AccuracyAwareSettings:
        """The settings of a JSON object, such as `to_dict` gives.

        Raises:
            ConfigError: naming the setting, what is allowed, and the value.
        """
        return cls.model_validate(data)

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> AccuracyAwareSettings:
        """The settings that `to_dict` wrote; ConfigError without budget or preset, as the default is another search."""
        for name in (_RELATIVE, _ABSOLUTE, "preset"):
            if isinstance(data, Mapping) and name not in data:
                raise ConfigError(f"settings must have {name}; they do not")
        return cls.from_dict(data)

    def rule(self, axis: RateAxis) -> StepHalving:
        """The search rule over an axis: its ends are the bounds, the initial rate is clamped into them."""
        return StepHalving(
            initial_rate=min(max(self.initial_compression_rate, axis.low), axis.high),
            initial_step=self.initial_compression_rate_step,
            minimal_step=self.minimal_compression_rate_step,
            reduction_factor=self.compression_rate_step_reduction_factor,
            lr_reduction_factor=self.lr_reduction_factor,
            minimal_rate=axis.low,
            maximal_rate=axis.high,
        )

    def searches(self, space: SearchSpace) -> tuple[SearchRule, ...]:
        """The search of each algorithm: adaptive where it has a rate to move, else a single trial.

        Raises:
            ConfigError: an algorithm has no rate between the minimal and the maximal compression rate.
        """
        return tuple(self._search(each) for each in space.algorithms)

    def _search(self, space: AlgorithmSpace) -> SearchRule:
        axis = space.axis(*self._bounds)
        if axis is None:
            return SingleTrial(space.name, self.initial_training_phase_epochs, self.seed)
        zero = self.validate_before_training and space.begins_uncompressed(*self._bounds)
        return replace(self.adaptive_search(space.name, axis), zero_is_uncompressed=zero)

    @property
    def trial_fields(self) -> dict[str, Any]:
        """How a trial is trained and judged, as its parameters say it under `search`: what differs from NNCF."""
        values = self.model_dump(mode="json", include=_OF_TRIALS)
        return {name: value for name, value in values.items() if value != NNCF[name]}

    @property
    def most_epochs(self) -> int:
        """The most epochs of a trial, of each algorithm of a mix."""
        own = max(self.initial_training_phase_epochs, self.patience_epochs)
        return max(with_second_chance(own, self.second_chance), self.final_training_epochs)

    @property
    def _bounds(self) -> tuple[float, float]:
        return self.minimal_compression_rate, self.maximal_compression_rate

    def parameters(self, space: SearchSpace, algorithm: str, rate: float | None) -> dict[str, Any]:
        """The parameters of the trial of one proposal; see `AlgorithmSpace.parameters`."""
        return space.algorithm(algorithm).parameters(rate, *self._bounds)

    def adaptive_search(self, algorithm: str, axis: RateAxis) -> AdaptiveSearch:
        """The search of an algorithm over an axis."""
        return AdaptiveSearch(
            algorithm=algorithm,
            axis=axis,
            rule=self.rule(axis),
            initial_epochs=self.initial_training_phase_epochs,
            patience_epochs=self.patience_epochs,
            maximal_total_epochs=self.maximal_total_epochs,
            warm_start=self.warm_start,
            seed=self.seed,
            learning_rate_factors=self.learning_rate_factors,
            look_beyond=self.look_beyond,
            second_chance=self.second_chance,
            final_epochs=self.final_training_epochs,
        )
