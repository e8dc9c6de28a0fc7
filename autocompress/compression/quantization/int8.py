"""A finished int8 model: a graph of PyTorch's operators over int8 weights, stored as JSON.

A checkpoint needs neither pickled code nor another quantization to be loaded.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx, nn

from autocompress.compression.model_state import positional_arguments, suppress_output
from autocompress.compression.quantization.graphs import GRAPH, graph_from_dict, graph_to_dict
from autocompress.compression.state_values import DTYPES
from autocompress.errors import ModuleError, StoreError
from autocompress.records import LayerSize

TORCHAO_LOGGERS = ("torchao", "torch.utils._pytree")
"""Loggers of messages about missing libraries and deprecations."""

_QPARAMS = ("_scale_", "_zero_point_")
_GRAPH = "graph."
"""What names in the state dict begin with."""


class NamedOutputs(dict[str, Any]):
    """A dictionary whose entries are attributes, and have places, as in the outputs of Hugging Face's models."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"the model's outputs are {', '.join(map(str, self)) or 'none'}; there is no {name!r}")
        return self[name]

    def __missing__(self, key: Any) -> Any:
        if not isinstance(key, int):
            raise KeyError(key)
        return list(self.values())[key]


class GraphModel(nn.Module):
    """Runs an exported graph, which takes all inputs by position, with arguments by name and None for those left out.

    Args:
        graph: of torch.export or made of JSON.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        codegen: Any = graph.graph._codegen
        self._names: list[str] = list(codegen.pytree_info.orig_args)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        # What `inspect.signature` reads
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind, default=None) for name in self._names])

    def run_graph(self, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """The graph's result.

        Raises:
            ModuleError: an argument is none of the graph's.
        """
        others = [name for name in keywords if name not in self._names]
        others += map(str, range(len(self._names), len(arguments)))
        if others:
            raise ModuleError(
                f"a quantized model takes the arguments that example_inputs() has, {', '.join(self._names)}; it was "
                f"given {others[0]!r} too: leave it out, or return it from example_inputs()"
            )
        given = positional_arguments(self, arguments, keywords)
        outputs = self.graph(*given, *[None] * (len(self._names) - len(given)))
        return NamedOutputs(outputs) if type(outputs) is dict else outputs


class Int8Model(GraphModel):
    """Computes with int8 weights, and rounds activations to 8 bits like int8 kernels. It has no training mode."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.requires_grad_(False)
        self.train(False)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Same arguments and result as the uncompressed model's."""
        return self.run_graph(arguments, keywords)

    def train(self, mode: bool = True) -> Int8Model:  # noqa: ARG002
        """Does nothing."""
        return super().train(False)

    def weights(self) -> Iterator[torch.Tensor]:
        """The tensors that correspond to parameters: int8 weights, and floating point biases and others."""
        for name, tensor in self.graph.state_dict().items():
            if not name.startswith(_QPARAMS):
                yield tensor

    def layer_sizes(self, inputs: tuple[Any, ...], original: Sequence[LayerSize]) -> list[LayerSize]:
        """Size of each layer, an operation of the graph with weights.

        Args:
            inputs: of one forward pass.
            original: layers of the uncompressed model: the graph names biases, and weights that are not quantized;
                other layers are found by the order of those of the same kind.
        """
        measured = _Measured(self.graph)
        with torch.no_grad():
            measured.run(*inputs)
        named = {layer.name for layer in measured.layers if layer.name}
        left = {
            kind: [each.name for each in original if kind in each.kind and each.name not in named] for kind in _KINDS
        }
        found = []
        for layer in measured.layers:
            names = left.get(layer.kind) or []
            name = layer.name or (names.pop(0) if names else "")
            if name:
                found.append(dataclasses.replace(layer, name=name))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The graph, and the shapes and types of its tensors, as JSON; the values are in the state dict.

        Raises:
            StoreError: the graph has something that checkpoints do not allow.
        """
        return graph_to_dict(self.graph.graph, self.graph.state_dict())

    @classmethod
    def from_dict(cls, description: Any, tensors: Mapping[str, torch.Tensor]) -> Int8Model:
        """The model that `to_dict` described, with the tensors of a state dict, which are not copied.

        The description is untrusted: it is checked before anything is made.

        Raises:
            StoreError: the description is damaged, does not fit the tensors, or names an unknown operator.
        """
        with suppress_output(*TORCHAO_LOGGERS):
            import torchao.quantization.pt2e  # noqa: F401 - registers the operators that quantize

        try:
            described = GRAPH(description, "graph")
            graph, root = graph_from_dict(described), nn.Module()
            for name, tensor in _fitting(tensors, described["tensors"]).items():
                register_buffer(root, name, tensor)
            return cls(fx.GraphModule(root, graph))
        except Exception as error:  # torch raises various errors
            raise StoreError(f"the checkpoint's int8 graph cannot be built: {error}") from error


_KINDS = ("Conv", "Linear")
_DEQUANTIZE = "dequantize"


class _Measured(fx.Interpreter):
    """Runs a graph and notes the operations that have weights; a layer whose name is not known has none."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.layers: list[LayerSize] = []
        self._tensors = graph.state_dict()

    def run_node(self, node: fx.Node) -> Any:
        """Its value."""
        value = super().run_node(node)
        targets = {} if "quantize" in str(node.target) else self._weights(node)
        if node.op == "call_function" and targets and isinstance(value, torch.Tensor):
            self.layers.append(self._layer(str(node.target), targets, value))
        return value

    def _weights(self, node: fx.Node) -> dict[str, torch.Tensor]:
        """The tensors of the state dict that an operation takes, rounded or not, by name."""
        found = {}
        for given in node.all_input_nodes:
            source = given
            while source.op == "call_function" and _DEQUANTIZE in str(source.target):
                source = source.all_input_nodes[0]
            if source.op == "get_attr" and str(source.target) in self._tensors:
                found[str(source.target)] = self._tensors[str(source.target)]
        return found

    def _layer(self, operation: str, tensors: dict[str, torch.Tensor], value: torch.Tensor) -> LayerSize:
        owners = [name.rpartition(".")[0] for name in tensors]
        weight = max(tensors.values(), key=torch.Tensor.numel)
        kind = next((kind for kind in _KINDS if kind.lower() in operation), "")
        per_output = weight[0].numel() if kind and weight.dim() > 1 else 0
        nonzero = sum(int(torch.count_nonzero(tensor)) for tensor in tensors.values())
        return LayerSize(next(filter(None, owners), ""), kind, nonzero, value.numel() * per_output, None)


def _fitting(tensors: Mapping[str, torch.Tensor], described: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The described tensors, which must be those of the state dict."""
    if {f"{_GRAPH}{name}" for name in described} != tensors.keys():
        raise StoreError("its tensors must be those of the weights")
    found = {name: tensors[f"{_GRAPH}{name}"] for name in described}
    for name, kind in described.items():
        if list(found[name].shape) != kind["shape"] or found[name].dtype != DTYPES[kind["dtype"]]:
            raise StoreError(f"its tensor {name} must be {kind['dtype']} of shape {kind['shape']}")
    return found


def register_buffer(root: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Register a buffer under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())  # KeyError if it has such an attribute
        root = cast(nn.Module, root._modules[part])
    root.register_buffer(last, tensor)
