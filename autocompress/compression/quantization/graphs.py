"""JSON form of an operator graph, and its grammar.

Nodes are numbered; operators are in a closed list, keywords in their schemas; containers are tuples, lists and
dictionaries. torch.fx generates source text from a graph: only argument names and tensor names of a checkpoint get into
it, and both are checked.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from autocompress.compression.quantization.operators import (
    MEANS,
    accepts,
    is_random,
    named_operator,
    operator_name,
    unknown_operators,
    without_uninitialized,
)
from autocompress.compression.state_values import DTYPES, dtype_name
from autocompress.errors import StoreError, short
from autocompress.plain_json import (
    MOST_ITEMS,
    SHAPE,
    WHOLE,
    Rule,
    identifier,
    integer,
    listing,
    mapping,
    record,
    refuse,
    text,
    word,
)

_DEEPEST = 8
_LEAF = object()
_CONTAINERS: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "list": list, "dict": dict, "ordered_dict": OrderedDict}
_KEY = text(r"[A-Za-z0-9_.\- ]+", "a key of letters, digits, spaces, points, lines and hyphens")
_TEXT = text(r"[A-Za-z0-9_.,> \-]*", "a string of letters, digits, points, commas and hyphens")
_FX_NAMES = ("self", "torch", "fx_pytree", "pytree")
"""What the source text that torch.fx makes of a graph refers to."""
_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_MEMORY_FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
_TORCH: dict[str, Any] = {
    **{f"dtype:{name}": dtype for name, dtype in DTYPES.items()},
    **{f"memory_format:{name}": getattr(torch, name) for name in _MEMORY_FORMATS},
    "layout:strided": torch.strided,
    **{f"device:{name}": torch.device(name) for name in ("cpu", "cuda", "mps", "xpu")},
}
"""Constants of torch that are arguments of operators."""


_DOTTED = "a dotted name of ASCII letters, digits, underscores and hyphens"


def tensor_name(value: Any, where: str) -> str:
    """A dotted name that torch.fx can resolve below a module and that is no attribute of torch's modules."""
    name = text(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*", _DOTTED, 1024)(value, where)
    if name == "self":
        raise refuse(where, "another name than that of the model in source text", name)
    for place, part in enumerate(name.split(".")):
        if part in _reserved(place > 0):
            raise refuse(where, "a dotted name without attributes of torch's modules", name)
        if part.isidentifier():
            identifier(part, where)
    return str(name)


def argument_name(value: Any, where: str) -> str:
    """A name of one of the model's arguments that does not collide with names in torch.fx's source text."""
    name = identifier(value, where)
    if name in _FX_NAMES:
        raise refuse(where, "a name that torch.fx does not use itself", name)
    return name


@cache
def _reserved(below: bool) -> frozenset[str]:
    module = torch.nn.Module()
    return frozenset(dir(module if below else fx.GraphModule(module, fx.Graph())))


def _spec(value: Any, where: str, depth: int = 0) -> Any:
    if value is None:
        return None
    if type(value) is not dict or len(value) != 1 or depth > _DEEPEST:
        raise refuse(where, "null or an object of one key, not nested deeply", value)
    ((kind, children),) = value.items()
    if kind in ("tuple", "list"):
        rule = listing(lambda each, place: _spec(each, place, depth + 1))
    elif kind in ("dict", "ordered_dict"):
        rule = mapping(_KEY, lambda each, place: _spec(each, place, depth + 1))
    else:
        raise refuse(where, f"one of {', '.join(_CONTAINERS)}", kind)
    return {kind: rule(children, f"{where}.{kind}")}


def _argument(value: Any, where: str, depth: int = 0) -> Any:
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        return WHOLE(value, where)
    if type(value) is str:
        return _TEXT(value, where)
    if depth > _DEEPEST:
        raise refuse(where, "nested less deeply", value)
    if type(value) is list:
        return listing(lambda each, place: _argument(each, place, depth + 1))(value, where)
    if type(value) is not dict or len(value) != 1:
        raise refuse(where, "a plain value", value)
    return record(**{name: rule for name, rule in _REFERENCES.items() if name in value} or _REFERENCES)(value, where)


_REFERENCES: dict[str, Rule] = {
    "node": integer(0, MOST_ITEMS),
    "torch": word(*_TORCH),
    "float": word(*_SPECIAL),
}


def _node(value: Any, where: str) -> Any:
    kind = value.get("op") if type(value) is dict else None
    if type(kind) is not str or kind not in _NODES:
        raise refuse(f"{where}.op", f"one of {', '.join(_NODES)}", kind)
    return _NODES[kind](value, where)


_ARGUMENTS = listing(_argument)
_NODES: dict[str, Rule] = {
    "placeholder": record(op=word("placeholder")),
    "get_attr": record(op=word("get_attr"), target=tensor_name),
    "call_function": record(
        op=word("call_function"),
        target=text(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,2}", "the name of an operator"),
        args=_ARGUMENTS,
        kwargs=mapping(identifier, _argument),
    ),
    "output": record(op=word("output"), args=_ARGUMENTS),
}
GRAPH = record(
    nodes=listing(_node),
    tensors=mapping(tensor_name, record(shape=SHAPE, dtype=word(*DTYPES))),
    arguments=listing(argument_name, 1000),
    in_spec=_spec,
    out_spec=_spec,
)
"""A graph, the kinds of its tensors, the names of its arguments, the containers that go in and come out."""


def graph_to_dict(graph: fx.Graph, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A graph as JSON.

    Raises:
        StoreError: it has an operator, an argument or a container that the grammar does not allow.
    """
    codegen: Any = graph._codegen
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    described = {
        "nodes": [_node_to_dict(node, numbers) for node in graph.nodes],
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype)} for name, tensor in tensors.items()
        },
        "arguments": list(codegen.pytree_info.orig_args),
        "in_spec": _spec_to_dict(codegen.pytree_info.in_spec),
        "out_spec": _spec_to_dict(codegen.pytree_info.out_spec),
    }
    checked: dict[str, Any] = GRAPH(described, "graph")
    return checked


def graph_from_dict(described: Mapping[str, Any]) -> fx.Graph:
    """The graph of a description that `GRAPH` has checked.

    Raises:
        StoreError: a node, an operator or a keyword does not exist, or the parts do not fit each other.
    """
    graph, made = fx.Graph(), list[fx.Node]()
    for number, node in enumerate(described["nodes"]):
        made.append(_node_from_dict(graph, node, made, described["tensors"], f"nodes[{number}]"))
    placeholders = [node for node in made if node.op == "placeholder"]
    inside, outside = (_spec_from_dict(described[name]) for name in ("in_spec", "out_spec"))
    _require_arguments(inside, described["arguments"], len(placeholders))
    last = made[-1] if made else None
    results = last.args[0] if last is not None and last.op == "output" and len(last.args) == 1 else None
    if not isinstance(results, list | tuple) or len(results) != pytree.tree_structure(outside).num_leaves:
        raise StoreError("nodes: the last must be the output, with as many results as out_spec has")
    if sum(node.op == "output" for node in made) != 1 or {n.target for n in made if n.op == "get_attr"} != set(
        described["tensors"]
    ):
        raise StoreError("nodes: there must be one output, and every tensor must be used")
    specs = (pytree.tree_structure(each) for each in (inside, outside))
    graph.set_codegen(fx.graph._PyTreeCodeGen(fx.graph._PyTreeInfo(list(described["arguments"]), *specs)))
    return graph


def why_unstorable(graph: fx.Graph) -> str | None:
    """Why a training graph cannot become an int8 model that can be stored; None if it can."""
    unknown = unknown_operators(graph)
    if unknown:
        return f"it has {', '.join(unknown[:3])}, which are not in the list of operators that checkpoints may have"
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    try:
        for node in graph.nodes:
            if node.op == "get_attr":
                tensor_name(node.target, "the name of a tensor")
            elif node.op == "call_function":
                _require_plain(node, numbers)
        codegen: Any = graph._codegen
        for spec in (codegen.pytree_info.in_spec, codegen.pytree_info.out_spec):
            _spec(_spec_to_dict(spec), "its inputs and outputs")
        for name in codegen.pytree_info.orig_args:
            argument_name(name, "an argument of the model")
    except StoreError as error:
        return str(error)
    return None


def _require_plain(node: fx.Node, numbers: Mapping[fx.Node, int]) -> None:
    given = [_argument_to_json(value, numbers) for value in (*node.args, *node.kwargs.values())]
    _ARGUMENTS(given, f"arguments of {node.target}")
    if not accepts(node.target, node.args, node.kwargs) and str(node.target) not in MEANS:
        raise StoreError(f"arguments of {node.target} must be of the kinds in its schema; they are {short(given)}")


def _require_arguments(inside: Any, names: list[str], placeholders: int) -> None:
    """Check positional arguments and keywords, whose names become source text."""
    both = type(inside) is tuple and [type(each) for each in inside] == [tuple, dict]
    if not both or [*names[len(inside[0]) :]] != [*inside[1]] or len(names) != len(inside[0]) + len(inside[1]):
        raise StoreError("in_spec must be a tuple of the arguments and a dict of the keywords, as arguments names them")
    if len(set(names)) != len(names) or pytree.tree_structure(inside).num_leaves != placeholders:
        raise StoreError("arguments must be different, and there must be a placeholder for each of their parts")


def _node_to_dict(node: fx.Node, numbers: Mapping[fx.Node, int]) -> dict[str, Any]:
    if node.op == "placeholder":
        return {"op": node.op}
    if node.op == "get_attr":
        return {"op": node.op, "target": node.target}
    arguments = [_argument_to_json(value, numbers) for value in node.args]
    if node.op == "output":
        return {"op": node.op, "args": arguments}
    target, given = without_uninitialized(node.target, node.kwargs)
    name = operator_name(target)
    plain = accepts(target, node.args, given) and not is_random(target, node.args, given)
    if node.op != "call_function" or name is None or not plain:
        raise StoreError(
            "an int8 graph must consist of operators in the list of PyTorch's that checkpoints may have, in eval "
            f"mode; it has {node.target!r}"
        )
    keywords = {key: _argument_to_json(value, numbers) for key, value in given.items()}
    return {"op": node.op, "target": name, "args": arguments, "kwargs": keywords}


def _node_from_dict(
    graph: fx.Graph, node: Mapping[str, Any], made: list[fx.Node], tensors: Mapping[str, Any], where: str
) -> fx.Node:
    if node["op"] == "placeholder":
        return graph.placeholder(f"input_{len(made)}")
    if node["op"] == "get_attr":
        if node["target"] not in tensors:
            raise refuse(f"{where}.target", "one of the tensors", node["target"])
        return graph.create_node("get_attr", node["target"], name=f"tensor_{len(made)}")
    arguments = tuple(_argument_from_json(value, made, where) for value in node["args"])
    if node["op"] == "output":
        return graph.create_node("output", "output", arguments, name="output")
    target = named_operator(node["target"])
    if target is None:
        raise refuse(f"{where}.target", "an operator that checkpoints may have", node["target"])
    keywords = {key: _argument_from_json(value, made, where) for key, value in node["kwargs"].items()}
    if not accepts(target, arguments, keywords) or is_random(target, arguments, keywords):
        raise StoreError(f"{where}: {node['target']} must have arguments that it takes, in eval mode")
    return graph.create_node("call_function", target, arguments, keywords, name=f"value_{len(made)}")


def _argument_to_json(value: Any, numbers: Mapping[fx.Node, int]) -> Any:
    """An argument as JSON; nodes, torch constants and nonfinite numbers as objects with one key."""
    if isinstance(value, fx.Node):
        return {"node": numbers[value]}
    if isinstance(value, list | tuple):
        return [_argument_to_json(item, numbers) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    found = torch.device(value.type) if isinstance(value, torch.device) else value
    for name, constant in _TORCH.items():
        if type(found) is type(constant) and found == constant:
            return {"torch": name}
    raise StoreError(f"an int8 graph must have plain arguments; it has {value!r}")


def _argument_from_json(value: Any, made: list[fx.Node], where: str) -> Any:
    if type(value) is list:
        return [_argument_from_json(item, made, where) for item in value]
    if type(value) is not dict:
        return value
    ((kind, content),) = value.items()
    if kind != "node":
        return _TORCH[content] if kind == "torch" else _SPECIAL[content]
    if content >= len(made):
        raise refuse(where, "after the nodes that it takes", content)
    return made[content]


def _spec_to_dict(spec: Any) -> Any:
    return _containers(pytree.tree_unflatten([_LEAF] * spec.num_leaves, spec))


def _containers(value: Any) -> Any:
    if value is _LEAF:
        return None
    for name, kind in _CONTAINERS.items():
        if type(value) is kind and name.endswith("dict"):
            return {name: {key: _containers(each) for key, each in value.items()}}
        if type(value) is kind:
            return {name: [_containers(each) for each in value]}
    raise StoreError(
        "what an int8 model takes and gives must be tensors in tuples, lists and dictionaries; it has a "
        f"{type(value).__qualname__}"
    )


def _spec_from_dict(value: Any) -> Any:
    """The containers, with a leaf for each tensor."""
    if value is None:
        return _LEAF
    ((name, children),) = value.items()
    if name.endswith("dict"):
        return _CONTAINERS[name]({key: _spec_from_dict(each) for key, each in children.items()})
    return _CONTAINERS[name]([_spec_from_dict(each) for each in children])
