"""The section `accuracy_aware_training`, in its current form and in the older one inside an algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from autocompress.config.nncf.fields import Count, Degradation, Factor, LrFactor, Positive, PositiveCount, Section
from autocompress.config.nncf.refusing import read
from autocompress.errors import ConfigError, unknown_name

SECTION = "accuracy_aware_training"
DEFAULT_RELATIVE = 1.0
"""Percent; NNCF's default where no degradation is given."""

_OLD_NAMES = {
    "maximal_accuracy_degradation": "maximal_relative_accuracy_degradation",
    "compression_rate_step": "initial_compression_rate_step",
    "step_reduction_factor": "compression_rate_step_reduction_factor",
}
_RELATIVE, _ABSOLUTE = "maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation"


class EarlyExitParams(Section):
    """Train until the accuracy is within the budget.

    Attributes:
        maximal_relative_accuracy_degradation: tolerated loss in percent of the uncompressed accuracy.
        maximal_absolute_accuracy_degradation: in the metric's unit; excludes the relative one.
        maximal_total_epochs: the most epochs.
        validate_every_n_epochs: epochs between two validations.
    """

    maximal_relative_accuracy_degradation: Degradation = None
    maximal_absolute_accuracy_degradation: Degradation = None
    maximal_total_epochs: PositiveCount = 10_000
    validate_every_n_epochs: PositiveCount = 1


class AdaptiveParams(EarlyExitParams):
    """Search the highest compression rate within the budget.

    Attributes:
        initial_training_phase_epochs: epochs with the algorithm's own schedule, before the search.
        patience_epochs: the most epochs at each rate.
        initial_compression_rate_step: first move of the rate.
        compression_rate_step_reduction_factor: factor on the step where the search turns.
        lr_reduction_factor: factor on the learning rates where it turns.
        minimal_compression_rate_step: the search ends when the step falls below it.
    """

    initial_training_phase_epochs: Count = 5
    patience_epochs: PositiveCount = 3
    initial_compression_rate_step: Positive = 0.1
    compression_rate_step_reduction_factor: Factor = 0.5
    lr_reduction_factor: LrFactor = 0.5
    minimal_compression_rate_step: Positive = 0.025


class _Mode(Section):
    mode: Annotated[
        Literal["adaptive_compression_level", "early_exit"],
        Field(description="'adaptive_compression_level' or 'early_exit'"),
    ]
    params: Annotated[Any, Field(description="an object")] = None


class AccuracyAwareTraining(Section):
    """How the accuracy budget is kept.

    Attributes:
        mode: `adaptive_compression_level` searches the highest rate, `early_exit` trains at the target's.
        params: of the mode.
    """

    mode: Literal["adaptive_compression_level", "early_exit"]
    params: AdaptiveParams | EarlyExitParams = AdaptiveParams()


def read_training(data: Any, where: str = SECTION) -> AccuracyAwareTraining:
    """The section in its current form.

    Raises:
        ConfigError: every broken rule: path, what is allowed, value.
    """
    shape = read(_Mode, data, where)
    kind = AdaptiveParams if shape.mode == "adaptive_compression_level" else EarlyExitParams
    params = read(kind, {} if shape.params is None else shape.params, f"{where}.params")
    return AccuracyAwareTraining(mode=shape.mode, params=_checked(params, f"{where}.params"))


def read_old_training(data: Any, where: str) -> AccuracyAwareTraining:
    """The older form inside an algorithm's own section: the parameters of the adaptive mode, some by other names.

    Raises:
        ConfigError: as `read_training`; a parameter is given by both its names.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} must be an object; got {data!r}")
    renamed: dict[str, Any] = {}
    for name, value in data.items():
        now = _OLD_NAMES.get(name, name)
        if now in renamed:
            raise ConfigError(f"{where} must have {now} once; {name} is the older name of it")
        if now not in AdaptiveParams.model_fields:
            raise ConfigError(f"{where}: {unknown_name('key', name, [*AdaptiveParams.model_fields, *_OLD_NAMES])}")
        renamed[now] = value
    params = _checked(read(AdaptiveParams, renamed, where), where)
    return AccuracyAwareTraining(mode="adaptive_compression_level", params=params)


def _checked(params: EarlyExitParams, where: str) -> AdaptiveParams | EarlyExitParams:
    relative, absolute = getattr(params, _RELATIVE), getattr(params, _ABSOLUTE)
    if relative is not None and absolute is not None:
        raise ConfigError(f"{where} must have {_RELATIVE} or {_ABSOLUTE}, not both; got {relative!r} and {absolute!r}")
    if isinstance(params, AdaptiveParams):
        _require_order(params, where)
    return params.model_copy(update={_RELATIVE: DEFAULT_RELATIVE}) if relative is None and absolute is None else params


def _require_order(params: AdaptiveParams, where: str) -> None:
    least, first = params.minimal_compression_rate_step, params.initial_compression_rate_step
    if least > first:
        rule = f"minimal_compression_rate_step must be <= initial_compression_rate_step ({first!r})"
        raise ConfigError(f"{where}.{rule}; got {least!r}")
