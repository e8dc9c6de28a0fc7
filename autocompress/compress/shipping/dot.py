"""The graph of a model's layers as text for Graphviz."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx, nn

from autocompress.compress.quantizing.int8 import Int8Model
from autocompress.compress.shipping.tracing import batch_symbol, traced, user_inputs


def dot(model: nn.Module, example_inputs: tuple[Any, ...]) -> str:
    """One box for each layer with its type, number of parameters and output's shape; one for each other operator.

    Args:
        model: not changed.
        example_inputs: positional arguments of one forward pass; the size of a batch is written as n.

    Raises:
        CompressionError: torch.export cannot follow the model.
    """
    program = traced(model, example_inputs)
    inputs, symbol = set(user_inputs(program)), batch_symbol(program)
    layers = {} if isinstance(model, Int8Model) else _layers(model)
    boxes: dict[str, str] = {}
    home: dict[fx.Node, str] = {}
    edges: dict[tuple[str, str], None] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node not in inputs:
            continue  # a parameter or a buffer: part of its layer
        name = _home(node, layers)
        home[node] = name
        boxes[name] = _label(node, name, layers, symbol)
        for source in node.all_input_nodes:
            if source in home and home[source] != name:
                edges[home[source], name] = None
    lines = [f"  {_quoted(name)} [label={_quoted(label)}];" for name, label in boxes.items()]
    lines += [f"  {_quoted(source)} -> {_quoted(target)};" for source, target in edges]
    body = "\n".join(lines)
    return f'digraph "{type(model).__name__}" {{\n  node [shape=box, fontname="Helvetica"];\n{body}\n}}\n'


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules without modules in them that have parameters or a type of PyTorch's, and its attention layers."""
    return {name: module for name, module in model.named_modules() if name and _is_layer(module)}


def _is_layer(module: nn.Module) -> bool:
    own = next(module.parameters(recurse=False), None) is not None
    of_pytorch = type(module).__module__.startswith("torch.nn")
    return (own or of_pytorch) if not any(module.children()) else (own and of_pytorch)


def _home(node: fx.Node, layers: dict[str, nn.Module]) -> str:
    """The layer that a node belongs to, or its own name; a layer that is called twice has a box for each call."""
    stack = list((node.meta.get("nn_module_stack") or {}).items())
    if not stack:
        return node.name
    key, (path, _) = stack[-1]
    call = key.rpartition("@")[2] if "@" in key else ""
    return f"{path}@{call}" if path in layers and call else path if path in layers else node.name


def _label(node: fx.Node, name: str, layers: dict[str, nn.Module], symbol: str | None) -> str:
    shape = _shape(node, symbol)
    layer = layers.get(name.partition("@")[0])
    if layer is None:
        kind = str(node.target).removeprefix("aten.").partition(".")[0] if node.op == "call_function" else node.op
        return f"{kind}{shape}" if node.op != "placeholder" else f"{node.name}{shape}"
    count = sum(parameter.numel() for parameter in layer.parameters())
    parameters = f"\\n{count:,} parameters" if count else ""
    return f"{name.partition('@')[0]}\\n{type(layer).__name__}{parameters}{shape}"


def _shape(node: fx.Node, symbol: str | None) -> str:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.dim():
        return ""
    sizes = " x ".join(str(size) for size in value.shape)
    return "\\n" + (sizes if symbol is None else re.sub(rf"\b{symbol}\b", "n", sizes))


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'
