"""The sections of `compression`: one class for each algorithm, with NNCF's options and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from autocompress.errors import ConfigError, unknown_name
from autocompress.setting_fields import (
    FROM_LIST,
    Count,
    Flag,
    OptionalRate,
    Positive,
    PositiveCount,
    Rate,
    Scopes,
    Section,
    read,
)
from autocompress.settings import AdaptiveParams, EarlyExitParams, KnowledgeDistillation


class _Compression(Section):
    """What all algorithms that work on layers have.

    Attributes:
        ignored_scopes: submodules that are left alone.
        target_scopes: the only submodules that are compressed; empty: all.
        validate_scopes: whether a scope that matches nothing is an error.
    """

    ignored_scopes: Scopes = ()
    target_scopes: Scopes = ()
    validate_scopes: Flag = True


_Levels = Annotated[
    tuple[Rate, ...] | None,
    FROM_LIST,
    Field(description="a list of numbers in [0, 1), one more than multistep_steps has"),
]
_Steps = Annotated[
    tuple[PositiveCount, ...],
    FROM_LIST,
    Field(description="a list of rising epochs"),
]
_Importance = Annotated[Literal["abs", "normed_abs"], Field(description="'abs' or 'normed_abs'")]
_Mode = Annotated[Literal["global", "local"], Field(description="'global' or 'local'")]


class SparsityParams(Section):
    """Options of sparsity algorithms; the schedule is that of the initial training phase.

    Attributes:
        schedule: how the level rises.
        sparsity_target: the level at its end, in [0, 1).
        sparsity_target_epoch: epochs until then.
        sparsity_freeze_epoch: epoch from which masks stay.
        multistep_steps: epochs at which a multistep schedule changes its level.
        multistep_sparsity_levels: its levels, one more than it has steps.
        power: of the polynomial schedule.
        concave: whether the polynomial one rises fast at first.
        weight_importance: by which weights are ranked.
        sparsity_level_setting_mode: one ranking over all layers, or one for each.
    """

    schedule: Annotated[
        Literal["polynomial", "exponential", "adaptive", "multistep"],
        Field(description="'polynomial', 'exponential', 'adaptive' or 'multistep'"),
    ] = "polynomial"
    sparsity_target: Rate = 0.5
    sparsity_target_epoch: PositiveCount = 90
    sparsity_freeze_epoch: PositiveCount = 100
    multistep_steps: _Steps = (90,)
    multistep_sparsity_levels: _Levels = (0.1, 0.5)
    power: Positive = 0.9
    concave: Flag = True
    weight_importance: _Importance = "normed_abs"
    sparsity_level_setting_mode: _Mode = "global"


class MagnitudeSparsity(_Compression):
    """Zeroes the smallest weights.

    Attributes:
        algorithm: its name.
        sparsity_init: level before the first epoch, in [0, 1).
        params: its options.
    """

    algorithm: Literal["magnitude_sparsity"]
    sparsity_init: Rate = 0.0
    params: SparsityParams = SparsityParams()


class RbSparsity(_Compression):
    """Learns which weights to zero, by a loss on the expected number of those that stay (L0 regularisation).

    Attributes:
        algorithm: its name.
        sparsity_init: level before the first epoch, in [0, 1).
        params: its options.
    """

    algorithm: Literal["rb_sparsity"]
    sparsity_init: Rate = 0.0
    params: SparsityParams = SparsityParams(schedule="exponential")


_Filters = Annotated[Literal["L1", "L2", "geometric_median"], Field(description="'L1', 'L2' or 'geometric_median'")]


class PruningParams(Section):
    """Options of filter pruning; the schedule is that of the initial training phase.

    Attributes:
        filter_importance: by which filters are ranked.
        weight_importance: an older name of it; only one of the two may be given.
        pruning_target: the rate at the schedule's end, in [0, 1).
        pruning_flops_target: a share of the multiply-accumulates instead; not both.
        pruning_steps: epochs until then.
        schedule: how the rate rises.
        num_init_steps: epochs without pruning before it.
        all_weights: one ranking over all layers, instead of one for each.
        allocation: how the rate becomes the layers' rates, which NNCF does not have; null: by `all_weights`.
        prune_first_conv: whether the first convolution is pruned.
        prune_downsample_convs: whether convolutions with a stride are pruned.
    """

    filter_importance: _Filters | None = None
    weight_importance: _Filters | None = None
    pruning_target: OptionalRate = None
    pruning_flops_target: OptionalRate = None
    pruning_steps: PositiveCount = 100
    schedule: Annotated[
        Literal["exponential", "exponential_with_bias", "baseline"],
        Field(description="'exponential', 'exponential_with_bias' or 'baseline'"),
    ] = "exponential"
    num_init_steps: Count = 0
    all_weights: Flag = False
    allocation: Annotated[
        Literal["uniform", "global", "sensitivity", "least_damage"] | None,
        Field(description="'uniform', 'global', 'sensitivity', 'least_damage' or null"),
    ] = None
    prune_first_conv: Flag = False
    prune_downsample_convs: Flag = False

    @property
    def importance(self) -> str:
        """By which filters are ranked."""
        return self.filter_importance or self.weight_importance or "L2"

    @property
    def target(self) -> float:
        """The rate at the schedule's end."""
        given = self.pruning_target if self.pruning_flops_target is None else self.pruning_flops_target
        return 0.5 if given is None else given


class FilterPruning(_Compression):
    """Removes filters.

    Attributes:
        algorithm: its name.
        pruning_init: rate before the first epoch, in [0, 1).
        params: its options.
    """

    algorithm: Literal["filter_pruning"]
    pruning_init: Rate = 0.0
    params: PruningParams = PruningParams()


_Symmetry = Annotated[Literal["symmetric", "asymmetric"], Field(description="'symmetric' or 'asymmetric'")]
_Bits = Annotated[int, Field(ge=1, le=8, description="a whole number from 1 to 8")]


class TensorQuantization(Section):
    """How weights or activations are quantized; what is not given, the preset decides.

    Attributes:
        bits: from 1 to 8.
        mode: whether the range is symmetric around zero.
        per_channel: whether each channel has a scale of its own.
    """

    bits: _Bits = 8
    mode: _Symmetry | None = None
    per_channel: Flag | None = None


class RangeInitializer(Section):
    """Where activations' ranges are taken from.

    Attributes:
        num_init_samples: samples of the data that are looked at.
    """

    num_init_samples: PositiveCount = 256


class Initializer(Section):
    """What is done before the first epoch.

    Attributes:
        range: of activations.
    """

    range: RangeInitializer = RangeInitializer()


class Quantization(_Compression):
    """Rounds weights and activations.

    Attributes:
        algorithm: its name.
        preset: `performance`: all symmetric; `mixed`: activations asymmetric.
        weights: of weights.
        activations: of activations.
        initializer: what is done before the first epoch.
    """

    algorithm: Literal["quantization"]
    preset: Annotated[Literal["performance", "mixed"], Field(description="'performance' or 'mixed'")] = "performance"
    weights: TensorQuantization = TensorQuantization()
    activations: TensorQuantization = TensorQuantization()
    initializer: Initializer = Initializer()


class Distillation(KnowledgeDistillation):
    """Lets the uncompressed model teach.

    Attributes:
        algorithm: its name.
    """

    algorithm: Literal["knowledge_distillation"]
    type: Annotated[Literal["softmax", "mse"], Field(description="'softmax' or 'mse'")]


Compression = MagnitudeSparsity | RbSparsity | FilterPruning | Quantization | Distillation
KINDS: dict[str, type[Compression]] = {
    "filter_pruning": FilterPruning,
    "knowledge_distillation": Distillation,
    "magnitude_sparsity": MagnitudeSparsity,
    "quantization": Quantization,
    "rb_sparsity": RbSparsity,
}
"""Section class by the name of its algorithm."""

ADAPTIVE = (FilterPruning, MagnitudeSparsity)
"""Algorithms with a compression rate that a search can move."""


SECTION = "accuracy_aware_training"
_OLD_NAMES = {
    "maximal_accuracy_degradation": "maximal_relative_accuracy_degradation",
    "compression_rate_step": "initial_compression_rate_step",
    "step_reduction_factor": "compression_rate_step_reduction_factor",
}


class _TrainingMode(Section):
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
    shape = read(_TrainingMode, data, where)
    kind = AdaptiveParams if shape.mode == "adaptive_compression_level" else EarlyExitParams
    params = read(kind, {} if shape.params is None else shape.params, f"{where}.params")
    return AccuracyAwareTraining(mode=shape.mode, params=params)


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
    return AccuracyAwareTraining(mode="adaptive_compression_level", params=read(AdaptiveParams, renamed, where))
