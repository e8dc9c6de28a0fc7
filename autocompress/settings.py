"""Settings of the adaptive search: NNCF's accuracy-aware training, by its names and with its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from autocompress.argument_checks import checked_arguments
from autocompress.budget import AccuracyBudget
from autocompress.errors import ConfigError, unknown_name
from autocompress.search import AdaptiveSearch, RateAxis, Search, SingleTrial, StepHalving
from autocompress.search_space.space import SearchSpace

DEFAULT_RELATIVE_DEGRADATION = 1.0
"""Percent; NNCF's default where no degradation is given."""

_RELATIVE = "maximal_relative_accuracy_degradation"
_ABSOLUTE = "maximal_absolute_accuracy_degradation"

# Each description is the rule that the error message states.
_Degradation = Annotated[float | None, Field(ge=0, description="a finite number >= 0")]
_Count = Annotated[int, Field(ge=0, description="a whole number >= 0")]
_Positive = Annotated[int, Field(ge=1, description="a whole number >= 1")]
_Step = Annotated[float, Field(gt=0, description="a finite number > 0")]
_Factor = Annotated[float, Field(gt=0, lt=1, description="a number in (0, 1)")]
_LrFactor = Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")]
_Rate = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
_Seconds = Annotated[float | None, Field(gt=0, description="a finite number > 0, or null")]
_Flag = Annotated[bool, Field(description="true or false")]
_Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number in [0, 2**32)")]


class KnowledgeDistillation(BaseModel):
    """How the uncompressed model teaches the compressed one while that is fine-tuned; NNCF's names and defaults.

    Attributes:
        type: `softmax` compares softened class probabilities, `mse` the outputs themselves.
        scale: factor on the distillation loss, which is added to the user's.
        temperature: of `softmax`: higher is softer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    type: Annotated[Literal["softmax", "mse"], Field(description="'softmax' or 'mse'")]
    scale: _Step = 1.0
    temperature: _Step = 1.0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KnowledgeDistillation:
        """The settings of a JSON object.

        Raises:
            ConfigError: naming the setting, what is allowed, and the value.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"knowledge_distillation: {_message(error, cls)}") from error


class AccuracyAwareSettings(BaseModel):
    """How the highest compression rate within the accuracy budget is searched.

    With neither degradation given, 1 % relative is tolerated.

    Attributes:
        maximal_relative_accuracy_degradation: tolerated loss in percent of the uncompressed accuracy's magnitude.
        maximal_absolute_accuracy_degradation: tolerated loss in the evaluator's unit; excludes the relative one.
        initial_training_phase_epochs: the most epochs of the first trial, at the initial rate.
        patience_epochs: the most epochs of every other trial; it ends at its first feasible epoch.
        minimal_compression_rate_step: the search ends when the step falls below it, in rates.
        initial_compression_rate_step: first move of the rate, in rates.
        compression_rate_step_reduction_factor: factor on the step where the search turns.
        lr_reduction_factor: factor on fine-tuning's learning rates where the search turns.
        maximal_total_epochs: the search of an algorithm ends when its trials have used up so many epochs.
        validate_every_n_epochs: epochs of fine-tuning between two evaluations.
        validate_before_training: whether every trial is evaluated before its first epoch, and not trained if it is
            within the budget; else only the first trial is.
        minimal_compression_rate: lowest rate that is requested.
        maximal_compression_rate: highest rate that is requested.
        initial_compression_rate: rate of the first trial, clamped into the range of each algorithm.
        warm_start: start trials from the checkpoint of the highest feasible rate, else from the pretrained model.
        knowledge_distillation: how the uncompressed model teaches; None: it does not.
        maximal_trial_seconds: a trial that takes longer, as one that hangs does, has failed; None: there is no limit.
        preflight: whether the module is looked at before the search, and refused where it cannot guide one. Without
            that the uncompressed model is evaluated, and the hooks that algorithms need must be there, all the same.
        seed: of every trial.

    Raises:
        ConfigError: naming the setting, what is allowed, and the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    maximal_relative_accuracy_degradation: _Degradation = None
    maximal_absolute_accuracy_degradation: _Degradation = None
    initial_training_phase_epochs: _Count = 5
    patience_epochs: _Positive = 3
    minimal_compression_rate_step: _Step = 0.025
    initial_compression_rate_step: _Step = 0.1
    compression_rate_step_reduction_factor: _Factor = 0.5
    lr_reduction_factor: _LrFactor = 0.5
    maximal_total_epochs: _Positive = 10_000
    validate_every_n_epochs: _Positive = 1
    validate_before_training: _Flag = False
    minimal_compression_rate: _Rate = 0.0
    maximal_compression_rate: _Rate = 0.95
    initial_compression_rate: _Rate = 0.5
    warm_start: _Flag = True
    knowledge_distillation: Annotated[
        KnowledgeDistillation | None, Field(description="an object with type, scale and temperature, or null")
    ] = None
    maximal_trial_seconds: _Seconds = None
    preflight: _Flag = True
    seed: _Seed = 0

    @model_validator(mode="wrap")
    @classmethod
    def _validated(cls, data: Any, handler: ModelWrapValidatorHandler[AccuracyAwareSettings]) -> AccuracyAwareSettings:
        """Fill in the default degradation, and turn pydantic's errors into ours."""
        if isinstance(data, Mapping) and _RELATIVE not in data and data.get(_ABSOLUTE) is None:
            data = {**data, _RELATIVE: DEFAULT_RELATIVE_DEGRADATION}
        taught = data.get("knowledge_distillation") if isinstance(data, Mapping) else None
        if isinstance(taught, Mapping):
            data = {**data, "knowledge_distillation": KnowledgeDistillation.from_dict(taught)}
        try:
            settings = handler(data)
        except ValidationError as error:
            raise ConfigError(_message(error, cls)) from error
        settings._require_order("minimal_compression_rate_step", "initial_compression_rate_step")
        settings._require_order("minimal_compression_rate", "maximal_compression_rate")
        _ = settings.budget  # both or neither is an error
        return settings

    def _require_order(self, low: str, high: str) -> None:
        if getattr(self, low) > getattr(self, high):
            raise ConfigError(f"{low} must be <= {high} ({getattr(self, high)!r}); got {getattr(self, low)!r}")

    @property
    def budget(self) -> AccuracyBudget:
        """The tolerated accuracy degradation."""
        return AccuracyBudget(self.maximal_relative_accuracy_degradation, self.maximal_absolute_accuracy_degradation)

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
        """The same settings with some of them changed; a degradation that is given replaces the other kind.

        Raises:
            ConfigError: naming the setting, what is allowed, and the value.
        """
        kept = self.to_dict()
        if changes.get(_RELATIVE) is not None or changes.get(_ABSOLUTE) is not None:
            kept |= {_RELATIVE: None, _ABSOLUTE: None}
        return self.from_dict({**kept, **changes})

    def searches_like(self, other: AccuracyAwareSettings) -> bool:
        """Whether a search with other settings is the same: all are equal but `preflight`, which only looks."""
        return self.with_changes({"preflight": other.preflight}) == other

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
        """The settings that `to_dict` wrote: of another budget, such as the default, the search would be another one.

        Raises:
            ConfigError: as `from_dict`, or the budget is not there.
        """
        for name in (_RELATIVE, _ABSOLUTE):
            if isinstance(data, Mapping) and name not in data:
                raise ConfigError(f"settings must have {name}; they do not")
        return cls.from_dict(data)

    def rule(self, axis: RateAxis) -> StepHalving:
        """The search rule over an axis: its ends are the bounds, the initial rate is clamped into them.

        Raises:
            ConfigError: the axis is not within [0, 1].
        """
        return StepHalving(
            initial_rate=min(max(self.initial_compression_rate, axis.low), axis.high),
            initial_step=self.initial_compression_rate_step,
            minimal_step=self.minimal_compression_rate_step,
            reduction_factor=self.compression_rate_step_reduction_factor,
            lr_reduction_factor=self.lr_reduction_factor,
            minimal_rate=axis.low,
            maximal_rate=axis.high,
        )

    def searches(self, space: SearchSpace) -> tuple[Search, ...]:
        """The search of each algorithm: adaptive where it has a rate to move, else a single trial.

        Raises:
            ConfigError: an algorithm has no rate between the minimal and the maximal compression rate.
        """
        bounds = (self.minimal_compression_rate, self.maximal_compression_rate)
        return tuple(self._search(algorithm.name, algorithm.axis(*bounds)) for algorithm in space.algorithms)

    def parameters(self, space: SearchSpace, algorithm: str, rate: float | None) -> dict[str, Any]:
        """The parameters of the trial of one proposal; see `AlgorithmSpace.parameters`.

        Raises:
            ConfigError: the search space does not have the algorithm, or the rate is not on its axis.
        """
        bounds = (self.minimal_compression_rate, self.maximal_compression_rate)
        return space.algorithm(algorithm).parameters(rate, *bounds)

    def _search(self, algorithm: str, axis: RateAxis | None) -> Search:
        if axis is None:
            return SingleTrial(algorithm, self.initial_training_phase_epochs, self.seed)
        return self.adaptive_search(algorithm, axis)

    def adaptive_search(self, algorithm: str, axis: RateAxis) -> AdaptiveSearch:
        """The search of an algorithm over an axis.

        Raises:
            ConfigError: the axis is not within [0, 1].
        """
        return AdaptiveSearch(
            algorithm=algorithm,
            axis=axis,
            rule=self.rule(axis),
            initial_epochs=self.initial_training_phase_epochs,
            patience_epochs=self.patience_epochs,
            maximal_total_epochs=self.maximal_total_epochs,
            warm_start=self.warm_start,
            seed=self.seed,
        )


def _message(error: ValidationError, model: type[BaseModel]) -> str:
    """All broken rules: the setting, what is allowed, the value."""
    return "; ".join(_broken(dict(detail), model) for detail in error.errors(include_url=False))


def _broken(detail: dict[str, Any], model: type[BaseModel]) -> str:
    key = str(detail["loc"][0]) if detail["loc"] else ""
    fields = model.model_fields
    if not key:
        return f"settings must be an object; got {detail['input']!r}"
    if key not in fields:
        return unknown_name("setting", key, fields)
    if detail["type"] == "missing":
        return f"{key} must be given: {fields[key].description}"
    return f"{key} must be {fields[key].description}; got {detail['input']!r}"
