"""Destroy a model's output layers: an evaluator that does not notice cannot guide a search."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from autocompress.compression.base import layer_shapes
from autocompress.compression.model_state import device_of, eval_mode, to_device
from autocompress.compression.pruning.graph import ChannelGraph
from autocompress.errors import CompressionError

_LARGE = 50_000_000
"""Parameters from which following all channels takes longer than a preflight may."""


def output_layers(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """Names of the layers that make a model's outputs.

    Those that the channel graph finds; else the layer with parameters that is called last in a forward pass.
    """
    found: list[str] = []
    if sum(parameter.numel() for parameter in model.parameters()) < _LARGE:
        with contextlib.suppress(CompressionError):
            found = sorted(ChannelGraph(copy.deepcopy(model), inputs, layer_shapes(model)).outputs)
    return found or _called_last(model, inputs)


def innermost_layers(model: nn.Module) -> list[str]:
    """Names of all layers with parameters of their own."""
    return list(_layers(model))


def damage(model: nn.Module, layers: Sequence[str], shift: int) -> None:
    """Destroy layers in place.

    With `shift` 0 they output 0; else each output is replaced by the one `shift` places before it, and a single output
    changes its sign.
    """
    for name in layers:
        layer = model.get_submodule(name)
        if layer._forward_pre_hooks or layer._parameters.get("weight") is None:  # made from other parameters
            layer.register_forward_hook(_hook(shift, 1 if isinstance(layer, _ConvNd) else -1))
            continue
        with torch.no_grad():
            for parameter in layer._parameters.values():
                if parameter is not None:
                    outputs = 1 if _is_transposed(layer) and parameter.dim() > 1 else 0
                    parameter.copy_(_destroyed(parameter, shift, outputs))


def _hook(shift: int, dimension: int) -> Any:
    def destroyed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _destroyed(value, shift, dimension)
        return tuple(map(destroyed, value)) if type(value) is tuple else value

    return lambda _, __, answer: destroyed(answer)


def most_outputs(model: nn.Module, layers: Sequence[str]) -> int:
    """The largest number of outputs of layers, as far as their weights show; else 1."""
    sizes = [1]
    for name in layers:
        layer = model.get_submodule(name)
        weight = layer._parameters.get("weight")
        if weight is not None and weight.dim():
            sizes.append(weight.shape[1 if _is_transposed(layer) and weight.dim() > 1 else 0])
    return max(sizes)


def _destroyed(values: torch.Tensor, shift: int, dimension: int) -> torch.Tensor:
    """Outputs lie along a dimension."""
    if not shift:
        return torch.zeros_like(values)
    return values.roll(shift, dimension) if values.dim() and values.shape[dimension] > 1 else -values


def _is_transposed(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)


def _called_last(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    layers = _layers(model)
    called: list[str] = []
    handles = [
        part.register_forward_hook(lambda _, __, ___, name=name: called.append(name)) for name, part in layers.items()
    ]
    try:
        with eval_mode(model), torch.no_grad():
            model(*to_device(inputs, device_of(model)))
    except Exception:  # noqa: BLE001 - evaluating the model reports its errors better
        called.clear()
    finally:
        for handle in handles:
            handle.remove()
    return [called[-1] if called else list(layers)[-1]]


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost modules with parameters; one whose weight is made of others counts as such."""
    found: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        within = [parameter for child in part.children() for parameter in child.parameters()]
        made = parametrize.is_parametrized(part)
        if (made or not within) and any(True for _ in part.parameters()) and ".parametrizations" not in f".{name}":
            found[name] = part
    return found
