"""Nets that are hard to follow, joined in one model that is searched at once: what becomes of each can be compared.

A search of the joined nets is as long as one of a single net.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autocompress import AbstractAutoCompressionModule
from autocompress.testing.conformance import check_zeroed, with_distinct_values
from tests.compression.structures import STRUCTURES, AuxiliaryOutput, TwoInputs

NETS: dict[str, Any] = {**STRUCTURES, "auxiliary_output": AuxiliaryOutput, "two_inputs": TwoInputs}
"""Those whose outputs are no classes are among them."""

IMAGE = (3, 8, 8)


class Joined(nn.Module):
    """Each net has its own part of the inputs and its own output; what is trained is one factor on all outputs."""

    def __init__(self, names: tuple[str, ...] = tuple(NETS)) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.nets = nn.ModuleDict({name: NETS[name]() for name in names})

    def forward(self, left: torch.Tensor, right: torch.Tensor, sequence: torch.Tensor) -> dict[str, Any]:
        return {name: self._answer(name, left, right, sequence) for name in self.nets}

    def _answer(self, name: str, left: torch.Tensor, right: torch.Tensor, sequence: torch.Tensor) -> Any:
        net: Any = self.nets[name]
        shape = net.shape
        if name == "two_inputs":
            return {key: self.factor * value for key, value in net(left, right).items()}
        x = sequence[..., : shape[-1]] if len(shape) == 2 else left[..., : shape[-2], : shape[-1]]
        answer = net(x)
        return tuple(self.factor * each for each in answer) if isinstance(answer, tuple) else self.factor * answer


def values(answer: Any) -> list[torch.Tensor]:
    """All tensors of an output, in order."""
    if isinstance(answer, dict):
        answer = tuple(answer.values())
    return [tensor for each in answer for tensor in values(each)] if isinstance(answer, tuple) else [answer]


def batches() -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(3)
    return [tuple(torch.randn(4, *shape, generator=generator) for shape in (IMAGE, IMAGE, (6, 16))) for _ in range(2)]


class HardNets(AbstractAutoCompressionModule):
    """The accuracy is the share of outputs that depend on the inputs: all do, whatever is pruned of what is before."""

    names: tuple[str, ...] = tuple(NETS)

    @classmethod
    def model(cls) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return with_distinct_values(Joined(cls.names)).eval()

    @classmethod
    def evaluator(cls) -> Any:
        @torch.no_grad()
        def alive(model: nn.Module) -> float:
            found = [value for batch in batches() for value in values(model.eval()(*batch))]
            return sum(float(value.std(0).max() > 1e-6) for value in found) / len(found)

        return alive

    @classmethod
    def optimizer_factory(cls) -> Any:
        """Of the factor alone: filters are found again by their values."""
        return lambda parameters: torch.optim.SGD(list(parameters)[:1], lr=1e-3)

    @classmethod
    def criterion(cls) -> Any:
        return lambda answer: torch.stack([value.square().mean() for value in values(answer)]).mean()

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name: str) -> Any:
        def train(model: nn.Module, optimizer: Any, criterion: Any, epoch: int) -> None:
            for batch in batches():
                optimizer.zero_grad()
                criterion(model(*batch)).backward()
                optimizer.step()

        return train

    @classmethod
    def calibration_data(cls) -> Any:
        return batches()

    @classmethod
    def example_inputs(cls) -> Any:
        return tuple(tensor[:1] for tensor in batches()[0])


def check_searched(smaller: nn.Module, original: nn.Module | None = None) -> None:
    """The zero test of what a search has made of the nets: all that was estimated or trained afterwards is put back."""
    original = HardNets.model() if original is None else original
    _forget_training(original, smaller)
    check_zeroed(original, smaller, batches()[0])


@torch.no_grad()
def _forget_training(original: nn.Module, smaller: nn.Module) -> None:
    smaller.factor.fill_(1.0)  # type: ignore[operator]
    for name, norm in smaller.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            whole: Any = original.get_submodule(name)
            kept = torch.isin(whole.weight, norm.weight)
            assert int(kept.sum()) == norm.num_features, f"{name} must keep some of its channels"
            norm.running_mean, norm.running_var = whole.running_mean[kept].clone(), whole.running_var[kept].clone()


class Reordered(HardNets):
    """Channels are flattened last or shuffled; heads of training mode."""

    names = ("channels_last", "channel_shuffle", "auxiliary_head", "auxiliary_output")


class Joint(HardNets):
    """Channels are put together with others; a layer that is made of others."""

    names = ("split_and_concat", "padded_shortcut", "weight_norm")


class Unusual(HardNets):
    """Several inputs, normalization of whole images, heads that are made by reshape."""

    names = ("two_inputs", "layer_norm_over_image", "fused_attention")


class Ghosts(HardNets):
    """Concatenations, slices and groups."""

    names = ("ghost", "sliced", "concat_and_groups", "squeeze_and_excitation", "gated")


class Others(HardNets):
    """What else is hard to follow."""

    names = ("sub_pixel", "used_twice", "transposed_groups", "normed_groups", "normed_features")


class Multiplied(HardNets):
    """Channels are multiplied with each other, generated by other layers, or normed by hand."""

    names = (
        "generated_weights",
        "conditional_weights",
        "bilinear_pooling",
        "spatial_attention",
        "multihead_attention",
        "standardized_weights",
        "normed_by_hand",
        "shut_gate",
    )


FAULTS = (Reordered, Joint, Unusual)
LIKES = (Ghosts, Others, Multiplied)
assert sorted(name for module in (*FAULTS, *LIKES) for name in module.names) == sorted(NETS)
