"""Masks on a model's parameters that can be set anew: what was masked may come back."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compression.base import CompressionRequest, LayerShape, layer_shape
from autocompress.compression.layers import FILTER_TYPES, layer_rates, supported_layers, weight_types
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.parametrizations import WEIGHT
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.filters import remove_filters, removed_share
from autocompress.compression.pruning.groups import Coupling, Removal, removals, remove
from autocompress.compression.pruning.pruning_plan import ModelShare, PruningPlan
from autocompress.compression.pruning.sparsity import Mask, WeightCompressor, zero_share
from autocompress.errors import CompressionError
from autocompress.nncf.schedules import Schedule


class Masks:
    """One algorithm's masks on a model.

    Args:
        model: has no masks of this algorithm yet.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._steps: dict[str, Mask] = {}

    def put(self, names: Iterable[str]) -> None:
        """Put masks that mask nothing on parameters that have none."""
        for name in names:
            if name not in self._steps:
                layer, _, key = name.rpartition(".")
                module = self._model.get_submodule(layer)
                weight = cast(torch.Tensor, getattr(module, key))
                self._steps[name] = Mask(torch.zeros_like(weight, dtype=torch.bool))
                # Nothing to check: shape and type stay.
                parametrize.register_parametrization(module, key, self._steps[name], unsafe=True)

    def set(self, pruned: Mapping[str, torch.Tensor]) -> None:
        """Mask exactly this: parameter -> True where it is zero."""
        self.put(name for name, mask in pruned.items() if bool(mask.any()))
        for name, step in self._steps.items():
            if name in pruned:
                step.pruned.copy_(pruned[name])
            else:
                step.pruned.zero_()


_logger = logging.getLogger("autocompress.nncf")

Ask = Callable[[float], CompressionRequest]
"""From a level to what is asked of the compressor."""


class LevelPart(Protocol):
    """An algorithm with a level that a schedule or a search moves."""

    name: str
    schedule: Schedule
    level: float

    def attach(self, model: nn.Module) -> None:
        """Begin to work on a model that has nothing of this algorithm on it."""

    def set_level(self, level: float, plain: nn.Module) -> None:
        """Compress the model to a level in [0, 1).

        Args:
            level: requested compression rate.
            plain: a copy of the model without anything of ours on it, which may be used up.
        """

    def reached(self) -> bool:
        """Whether the model is at its level; what is learned takes its time."""
        ...

    def loss(self) -> torch.Tensor | None:
        """What is to be added to the training loss; None: nothing."""
        ...

    def freeze(self) -> None:
        """Leave the masks as they are from now on."""

    def remove(self, plain: nn.Module, level: float) -> nn.Module:
        """Compress a plain model physically, where the algorithm can, for a model that is to be trained on.

        Raises:
            CompressionError: nothing would change, or the model fails without its filters.
        """
        ...

    def get_state(self) -> dict[str, Any]:
        """What a state dict does not hold, as JSON."""
        ...

    def load_state(self, state: Mapping[str, Any], plain: nn.Module) -> None:
        """Go on from there, attached anew; values come with a state dict afterwards.

        Args:
            state: what `get_state` gave.
            plain: a copy of the model without anything of ours on it, which may be used up.
        """

    @property
    def removes(self) -> bool:
        """Whether `finish` takes something out."""
        ...

    def finish(self, model: nn.Module) -> None:
        """Take out of a copy of the model, its weights folded, what the masks have emptied."""

    def achieved(self, finished: nn.Module) -> float:
        """ModelShare of the filters or weights that are gone or zero in a finished model."""
        ...

    @property
    def left_alone(self) -> dict[str, str]:
        """Layer -> a sentence why it has not been cut, although it was to be."""
        ...


class _MaskedPart:
    """What parts whose masks follow from the weights have in common."""

    def __init__(self, name: str, ask: Ask, schedule: Schedule) -> None:
        self.name, self.schedule = name, schedule
        self.level = schedule.initial
        self._ask = ask
        self._frozen = False

    def attach(self, model: nn.Module) -> None:
        """See `LevelPart`."""
        self._masks = Masks(model)

    def reached(self) -> bool:
        """See `LevelPart`."""
        return True

    def loss(self) -> torch.Tensor | None:
        """See `LevelPart`."""
        return None

    def freeze(self) -> None:
        """See `LevelPart`."""
        self._frozen = True

    @property
    def removes(self) -> bool:
        """See `LevelPart`."""
        return False

    @property
    def left_alone(self) -> dict[str, str]:
        """See `LevelPart`."""
        return {}

    def get_state(self) -> dict[str, Any]:
        """See `LevelPart`."""
        return {"level": self.level, "frozen": self._frozen}

    def load_state(self, state: Mapping[str, Any], plain: nn.Module) -> None:  # noqa: ARG002
        """See `LevelPart`."""
        self.level, self._frozen = float(state["level"]), bool(state["frozen"])


class SparsityPart(_MaskedPart):
    """`magnitude_sparsity`: the smallest weights are masked. Implements `LevelPart`."""

    def attach(self, model: nn.Module) -> None:
        """See `LevelPart`: all layers have their masks at once, so that a state dict always has the same names."""
        super().attach(model)
        layers = layer_rates(model, self._ask(0.0).targets, weight_types(self.name), self._ask(0.0).scopes)
        self._layers = tuple(layers)
        self._masks.put(f"{layer}.{WEIGHT}" for layer in layers)

    def set_level(self, level: float, plain: nn.Module) -> None:
        """See `LevelPart`."""
        if not self._frozen or level != self.level:
            found = WeightCompressor().masks(plain, self._ask(level))
            self._masks.set({f"{layer}.{WEIGHT}": mask for layer, mask in found.items()})
        self.level = level

    def remove(self, plain: nn.Module, level: float) -> nn.Module:  # noqa: ARG002
        """Single weights cannot be taken out; see `LevelPart`."""
        return plain

    def finish(self, model: nn.Module) -> None:
        """The zeros are in the weights; see `LevelPart`."""

    def achieved(self, finished: nn.Module) -> float:
        """See `LevelPart`."""
        return zero_share(finished, self._layers)


class PruningPart(_MaskedPart):
    """`filter_pruning`: the filters that would be removed are masked, and all that belongs to them.

    Implements `LevelPart`.

    Args:
        ask: what a level asks.
        schedule: of the level.
        shapes: of the uncompressed model's layers.
        original: the uncompressed model.
    """

    def __init__(
        self,
        ask: Ask,
        schedule: Schedule,
        shapes: dict[str, LayerShape],
        original: nn.Module,
    ) -> None:
        super().__init__("filter_pruning", ask, schedule)
        self._shapes, self._original = shapes, original
        self._whole: Channels | None = None
        self._removals: list[Removal] = []
        self._chosen: dict[str, list[int]] = {}
        self._proven = False
        self._targets: tuple[str, ...] = ()
        self._left_alone: dict[str, str] = {}

    def attach(self, model: nn.Module) -> None:
        """See `LevelPart`."""
        super().attach(model)
        self._removals, self._chosen = [], {}

    def set_level(self, level: float, plain: nn.Module) -> None:
        """See `LevelPart`."""
        cut = self._cut(plain, level)
        self._choose(*self._sound(cut))
        self._require_not_wider(plain, level)
        self._masks.set(_emptied(plain, self._removals))
        self.level = level

    def remove(self, plain: nn.Module, level: float) -> nn.Module:
        """See `LevelPart`."""
        cut = self._cut(plain, level)
        if self._proven:
            _, chosen = self._sound(cut)
            remove(plain, removals(chosen))
        else:  # that anything can be removed is checked once
            cut, _ = remove_filters(cut, ModelShare.requested(plain, cut.request))
            self._remember(cut)
            self._proven = True
        self.level, self._targets = level, cut.targets
        return plain

    def get_state(self) -> dict[str, Any]:
        """See `LevelPart`."""
        return {**super().get_state(), "removed": self._chosen, "left_alone": self._left_alone}

    def load_state(self, state: Mapping[str, Any], plain: nn.Module) -> None:
        """See `LevelPart`."""
        super().load_state(state, plain)
        self._left_alone, gone = dict(state.get("left_alone", {})), state["removed"]
        cut = self._cut(plain, self.level)
        self._choose(cut, [(each, gone[each.members[0]]) for each in cut.couplings if each.members[0] in gone])
        self._masks.set(_emptied(plain, self._removals))

    def _cut(self, plain: nn.Module, level: float) -> PruningPlan:
        """What can be removed from a plain model; the channels of the uncompressed one are followed once for all."""
        if self._whole is None:
            followed = self._followed(self._original).with_verified(self._original, self._ask(level))
            self._whole = followed.narrowed(self._original) or followed  # without what it was told from, a whole trace
        return PruningPlan.of(plain, self._ask(level), self._whole.narrowed(plain) or self._followed(plain))

    def _sound(self, cut: PruningPlan) -> tuple[PruningPlan, list[tuple[Coupling, list[int]]]]:
        """What can be removed rightly; what cannot is not tried again."""
        sound, chosen = cut.verified(ModelShare.requested(cut.model, cut.request))
        self._remember(sound)
        return sound, chosen

    def _remember(self, cut: PruningPlan) -> None:
        new = {name: why for name, why in cut.left_alone.items() if name not in self._left_alone}
        for why in dict.fromkeys(new.values()):
            _logger.warning("filter pruning leaves a layer alone: %s", why)
        self._left_alone |= new
        if new and self._whole is not None:
            self._whole = self._whole.without(new)

    def _followed(self, model: nn.Module) -> Channels:
        with eval_mode(model), require_gradients(model):
            return Channels.of(model, self._ask(self.level), self._shapes)

    def _choose(self, cut: PruningPlan, chosen: list[tuple[Coupling, list[int]]]) -> None:
        self._removals, self._targets = removals(chosen), cut.targets
        self._chosen = {coupling.members[0]: channels for coupling, channels in chosen}

    @property
    def removes(self) -> bool:
        """See `LevelPart`."""
        return bool(self._removals)

    @property
    def left_alone(self) -> dict[str, str]:
        """See `LevelPart`; what was left alone once is not tried again."""
        return dict(self._left_alone)

    def finish(self, model: nn.Module) -> None:
        """See `LevelPart`."""
        remove(model, self._removals)

    def achieved(self, finished: nn.Module) -> float:
        """See `LevelPart`."""
        share = ModelShare.requested(finished, self._ask(self.level))
        if not self._targets:  # the model came finished
            self._targets = self._cut(self._original, self.level).targets
        return removed_share(finished, self._shapes, self._targets) if share is None else share.removed(finished)

    def _require_not_wider(self, plain: nn.Module, level: float) -> None:
        gone = removed_share(plain, self._shapes, self._targets)
        narrower = any(
            layer_shape(layer).width < self._shapes[name].width
            for name, layer in supported_layers(plain, FILTER_TYPES).items()
        )
        if narrower and not self._removals and level < gone - 1e-3:
            raise CompressionError(
                f"filters that were removed cannot come back: the compression rate must be >= {gone:.3g}; got {level:g}"
            )


def _emptied(plain: nn.Module, removals: list[Removal]) -> dict[str, torch.Tensor]:
    """Parameter -> True at the values that a removal takes away, found by removing numbers."""
    probe = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in probe.parameters():
            numbers = torch.arange(parameter.numel(), dtype=torch.float64, device=parameter.device)
            parameter.data = numbers.view(parameter.shape)
    remove(probe, removals)
    found = {}
    left = dict(probe.named_parameters())
    for name, parameter in plain.named_parameters():
        if left[name].numel() < parameter.numel():
            gone = torch.ones(parameter.numel(), dtype=torch.bool, device=parameter.device)
            gone[left[name].detach().long().flatten()] = False
            found[name] = gone.view(parameter.shape)
    return found
