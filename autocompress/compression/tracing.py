"""torch.export graphs of finished models, with a dynamic batch size where the model allows it."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from autocompress.compression.model_state import (
    device_of,
    eval_mode,
    map_items,
    map_tensors,
    positional_parameters,
    suppress_output,
    takes_any_number,
    temporary_hooks,
    to_device,
)
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.errors import CompressionError, first_line


def export_graph(model: nn.Module, example_inputs: tuple[Any, ...], *, any_batch: bool = True) -> ExportedProgram:
    """The torch.export graph of a model in eval mode, for any batch size where the model allows it.

    Args:
        model: not changed.
        example_inputs: positional arguments of one forward pass.
        any_batch: False: for batches of the examples' size only.

    Raises:
        CompressionError: torch.export cannot trace the model.
    """
    inputs = register_dataclasses(to_device(example_inputs, device_of(model)))
    graph = model.graph if isinstance(model, Int8Model) else model
    with eval_mode(model), torch.no_grad(), suppress_output("torch.export"), giving_plain_outputs(graph):
        try:
            program = _export_dynamic(graph, inputs) if any_batch else None
            return torch.export.export(graph, inputs, strict=False) if program is None else program
        except Exception as error:
            raise CompressionError(f"torch.export must be able to trace the model; {first_line(error)}") from error


def register_dataclasses(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs, after telling torch.export which of them are dataclasses."""

    def register(value: Any) -> Any:
        if _is_record(value) and type(value) not in pytree.SUPPORTED_NODES:
            name = f"{type(value).__module__}.{type(value).__qualname__}"
            torch.export.register_dataclass(type(value), serialized_type_name=name)
        return map_items(value, register)

    register(inputs)
    return inputs


def has_dataclasses(value: Any) -> bool:
    """Whether a value is a dataclass, or has one in its sequences and mappings."""
    if isinstance(value, Mapping) and not _is_record(value):
        return any(map(has_dataclasses, value.values()))
    return any(map(has_dataclasses, value)) if isinstance(value, list | tuple) else _is_record(value)


def giving_plain_outputs(model: nn.Module) -> AbstractContextManager[None]:
    """Let a model give only tensors, in dictionaries, lists and tuples, inside the block: formats know nothing else.

    Attributes of dataclasses and named tuples, such as the outputs of Hugging Face's models, become keys.
    """
    return temporary_hooks([model.register_forward_hook(lambda _, __, outputs: plain_outputs(outputs))])


def plain_outputs(outputs: Any) -> Any:
    """The tensors of a model's outputs in dictionaries, lists and tuples; None where there are none."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    if type(outputs) in (list, tuple):
        found = (plain_outputs(each) for each in outputs)
        return type(outputs)(each for each in found if each is not None) or None
    if not isinstance(outputs, Mapping):
        names = getattr(outputs, "_fields", None) or [each.name for each in _fields(outputs)]
        outputs = {name: getattr(outputs, name) for name in names}
    plain = {name: plain_outputs(each) for name, each in outputs.items()}
    return {name: each for name, each in plain.items() if each is not None} or None


def are_named(outputs: Any) -> bool:
    """Whether outputs are of a class that a dictionary can stand for, as Hugging Face's are."""
    plain = type(outputs) in (dict, OrderedDict)
    return not plain and (isinstance(outputs, Mapping) or dataclasses.is_dataclass(outputs))


def _fields(value: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()


def _export_dynamic(graph: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram | None:
    """The graph with a dynamic batch size; None if the computation depends on the batch size."""
    pairs = without_batch_of_one(inputs)
    try:
        program = torch.export.export(graph, pairs, dynamic_shapes=dynamic_batch_shapes(graph, pairs), strict=False)
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


def dynamic_batch_shapes(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The `dynamic_shapes` argument of torch.export: dimension 0 of every tensor is `Dim.AUTO`."""
    shapes = tuple(pytree.tree_map(_dynamic_batch, item, is_leaf=_is_record) for item in inputs)
    if not takes_any_number(model):
        return shapes
    named = len(positional_parameters(model))
    return (*shapes[:named], shapes[named:])  # those of `*inputs` are one argument


def _dynamic_batch(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {0: torch.export.Dim.AUTO} if value.dim() else None
    if not _is_record(value):
        return None
    items = value.values() if isinstance(value, Mapping) else (getattr(value, each.name) for each in _fields(value))
    return [pytree.tree_map(_dynamic_batch, item, is_leaf=_is_record) for item in items]  # as torch.export wants it


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


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
