"""Record of the calls in a forward pass: are two passes equal, and do samples and positions stay separate."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.model_state import flatten_tensors


class CallRecord:
    """The PyTorch functions called in a forward pass, in order, with their arguments and where these come from.

    Two passes with equal calls compute the same from their parameters and inputs, in whatever mode.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._calls: list[tuple[Any, ...]] = []
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._opaque = False  # whether a tensor is of unknown origin, as from a scripted module
        for number, tensor in enumerate((*model.parameters(), *model.buffers(), *flatten_tensors(inputs))):
            self._made[id(tensor)] = weakref.ref(tensor), number

    def record(
        self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any, *, switched: bool = True
    ) -> None:
        """Record a call, as `__torch_function__` receives it.

        If not `switched`, booleans and floats, such as `training`, do not change its result and are ignored.
        """
        if function is torch.Tensor.add_ and not args[0].dim() and not args[0].is_floating_point():
            return  # the batch counter of BatchNorm
        given = tuple(self._described(value, switched) for value in args)
        named = tuple((name, self._described(value, switched)) for name, value in kwargs.items())
        self._calls.append((function, given, named))
        for number, tensor in enumerate(flatten_tensors(result)):
            self._made[id(tensor)] = weakref.ref(tensor), -1000 * len(self._calls) - number

    def record_result(self, answer: Any) -> None:
        """Record the result of the pass."""
        self._calls.append((None, tuple(self._described(tensor, True) for tensor in flatten_tensors(answer)), ()))

    def same_as(self, other: CallRecord) -> bool:
        """Whether another pass of the model certainly computes the same."""
        try:
            return not self._opaque and not other._opaque and self._calls == other._calls
        except Exception:  # noqa: BLE001 - arguments of any kind, such as arrays, that are not simply equal
            return False

    @property
    def keeps_separate(self) -> bool:
        """Whether no call can mix samples or positions, or move channels."""
        return not self._opaque and all(
            function in _SEPARATING
            or (function in _OVER_IMAGES and given[1:2] == ((2, 3),))
            or (function in _FROM_CHANNELS and given[1:] == (1,))
            for function, given, _ in self._calls[:-1]
        )

    def _described(self, value: Any, switched: bool) -> Any:
        if isinstance(value, torch.Tensor):
            known = self._made.get(id(value))
            if known is not None and known[0]() is value:
                return known[1]
            self._opaque = True
            return None
        if isinstance(value, list | tuple):
            return tuple(self._described(item, switched) for item in value)
        return value if switched or not isinstance(value, bool | float) else None


_OVER_IMAGES = frozenset((torch.mean, torch.Tensor.mean))
_FROM_CHANNELS = frozenset((torch.flatten, torch.Tensor.flatten, torch.cat, torch.concat))
_NAMES = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"),
    *("batch_norm", "group_norm", "instance_norm", "dropout", "dropout1d", "dropout2d", "dropout3d"),
    *("relu", "relu_", "relu6", "hardtanh", "leaky_relu", "leaky_relu_", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("sigmoid", "sigmoid_", "tanh", "tanh_", "hardsigmoid", "hardswish", "softplus", "softsign", "logsigmoid"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "dim"),
)
_SEPARATING = frozenset(
    getattr(place, name) for name in _NAMES for place in (functional, torch, torch.Tensor) if hasattr(place, name)
)
