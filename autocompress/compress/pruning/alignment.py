"""Whether channels lie where they should in a smaller model, which tells what is reordered from what is a mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from autocompress.compress.pruning.provenance import Provenance
from autocompress.compress.pruning.removal import Removal


def in_place(
    model: nn.Module, smaller: nn.Module, inputs: tuple[Any, ...], layers: Iterable[str], removed: Sequence[Removal]
) -> bool:
    """Whether each channel of these layers that stays lies in the smaller model where it lay, others not counted.

    Where values differ all the same, they are computed from other channels too, or from how many there are.

    Args:
        model: the model.
        smaller: without the removed channels.
        inputs: positional arguments of one forward pass.
        layers: names of those that lose filters.
        removed: what has gone.
    """
    gone = {(removal.on_inputs, removal.name): set(removal.channels) for removal in removed}
    wide, narrow = Provenance(model, inputs), Provenance(smaller, inputs)
    for name in layers:
        left = [channel for channel in range(wide.width(name)) if channel not in gone.get((False, name), ())]
        for step in (2, 3):
            before, after = wide.reached(name, left[::step]), narrow.reached(name, range(0, len(left), step))
            for kind, place in {*before, *after}:
                lost = gone.get((kind == "in", place), set())
                there = [channel for channel in before.get((kind, place), ()) if channel not in lost]
                counted = [channel - sum(each < channel for each in lost) for channel in there]
                if counted != after.get((kind, place), []):
                    return False
    return True
