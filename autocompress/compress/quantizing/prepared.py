"""A model's training graph with torchao's fake quantizers in it, checked to be the model's, and back to int8."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import fx, nn

from autocompress.compress.quantizing.fusions import constants_of, fast_fusion, move_constants, restore_constants
from autocompress.compress.quantizing.graphs import tensor_name, unstorable
from autocompress.compress.quantizing.int8 import TORCHAO_LOGGERS, Int8Model, place
from autocompress.compress.quantizing.qat_model import QatModel
from autocompress.compress.quiet import quiet
from autocompress.compress.shipping.agreement import differences
from autocompress.compress.shipping.tracing import any_batch, batch_of_two
from autocompress.compress.state import device_of, moved, outputs
from autocompress.errors import CompressionError, StoreError, first_line

_SAME = 1e-3
"""How much of the largest output the graph's may differ by where nothing is rounded."""


def prepared(
    model: nn.Module, example_inputs: tuple[Any, ...], left_out: Collection[str], start_step: int = 0
) -> QatModel:
    """Export the model and put fake quantizers around its convolutions and linear layers.

    Args:
        model: its tensors are those of the graph.
        example_inputs: positional arguments of one forward pass.
        left_out: names of layers that are not quantized.
        start_step: see `QatModel`.

    Raises:
        CompressionError: torch.export or torchao cannot follow the model, or found something else than its eval mode.
    """
    inputs = batch_of_two(example_inputs)
    wanted = outputs(model, inputs)
    constants = constants_of(model)
    try:
        graph = _exported(model, inputs)
    except CompressionError as error:
        _require_names(model, error)
        raise
    reason = unstorable(graph.graph)
    if reason is not None:
        raise CompressionError(f"qat makes a model that can be stored and loaded without its code; {reason}")
    try:
        with quiet(*TORCHAO_LOGGERS):
            found = _with_quantizers(graph, left_out)
            restore_constants(found, constants)
            ready = QatModel(found, start_step)
    except Exception as error:
        raise CompressionError(f"torchao cannot prepare the model for qat: {first_line(error)}") from error
    _require_same(ready, inputs, wanted)
    return ready


def converted(model: QatModel) -> Int8Model:
    """The int8 model; the one that was trained is used up.

    Raises:
        CompressionError: torchao cannot convert it.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    graph = model.eval().graph
    try:
        with quiet(*TORCHAO_LOGGERS), fast_fusion():
            move_constants(graph)
            return Int8Model(_cleaned(convert_pt2e(graph)))
    except Exception as error:
        raise CompressionError(f"torchao cannot convert the trained model to int8: {first_line(error)}") from error


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


def _exported(model: nn.Module, example_inputs: tuple[Any, ...]) -> Any:
    """The model's training graph, for batches of any size."""
    inputs = moved(example_inputs, device_of(model))
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


def _require_names(model: nn.Module, cause: CompressionError) -> None:
    """Names that no source text can have are why torch.export fails, which tells of its source text only."""
    for name, _ in (*model.named_parameters(), *model.named_buffers()):
        try:
            tensor_name(name, "the name of a tensor")
        except StoreError as error:
            raise CompressionError(
                f"qat makes source text of names; {error} (in {name!r}): rename it, or use naive or dorefa"
            ) from cause


def _require_same(model: QatModel, inputs: tuple[Any, ...], wanted: list[torch.Tensor]) -> None:
    """One graph is trained and evaluated; what a model's code does in one mode only is lost or stays."""
    try:
        found = model.unrounded(lambda graph: outputs(graph, inputs))
    except Exception as error:
        raise CompressionError(f"torchao's graph of the model must run; {first_line(error)}") from error
    for tensor, difference in zip(wanted, differences(wanted, found), strict=True):
        allowed = _SAME * max(_SAME, float(tensor.detach().double().abs().max()) if tensor.numel() else 0.0)
        if not difference <= allowed:
            raise CompressionError(
                "qat trains and evaluates one graph, exported in training mode; in eval mode it must compute what the "
                f"model does, but an output differs by {difference:.2g} (its code may ask for self.training); naive "
                "and dorefa do without a graph"
            )


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
