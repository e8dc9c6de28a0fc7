"""Forward passes in which no value depends on the number of channels or on random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autocompress.compression.pruning.recorded_calls import CallRecord

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


def _leaky_relu(func: _Function, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ARG001
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
}
