"""Preparation and conversion of models for quantization-aware training with torchao.

torchao's fusion of convolutions with BatchNorm gives every BatchNorm PyTorch's default momentum and eps; the model's
own are restored here.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional

from autocompress.compression.model_state import (
    device_of,
    eval_mode,
    flatten_tensors,
    forward_outputs,
    suppress_output,
    to_device,
)
from autocompress.compression.quantization.graphs import tensor_name, why_unstorable
from autocompress.compression.quantization.int8 import TORCHAO_LOGGERS, GraphModel, Int8Model, register_buffer
from autocompress.compression.quantization.operators import set_mode
from autocompress.compression.tracing import (
    are_named,
    dynamic_batch_shapes,
    giving_plain_outputs,
    register_dataclasses,
    without_batch_of_one,
)
from autocompress.compression.verify import differences
from autocompress.errors import CompressionError, StoreError, first_line

_EPS = 1e-5
_BATCH_NORM, _ADD_IN_PLACE, _CONVOLUTION = "aten.batch_norm.default", "aten.add_.Tensor", "aten.conv2d.default"
_MEAN_AT, _VARIANCE_AT, _MOMENTUM_AT, _EPS_AT = 3, 4, 6, 7


def norm_constants(model: nn.Module) -> dict[str, tuple[float | None, float]]:
    """Name of a BatchNorm's running mean -> its momentum (None: a plain mean) and eps."""
    return {
        f"{name}.running_mean": (module.momentum, module.eps)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def restore_constants(graph: fx.GraphModule, constants: Mapping[str, tuple[float | None, float]]) -> None:
    """Restore the constants of each BatchNorm, and its eps in the scale of its convolution's weight."""
    for norm, name in _norms(graph):
        if name in constants:
            momentum, eps = constants[name]
            norm.update_arg(_MOMENTUM_AT, norm.args[_MOMENTUM_AT] if momentum is None else momentum)
            _set_eps(norm, eps)
    graph.recompile()


@torch.no_grad()
def move_constants(graph: fx.GraphModule) -> None:
    """Before conversion, which assumes one eps: add the difference to the variance."""
    moved = dict[str, float]()
    for norm, _ in _norms(graph):
        variance = cast(fx.Node, norm.args[_VARIANCE_AT])
        moved[str(variance.target)] = cast(float, norm.args[_EPS_AT]) - _EPS
        _set_eps(norm, _EPS)
    for name, difference in moved.items():  # once, also if several calls share it
        graph.get_buffer(name).add_(difference)
    graph.recompile()


@contextmanager
def fast_fusion() -> Iterator[None]:
    """Torchao seeks BatchNorm behind four kinds of convolutions, for seconds each; only one kind has int8 kernels."""
    from torchao.quantization.pt2e import qat_utils

    changes = {
        "_fuse_conv_bn_qat_helper": _only_conv2d,
        "_fold_conv_bn_qat_helper": _only_conv2d,
        "_get_aten_graph_module_for_pattern": _cached_export,
    }
    with ExitStack() as stack:
        for name, change in changes.items():
            function = getattr(qat_utils, name)
            stack.callback(setattr, qat_utils, name, function)
            setattr(qat_utils, name, change(function))
        yield


def _norms(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Calls of BatchNorm with running statistics, and the name of their running mean."""
    for node in graph.graph.nodes:
        if str(node.target) == _BATCH_NORM and node.args[_MEAN_AT] is not None:
            yield node, str(node.args[_MEAN_AT].target)


def _set_eps(norm: fx.Node, eps: float) -> None:
    before = norm.args[_EPS_AT]
    norm.update_arg(_EPS_AT, eps)
    for user in list(cast(fx.Node, norm.args[_VARIANCE_AT]).users):
        if str(user.target) == "aten.add.Tensor" and user.args[1] == before:
            user.update_arg(1, eps)


def _only_conv2d(helper: Callable[..., Any]) -> Callable[..., Any]:
    def helped(graph: fx.GraphModule, function: Any, *arguments: Any, **keywords: Any) -> Any:
        return helper(graph, function, *arguments, **keywords) if function is functional.conv2d else graph

    return helped


_patterns: dict[Any, fx.GraphModule] = {}


def _cached_export(export: Callable[..., fx.GraphModule]) -> Callable[..., fx.GraphModule]:
    def exported(pattern: Any, example_inputs: Any, is_cuda: bool = False, **keywords: Any) -> fx.GraphModule:
        function = pattern.fn
        options = tuple(cell.cell_contents for cell in function.__closure__ or ())
        key = (function.__qualname__, options, tuple(each.shape for each in example_inputs), is_cuda, *keywords)
        if key not in _patterns:
            _patterns[key] = export(pattern, example_inputs, is_cuda, **keywords)
        return copy.deepcopy(_patterns[key])

    return exported


def separate_calls(graph: fx.GraphModule) -> None:
    """Make the calls of a module that is called repeatedly look like those of several, which torchao takes for one.

    The counter of a BatchNorm's batches is counted from itself in each call, not from the call before. A call's source,
    where the export leaves it out, is what the export names the call by.
    """
    for node in graph.graph.nodes:
        before = node.args[0] if node.args else None
        if str(node.target) == _ADD_IN_PLACE and isinstance(before, fx.Node) and str(before.target) == _ADD_IN_PLACE:
            node.update_arg(0, before.args[0])
        call, (_, kind) = next(reversed((node.meta.get("nn_module_stack") or {"": ("", "")}).items()))
        place, _, name = str(kind).rpartition(".")
        if "source_fn_stack" not in node.meta and "@" in call and place.startswith("torch.nn.modules."):
            node.meta["source_fn_stack"] = [(call, getattr(nn, name, kind))]
    graph.recompile()


class QatModel(GraphModel):
    """Rounds weights and activations to 8 bits; observers record values in training mode only.

    Args:
        graph: prepared by torchao.
        start_step: forward passes in training mode before rounding starts.
    """

    def __init__(self, graph: fx.GraphModule, start_step: int = 0) -> None:
        super().__init__(graph)
        self.start_step = start_step
        self._steps = 0
        self._mode = not self.training
        self.train(self.training)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Same arguments and result as the exported model's."""
        if self._mode != self.training:  # `training` was set directly
            self.train(self.training)
        if self.training and self._steps <= self.start_step:
            self._call("enable_fake_quant", self._steps == self.start_step)
            self._steps += 1
        return self.run_graph(arguments, keywords)

    def train(self, mode: bool = True) -> QatModel:
        """Set the mode of dropout, normalization and observers."""
        if self._mode != mode:
            set_mode(self.graph, training=mode)
            self._observe(mode)
            self._call("enable_fake_quant", not mode or self._steps > self.start_step)
        self.training = self._mode = mode
        return self

    @torch.no_grad()
    def calibrate(self, inputs: list[tuple[Any, ...]]) -> None:
        """Let the observers record some inputs; nothing else changes. It ends in eval mode.

        Raises:
            CompressionError: the graph does not accept them.
        """
        self.eval()
        self._observe(True)
        try:
            for arguments in inputs:
                # What the example inputs lack, such as labels, is no input of the graph.
                self.run_graph(to_device(arguments[: len(self._names)], device_of(self)), {})
        except Exception as error:
            raise CompressionError(f"the exported graph must accept the module's data; {first_line(error)}") from error
        finally:
            self._observe(False)

    @torch.no_grad()
    def unrounded(self, run: Callable[[nn.Module], Any]) -> Any:
        """The result of a function of the model in eval mode, with rounding and observers off."""
        self.eval()
        self._call("enable_fake_quant", False)
        try:
            return run(self)
        finally:
            self._call("enable_fake_quant", True)

    def _observe(self, on: bool) -> None:
        """Switch the observers; the recorded ranges become the scales that conversion uses."""
        self._call("enable_observer", on)
        if not on:
            for module in self._quantizers():
                _update_scales(module)

    def _call(self, method: str, on: bool) -> None:
        for module in self._quantizers():
            getattr(module, method)(on)

    def _quantizers(self) -> list[Any]:
        return [module for module in self.graph.modules() if hasattr(module, "enable_observer")]


@torch.no_grad()
def _update_scales(quantizer: Any) -> None:
    """While they observe, torchao's kernels and its conversion round the scales of weights differently."""
    lowest = quantizer.activation_post_process.min_val
    if not lowest.numel() or bool(torch.isposinf(lowest).all()):
        return  # no data yet
    try:
        scale, zero_point = quantizer.calculate_qparams()
    except AssertionError as error:  # the range is NaN
        raise CompressionError(f"training must stay finite; it has diverged: {error}") from error
    if quantizer.scale.shape == scale.shape and bool(torch.isfinite(scale).all()):
        quantizer.scale.copy_(scale)
        quantizer.zero_point.copy_(zero_point)


_EVAL_TOLERANCE = 1e-3
"""Tolerance of the graph's outputs without rounding, relative to the largest output."""


def prepare_qat(
    model: nn.Module, example_inputs: tuple[Any, ...], left_out: Collection[str], start_step: int = 0
) -> QatModel:
    """Export the model and insert fake quantizers around its convolutions and linear layers.

    Args:
        model: its tensors are those of the graph.
        example_inputs: positional arguments of one forward pass.
        left_out: names of layers that are not quantized.
        start_step: see `QatModel`.

    Raises:
        CompressionError: torch.export or torchao cannot process the model, or the graph differs from its eval mode.
    """
    inputs = without_batch_of_one(example_inputs)
    with eval_mode(model), torch.no_grad():
        outputs = model(*to_device(inputs, device_of(model)))
    wanted = flatten_tensors(outputs)
    constants = norm_constants(model)
    try:
        with giving_plain_outputs(model) if are_named(outputs) else nullcontext():
            graph = _export_training_graph(model, inputs)
    except CompressionError as error:
        _require_names(model, error)
        raise
    reason = why_unstorable(graph.graph)
    if reason is not None:
        raise CompressionError(f"an int8 graph can be stored and loaded without its code; {reason}: take int8_dynamic")
    separate_calls(graph)
    try:
        with suppress_output(*TORCHAO_LOGGERS):
            found = _with_quantizers(graph, left_out)
            restore_constants(found, constants)
            ready = QatModel(found, start_step)
    except Exception as error:
        raise CompressionError(f"torchao cannot prepare the model; take int8_dynamic: {first_line(error)}") from error
    _require_same(ready, inputs, wanted)
    return ready


def convert_to_int8(model: QatModel) -> Int8Model:
    """The int8 model; the trained one cannot be used afterwards.

    Raises:
        CompressionError: torchao cannot convert it.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    graph = model.eval().graph
    try:
        with suppress_output(*TORCHAO_LOGGERS), fast_fusion():
            move_constants(graph)
            _separate_weights(graph)
            return Int8Model(_without_unused(convert_pt2e(graph)))
    except Exception as error:
        raise CompressionError(f"torchao cannot convert the trained model to int8: {first_line(error)}") from error


def _separate_weights(graph: fx.GraphModule) -> None:
    """Give each call of a convolution its own weight and bias, into which torchao folds the BatchNorm behind it."""
    stacks = (node.meta.get("nn_module_stack") for node in graph.graph.nodes if str(node.target) == _CONVOLUTION)
    calls = Counter(next(reversed(stack.values()))[0] for stack in stacks if stack)
    names = {f"{name}.{key}" for name, count in calls.items() if count > 1 for key in ("weight", "bias")}
    for node in [each for each in graph.graph.nodes if each.op == "get_attr" and each.target in names]:
        for number, user in enumerate(list(node.users)[1:], 1):
            owner, _, last = node.target.rpartition(".")
            own = nn.Parameter(graph.get_parameter(node.target).detach().clone())
            graph.get_submodule(owner).register_parameter(f"{last}_call_{number}", own)
            with graph.graph.inserting_before(user):
                copied = graph.graph.get_attr(f"{node.target}_call_{number}")
            copied.meta = dict(node.meta)
            user.replace_input_with(node, copied)


def _with_quantizers(graph: Any, left_out: Collection[str]) -> fx.GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(is_qat=True))
    for name in left_out:
        quantizer.set_module_name_qconfig(name, None)
    with fast_fusion():
        return cast(fx.GraphModule, prepare_qat_pt2e(graph, quantizer))


def _export_training_graph(model: nn.Module, example_inputs: tuple[Any, ...]) -> Any:
    """The model's training graph, for batches of any size."""
    inputs = register_dataclasses(to_device(example_inputs, device_of(model)))
    dynamic = dynamic_batch_shapes(model, inputs)
    exported = partial(torch.export.export, model.train(), inputs, dynamic_shapes=dynamic)
    try:
        with suppress(Exception):  # the non-strict export below reports its own error
            return exported(strict=True).module()
        return exported(strict=False).module()
    except Exception as error:
        raise CompressionError(
            "an int8 graph needs a model that torch.export can trace; int8_dynamic, naive and dorefa need no graph: "
            f"{first_line(error)}"
        ) from error


def _require_names(model: nn.Module, cause: CompressionError) -> None:
    """Report names that are not valid in source text, as torch.export's own message does not mention them."""
    for name, _ in (*model.named_parameters(), *model.named_buffers()):
        try:
            tensor_name(name, "the name of a tensor")
        except StoreError as error:
            raise CompressionError(
                f"qat makes source text of names; {error} (in {name!r}): rename it, or use naive or dorefa"
            ) from cause


_ONE_GRAPH = (
    "qat trains and evaluates one graph, exported in training mode; in eval mode it must compute what the model does"
)
_NO_GRAPH = "naive and dorefa do without a graph"


def _require_same(model: QatModel, inputs: tuple[Any, ...], wanted: list[torch.Tensor]) -> None:
    """One graph is trained and evaluated; code that runs in one mode only would be lost or stay."""
    try:
        found = model.unrounded(lambda graph: forward_outputs(graph, inputs))
    except Exception as error:
        raise CompressionError(f"torchao's graph of the model must run; {first_line(error)}") from error
    before, after = ([tuple(tensor.shape) for tensor in each] for each in (wanted, found))
    if before != after:
        raise CompressionError(
            f"{_ONE_GRAPH}, but in training mode it has outputs of other shapes, {after} for {before} (as with an "
            f"auxiliary head); {_NO_GRAPH}"
        )
    for tensor, difference in zip(wanted, differences(wanted, found), strict=True):
        largest = float(tensor.detach().double().abs().max()) if tensor.numel() else 0.0
        allowed = _EVAL_TOLERANCE * max(_EVAL_TOLERANCE, largest)
        if not difference <= allowed:
            raise CompressionError(
                f"{_ONE_GRAPH}, but an output differs by {difference:.2g} (its code may depend on self.training); "
                f"{_NO_GRAPH}"
            )


def _without_unused(graph: fx.GraphModule) -> fx.GraphModule:
    """Without checks of input shapes, and without the float weights replaced by int8 ones."""
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and not node.users:
            graph.graph.erase_node(node)
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    root = nn.Module()
    for name, tensor in {**dict(graph.named_parameters()), **dict(graph.named_buffers())}.items():
        if name in used:
            register_buffer(root, name, tensor.detach())
    return fx.GraphModule(root, graph.graph)
