"""torch.export graphs of finished models, with a dynamic batch size where the model allows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from autocompress.compression.model_state import device_of, eval_mode, map_tensors, suppress_output, to_device
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.errors import CompressionError, first_line


def export_graph(model: nn.Module, example_inputs: tuple[Any, ...]) -> ExportedProgram:
    """The torch.export graph of a model in eval mode, for any batch size where the model allows it.

    Raises:
        CompressionError: torch.export cannot trace the model.
    """
    inputs = to_device(example_inputs, device_of(model))
    graph = model.graph if isinstance(model, Int8Model) else model
    with eval_mode(model), torch.no_grad(), suppress_output("torch.export"):
        try:
            program = _export_dynamic(graph, inputs)
            return torch.export.export(graph, inputs, strict=False) if program is None else program
        except Exception as error:
            raise CompressionError(f"torch.export must be able to trace the model; {first_line(error)}") from error


def _export_dynamic(graph: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram | None:
    """The graph with a dynamic batch size; None if the computation depends on the batch size."""
    pairs = without_batch_of_one(inputs)
    try:
        program = torch.export.export(graph, pairs, dynamic_shapes=dynamic_batch_shapes(pairs), strict=False)
    except Exception:  # noqa: BLE001 - the export with a fixed batch size reports the error
        return None
    return program if any(dynamic_batches(program)) else None


def without_batch_of_one(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs with every batch of one repeated: torch.export would specialize a size of 1."""
    doubled: tuple[Any, ...] = map_tensors(
        inputs, lambda item: torch.cat([item, item]) if item.shape[:1] == (1,) else item
    )
    return doubled


def triple_batch(inputs: tuple[Any, ...], free: list[bool]) -> tuple[Any, ...]:
    """The inputs repeated three times along dimension 0 where `dynamic_batches` says that it is dynamic."""
    leaves, spec = pytree.tree_flatten(inputs)
    larger = [torch.cat([item] * 3) if each else item for item, each in zip(leaves, free, strict=True)]
    return tuple(pytree.tree_unflatten(larger, spec))


def dynamic_batch_shapes(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The `dynamic_shapes` argument of torch.export: dimension 0 of every tensor is `Dim.AUTO`."""
    return tuple(
        pytree.tree_map(
            lambda value: {0: torch.export.Dim.AUTO} if isinstance(value, torch.Tensor) and value.dim() else None, item
        )
        for item in inputs
    )


def dynamic_batches(program: ExportedProgram) -> list[bool]:
    """For each input in order, whether dimension 0 is dynamic."""
    return [_symbol(node) is not None for node in user_inputs(program)]


def user_inputs(program: ExportedProgram) -> Iterator[torch.fx.Node]:
    """The placeholders that are inputs, not parameters or buffers."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            yield node


def batch_symbol(program: ExportedProgram) -> str | None:
    """The symbol of the dynamic batch size, such as s77; None if there is none or more than one."""
    symbols = {symbol for node in user_inputs(program) if (symbol := _symbol(node)) is not None}
    return symbols.pop() if len(symbols) == 1 else None


def _symbol(node: torch.fx.Node) -> str | None:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.dim() or not isinstance(value.shape[0], torch.SymInt):
        return None
    size = value.shape[0].node
    return str(size.expr) if size.maybe_as_int() is None else None  # a SymInt may be a constant
