"""A model and a smaller one side by side: what layers give in both, and how it differs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocompress.compress.pruning.calls import Calls
from autocompress.compress.pruning.neutral import NeutralNormalization
from autocompress.compress.pruning.removal import Removal, remove
from autocompress.compress.pruning.twins import kept, same_chance, silenced, twin
from autocompress.compress.state import device_of, tensors
from autocompress.errors import first_line

OUTPUTS = "the model's outputs"

_Values = list[tuple[str, torch.Tensor]]
"""What layers gave in one forward pass, in order, and the model at its end."""


@dataclass(frozen=True)
class Disagreement:
    """How a smaller model and the silenced one differ.

    Attributes:
        where: name of the first layer with other outputs, or the model's outputs.
        difference: largest difference there, relative to the largest value; inf: other shapes.
        error: why the smaller model fails; None: it runs.
        training: whether it does so in training mode only.
        in_place: whether every channel that stays lies where it should; None: not known.
    """

    where: str
    difference: float = 0.0
    error: str | None = None
    training: bool = False
    in_place: bool | None = None

    def sentence(self, layer: str) -> str:
        """Why that layer keeps its filters."""
        mode = " in training mode" if self.training else ""
        if self.error is not None:
            return f"{layer}: without some of its filters the model fails{mode} ({self.error}); it keeps its filters"
        many = f"outputs differ by {self.difference:.2g} of their scale"
        how = many if self.difference < float("inf") else "outputs have another shape"
        if self.in_place:
            what = (
                f"what becomes of its channels on the way to {self.where} depends on all of them, as a mean or a norm "
                "does, or on how many there are"
            )
        else:
            or_depend = "" if self.in_place is False else " or depend on each other"
            what = f"its channels are mixed or reordered{or_depend} on the way to {self.where}"
        return f"{layer}: {what}{mode} ({how}); it keeps its filters"


@dataclass(frozen=True)
class Narrow:
    """A forward pass of the smaller model.

    Attributes:
        model: the smaller model; None: it cannot be made.
        values: what layers gave.
        calls: what it called, where that was to be noted.
        error: why it failed; None: it did not.
    """

    model: nn.Module | None
    values: _Values
    calls: Calls | None = None
    error: str | None = None


@dataclass(frozen=True)
class Side:
    """A copy of the uncompressed model that can be silenced, its inputs, and how exactly it computes."""

    base: nn.Module
    inputs: tuple[Any, ...]
    tolerance: float

    def silent_values(self, removed: Sequence[Removal], watched: list[str], *, training: bool = False) -> _Values:
        """What layers of the whole model give that do not hear these channels."""
        with silenced(self.base, removed):
            return _values(self.base, self.inputs, watched, training=training)

    def narrow(
        self,
        removed: Sequence[Removal],
        watched: list[str],
        smaller: nn.Module | None = None,
        *,
        noted: bool = False,
        training: bool = False,
    ) -> Narrow:
        """A forward pass without these channels.

        Args:
            removed: what goes.
            watched: names of the layers to look at.
            smaller: without them already; None: to be made.
            noted: whether to note what is called.
            training: in training mode.
        """
        try:
            smaller = smaller or self.smaller(removed)
            calls = Calls(smaller, self.inputs) if noted else None
            return Narrow(smaller, _values(smaller, self.inputs, watched, calls, training=training), calls)
        except Exception as error:  # noqa: BLE001 - whatever a user's model raises without its channels
            return Narrow(smaller, [], error=first_line(error))

    def smaller(self, removed: Sequence[Removal]) -> nn.Module:
        """A copy without these channels."""
        smaller = twin(self.base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            remove(smaller, removed)
        return smaller

    def compared(self, removed: Sequence[Removal], silent: _Values, smaller: _Values) -> Disagreement | None:
        """The first difference of a forward pass of the smaller model; None: there is none."""
        gone = {removal.name: removal.channels for removal in removed if not removal.on_inputs}
        for (where, wide), (name, narrow) in zip(silent, smaller, strict=False):
            if where == name and where != OUTPUTS:
                wide = kept(wide, self.base.get_submodule(where), gone, where)
            difference = _difference(wide, narrow) if where == name else float("inf")
            if difference > self.tolerance:
                return Disagreement(where, difference)
        return None if len(silent) == len(smaller) else Disagreement(OUTPUTS, float("inf"))


def _values(
    model: nn.Module,
    inputs: tuple[Any, ...],
    watched: Iterable[str],
    calls: Calls | None = None,
    *,
    training: bool = False,
) -> _Values:
    seen: _Values = []

    def watcher(name: str) -> Any:
        return lambda _, __, output: seen.extend((name, tensor) for tensor in tensors(output)[:1])

    handles = [model.get_submodule(name).register_forward_hook(watcher(name)) for name in watched]
    try:
        model.train(training)
        with torch.no_grad(), same_chance(device_of(model)), NeutralNormalization(calls):
            answer = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    if calls is not None:
        calls.end(answer)
    return seen + [(OUTPUTS, tensor) for tensor in tensors(answer)]


def _difference(wide: torch.Tensor, narrow: torch.Tensor) -> float:
    """The largest one, relative to the largest value."""
    if wide.shape != narrow.shape or wide.dtype != narrow.dtype:
        return float("inf")
    if not wide.numel():
        return 0.0
    if not wide.dtype.is_floating_point and not wide.dtype.is_complex:
        return 0.0 if torch.equal(wide, narrow) else 1.0
    difference, scale = float((wide - narrow).abs().max()), float(wide.abs().max())
    if difference == 0:
        return 0.0
    if math.isfinite(difference) and math.isfinite(scale):
        return difference / scale if scale else 1.0
    finite = wide.isfinite()
    if bool(finite.all()) or not torch.equal(finite, narrow.isfinite()):
        return float("inf")
    return _difference(wide[finite], narrow[finite])
