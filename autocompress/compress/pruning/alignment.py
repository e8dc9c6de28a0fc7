"""Whether channels lie where they should in a smaller model, which tells what is reordered from what is a mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from autocompress.compress.pruning.provenance import Provenance
from autocompress.compress.pruning.removal import Removal


def in_place(
    model: nn.Module, smaller: nn.Module, inputs: tuple[Any, ...], name: str, removed: Sequence[Removal]
) -> bool:
    """Whether each channel of a layer that stays lies in the smaller model where it lay, others not counted.

    Where values differ all the same, they are computed from other channels too, or from how many there are.

    Args:
        model: the model.
        smaller: without the removed channels.
        inputs: positional arguments of one forward pass.
        name: of the layer.
        removed: what has gone.
    """
    gone = {(removal.on_inputs, removal.name): set(removal.channels) for removal in removed}
    wide, narrow = Provenance(model, inputs), Provenance(smaller, inputs)
    left = [channel for channel in range(wide.width(name)) if channel not in gone.get((False, name), ())]
    for step in (2, 3):
        found = narrow.reached(name, range(0, len(left), step))
        for (kind, place), channels in wide.reached(name, left[::step]).items():
            lost = gone.get((kind == "in", place), set())
            there = [channel - sum(each < channel for each in lost) for channel in channels if channel not in lost]
            if there != found.pop((kind, place), []):
                return False
        if any(found.values()):
            return False
    return True
