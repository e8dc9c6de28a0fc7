"""Quantization-aware training to a real int8 model, through torchao's PT2E quantization for x86.

Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
arXiv:1712.05877.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional

from autocompress.compress.base import Compression, CompressionRequest
from autocompress.compress.fake_quantizers import FLOAT_BITS, FakeQuantizer
from autocompress.compress.folding import WEIGHT, fold, transforms
from autocompress.compress.int8 import TORCHAO_LOGGERS, Int8Model, place
from autocompress.compress.layers import supported_layers, weight_types
from autocompress.compress.precision import Precisions, quantized_layers
from autocompress.compress.quiet import quiet
from autocompress.compress.sparsifying import input_batches
from autocompress.compress.sparsity import Mask
from autocompress.compress.state import device_of, moved
from autocompress.compress.tracing import any_batch, batch_of_two, first_line
from autocompress.errors import CompressionError

INT8_TYPES: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
"""Layers that have int8 kernels."""

_BITS = 8
_CALIBRATION_BATCHES = 8
_ATTENTION = "aten.scaled_dot_product_attention.default"
_OPERATORS = ("aten.conv2d.default", "aten.linear.default")


class QatModel(nn.Module):
    """A model under quantization-aware training; observers look at values in training mode only.

    Args:
        graph: prepared by torchao.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """As the model's that was exported."""
        return self.graph(*arguments, **keywords)

    def train(self, mode: bool = True) -> QatModel:
        """Switch dropout, BatchNorm and observers."""
        self._switch(mode)
        self._observe(mode)
        return self

    @torch.no_grad()
    def calibrate(self, inputs: list[tuple[Any, ...]]) -> None:
        """Let the observers see some inputs; nothing else changes. It ends in eval mode."""
        self._switch(False)
        self._observe(True)
        for arguments in inputs:
            self.graph(*moved(arguments, device_of(self)))
        self._observe(False)

    def _switch(self, training: bool) -> None:
        self.training = training
        graph: Any = self.graph
        graph.train() if training else graph.eval()
        for node in self.graph.graph.nodes:  # the one dropout that torchao does not know of
            if str(node.target) == _ATTENTION and len(node.args) > 4:
                probability = node.meta.setdefault("dropout", node.args[4])
                node.args = (*node.args[:4], probability if training else 0.0, *node.args[5:])
        self.graph.recompile()

    def _observe(self, on: bool) -> None:
        """Switch the observers; what they have seen becomes the scales that conversion will take."""
        for module in self.graph.modules():
            if hasattr(module, "enable_observer"):
                quantizer: Any = module
                quantizer.enable_observer(on)
                if not on:
                    _settle(quantizer)


def _settle(quantizer: Any) -> None:
    """While they observe, torchao's kernels and its conversion round the scales of weights differently."""
    try:
        scale, zero_point = quantizer.calculate_qparams()
    except AssertionError as error:  # its way to refuse a range of NaN
        raise CompressionError(f"training must stay finite; it has diverged: {error}") from error
    with torch.no_grad():
        if quantizer.scale.shape == scale.shape and bool(torch.isfinite(scale).all()):
            quantizer.scale.copy_(scale)
            quantizer.zero_point.copy_(zero_point)


@dataclass(frozen=True)
class Int8Quantization:
    """A model on its way to int8.

    Attributes:
        model: prepared, to be trained.
        saved: share of the bits of the targeted layers' weights that int8 saves.
        saved_of_all: the same of all layers that could be quantized.
    """

    model: QatModel
    saved: float
    saved_of_all: float
    simulated: bool = False
    epochs: int = 0

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:  # noqa: ARG002
        """Share of the weights' bits that are saved; see `base.Compression`."""
        return self.saved_of_all if whole_model else self.saved

    def finish(self, model: nn.Module) -> nn.Module:
        """The int8 model; see `base.Compression`."""
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        graph = cast(QatModel, model.eval()).graph
        with quiet(*TORCHAO_LOGGERS), _two_dimensional():
            return Int8Model(_cleaned(convert_pt2e(graph)))


class QatQuantizer:
    """`qat`: 8-bit weights and activations become a real int8 model. Implements `base.Compressor`.

    Activations are rounded where int8 kernels need it, at the inputs of layers, whichever of `input` and `output` a
    rule names. Other bits, and weights alone, have no int8 kernels and are simulated by `FakeQuantizer`.
    """

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules against the model; see `base.Compressor`."""
        if self._is_int8(model, request):
            quantized_layers(model, request, INT8_TYPES)
        else:
            FakeQuantizer().check(model, request)

    def compress(self, model: nn.Module, request: CompressionRequest) -> Compression:
        """Export the model and prepare it for training; weights that are zero by a mask stay zero.

        Raises:
            ConfigError: rules that do not fit the model.
            CompressionError: the model cannot be exported, or nothing in it can be quantized.
            ModuleError: the user's module has neither calibration data nor a trainer.
        """
        if not self._is_int8(model, request):
            return FakeQuantizer().compress(model, request)
        wanted = quantized_layers(model, request, INT8_TYPES)
        sizes = {name: cast(torch.Tensor, layer.weight).numel() for name, layer in _layers(model).items()}
        inputs = [request.example_inputs]
        if request.module is not None:
            inputs = input_batches(request.module, request.algorithm, model, _CALIBRATION_BATCHES)
        masks = _masks(model)
        prepared = QatModel(_prepared(fold(model), request.example_inputs, wanted))
        _hold_zeros(prepared, masks)
        quantized = _quantized(prepared.graph) & wanted.keys()
        if not quantized:
            raise CompressionError(f"qat must quantize something; torchao quantizes none of {', '.join(wanted)}")
        prepared.calibrate(inputs)
        saved = (1 - _BITS / FLOAT_BITS) * sum(sizes[name] for name in quantized)
        targeted = sum(sizes[name] for name in wanted)
        return Int8Quantization(prepared, saved / targeted, saved / sum(sizes.values()))

    def _is_int8(self, model: nn.Module, request: CompressionRequest) -> bool:
        """Whether all that is asked for has int8 kernels."""
        wanted = quantized_layers(model, request, weight_types(request.algorithm))
        return all(
            "weight" in kinds and len(kinds) > 1 and all(precision.bits == _BITS for precision in kinds.values())
            for kinds in wanted.values()
        )


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    return supported_layers(model, INT8_TYPES)


def _prepared(model: nn.Module, example_inputs: tuple[Any, ...], wanted: Precisions) -> fx.GraphModule:
    with quiet(*TORCHAO_LOGGERS):
        from torchao.quantization.pt2e import allow_exported_model_train_eval
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        quantizer = X86InductorQuantizer()
        quantizer.set_global(get_default_x86_inductor_quantization_config(is_qat=True))
        for name in _layers(model).keys() - wanted.keys():
            quantizer.set_module_name_qconfig(name, None)
        graph = _exported(model, example_inputs)
        try:
            with _two_dimensional():
                prepared = prepare_qat_pt2e(graph, quantizer)
        except Exception as error:
            raise CompressionError(f"torchao cannot prepare the model for qat: {first_line(error)}") from error
        allow_exported_model_train_eval(prepared)
    return cast(fx.GraphModule, prepared)


def _exported(model: nn.Module, example_inputs: tuple[Any, ...]) -> Any:
    """The model's training graph, for batches of any size."""
    inputs = moved(batch_of_two(example_inputs), device_of(model))
    dynamic = any_batch(inputs)
    try:
        return torch.export.export(model.train(), inputs, dynamic_shapes=dynamic, strict=True).module()
    except Exception:  # noqa: BLE001 - the other way to trace may do, and tells why it does not
        pass
    try:
        return torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=False).module()
    except Exception as error:
        raise CompressionError(
            f"qat needs a model that torch.export can follow; naive and dorefa do not: {first_line(error)}"
        ) from error


def _masks(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name of a weight -> where a mask holds it at zero."""
    found = {}
    for name, module in model.named_modules():
        for step in transforms(module):
            if isinstance(step, Mask):
                found[f"{name}.{WEIGHT}"] = step.pruned
    return found


def _hold_zeros(prepared: QatModel, masks: Mapping[str, torch.Tensor]) -> None:
    """Zeros without gradients stay zeros under any optimizer, its momentum and weight decay included."""
    parameters = dict(prepared.graph.named_parameters())
    for name, pruned in masks.items():
        if name in parameters:
            hold: Any = parameters[name].register_hook  # torch has not typed it
            hold(lambda gradient, pruned=pruned: gradient.masked_fill(pruned, 0.0))


def _quantized(graph: fx.GraphModule) -> set[str]:
    """Names of the layers whose weights torchao has put a fake quantizer on."""
    modules, found = dict(graph.named_modules()), set()
    for node in graph.graph.nodes:
        if node.op == "call_function" and str(node.target) in _OPERATORS:
            weight, stack = node.args[1], list((node.meta.get("nn_module_stack") or {}).values())
            if weight.op == "call_module" and hasattr(modules[weight.target], "enable_fake_quant") and stack:
                found.add(str(stack[-1][0]))
    return found


def _cleaned(graph: fx.GraphModule) -> fx.GraphModule:
    """Without checks of input shapes, and without the float weights that int8 ones have replaced."""
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and not node.users:
            graph.graph.erase_node(node)
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    root = nn.Module()
    for name, tensor in {**dict(graph.named_parameters()), **dict(graph.named_buffers())}.items():
        if name in used:
            place(root, name, tensor.detach())
    return fx.GraphModule(root, graph.graph)


@contextmanager
def _two_dimensional() -> Iterator[None]:
    """Torchao looks for BatchNorm behind four kinds of convolutions, for seconds each; one kind has int8 kernels."""
    from torchao.quantization.pt2e import qat_utils

    helpers = {name: getattr(qat_utils, name) for name in ("_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper")}
    for name, helper in helpers.items():
        setattr(qat_utils, name, _for_one_kind(helper))
    try:
        yield
    finally:
        for name, helper in helpers.items():
            setattr(qat_utils, name, helper)


def _for_one_kind(helper: Callable[..., Any]) -> Callable[..., Any]:
    def helped(graph: fx.GraphModule, function: Any, *arguments: Any, **keywords: Any) -> Any:
        return helper(graph, function, *arguments, **keywords) if function is functional.conv2d else graph

    return helped
