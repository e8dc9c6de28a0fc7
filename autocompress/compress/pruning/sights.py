"""What the channels of couplings do on data: how often they are zero, how large they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autocompress.compress.pruning.coupling import Coupling, Place
from autocompress.compress.pruning.importance import Importance
from autocompress.compress.pruning.reading import Site, Unpooled, input_norms, rows, sites
from autocompress.compress.sparsifying import show

FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
}
"""What may be applied to layers' outputs, by the name of the option `activation`."""


class Tally:
    """A mean over all values of each channel, batch by batch."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None
        self._count = 0

    def add(self, values: torch.Tensor) -> None:
        """(..., channels)."""
        flat = values.flatten(0, -2).float()
        total = flat.sum(0).cpu().double()  # not every device has double precision
        self._total = total if self._total is None else self._total + total
        self._count += len(flat)

    def mean(self, channels: int) -> torch.Tensor:
        """One value per channel; 0 where nothing came by."""
        return torch.zeros(channels) if self._total is None else (self._total / self._count).float()


class Sight:
    """What is seen of a coupling at all its sites.

    Args:
        places: its sites.
        model: in which they are.
    """

    def __init__(self, places: Sequence[Site], model: nn.Module) -> None:
        self._sites, self._model = places, model
        self._shares, self._squares = ([Tally() for _ in places] for _ in range(2))

    @property
    def nonzero(self) -> torch.Tensor:
        """Share in [0, 1] of each channel's values that are not zero; the mean over the sites."""
        shares = [site.mean(tally.mean(site.channels)) for site, tally in self._pairs(self._shares)]
        return torch.stack(shares).mean(0)

    @property
    def has_zeros(self) -> bool:
        """Whether any value of any channel is zero."""
        return bool((self.nonzero < 1).any())

    @property
    def contribution(self) -> torch.Tensor:
        """Quadratic mean of each channel times the norm of the weights that read it, added over the sites.

        Quadratic, as rare large values count for more than what is always there: BatchNorm behind makes up for that in
        part when it is recalibrated.
        """
        total = torch.zeros(self._sites[0].width)
        for site, tally in self._pairs(self._squares):
            sizes = tally.mean(site.channels).sqrt()
            total += site.total(sizes if site.output else sizes * input_norms(self._layer(site)).cpu())
        return total

    def watch(self, unpooled: Unpooled) -> list[Any]:
        """Look at all that comes by at the sites; handles to end that with."""
        return [
            site.watch(self._model, functools.partial(self._see, index, unpooled))
            for index, site in enumerate(self._sites)
        ]

    def _see(self, index: int, unpooled: Unpooled, tensor: torch.Tensor) -> None:
        site = self._sites[index]
        self._squares[index].add(rows(self._layer(site), tensor.detach()).float().square())
        origin = unpooled.origin(tensor)
        block = None if origin is tensor else site.block(origin.shape[1])
        if block is None:
            self._shares[index].add((rows(self._layer(site), tensor.detach()) != 0).float())
        else:
            self._shares[index].add((origin.detach().movedim(1, -1) != 0).float().repeat_interleave(block, -1))

    def _pairs(self, tallies: Sequence[Tally]) -> list[tuple[Site, Tally]]:
        return list(zip(self._sites, tallies, strict=True))

    def _layer(self, site: Site) -> nn.Module:
        return self._model.get_submodule(site.name)


def seen(
    model: nn.Module, inputs: list[tuple[Any, ...]], behind: Mapping[str, str], couplings: Sequence[Coupling]
) -> dict[tuple[Place, ...], Sight]:
    """What each coupling does on these inputs, by its places; the model is not changed."""
    found = {coupling.places: Sight(sites(coupling, model, behind), model) for coupling in couplings}
    unpooled = Unpooled()
    handles = [handle for sight in found.values() for handle in sight.watch(unpooled)]
    handles.append(model.register_forward_pre_hook(lambda *_: unpooled.forget()))
    try:
        with unpooled:
            show(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def activity_of_layers(
    model: nn.Module,
    inputs: list[tuple[Any, ...]],
    behind: Mapping[str, str],
    couplings: Sequence[Coupling],
    function: Callable[[torch.Tensor], torch.Tensor],
    zeros: bool,
) -> Importance:
    """What a function makes of the output of each layer or the BatchNorm behind it, whatever really follows.

    Args:
        model: not changed.
        inputs: of forward passes.
        behind: layer -> whose output.
        couplings: those to judge; the scores of coupled layers are averaged.
        function: the activation.
        zeros: score how often it is not zero, instead of its mean.
    """
    names = {place.name for coupling in couplings for place in coupling.places if place.makes_width_of(behind)}
    tallies = {name: Tally() for name in names}

    def see(name: str, module: nn.Module, _: Any, output: torch.Tensor) -> None:
        active = rows(module, function(output.detach()))
        tallies[name].add((active != 0).float() if zeros else active)

    handles = [model.get_submodule(behind[name]).register_forward_hook(functools.partial(see, name)) for name in names]
    try:
        show(model, inputs)
    finally:
        for handle in handles:
            handle.remove()

    def score(coupling: Coupling) -> torch.Tensor:
        made = [place for place in coupling.places if place.name in names and place.makes_width_of(behind)]
        total, count = torch.zeros(coupling.width), torch.zeros(coupling.width)
        for place in made:
            roots, indices = torch.tensor(place.roots), torch.tensor(place.indices)
            total.index_add_(0, roots, tallies[place.name].mean(place.channels or coupling.width)[indices])
            count.index_add_(0, roots, torch.ones(len(indices)))
        return total / count.clamp_min(1)

    return score
