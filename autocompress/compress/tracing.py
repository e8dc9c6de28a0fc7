"""A finished model as a graph of operators, for batches of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from autocompress.compress.int8 import Int8Model
from autocompress.compress.quiet import quiet
from autocompress.compress.state import device_of, evaluating, moved
from autocompress.errors import CompressionError


def traced(model: nn.Module, example_inputs: tuple[Any, ...]) -> ExportedProgram:
    """The graph of a model in eval mode, as torch.export finds it.

    Args:
        model: not changed.
        example_inputs: positional arguments of one forward pass.

    Raises:
        CompressionError: torch.export cannot follow the model.
    """
    inputs = moved(batch_of_two(example_inputs), device_of(model))
    graph = model.graph if isinstance(model, Int8Model) else model
    with evaluating(model), torch.no_grad(), quiet("torch.export"):
        try:
            return torch.export.export(graph, inputs, dynamic_shapes=any_batch(inputs), strict=False)
        except Exception as error:
            raise CompressionError(f"torch.export must be able to follow the model; {first_line(error)}") from error


def batch_of_two(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with every batch of one doubled, which would be taken for a constant."""
    return tuple(_doubled(item) for item in inputs)


def any_batch(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What tells torch.export that dimension 0 of every tensor may be of any size, where the model lets it."""
    return tuple({0: torch.export.Dim.AUTO} if _batched(item) else None for item in inputs)


def takes_any_batch(program: ExportedProgram) -> bool:
    """Whether dimension 0 of some input may be of any size."""
    shapes = [node.meta["val"].shape for node in program.graph.nodes if _is_input(node, program)]
    return any(len(shape) > 0 and isinstance(shape[0], torch.SymInt) for shape in shapes)


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _is_input(node: torch.fx.Node, program: ExportedProgram) -> bool:
    return node.name in program.graph_signature.user_inputs and isinstance(node.meta.get("val"), torch.Tensor)


def _batched(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0


def _doubled(value: Any) -> Any:
    return torch.cat([value, value]) if _batched(value) and value.shape[0] == 1 else value
