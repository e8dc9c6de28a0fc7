"""A finished int8 model: a graph of PyTorch's own operators over int8 weights, and that graph as JSON.

The graph is written down node by node, so that a checkpoint needs neither pickled code nor another quantization to be
loaded. Only operators of PyTorch are read back.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from autocompress.compress.quiet import quiet
from autocompress.errors import StoreError

TORCHAO_LOGGERS = ("torchao", "torch.utils._pytree")
"""They tell of libraries that are not for this machine, and of torchao's own deprecations."""

_NAMESPACES = ("aten", "quantized_decomposed")
_BUILTINS = {
    name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg")
}
_TYPES = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}
_QPARAMS = ("_scale_", "_zero_point_")


class Int8Model(nn.Module):
    """Computes with int8 weights, and rounds activations to 8 bits where int8 kernels would.

    It has no training mode.

    Args:
        graph: of operators, with its tensors.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        self.requires_grad_(False)
        self.train(False)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """As the uncompressed model's."""
        return self.graph(*arguments, **keywords)

    def train(self, mode: bool = True) -> Int8Model:  # noqa: ARG002
        """Does nothing."""
        return super().train(False)

    def weights(self) -> Iterator[torch.Tensor]:
        """The tensors that stand for parameters: int8 weights, and biases and others in floating point."""
        for name, tensor in self.graph.state_dict().items():
            if not name.startswith(_QPARAMS):
                yield tensor

    def to_dict(self) -> dict[str, Any]:
        """The graph and the kinds of its tensors as JSON; the values are in the state dict.

        Raises:
            StoreError: the graph has an operator that is not PyTorch's.
        """
        tensors = self.graph.state_dict()
        codegen: Any = self.graph.graph._codegen
        info = codegen.pytree_info
        return {
            "nodes": [_node_to_dict(node) for node in self.graph.graph.nodes],
            "tensors": {name: _described(tensor) for name, tensor in tensors.items()},
            "arguments": list(info.orig_args),
            "in_spec": pytree.treespec_dumps(info.in_spec),
            "out_spec": pytree.treespec_dumps(info.out_spec),
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Int8Model:
        """The model that `to_dict` described, its tensors not yet filled.

        Raises:
            StoreError: the description is damaged, or names an operator that this version of torch does not have.
        """
        with quiet(*TORCHAO_LOGGERS):
            import torchao.quantization.pt2e  # noqa: F401 - registers the operators that quantize

        try:
            root = nn.Module()
            for name, kind in description["tensors"].items():
                place(root, name, torch.empty(kind["shape"], dtype=_torch(f"dtype:{kind['dtype']}")))
            graph, known = fx.Graph(), dict[str, fx.Node]()
            for node in description["nodes"]:
                known[node["name"]] = _node_from_dict(graph, node, known)
            info = fx.graph._PyTreeInfo(
                orig_args=list(description["arguments"]),
                in_spec=pytree.treespec_loads(description["in_spec"]),
                out_spec=pytree.treespec_loads(description["out_spec"]),
            )
            graph.set_codegen(fx.graph._PyTreeCodeGen(info))
            return cls(fx.GraphModule(root, graph))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError) as error:
            raise StoreError(f"the checkpoint's int8 graph cannot be built: {error}") from error


def _node_to_dict(node: fx.Node) -> dict[str, Any]:
    target = node.target if isinstance(node.target, str) else _operator_name(node.target)
    return {
        "name": node.name,
        "op": node.op,
        "target": target,
        "args": _plain(node.args),
        "kwargs": {name: _plain(value) for name, value in node.kwargs.items()},
    }


def _node_from_dict(graph: fx.Graph, node: Mapping[str, Any], known: Mapping[str, fx.Node]) -> fx.Node:
    if node["op"] not in ("placeholder", "get_attr", "call_function", "output"):
        raise ValueError(f"unknown kind of node {node['op']!r}")
    target = _operator(node["target"]) if node["op"] == "call_function" else node["target"]
    args = _restored(node["args"], known)
    kwargs = {name: _restored(value, known) for name, value in node["kwargs"].items()}
    return graph.create_node(node["op"], target, tuple(args), kwargs, name=node["name"])


def _operator_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload) and target.namespace in _NAMESPACES:
        return str(target)
    for name, function in _BUILTINS.items():
        if target is function:
            return name
    raise StoreError(f"an int8 graph must consist of PyTorch's operators; it has {target!r}")


def _operator(name: str) -> Any:
    if name in _BUILTINS:
        return _BUILTINS[name]
    namespace, packet, overload = name.split(".")
    if namespace not in _NAMESPACES:
        raise ValueError(f"unknown operator {name!r}")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload)


def _plain(value: Any) -> Any:
    """An argument as JSON; nodes and types of torch as objects of one key."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.device):
        return {"torch": f"device:{value.type}"}
    for name, kind in _TYPES.items():
        if isinstance(value, kind):
            return {"torch": f"{name}:{str(value).removeprefix('torch.')}"}
    raise StoreError(f"an int8 graph must have plain arguments; it has {value!r}")


def _restored(value: Any, known: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_restored(item, known) for item in value]
    if isinstance(value, dict):
        return known[value["node"]] if "node" in value else _torch(value["torch"])
    return value


def _torch(text: str) -> Any:
    kind, _, name = text.partition(":")
    if kind == "device":
        return torch.device(name)
    found = getattr(torch, name)
    if not isinstance(found, _TYPES[kind]):
        raise ValueError(f"unknown {kind} {name!r}")  # noqa: TRY004 - a damaged file, not a wrong argument
    return found


def _described(tensor: torch.Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def place(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Register a buffer under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.register_buffer(last, tensor)
