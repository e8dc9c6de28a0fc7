"""Multi-head attention with projections of its own, from which whole heads can be removed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from autocompress.compression.model_state import forward_outputs, ordinary_attention, tied_parameters
from autocompress.errors import first_line

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
"""The layers whose filters are the channels of heads, in the order of `nn.MultiheadAttention.in_proj_weight`."""
BIASES = ("bias_k", "bias_v")
"""Layers whose filters are channels of heads too, where keys and values have biases."""
_FOLLOWING = ("embed_dim", "kdim", "vdim", "num_heads", "_qkv_same_embed_dim")
"""Attributes of `nn.MultiheadAttention` that follow from the projections of a `SplitAttention`."""
_STATE_HOOKS = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")


class SplitAttention(nn.Module):
    """Computes what the `nn.MultiheadAttention` does that it was made of by `split`, with or without some of its heads.

    Its sizes follow from its projections, so that removing the channels of a head from them, and from the inputs of
    `out_proj`, removes the head.

    Attributes:
        q_proj: from queries to heads, as are `k_proj` and `v_proj` from keys and values.
        out_proj: from all heads to the output.
        head_dim: channels of a head.
        bias_k: makes a position after the keys of a single 1, as does `bias_v` for values; None: there is none. As a
            layer it loses its channels as projections do.
        packed: whether the `nn.MultiheadAttention` had the three projections in one parameter.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear
    head_dim: int
    dropout: float
    batch_first: bool
    add_zero_attn: bool
    packed: bool
    bias_k: nn.Linear | None
    bias_v: nn.Linear | None

    _qkv_same_embed_dim = False  # so that nn.TransformerEncoderLayer calls it

    @property
    def num_heads(self) -> int:
        """Heads that are left."""
        return self.q_proj.out_features // self.head_dim

    @property
    def embed_dim(self) -> int:
        """Width of the output."""
        return self.out_proj.out_features

    @property
    def kdim(self) -> int:
        """Width of keys."""
        return self.k_proj.in_features

    @property
    def vdim(self) -> int:
        """Width of values."""
        return self.v_proj.in_features

    @property
    def layers(self) -> dict[str, nn.Linear]:
        """All parts whose filters are channels of heads, by their names."""
        parts = {name: getattr(self, name) for name in (*PROJECTIONS, *BIASES)}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def is_sound(self) -> bool:
        """Whether all parts have the size of the same number of whole heads, at least one."""
        layers = [*self.layers.values(), self.out_proj]
        shapes = [(len(layer.weight), layer.weight.shape[1] * getattr(layer, "PACKED", 1)) for layer in layers]
        widths = {*(layer.out_features for layer in layers[:-1]), self.out_proj.in_features}
        return (
            shapes == [(layer.out_features, layer.in_features) for layer in layers]
            and len(widths) == 1
            and min(self.head_dim, *widths) > 0
            and min(widths) % self.head_dim == 0
        )

    @property
    def in_proj_weight(self) -> torch.Tensor:
        """A weight in place of all: nn.TransformerEncoder reads its device and whether it requires a gradient."""
        return self.q_proj.weight

    @property
    def in_proj_bias(self) -> torch.Tensor | None:
        """A bias in place of all, as `in_proj_weight`."""
        return self.q_proj.bias

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `nn.MultiheadAttention.forward`; the weights are those of the heads that are left."""
        if is_causal and attn_mask is None:
            raise RuntimeError("attn_mask must be given with is_causal, which says that it is a causal mask")
        is_causal = is_causal and key_padding_mask is None
        if is_causal and not need_weights:
            attn_mask = None
        batched = query.dim() == 3
        if attn_mask is not None and attn_mask.dim() == 3:  # before anything else fails for want of heads
            self._require_heads(attn_mask, query.shape[0 if self.batch_first else 1] if batched else 1)
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        q = self._heads(self.q_proj(query))
        k = self._lengthened(self._heads(self.k_proj(key)), self.bias_k)
        v = self._lengthened(self._heads(self.v_proj(value)), self.bias_v)
        mask = self._mask(key_padding_mask, attn_mask, query.dtype, q, k)
        dropped = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask.to(scores.dtype)).softmax(-1)
            weights = functional.dropout(weights, dropped) if dropped else weights
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            weights = None
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropped, is_causal)
        return self._joined(mixed, batched), weights if batched or weights is None else weights.squeeze(0)

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """As [batch, head, position, channel]."""
        if projected.is_nested:
            nested = projected.view(projected.size(0), -1, self.num_heads, self.head_dim)
            return nested.transpose(1, 2).contiguous()
        heads = projected.reshape(*projected.shape[:-1], -1, self.head_dim)
        if heads.dim() == 3:
            return heads.transpose(0, 1).unsqueeze(0)
        return heads.transpose(1, 2) if self.batch_first else heads.permute(1, 2, 0, 3)

    def _joined(self, mixed: torch.Tensor, batched: bool) -> torch.Tensor:
        """The output, from all heads."""
        if mixed.is_nested:
            joined = mixed.transpose(1, 2).contiguous().view(mixed.size(0), -1, self.out_proj.in_features)
        elif not batched:
            joined = mixed.squeeze(0).transpose(0, 1).flatten(-2)
        else:
            joined = (mixed.transpose(1, 2) if self.batch_first else mixed.permute(2, 0, 1, 3)).flatten(-2)
        output: torch.Tensor = self.out_proj(joined)
        return output

    def _lengthened(self, heads: torch.Tensor, bias: nn.Linear | None) -> torch.Tensor:
        """With the positions behind those of the keys that `bias_k`, `bias_v` and `add_zero_attn` add."""
        if bias is not None:
            row = bias(heads.new_ones(1, 1)).view(1, -1, 1, self.head_dim)
            heads = torch.cat([heads, row.expand(heads.shape[0], -1, -1, -1)], 2)
        return functional.pad(heads, (0, 0, 0, 1)) if self.add_zero_attn else heads

    def _mask(
        self,
        padding: torch.Tensor | None,
        mask: torch.Tensor | None,
        dtype: torch.dtype,
        q: torch.Tensor,
        k: torch.Tensor,
    ) -> torch.Tensor | None:
        """What is added to the scores [batch, head, query, key]; 0 for the keys that `_lengthened` has added."""
        if padding is None and mask is None:
            return None
        added, found = (self.bias_k is not None) + self.add_zero_attn, None
        positions = k.shape[2] - added
        if mask is not None:
            if mask.dim() not in (2, 3) or tuple(mask.shape[-2:]) != (q.shape[2], positions):
                raise RuntimeError(f"attn_mask must be of shape {(q.shape[2], positions)}; got {tuple(mask.shape)}")
            found = _as_float(mask, dtype, "attn_mask")
            found = found[None, None] if found.dim() == 2 else found.view(q.shape[0], q.shape[1], *found.shape[1:])
        if padding is not None:
            if tuple(padding.shape) != (q.shape[0], positions):
                raise RuntimeError(
                    f"key_padding_mask must be of shape {(q.shape[0], positions)}; got {tuple(padding.shape)}"
                )
            row = _as_float(padding, dtype, "key_padding_mask")[:, None, None]
            found = row if found is None else found + row
        return functional.pad(found, (0, added)) if found is not None and added else found

    def _require_heads(self, mask: torch.Tensor, batch: int) -> None:
        if mask.shape[0] != batch * self.num_heads:
            raise RuntimeError(
                "an attn_mask of three dimensions holds one for each head, so that all heads must stay; it has "
                f"{mask.shape[0]} for a batch of {batch} and {self.num_heads} heads"
            )

    def remove_heads(self, heads: Iterable[int]) -> None:
        """Remove heads in place.

        Raises:
            ValueError: there is no such head, or none would be left.
        """
        gone = set(heads)
        left = [head for head in range(self.num_heads) if head not in gone]
        if not left or not gone <= set(range(self.num_heads)):
            raise ValueError(f"heads must be some of range({self.num_heads}), and not all; got {sorted(gone)}")
        channels = torch.tensor([head * self.head_dim + place for head in left for place in range(self.head_dim)])
        channels = channels.to(self.q_proj.weight.device)
        for layer in self.layers.values():
            _keep(layer, "weight", 0, channels)
            _keep(layer, "bias", 0, channels)
            layer.out_features = len(channels)
        _keep(self.out_proj, "weight", 1, channels)
        self.out_proj.in_features = len(channels)

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"


def _keep(module: nn.Module, name: str, dimension: int, channels: torch.Tensor) -> None:
    old = getattr(module, name)
    if old is not None:
        setattr(module, name, nn.Parameter(old.detach().index_select(dimension, channels), old.requires_grad))


def _as_float(mask: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise RuntimeError(f"{name} must be of booleans or floating point numbers; got {mask.dtype}")
    return mask


def why_not_split(attention: nn.Module) -> str | None:
    """Why an `nn.MultiheadAttention` cannot be replaced, as words behind its name; None if it can."""
    if type(attention) is not nn.MultiheadAttention:
        return f"is a {type(attention).__name__}, which may compute something else than nn.MultiheadAttention"
    if type(attention.out_proj) is not NonDynamicallyQuantizableLinear:
        return f"has a {type(attention.out_proj).__name__} as its out_proj"
    if any(getattr(attention, hooks) for hooks in _STATE_HOOKS):
        return "has hooks that change its state dict"
    return None


def splittable_attentions(model: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """The `nn.MultiheadAttention`s of a model that `split_attention` replaces, each by its first name."""
    tied = {name for places in tied_parameters(model) for name, _ in places}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        and why_not_split(module) is None
        and not {name, f"{name}.out_proj" if name else "out_proj"} & tied
    }


def split_attention(model: nn.Module, example_inputs: tuple[Any, ...] | None = None) -> dict[str, str]:
    """Replace each `nn.MultiheadAttention` in place by a `SplitAttention`, which stays the same object.

    Args:
        model: with any number of them, shared ones too; those that were replaced before stay as they are.
        example_inputs: of one forward pass: if it fails without them, all attentions are left alone.

    Returns:
        attentions that are left alone, each with the reason: their parameters are shared with others, or computed, or
        they are of another class.
    """
    found = splittable_attentions(model)
    for attention in found.values():
        split(attention)
    left_alone = {name: why for name, why in _others(model).items() if name not in found}
    if found and example_inputs is not None:
        try:
            with ordinary_attention():
                forward_outputs(model, example_inputs)
        except Exception as error:  # noqa: BLE001 - raised by the user's model, which reads in_proj_weight
            joined_attention(model)
            why = f"the model fails with separate projections in it ({first_line(error)}); it keeps its heads"
            left_alone |= {name: f"{name}: {why}" for name in found}
    return left_alone


def _others(model: nn.Module) -> dict[str, str]:
    """All `nn.MultiheadAttention`s of a model, each with why it stays one."""
    return {
        name: f"{name} {why_not_split(module) or 'shares parameters with another layer'}; it keeps its heads"
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }


def split(attention: nn.MultiheadAttention) -> None:
    """Make an attention a `SplitAttention`, in place; hooks, modes and values stay."""
    width, packed, biases = attention.embed_dim, attention.in_proj_weight, attention.in_proj_bias
    separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    parts: dict[str, nn.Module | None] = {}
    for index, (name, weight) in enumerate(zip(PROJECTIONS, separate, strict=True)):
        rows = slice(index * width, (index + 1) * width)
        own: Any = weight if packed is None else _part(packed[rows], packed)
        parts[name] = _linear(own, None if biases is None else _part(biases[rows], biases))
    parts["out_proj"] = _linear(attention.out_proj.weight, attention.out_proj.bias)
    for name in BIASES:
        bias = getattr(attention, name)
        parts[name] = None if bias is None else _linear(_part(bias.view(-1, 1), bias))
    for name in (*BIASES, *_FOLLOWING):
        vars(attention).pop(name, None)
    attention._parameters, attention._modules = {}, parts
    vars(attention)["packed"] = packed is not None
    attention.__class__ = SplitAttention  # type: ignore[assignment]
    attention.train(attention.training)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = cast(nn.Parameter, weight)
    if bias is not None:
        layer.bias = cast(nn.Parameter, bias)
    return layer


def _part(value: torch.Tensor, whole: torch.Tensor) -> nn.Parameter:
    """A part of a parameter as one of its own."""
    return nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format), whole.requires_grad)


def joined_attention(model: nn.Module) -> nn.Module:
    """Make each `SplitAttention` that lost no head an `nn.MultiheadAttention` again, in place: same values and names.

    So is one that lost as many channels of its inputs and outputs as of its heads. Those with quantizers or other hooks
    on their projections stay as they are.

    Returns:
        the model.
    """
    for module in list(model.modules()):
        if isinstance(module, SplitAttention) and _is_whole(module):
            _join(module)
    return model


def _is_whole(attention: SplitAttention) -> bool:
    parts, width = [*attention.layers.values(), attention.out_proj], attention.embed_dim
    same = width == attention.kdim == attention.vdim
    return (
        all(type(part) is nn.Linear and not part._modules for part in parts)
        and not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
        and attention.is_sound
        and attention.out_proj.in_features == width == attention.q_proj.in_features
        and same == attention.packed
    )


def _join(attention: SplitAttention) -> None:
    made = nn.MultiheadAttention(
        attention.embed_dim,
        attention.num_heads,
        bias=attention.out_proj.bias is not None,
        kdim=attention.kdim,
        vdim=attention.vdim,
        device="meta",
    )
    layers = [getattr(attention, name) for name in PROJECTIONS]
    if attention.packed:
        made.in_proj_weight = _joined([layer.weight for layer in layers])
    else:
        for name, layer in zip(PROJECTIONS, layers, strict=True):
            setattr(made, f"{name}_weight", layer.weight)
    if made.in_proj_bias is not None:
        made.in_proj_bias = _joined([layer.bias for layer in layers])
    made.out_proj.weight, made.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias
    for name in BIASES:
        layer = getattr(attention, name)
        setattr(made, name, None if layer is None else _part(layer.weight.view(1, 1, -1), layer.weight))
    kept = {name: value for name, value in vars(attention).items() if name not in ("packed", "_parameters", "_modules")}
    vars(attention).clear()
    vars(attention).update({**vars(made), **kept})
    attention.__class__ = nn.MultiheadAttention  # type: ignore[assignment]
    attention.train(attention.training)


def _joined(parts: list[torch.Tensor]) -> nn.Parameter:
    learned = any(part.requires_grad for part in parts)
    return nn.Parameter(torch.cat([part.detach() for part in parts]), learned)
