"""Quantization of linear layers one by one, all of them or those that it harms least.

While a model is trained its weights are rounded as the finished layers round them; `finish` stores them.

Source of mixed precision: Dong et al. 2019, HAWQ, arXiv:1905.03696, ranks layers by the damage that quantization does;
here that is how far the model's outputs move, as in `pruning.sensitivity`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compression.base import CompressionRequest, fold_parametrizations, transforms
from autocompress.compression.layers import supported_layers, unknown_layers
from autocompress.compression.model_state import (
    copy_model,
    device_of,
    forward_outputs,
    ordinary_attention,
    sharing_copy,
    temporary_hooks,
    tied_parameters,
)
from autocompress.compression.pruning.attention import joined_attention, split_attention
from autocompress.compression.pruning.sensitivity import PROBE_SECONDS, probe_of
from autocompress.compression.pruning.sparsity import Mask, computed_weights
from autocompress.compression.quantization.fake_quantizers import (
    Precision,
    RoundedWeight,
    quantized_layers,
    quantizer_of,
    require_precision,
)
from autocompress.compression.quantization.stored_linear import (
    KINDS,
    WEIGHT,
    Int8WeightLinear,
    SemiStructuredLinear,
    StoredLinear,
    convert,
    group_size_of,
    has_sparse_kernel,
    is_plain_linear,
    is_two_of_four,
    require_kernel,
    restore,
    rounded_rows,
    two_of_four,
)
from autocompress.compression.trainer_hooks import input_batches, trainer_of
from autocompress.errors import CompressionError, ConfigError
from autocompress.records import PROBE_BATCHES

_SCHEME = "per_channel_symmetric"
LINEAR_TYPES: tuple[type[nn.Module], ...] = (nn.Linear,)


@dataclass(frozen=True)
class LinearQuantization:
    """A model whose linear layers will hold few bits, or two zeros in every four.

    Attributes:
        model: with rounded weights, to be trained.
        kind: of the finished layers.
        groups: layer -> size of the groups that share a scale.
        sizes: layer -> number of its weights; of all linear layers.
        targeted: layers that rules select and that can be quantized.
        left_alone: layer -> why it stays as it is although a rule selects it.
        simulated: whether the device has no kernels for such layers.
    """

    model: nn.Module
    kind: type[StoredLinear]
    groups: Mapping[str, int]
    sizes: Mapping[str, int]
    targeted: Sequence[str]
    left_alone: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    epochs: int = 0

    @property
    def converts(self) -> bool:
        """Weights alone are rounded in training as they are stored; other kernels differ in the last digits."""
        return self.kind is not Int8WeightLinear and not self.simulated

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of the weights' bits that are saved; of two of four, of the weights that are zero."""
        few = sum(self.sizes[name] for name in self.groups if self._is_done(model.get_submodule(name)))
        total = sum(self.sizes[name] for name in (self.sizes if whole_model else self.targeted))
        return self.kind.SAVED * few / total

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        """Store the weights; later training is not possible, unless it is simulated."""
        layers = {name: cast(nn.Linear, model.get_submodule(name)) for name in self.groups}
        weights = {name: _before_rounding(layer) for name, layer in layers.items() if not isinstance(layer, self.kind)}
        fold_parametrizations(model)
        for name, weight in weights.items():
            _stop_rounding_inputs(layers[name])
            if not self.simulated:
                convert(layers[name], self.kind, weight, self.groups[name])
        return model

    def _is_done(self, layer: nn.Module) -> bool:
        if self.kind is SemiStructuredLinear:
            return is_two_of_four(cast(nn.Linear, layer).weight)
        return isinstance(layer, self.kind) or any(isinstance(step, RoundedWeight) for step in transforms(layer))


class LinearQuantizer:
    """Quantizes `nn.Linear`s: all that rules select, or, where these have a rate, those that it harms least.

    The projections of an `nn.MultiheadAttention` count as such layers; where some are quantized it is a
    `SplitAttention`.
    """

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules, the layers, and whether the device has the kernels."""
        model = sharing_copy(model)
        split_attention(model, request.example_inputs)
        self._check_split(model, request)

    def _check_split(self, model: nn.Module, request: CompressionRequest) -> dict[str, str]:
        """Check as `check` does; the layers that cannot be quantized, each with the reason."""
        _rate(request)
        wanted = self._wanted(model, request)
        require_kernel(_kind(request), device_of(model))
        left_alone = self._left_alone(model, request, wanted)
        if wanted.keys() <= left_alone.keys():
            raise CompressionError(
                f"{request.algorithm} must quantize something; {next(iter(left_alone.values()))}: take qat or naive"
            )
        return left_alone

    def compress(self, model: nn.Module, request: CompressionRequest) -> LinearQuantization:
        """Round the weights of the layers, in training too; weights that a mask keeps at zero stay zero.

        Raises:
            ConfigError: rules that do not fit the model; a rate needs inputs and there are none.
            CompressionError: nothing can be quantized, or the device has no kernels.
        """
        restore(model)  # of an earlier trial, to go on from
        attentions = split_attention(model, request.example_inputs)
        left_alone = self._check_split(model, request)
        wanted, kind = self._wanted(model, request), _kind(request)
        sizes = {name: cast(nn.Linear, each).weight.numel() for name, each in _linear(model).items()}
        groups = {name: cast(int, _group(model, name, request)) for name in wanted if name not in left_alone}
        chosen = self._chosen(model, request, groups, sizes)
        left_alone |= {
            name: f"{name}: at this rate it stays in floating point, as others move the outputs less for what they save"
            for name in groups
            if name not in chosen
        }
        for name in chosen:
            _round(model.get_submodule(name), kind, groups[name], wanted[name][WEIGHT].start_step)
        _avoid_fused_layers(model, chosen)
        joined_attention(model)
        return LinearQuantization(
            model=model,
            kind=kind,
            groups={name: groups[name] for name in chosen},
            sizes=sizes,
            targeted=tuple(groups),
            left_alone={**_others(model, request, attentions), **left_alone},
            simulated=kind is SemiStructuredLinear and not has_sparse_kernel(*_place(model, groups)),
        )

    def _chosen(
        self, model: nn.Module, request: CompressionRequest, groups: Mapping[str, int], sizes: Mapping[str, int]
    ) -> list[str]:
        """The layers to quantize: by the rate, those that move the outputs the least for the bits they save."""
        rate = _rate(request)
        share = 1.0 if rate is None else rate / _kind(request).SAVED
        if share >= 1 or share == 0:
            return list(groups) if share else []
        damage = layer_damage(model, request, groups)
        order = sorted(groups, key=lambda name: damage[name] / sizes[name])
        total = sum(sizes[name] for name in groups)
        reached = [each / total for each in itertools.accumulate(sizes[name] for name in order)]
        count = min(range(len(order)), key=lambda place: abs(reached[place] - share)) + 1
        return [name for name in groups if name in order[:count]]

    def _wanted(self, model: nn.Module, request: CompressionRequest) -> dict[str, dict[str, Precision]]:
        family = quantizer_of(request)
        wanted = quantized_layers(model, request, LINEAR_TYPES, family.default_bits)
        for kinds in wanted.values():
            for quant_type, precision in kinds.items():
                require_precision(family, quant_type, precision)
                if precision.scheme not in (None, _SCHEME):
                    raise ConfigError(
                        f"quant_scheme of {family.name} must be {_SCHEME}, for each row; got {precision.scheme!r}"
                    )
        return {name: kinds for name, kinds in wanted.items() if WEIGHT in kinds}

    def _left_alone(self, model: nn.Module, request: CompressionRequest, wanted: Iterable[str]) -> dict[str, str]:
        """Layer -> why it cannot be quantized."""
        tied = {name for places in tied_parameters(model) for name, _ in places}
        called = _called(model, request, wanted)
        found = computed_weights(model, wanted)
        for name in wanted:
            layer = model.get_submodule(name)
            if not is_plain_linear(layer):
                found[name] = f"{name}: a {type(layer).__name__} has a forward of its own; it stays as it is"
            elif name in tied:
                found[name] = f"{name}: its weight is that of another layer, too; it stays as it is"
            elif name not in called:
                found[name] = f"{name}: other code reads its weight, or nothing calls it; it stays as it is"
            elif layer.in_features == 1:  # a scale for each weight, as of `SplitAttention.bias_k`
                found[name] = f"{name}: a row of its weight is one number, so that nothing is saved; it stays as it is"
            elif _group(model, name, request) is None:
                found[name] = f"{name}: its inputs are no multiple of {_kind(request).UNIT}; it stays as it is"
        return found


def layer_damage(model: nn.Module, request: CompressionRequest, groups: Mapping[str, int]) -> dict[str, float]:
    """How far the model's outputs move, or its own loss rises, where one layer alone is quantized; see `probe_of`.

    Raises:
        ConfigError: there is no module to take inputs from.
        ModuleError: the module has none.
    """
    kind, found = _kind(request), dict[str, float]()
    probe = probe_of(request.module, model, _probe_inputs(request, model))
    affordable = int(PROBE_SECONDS * probe.batches / max(probe.seconds, 1e-9) / len(groups))
    probe.limit(max(1, min(probe.batches, affordable)))
    for name, size in groups.items():
        copied = copy_model(model)
        _round(copied.get_submodule(name), kind, size)
        found[name] = probe.damage(copied)
    return found


def _rate(request: CompressionRequest) -> float | None:
    """The share of the bits to save; None: of all layers."""
    rates = {rule.rate for rule in request.targets if not rule.exclude}
    if len(rates) > 1:
        raise ConfigError(
            f"{request.algorithm} must have one sparsity in all entries, or none; got "
            f"{', '.join(sorted(map(str, rates)))}"
        )
    return next(iter(rates), None)


def _probe_inputs(request: CompressionRequest, model: nn.Module) -> list[tuple[Any, ...]]:
    module = request.module
    if module is None or (module.calibration_data() is None and trainer_of(module, request.algorithm) is None):
        return [request.example_inputs]
    return input_batches(module, request.algorithm, model, PROBE_BATCHES) or [request.example_inputs]


def _kind(request: CompressionRequest) -> type[StoredLinear]:
    return KINDS[request.algorithm]


def _place(model: nn.Module, names: Iterable[str]) -> tuple[torch.device, torch.dtype]:
    weight = cast(nn.Linear, model.get_submodule(next(iter(names)))).weight
    return weight.device, weight.dtype


def _others(model: nn.Module, request: CompressionRequest, attentions: Mapping[str, str]) -> dict[str, str]:
    """Layers of other libraries that a rule for all layers does not select, and attentions; each with why."""
    whole = {name: f"{why.rpartition(';')[0]}; it stays as it is" for name, why in attentions.items()}
    return whole | {
        name: f"{name}: {request.algorithm} changes nn.Linear alone; it stays as it is"
        for name in unknown_layers(model, request.targets, request.algorithm)
    }


def _linear(model: nn.Module) -> dict[str, nn.Module]:
    return supported_layers(model, LINEAR_TYPES)


def _group(model: nn.Module, name: str, request: CompressionRequest) -> int | None:
    kind = _kind(request)
    most = int(request.argument("group_size")) if kind.GROUPED else 0
    return group_size_of(cast(nn.Linear, model.get_submodule(name)).weight, kind, most)


def _called(model: nn.Module, request: CompressionRequest, names: Iterable[str]) -> set[str]:
    """Layers whose own forward runs in one forward pass."""
    called = set[str]()
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name)) for name in names
    ]
    with temporary_hooks(handles), ordinary_attention():
        forward_outputs(model, request.example_inputs)
    return called


def _round(layer: nn.Module, kind: type[StoredLinear], group_size: int, start_step: int = 0) -> None:
    if kind is SemiStructuredLinear:
        parametrize.register_parametrization(layer, WEIGHT, Mask(two_of_four(cast(nn.Linear, layer).weight)))
        return
    masks = [step for step in transforms(layer) if isinstance(step, Mask)]
    rounding = partial(_rounded, kind, group_size)
    parametrize.register_parametrization(layer, WEIGHT, RoundedWeight(rounding, 0, start_step), unsafe=True)
    for mask in masks:
        parametrize.register_parametrization(layer, WEIGHT, Mask(mask.pruned))
    if kind.ROUNDS_INPUTS:
        layer.register_forward_pre_hook(_round_inputs)


def _rounded(kind: type[StoredLinear], group_size: int, weight: torch.Tensor, bits: int) -> torch.Tensor:  # noqa: ARG001
    return kind.rounded(weight, group_size)


def _round_inputs(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (rounded_rows(arguments[0]), *arguments[1:])


def _stop_rounding_inputs(layer: nn.Module) -> None:
    for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is _round_inputs]:
        del layer._forward_pre_hooks[key]


def _avoid_fused_layers(model: nn.Module, names: Sequence[str]) -> None:
    """Let encoder layers of torch call their linear layers: their fused kernel reads the weights alone."""
    for place, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(name.startswith(f"{place}.") for name in names):
            module.activation_relu_or_gelu = 0


def _before_rounding(layer: nn.Module) -> torch.Tensor:
    """The weight with its masks, and not yet rounded."""
    value = cast(torch.Tensor, cast(Any, layer).parametrizations[WEIGHT].original)
    for step in transforms(layer):
        if isinstance(step, RoundedWeight):
            break
        value = step(value)
    return value.detach().clone()
