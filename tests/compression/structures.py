"""Small networks through which channels are hard to follow, one for each kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from autocompress.compression.module import ModuleClass
from autocompress.testing.zoo import ZooModule


def _normed(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class ChannelsLast(nn.Module):
    """Images are flattened with their channels last, as other frameworks do."""

    shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1))


class ChannelShuffle(nn.Module):
    """Grouped convolutions with a shuffle of channels between them, as in ShuffleNet."""

    shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = _normed(3, 16), _normed(16, 16, 1, groups=4)
        self.depthwise, self.second = _normed(16, 16, groups=16), _normed(16, 16, 1, groups=4)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.first(x))
        n, c, h, w = y.shape
        y = y.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(torch.relu(x + self.second(self.depthwise(y))).mean((2, 3)))


class SplitAndConcat(nn.Module):
    """One half of the channels goes through a branch, and all are put together again, as in YOLO's C2f."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.branch = _normed(3, 16), _normed(16, 32, 1), _normed(16, 16)
        self.last, self.head = _normed(48, 24, 1), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> Any:
        parts = list(functional.silu(self.first(functional.silu(self.stem(x)))).chunk(2, 1))
        parts.append(parts[-1] + functional.silu(self.branch(parts[-1])))
        return self.head(functional.silu(self.last(torch.cat(parts, 1))).mean((2, 3)))


class PaddedShortcut(nn.Module):
    """A shortcut that is subsampled and padded with zero channels: option A of CIFAR's ResNets."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = _normed(3, 16), _normed(16, 32, stride=2), _normed(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.stem(x))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return self.head(torch.relu(shortcut + self.second(torch.relu(self.first(x)))).mean((2, 3)))


class AuxiliaryHead(nn.Module):
    """A head that runs in training mode only, as in GoogLeNet."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.head, self.auxiliary = nn.Linear(24, 5), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.first(x))
        out = self.head(torch.relu(self.second(x)).mean((2, 3)))
        return out + 0.3 * self.auxiliary(x.mean((2, 3))) if self.training else out


class AuxiliaryOutput(nn.Module):
    """A head whose output comes in training mode only, beside that of the model, as in PSPNet."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.head, self.auxiliary = nn.Conv2d(24, 2, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.first(x))
        out = self.head(torch.relu(self.second(x)))
        return (out, self.auxiliary(x)) if self.training else out


class TwoInputs(nn.Module):
    """One encoder for two images."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = _normed(3, 16), nn.Linear(32, 1)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> Any:
        left, right = (torch.relu(self.encoder(x)).mean((2, 3)) for x in (left, right))
        return {"similarity": self.head(torch.cat([left, right], 1))}


class WeightNorm(nn.Module):
    """A parametrized layer."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3, padding=1))
        self.second, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


class LayerNormOverImage(nn.Module):
    """LayerNorm over channels, height and width."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.LayerNorm([16, 8, 8])
        self.second, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(self.second(torch.relu(self.norm(self.first(x))))).mean((2, 3)))


class FusedAttention(nn.Module):
    """Attention whose heads are made by reshape, with one layer for queries, keys and values."""

    shape = (6, 16)

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(16)
        self.qkv, self.project = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        n, length, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n, length, width)
        x = x + self.project(mixed)
        return self.head((x + self.down(functional.gelu(self.up(x)))).mean(1))


class Ghost(nn.Module):
    """A cheap convolution makes more channels, of which a slice would take off what is too much, as in GhostNet."""

    shape, channels = (3, 8, 8), 24

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap = _normed(3, 12), _normed(12, 12, groups=12)
        self.last, self.head = _normed(self.channels, 16, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.primary(x))
        x = torch.cat([x, torch.relu(self.cheap(x))], 1)[:, : self.channels]
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class Sliced(Ghost):
    """The same where the slice does take channels off."""

    channels = 20


class ConcatAndGroups(nn.Module):
    """Two branches put together, a BatchNorm over both, and a convolution in groups."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.norm, self.grouped = nn.BatchNorm2d(24), nn.Conv2d(24, 24, 3, padding=1, groups=3)
        self.last, self.head = nn.Conv2d(24, 16, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(torch.relu(self.last(torch.relu(self.grouped(x)))).mean((2, 3)))


class SqueezeAndExcitation(nn.Module):
    """Channels are scaled by gates that follow from all of them."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = _normed(3, 16), _normed(16, 24)
        self.squeeze, self.excite, self.head = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.conv(torch.relu(self.stem(x))))
        gates = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gates).mean((2, 3)))


class Gated(nn.Module):
    """A gated linear unit: half of the channels gate the other half."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.both = _normed(3, 16), nn.Conv2d(16, 32, 1)
        self.last, self.head = nn.Conv2d(16, 12, 1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.glu(self.both(torch.relu(self.stem(x))), 1)
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class SubPixel(nn.Module):
    """Channels become pixels."""

    shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = _normed(3, 16), nn.Conv2d(16, 32, 3, padding=1)
        self.shuffle, self.last, self.head = nn.PixelShuffle(2), nn.Conv2d(8, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.shuffle(torch.relu(self.wide(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class UsedTwice(nn.Module):
    """One layer in two places."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = _normed(3, 16), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.head = nn.Conv2d(16, 12, 1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.again(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.last(torch.relu(self.again(x)))).mean((2, 3)))


class TransposedGroups(nn.Module):
    """A transposed convolution in groups."""

    shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = _normed(3, 16), nn.ConvTranspose2d(16, 24, 2, stride=2, groups=4)
        self.last, self.head = nn.Conv2d(24, 12, 1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(self.last(torch.relu(self.up(torch.relu(self.stem(x)))))).mean((2, 3)))


class NormedGroups(nn.Module):
    """GroupNorm behind convolutions."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.norms, self.head = nn.ModuleList([nn.GroupNorm(4, 16), nn.GroupNorm(1, 24)]), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.norms[0](self.first(x)))
        return self.head(torch.relu(self.norms[1](self.second(x))).mean((2, 3)))


class NormedFeatures(nn.Module):
    """LayerNorm between linear layers."""

    shape = (6, 12)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(12, 32), nn.LayerNorm(32)
        self.second, self.head = nn.Linear(32, 24), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.gelu(self.norm(self.first(x)))
        return self.head(functional.gelu(self.second(x)).mean(1))


class GeneratedWeights(nn.Module):
    """A layer makes the weights of a convolution, for each sample others."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.make = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8 * 8 * 9)
        self.last, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.first(x))
        weight = self.make(x.mean((2, 3))).view(len(x) * 8, 8, 3, 3)
        y = functional.conv2d(x.reshape(1, -1, 8, 8), weight, padding=1, groups=len(x)).view(len(x), 8, 8, 8)
        return self.head(torch.relu(self.last(y)).mean((2, 3)))


class ConditionalWeights(nn.Module):
    """Weights of a convolution are mixed out of several, for each sample differently, as in CondConv."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.weight = nn.Parameter(torch.randn(4, 8 * 8 * 9) / 8)
        self.last, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.stem(x))
        weight = torch.matmul(torch.sigmoid(self.route(x.mean((2, 3)))), self.weight).view(len(x) * 8, 8, 3, 3)
        y = functional.conv2d(x.view(1, -1, 8, 8), weight, padding=1, groups=len(x)).view(len(x), 8, 8, 8)
        return self.head(torch.relu(self.last(torch.relu(y))).mean((2, 3)))


class BilinearPooling(nn.Module):
    """Products of all channels with each other, flattened."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.last(torch.relu(self.first(x)))).flatten(2)
        return self.head(torch.einsum("ncl,ndl->ncd", x, x).flatten(1))


class SpatialAttention(nn.Module):
    """Channels and then positions are scaled by gates, the latter by a map of one channel, as in CBAM."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.spatial, self.head = nn.Conv2d(2, 1, 7, padding=3), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.conv(torch.relu(self.stem(x))))
        gates = sum(self.excite(torch.relu(self.squeeze(pooled))) for pooled in (x.mean((2, 3)), x.amax((2, 3))))
        x = x * torch.sigmoid(gates)[:, :, None, None]
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head((x * torch.sigmoid(self.spatial(maps))).mean((2, 3)))


class MultiheadAttention(nn.Module):
    """PyTorch's attention, which loses whole heads; nothing normalizes the sum, so that it may be narrower too."""

    shape = (6, 12)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(12, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.embed(x)
        x = x + self.attention(x, x, x)[0]
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


class _StandardizedConv2d(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, padding=self.padding)


class StandardizedWeights(nn.Module):
    """A convolution whose weights are standardized over all that it takes in."""

    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), _StandardizedConv2d(16, 16, 3, padding=1)
        self.last, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(torch.relu(self.last(torch.relu(self.second(torch.relu(self.first(x)))))).mean((2, 3)))


class NormedByHand(nn.Module):
    """LayerNorm as a formula."""

    shape = (6, 12)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(16, 12), nn.Linear(12, 5)
        self.weight, self.bias = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias
        return self.head(torch.relu(self.second(torch.relu(x))).mean(1))


class ShutGate(nn.Module):
    """A branch behind a gate that starts at zero, as in ReZero, with channels last in it."""

    shape = (3, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.back = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Linear(16 * 16, 8)
        self.gate, self.head = nn.Parameter(torch.zeros(())), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.stem(x))
        y = self.back(torch.relu(self.conv(x)).permute(0, 2, 3, 1).flatten(1))
        return self.head(torch.relu(x.mean((2, 3)) + self.gate * y))


class ComputedWeight(WeightNorm):
    """A layer whose weight its owner computes from other parameters, in one of the ways that PyTorch has."""

    def __init__(self, how: Callable[[nn.Conv2d], Any]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        how(self.first)


class ViewOfParameter(nn.Module):
    """A view of a parameter, as of tokens or positions, is what a module is given."""

    shape = (6, 12)

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token, self.norm = nn.Linear(12, 16), nn.Parameter(torch.randn(2, 1, 16)), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.cat([self.norm(self.token[:1]).expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def _old_weight_norm(layer: nn.Conv2d) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer)


COMPUTED: dict[str, tuple[Callable[[nn.Conv2d], Any], str]] = {
    "weight_norm": (nn.utils.parametrizations.weight_norm, "WeightNorm"),
    "spectral_norm": (nn.utils.parametrizations.spectral_norm, "SpectralNorm"),
    "weight_norm_hook": (_old_weight_norm, "WeightNorm"),
    "spectral_norm_hook": (nn.utils.spectral_norm, "SpectralNorm"),
    "mask": (lambda layer: prune.l1_unstructured(layer, "weight", 0.3), "a mask of torch.nn.utils.prune"),
}
"""How the weight of a layer is computed, each with the words for it."""

STRUCTURES: dict[str, Callable[[], nn.Module]] = {
    "channels_last": ChannelsLast,
    "channel_shuffle": ChannelShuffle,
    "split_and_concat": SplitAndConcat,
    "padded_shortcut": PaddedShortcut,
    "auxiliary_head": AuxiliaryHead,
    "weight_norm": WeightNorm,
    "layer_norm_over_image": LayerNormOverImage,
    "fused_attention": FusedAttention,
    "ghost": Ghost,
    "sliced": Sliced,
    "concat_and_groups": ConcatAndGroups,
    "squeeze_and_excitation": SqueezeAndExcitation,
    "gated": Gated,
    "sub_pixel": SubPixel,
    "used_twice": UsedTwice,
    "transposed_groups": TransposedGroups,
    "normed_groups": NormedGroups,
    "normed_features": NormedFeatures,
    "generated_weights": GeneratedWeights,
    "conditional_weights": ConditionalWeights,
    "bilinear_pooling": BilinearPooling,
    "spatial_attention": SpatialAttention,
    "multihead_attention": MultiheadAttention,
    "standardized_weights": StandardizedWeights,
    "normed_by_hand": NormedByHand,
    "shut_gate": ShutGate,
}
"""All of them by name; each has its input's `shape` without a batch."""

PRUNED: dict[str, tuple[set[str], set[str]]] = {
    "channels_last": ({"conv"}, set()),
    "channel_shuffle": ({"stem.0", "second.0"}, {"first.0", "depthwise.0"}),
    "split_and_concat": ({"stem.0", "first.0", "branch.0", "last.0"}, set()),
    "padded_shortcut": ({"stem.0", "first.0", "second.0"}, set()),
    "auxiliary_head": ({"first", "second"}, set()),
    "auxiliary_output": ({"first", "second"}, set()),
    "two_inputs": ({"encoder.0"}, set()),
    "weight_norm": ({"second"}, {"first"}),
    "layer_norm_over_image": ({"second"}, {"first"}),
    "fused_attention": ({"up"}, {"qkv", "project", "down"}),
    "ghost": ({"primary.0", "cheap.0", "last.0"}, set()),
    "sliced": ({"last.0"}, {"primary.0", "cheap.0"}),
    "concat_and_groups": ({"grouped", "last"}, {"left", "right"}),
    "squeeze_and_excitation": ({"stem.0", "conv.0", "squeeze", "excite"}, set()),
    "gated": ({"stem.0", "both", "last"}, set()),
    "sub_pixel": ({"stem.0", "wide", "last"}, set()),
    "used_twice": ({"stem.0", "again", "last"}, set()),
    "transposed_groups": ({"last"}, {"stem.0", "up"}),
    "normed_groups": ({"first", "second"}, set()),
    "normed_features": ({"first", "second"}, set()),
    "generated_weights": ({"last"}, {"first", "make"}),
    "conditional_weights": ({"last"}, {"stem", "route"}),
    "bilinear_pooling": ({"first"}, {"last"}),
    "spatial_attention": ({"stem", "squeeze"}, {"conv", "excite", "spatial"}),
    "multihead_attention": (
        {"embed", "up", "down", *(f"attention.{each}_proj" for each in ("q", "k", "v", "out"))},
        set(),
    ),
    "standardized_weights": ({"second", "last"}, {"first"}),
    "normed_by_hand": ({"second"}, {"first"}),
    "shut_gate": ({"stem", "conv", "back"}, set()),
}
"""Layers that lose filters, and those that are left alone; of `AuxiliaryOutput` and `TwoInputs` too."""


def structure(name: str) -> ModuleClass:
    """A module that trains and evaluates one of them."""
    build: Any = STRUCTURES[name]
    return type(build.__name__, (ZooModule,), {"build": staticmethod(build), "shape": build.shape, "outputs": 5})
