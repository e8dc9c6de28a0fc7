"""NNCF's algorithms on a model that is being trained: masks that move with a level, so that weights may come back."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compression.base import WEIGHT, Compression, CompressionRequest, fold_parametrizations, layer_shape
from autocompress.compression.layers import PRUNED_TYPES, layer_rates, supported_layers, weight_types
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model, eval_mode, require_gradients
from autocompress.compression.pruning.attention import joined_attention
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.filters import remove_filters, removed_share, split_selected
from autocompress.compression.pruning.groups import Coupling, Removal, removals, remove
from autocompress.compression.pruning.pruner import PROBED, pruner_of
from autocompress.compression.pruning.pruning_plan import ModelShare, PruningPlan
from autocompress.compression.pruning.sparsity import (
    Mask,
    WeightCompressor,
    computed_weights,
    require_some_plain,
    zero_share,
)
from autocompress.errors import CompressionError
from autocompress.nncf.schedules import Schedule
from autocompress.records import Sensitivity


class Masks:
    """One algorithm's masks on a model that has none of this algorithm yet."""

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

RequestAtLevel = Callable[[float], CompressionRequest]
"""From a level to the compressor's request."""


class LevelPart(Compression, Protocol):
    """A compression whose level in [0, 1) is moved by a schedule or a search while the model is trained."""

    name: str
    schedule: Schedule
    level: float

    def attach(self, model: nn.Module) -> None:
        """Begin to work on a model that has nothing of this algorithm on it."""

    def set_level(self, level: float, plain: nn.Module) -> None:
        """Compress the model to a level.

        Args:
            level: requested compression rate in [0, 1).
            plain: a copy of the model without masks and rounding, which may be changed.
        """

    def reached(self) -> bool:
        """Whether the model is at its level; learned masks take some epochs."""
        ...

    def loss(self) -> torch.Tensor | None:
        """A term of the training loss; None for none."""
        ...

    def freeze(self) -> None:
        """Leave the masks as they are from now on."""

    def remove(self, plain: nn.Module, level: float) -> nn.Module:
        """Compress a plain model physically, where the algorithm can, before it is trained on.

        Raises:
            CompressionError: nothing would change, or the model fails without its filters.
        """
        ...

    def get_state(self) -> dict[str, Any]:
        """The state, as JSON, that is not in the model's state dict."""
        ...

    def load_state(self, state: Mapping[str, Any], plain: nn.Module) -> None:
        """Restore the state of `get_state` after `attach`; a state dict is loaded afterwards.

        Args:
            state: as `get_state` returned it.
            plain: a copy of the model without masks and rounding, which may be changed.
        """

    @property
    def removes(self) -> bool:
        """Whether `finish` removes anything physically."""
        ...

    @property
    def left_alone(self) -> dict[str, str]:
        """Layer -> the reason why it keeps its filters although it is selected."""
        ...


class LevelPartBase:
    """Defaults of a `LevelPart`."""

    simulated = converts = removes = False
    epochs = 0

    def __init__(self, name: str, request: RequestAtLevel, schedule: Schedule) -> None:
        self.name, self.schedule = name, schedule
        self.level = schedule.initial
        self._request = request
        self._computed: dict[str, str] = {}

    def attach(self, model: nn.Module) -> None:
        """Begin to work on a model."""
        self.model = model

    def reached(self) -> bool:
        """Masks that follow from the weights are at their level at once."""
        return True

    def loss(self) -> torch.Tensor | None:
        """No term."""
        return None

    def remove(self, plain: nn.Module, level: float) -> nn.Module:  # noqa: ARG002
        """Single weights cannot be removed."""
        return plain

    def finish(self, model: nn.Module) -> nn.Module:
        """Write the zeros into the weights."""
        return fold_parametrizations(model)

    @property
    def left_alone(self) -> dict[str, str]:
        """Any weight can be zero that is not computed from others."""
        return dict(self._computed)

    def _masked_layers(self, model: nn.Module) -> tuple[str, ...]:
        """Names of the layers whose weights this algorithm may zero."""
        request = self._request(0.0)
        rates = layer_rates(model, request.targets, weight_types(self.name), request.scopes)
        self._computed = computed_weights(model, rates)
        require_some_plain(rates, self._computed)
        for why in self._computed.values():
            _logger.warning("%s leaves a layer alone: %s", self.name, why)
        return tuple(name for name in rates if name not in self._computed)


class _MaskedPart(LevelPartBase):
    """An algorithm whose masks follow from the weights."""

    def __init__(self, name: str, request: RequestAtLevel, schedule: Schedule) -> None:
        super().__init__(name, request, schedule)
        self._frozen = False

    def attach(self, model: nn.Module) -> None:
        """Begin without masks."""
        super().attach(model)
        self._masks = Masks(model)

    def freeze(self) -> None:
        """Leave the masks as they are."""
        self._frozen = True

    def get_state(self) -> dict[str, Any]:
        """The level, and whether it is frozen."""
        return {"level": self.level, "frozen": self._frozen}

    def load_state(self, state: Mapping[str, Any], plain: nn.Module) -> None:  # noqa: ARG002
        """Restore them."""
        self.level, self._frozen = float(state["level"]), bool(state["frozen"])


class SparsityPart(_MaskedPart):
    """`magnitude_sparsity`: the smallest weights are masked. Implements `LevelPart`."""

    def attach(self, model: nn.Module) -> None:
        """Mask all layers at once, so that state dicts always have the same names."""
        super().attach(model)
        self._layers = self._masked_layers(model)
        self._masks.put(f"{layer}.{WEIGHT}" for layer in self._layers)

    def set_level(self, level: float, plain: nn.Module) -> None:
        """Mask the smallest weights."""
        if not self._frozen or level != self.level:
            found = WeightCompressor().masks(plain, self._request(level))
            self._masks.set({f"{layer}.{WEIGHT}": mask for layer, mask in found.items()})
        self.level = level

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:  # noqa: ARG002
        """ModelShare of the weights that are zero."""
        return zero_share(model, self._layers)


class PruningPart(_MaskedPart):
    """`filter_pruning`: the filters that would be removed are masked, with all that depends on them.

    Implements `LevelPart`.

    Args:
        request: of a level.
        schedule: of the level.
        reference: the uncompressed model.
    """

    def __init__(self, request: RequestAtLevel, schedule: Schedule, reference: ReferenceModel) -> None:
        super().__init__("filter_pruning", request, schedule)
        self._reference = reference
        self._whole: Channels | None = None
        self._sensitivity: Sensitivity | None = None
        self._removals: list[Removal] = []
        self._chosen: dict[str, list[int]] = {}
        self._proven = False
        self._targets: tuple[str, ...] = ()
        self._left_alone: dict[str, str] = {}

    def attach(self, model: nn.Module) -> None:
        """Begin without masks."""
        super().attach(model)
        self._removals, self._chosen = [], {}

    def set_level(self, level: float, plain: nn.Module) -> None:
        """Mask the least important filters."""
        cut = self._cut(plain, level)
        self._choose(*self._sound(cut))
        self._require_not_wider(plain, level)
        self._masks.set(_emptied(plain, self._removals))
        self.level = level

    def remove(self, plain: nn.Module, level: float) -> nn.Module:
        """Remove the least important filters."""
        cut = self._cut(plain, level)
        if self._proven:
            _, chosen = self._sound(cut)
            remove(plain, removals(chosen))
        else:  # that anything can be removed is checked once
            cut, _ = remove_filters(cut, ModelShare.requested(plain, cut.request))
            self._remember(cut)
            self._proven = True
        self.level, self._targets = level, cut.targets
        return joined_attention(plain)

    def get_state(self) -> dict[str, Any]:
        """The masked filters too."""
        return {**super().get_state(), "removed": self._chosen, "left_alone": self._left_alone}

    def load_state(self, state: Mapping[str, Any], plain: nn.Module) -> None:
        """Mask the same filters."""
        super().load_state(state, plain)
        self._left_alone, gone = dict(state.get("left_alone", {})), state["removed"]
        cut = self._cut(plain, self.level)
        self._choose(cut, [(each, gone[each.members[0]]) for each in cut.couplings if each.members[0] in gone])
        self._masks.set(_emptied(plain, self._removals))

    @property
    def removes(self) -> bool:  # type: ignore[override]
        """Whether filters are masked."""
        return bool(self._removals)

    @property
    def left_alone(self) -> dict[str, str]:
        """Layer -> the reason; it is not tried again."""
        return dict(self._left_alone)

    def finish(self, model: nn.Module) -> nn.Module:
        """Remove the masked filters."""
        remove(fold_parametrizations(model), self._removals)
        return joined_attention(model)

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:  # noqa: ARG002
        """ModelShare of the filters, parameters or MACs that are removed in a finished model."""
        share = ModelShare.requested(model, self._request(self.level))
        if not self._targets:  # the model came finished
            self._targets = self._cut(copy_model(self._reference.original), self.level).targets
        if share is not None:
            return share.removed(model)
        return removed_share(model, self._reference.shapes, self._targets)

    def _cut(self, plain: nn.Module, level: float) -> PruningPlan:
        """What can be removed from a plain model; the uncompressed model's channels are traced only once."""
        split_selected(plain, self._request(level))
        if self._whole is None:
            original, request = copy_model(self._reference.original), self._request(level)
            self._left_alone |= split_selected(original, request)
            followed = self._followed(original).with_verified(original, request)
            if pruner_of(request).allocation(request) in PROBED:
                self._sensitivity = PruningPlan.of(original, request, followed).request.sensitivity
            self._whole = followed.narrowed(original) or followed  # drops the trace
        request = dataclasses.replace(self._request(level), sensitivity=self._sensitivity)
        return PruningPlan.of(plain, request, self._whole.narrowed(plain) or self._followed(plain))

    def _sound(self, cut: PruningPlan) -> tuple[PruningPlan, list[tuple[Coupling, list[int]]]]:
        """What can be removed correctly; what cannot is not tried again."""
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
            return Channels.of(model, self._request(self.level), self._reference.shapes)

    def _choose(self, cut: PruningPlan, chosen: list[tuple[Coupling, list[int]]]) -> None:
        self._removals, self._targets = removals(chosen), cut.targets
        self._chosen = {coupling.members[0]: channels for coupling, channels in chosen}

    def _require_not_wider(self, plain: nn.Module, level: float) -> None:
        shapes = self._reference.shapes
        gone = removed_share(plain, shapes, self._targets)
        narrower = any(
            layer_shape(layer).width < shapes[name].width
            for name, layer in supported_layers(plain, PRUNED_TYPES).items()
        )
        if narrower and not self._removals and level < gone - 1e-3:
            raise CompressionError(
                f"filters that were removed cannot come back: the compression rate must be >= {gone:.3g}; got {level:g}"
            )


def _emptied(plain: nn.Module, removals: list[Removal]) -> dict[str, torch.Tensor]:
    """Parameter -> True at the values that a removal takes away, found by removing numbers."""
    probe = copy_model(plain)
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
