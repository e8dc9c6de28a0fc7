"""Forward passes in which no value depends on the number of channels or on random numbers, and their records."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autocompress.compression.model_state import flatten_tensors

_Function = Callable[..., Any]


class NeutralNormalization(TorchFunctionMode):
    """Inside the block, normalizations act on single values, dropout is off, and ReLU is leaky.

    A model and a pruned one can then be compared value by value, also after LayerNorm or GroupNorm: the normalized
    value is replaced by one of similar size that depends on its channel only, scaled and shifted by the layer's
    parameters. BatchNorm uses its running statistics in training mode too; without them it is replaced likewise. ReLU
    leaks, so that few samples exercise every channel. Calls are recorded in `calls`, if given.
    """

    def __init__(self, calls: CallRecord | None = None) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(
        self,
        func: _Function,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function or its replacement."""
        instead, named = _REPLACEMENTS.get(func), kwargs or {}
        result = func(*args, **named) if instead is None else instead(func, *args, **named)
        if self._calls is not None:
            self._calls.record(func, args, named, result, switched=instead is None)
        return result


def _damped(x: torch.Tensor) -> torch.Tensor:
    """Similar in size to a normalized value, and different for different values."""
    return torch.asinh(x)


def _affine(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _over_features(
    func: _Function,
    input: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    *rest: Any,
    **kwargs: Any,
) -> torch.Tensor:
    func(input, normalized_shape, weight, *rest, **kwargs)  # raises its errors
    biases = (each for each in (*rest, kwargs.get("bias")) if isinstance(each, torch.Tensor))
    return _affine(_damped(input), weight, next(biases, None))  # RMSNorm has no bias


def _group_norm(
    func: _Function,
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    func(input, num_groups, weight, bias, *args, **kwargs)
    shape, channels = (-1, *[1] * (input.dim() - 2)), input.shape[1]
    group = torch.arange(channels, device=input.device) // (channels // num_groups)
    # A channel in another group must give another value.
    damped = _damped(input) * (1 + group.to(input.dtype) / num_groups).view(shape)
    return _affine(damped, *(None if each is None else each.view(shape) for each in (weight, bias)))


def _batch_norm(
    func: _Function,
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,  # noqa: ARG001
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    if running_mean is None:
        return _per_channel(func, input, None, None, weight, bias)
    # As in eval mode, so that running statistics do not change.
    result: torch.Tensor = func(input, running_mean, running_var, weight, bias, False, *args, **kwargs)
    return result


def _per_channel(
    func: _Function,  # noqa: ARG001
    input: torch.Tensor,
    running_mean: torch.Tensor | None = None,  # noqa: ARG001
    running_var: torch.Tensor | None = None,  # noqa: ARG001
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *args: Any,  # noqa: ARG001
    **kwargs: Any,  # noqa: ARG001
) -> torch.Tensor:
    """Replaces statistics of few samples, after which rounding errors may be as large as the values."""
    shape = (-1, *[1] * (input.dim() - 2))
    return _affine(_damped(input), *(None if each is None else each.view(shape) for each in (weight, bias)))


def _elementwise(func: _Function, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    func(input, *args, **kwargs)
    return _damped(input)


def _leaky_relu(func: _Function, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if not input.is_floating_point():  # positions, which must stay within their bounds
        result: torch.Tensor = func(input, *args, **kwargs)
        return result
    return functional.leaky_relu(input, 0.25)


def _identity(func: _Function, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ARG001
    return input


def _constant(value: float) -> _Function:
    """Replaces random numbers, which would differ for another width."""

    def draw(func: _Function, *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs).fill_(value)

    return draw


def _attention(
    func: _Function,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    *args: Any,
    **kwargs: Any,
) -> Any:
    return func(query, key, value, attn_mask, 0.0, *args, **kwargs)


def _multi_head_attention(func: _Function, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **{**kwargs, "training": False})


def _without_dropout(func: _Function, *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer in eval mode: its flag of training is the fourth argument behind the list of weights."""
    flag = next(place for place, value in enumerate(args) if isinstance(value, list)) + 4
    return func(*args[:flag], False, *args[flag + 1 :], **kwargs)


_IN_TENSOR = ("relu", "relu_", "clamp", "clamp_", "clamp_min", "clamp_max")
_REPLACEMENTS: dict[Any, _Function] = {
    **dict.fromkeys((functional.layer_norm, torch.layer_norm, functional.rms_norm, torch.rms_norm), _over_features),
    **dict.fromkeys((functional.group_norm, torch.group_norm), _group_norm),
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _per_channel,
    **dict.fromkeys((functional.local_response_norm, functional.normalize), _elementwise),
    **dict.fromkeys((functional.relu, functional.relu6, functional.hardtanh, functional.threshold), _leaky_relu),
    **dict.fromkeys((functional.softshrink, functional.hardshrink, torch.relu, torch.relu_), _leaky_relu),
    **dict.fromkeys((torch.clamp, torch.clamp_min, torch.clamp_max), _leaky_relu),
    **dict.fromkeys((getattr(torch.Tensor, name) for name in _IN_TENSOR), _leaky_relu),
    **dict.fromkeys((torch.round, torch.Tensor.round, torch.dropout, functional.dropout), _identity),
    **dict.fromkeys((functional.dropout1d, functional.dropout2d, functional.dropout3d), _identity),
    **dict.fromkeys((functional.alpha_dropout, functional.feature_alpha_dropout), _identity),
    **dict.fromkeys((torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_), _constant(0.0)),
    **dict.fromkeys((torch.rand, torch.rand_like, torch.Tensor.uniform_), _constant(0.5)),
    **dict.fromkeys((torch.bernoulli, torch.Tensor.bernoulli, torch.Tensor.bernoulli_), _constant(1.0)),
    torch.Tensor.exponential_: _constant(1.0),
    functional.scaled_dot_product_attention: _attention,
    functional.multi_head_attention_forward: _multi_head_attention,
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _without_dropout),
}


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
