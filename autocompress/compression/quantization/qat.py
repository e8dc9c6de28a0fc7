"""Quantization-aware training of a real int8 model, with torchao's PT2E quantization for x86.

Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
arXiv:1712.05877.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn

from autocompress.compression.base import (
    WEIGHT,
    Compression,
    CompressionRequest,
    computed_parameters,
    fold_parametrizations,
    transforms,
)
from autocompress.compression.layers import supported_layers, unknown_layers, weight_types
from autocompress.compression.pruning.sparsity import Mask
from autocompress.compression.quantization.fake_quantizers import FLOAT_BITS, FakeQuantizer, quantized_layers
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.quantization.prepared import QatModel, convert_to_int8, prepare_qat
from autocompress.compression.trainer_hooks import calibration_inputs
from autocompress.errors import CompressionError

INT8_TYPES: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
"""Layers that have int8 kernels."""

_BITS = 8
_SCHEMES = {"weight": "per_channel_symmetric", "input": "per_tensor_affine", "output": "per_tensor_affine"}
"""Of the int8 kernels."""
_OPERATORS = ("aten.conv2d.default", "aten.linear.default")


@dataclass(frozen=True)
class Int8Quantization:
    """A model that is trained for int8.

    Attributes:
        model: prepared for training.
        quantized: number of weights of the targeted layers that will be int8.
        stored: how many of these a file holds; a shared weight counts once.
        targeted: number of weights of the targeted layers.
        all_weights: number of weights of all layers that could be quantized.
        left_alone: layer that a rule for all layers does not select -> why.
    """

    model: QatModel
    quantized: int
    stored: int
    targeted: int
    all_weights: int
    left_alone: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    converts: bool = True
    epochs: int = 0

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of the weights' bits that are saved; in a finished model the int8 weights are counted.

        A convolution that is called repeatedly has a weight for each call, as BatchNorm is folded into it; it counts
        once.
        """
        weights = model.weights() if isinstance(model, Int8Model) else ()
        found = sum(weight.numel() for weight in weights if weight.dtype is torch.int8)
        missing = max(0, self.stored - found) if isinstance(model, Int8Model) else 0
        total = self.all_weights if whole_model else self.targeted
        return (1 - _BITS / FLOAT_BITS) * (self.quantized - missing) / total

    def finish(self, model: nn.Module) -> nn.Module:
        """The int8 model."""
        return convert_to_int8(cast(QatModel, model))


class QatQuantizer:
    """`qat`: 8-bit weights and activations become a real int8 model.

    Activations are rounded at the inputs of layers, as int8 kernels need it, whether a rule names `input` or `output`;
    weights have a scale for each filter. Other bits or schemes, weights alone, and models without a layer that has int8
    kernels are simulated by `FakeQuantizer`. Rounding starts for all layers at the latest `quant_start_step`.
    """

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules against the model."""
        if self._is_int8(model, request):
            quantized_layers(model, request, INT8_TYPES)
            _require_plain(model)
        else:
            FakeQuantizer().check(model, request)

    def compress(self, model: nn.Module, request: CompressionRequest) -> Compression:
        """Export the model and prepare it for training; weights that a mask keeps at zero stay zero.

        Raises:
            ConfigError: rules that do not fit the model.
            CompressionError: the model cannot be exported, or nothing in it can be quantized.
            ModuleError: the user's module has neither calibration data nor a trainer.
        """
        if not self._is_int8(model, request):
            return FakeQuantizer().compress(model, request)
        self.check(model, request)
        wanted = quantized_layers(model, request, INT8_TYPES)
        sizes = {name: cast(torch.Tensor, layer.weight).numel() for name, layer in _layers(model).items()}
        inputs = calibration_inputs(request, model)
        masks = _masks(model)
        start_step = max(precision.start_step for kinds in wanted.values() for precision in kinds.values())
        graph = prepare_qat(
            fold_parametrizations(model), request.example_inputs, _layers(model).keys() - wanted.keys(), start_step
        )
        _hold_zeros(graph, masks)
        quantized = _quantized(graph.graph) & wanted.keys()
        if not quantized:
            raise CompressionError(
                f"{request.algorithm} must quantize something; torchao quantizes none of {', '.join(wanted)}"
            )
        graph.calibrate(inputs)
        weights = [cast(torch.Tensor, model.get_submodule(name).weight) for name in quantized]
        stored = {id(weight): weight.numel() for weight in weights}
        return Int8Quantization(
            model=graph,
            quantized=sum(sizes[name] for name in quantized),
            stored=sum(stored.values()),
            targeted=sum(sizes[name] for name in wanted),
            all_weights=sum(sizes.values()),
            left_alone=unknown_layers(model, request.targets, request.algorithm),
        )

    def _is_int8(self, model: nn.Module, request: CompressionRequest) -> bool:
        """Whether everything the request quantizes has int8 kernels, of layers that may have them."""
        wanted = quantized_layers(model, request, weight_types(request.algorithm))
        return not wanted.keys().isdisjoint(_layers(model)) and all(
            "weight" in kinds
            and len(kinds) > 1
            and all(of.bits == _BITS and of.scheme in (None, _SCHEMES[kind]) for kind, of in kinds.items())
            for kinds in wanted.values()
        )


def _require_plain(model: nn.Module) -> None:
    """Torchao finds layers by their weights in the graph, and int8 models have none of the user's code."""
    for name, module in model.named_modules():
        for key, how in computed_parameters(module).items():
            raise CompressionError(
                f"qat needs plain parameters; the {key} of {name} is computed from others, by {how}: remove that in "
                "model() (torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.prune.remove), or take "
                "naive or dorefa, which leave such layers alone"
            )


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    return supported_layers(model, INT8_TYPES)


def _masks(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name of a weight -> where a mask keeps it at zero."""
    found = {}
    for name, module in model.named_modules():
        for step in transforms(module):
            if isinstance(step, Mask):
                found[f"{name}.{WEIGHT}"] = step.pruned
    return found


def _hold_zeros(model: QatModel, masks: Mapping[str, torch.Tensor]) -> None:
    """Zeros without gradients stay zeros under any optimizer, including momentum and weight decay."""
    parameters = dict(model.graph.named_parameters())
    for name, pruned in masks.items():
        if name in parameters:
            hold: Any = parameters[name].register_hook  # untyped in torch
            hold(lambda gradient, pruned=pruned: gradient.masked_fill(pruned, 0.0))


def _quantized(graph: fx.GraphModule) -> set[str]:
    """Names of the layers whose weights have a fake quantizer of torchao's."""
    modules, found = dict(graph.named_modules()), set()
    for node in graph.graph.nodes:
        if node.op == "call_function" and str(node.target) in _OPERATORS:
            weight, stack = node.args[1], list((node.meta.get("nn_module_stack") or {}).values())
            if weight.op == "call_module" and hasattr(modules[weight.target], "enable_fake_quant") and stack:
                found.add(str(stack[-1][0]))
    return found
