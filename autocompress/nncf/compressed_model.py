"""A model whose shapes and values change while it stays the same object, which the user's code refers to."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.compression.base import (
    AppliedAlgorithms,
    CompressionRequest,
    fold_parametrizations,
    recalibrate,
    strip_parametrizations,
)
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model
from autocompress.compression.pruning.attention import joined_attention, split_attention
from autocompress.compression.quantization.fake_quantizers import (
    FLOAT_BITS,
    FakeQuantizer,
    calibrate,
    observing,
)
from autocompress.compression.quantization.rounding import activation_quantizers, detach, hook
from autocompress.errors import ConfigError
from autocompress.formats.claims import Claim
from autocompress.nncf.algorithms import LevelPart, PruningPart
from autocompress.nncf.translation import first_samples
from autocompress.trial.distillation import DistillationHook


def replace_(model: nn.Module, source: nn.Module) -> None:
    """Give a model the shapes and values of another one, submodule by submodule; hooks stay those of the model.

    Args:
        model: changed; masks and quantizers on it are gone.
        source: a model of the same submodules with plain weights; not to be used afterwards.
    """
    detach(model)
    hooks = {key: value for key, value in vars(model).items() if key.endswith("hooks") or "_hooks_" in key}
    children = model._modules
    model.__class__ = source.__class__
    vars(model).update({**vars(source), **hooks})
    for key in vars(model).keys() - vars(source).keys():
        del vars(model)[key]
    kept: dict[str, nn.Module | None] = {}
    for name, child in source._modules.items():
        old = children.get(name)
        kept[name] = child if old is None or child is None else old
        if old is not None and child is not None and old is not child:
            replace_(old, child)
    model._modules = kept
    if activation_quantizers(model):
        hook(model)


def refresh_parameters_(model: nn.Module) -> None:
    """Give a model new parameters of the same values: gradients, hooks and optimizers stay with the old ones."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                known[old] = known.get(old, nn.Parameter(old.data, old.requires_grad))
                module._parameters[name] = known[old]


class ModelSnapshot:
    """A snapshot of a model, from which models are made on demand, in any thread.

    Args:
        rate: the compression rate that it had reached.
        claims: hold for the finished model as its file gives it back.
        finish: makes the finished model.
        begin: makes the model that trials start from; None: they start from the finished one.
    """

    def __init__(
        self,
        rate: float,
        claims: Sequence[Claim],
        finish: Callable[[], nn.Module],
        begin: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.rate, self._claims = rate, tuple(claims)
        self._finish: Callable[[], nn.Module] | None = finish
        self._begin = begin
        self._finished: nn.Module | None = None
        self._start: nn.Module | None = None
        self._lock = threading.RLock()

    def require(self, loaded: nn.Module, path: Path) -> None:
        """Check the finished model as its file gave it back.

        Raises:
            StoreError: it has another compression rate, or weights of more bits.
        """
        for claim in self._claims:
            claim.require(loaded, path)

    @property
    def finished(self) -> nn.Module:
        """A plain model: filters removed, zeros and rounded values written."""
        with self._lock:
            if self._finish is not None:
                self._finished, self._finish = self._finish(), None  # releases the copy that it is made of
            assert self._finished is not None
            return self._finished

    @property
    def start(self) -> nn.Module:
        """The model that trials start from; to be copied, as a trial changes it."""
        with self._lock:
            if self._begin is not None:
                self._start, self._begin = self._begin(), None
            return self.finished if self._start is None else self._start


def make_plain_(model: nn.Module) -> nn.Module:
    """Take masks and quantizers off a model; the weights below them stay as they are."""
    for module in strip_parametrizations(model).modules():
        detach(module)
    return model


_SAMPLES_FOR_STATISTICS = 512
_SAMPLES_TO_BEGIN_WITH = 32
"""For a model that is trained next, which updates the statistics."""


class CompressedModel:
    """A model that stays the same object whatever is put on it or taken out of it.

    Args:
        model: the model.
        reference: the uncompressed model.
        parts: the algorithms with a level.
        quantization: the quantizer's request; None: nothing is quantized.

    Attributes:
        finished: whether the model is plain again and at its final rate.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: ReferenceModel,
        parts: list[LevelPart],
        quantization: CompressionRequest | None,
    ) -> None:
        self.model, self.reference = model, reference
        self.parts, self.quantization = parts, quantization
        self.finished = False
        self._applied = AppliedAlgorithms()

    @property
    def rated(self) -> LevelPart | None:
        """The algorithm whose level is the compression rate: filters before weights."""
        return min(self.parts, key=lambda part: not isinstance(part, PruningPart), default=None)

    def attach(self, *, with_data: bool = True) -> None:
        """Put all algorithms on the model, which is plain.

        Args:
            with_data: take ranges of activations from data; else they are taken, or loaded, afterwards.
        """
        self.finished = False
        if any(isinstance(part, PruningPart) for part in self.parts):  # before there are quantizers and masks
            split_attention(self.model, self.reference.inputs)
        self._applied = AppliedAlgorithms([*self.parts])
        if self.quantization is not None:
            put = FakeQuantizer().compress if with_data else FakeQuantizer().attach
            self._applied.compressions.append(put(self.model, self.quantization))
        for part in self.parts:
            part.attach(self.model)

    def set_levels(self, levels: Mapping[str, float]) -> None:
        """Compress the model to these levels, by the algorithms' names.

        Raises:
            ConfigError: the model is finished.
        """
        if self.finished:
            raise ConfigError("the model is finished: its compression rate can no longer be set")
        moving = [part for part in self.parts if part.name in levels]
        plain = self.plain() if moving else self.model
        for part in moving:
            part.set_level(levels[part.name], plain)

    def plain(self) -> nn.Module:
        """A copy with the weights below masks and rounding; removed filters stay removed."""
        plain = _copied(self.model)
        return plain if self.finished else make_plain_(plain)

    def stripped(self) -> nn.Module:
        """A plain copy: filters removed, zeros and rounded values written.

        Raises:
            CompressionError: it fails without its filters.
        """
        twin = _copied(self.model)
        if self.finished:
            return twin
        finished = self._applied.finish(twin)
        if any(part.removes for part in self.parts):
            self.reference.require_shapes(finished)
        return finished

    def snapshot(self, *, plain: bool) -> ModelSnapshot:
        """A snapshot of the model, independent of later changes.

        Args:
            plain: whether trials start from the weights below masks, so that filters may come back; with quantization
                they always start from the weights below the rounding.

        Raises:
            CompressionError: it fails without its filters.
        """
        plain = plain or self.quantization is not None
        if any(part.removes for part in self.parts):  # the shapes must be checked now
            finished = self.stripped()
            start, rate = self.plain() if plain else finished, self.achieved_rate(finished)
            return ModelSnapshot(rate, self._claims(rate), lambda: finished, lambda: start)
        twin = _copied(self.model).eval()
        rate = self.achieved_rate(twin)
        if not plain:
            return ModelSnapshot(rate, self._claims(rate), lambda: joined_attention(fold_parametrizations(twin)))
        return ModelSnapshot(
            rate,
            self._claims(rate),
            lambda: joined_attention(fold_parametrizations(copy_model(twin))),
            lambda: make_plain_(copy_model(twin)),
        )

    def start_from(
        self, model: nn.Module | None, rate: float | None, *, removed: bool, evaluated: bool = False
    ) -> None:
        """Put other weights in the model and compress them.

        Args:
            model: with plain weights; not to be used afterwards. None: the model's own weights, of which no filter is
                masked.
            rate: compression rate in [0, 1); None: the algorithms have none.
            removed: remove filters physically, so that epochs get faster; else they are masked.
            evaluated: the model is evaluated before it is trained, so BatchNorm's statistics and the ranges of
                activations are estimated on more of the registered data.

        Raises:
            CompressionError: nothing would change, or the model fails without its filters.
        """
        start = self._plain_itself() if model is None else model
        part = None if rate is None else self.rated
        if part is not None and rate is not None and removed:
            start = part.remove(start, rate)
        masked = part is not None and not (removed and isinstance(part, PruningPart))
        plain = copy_model(start) if masked else start
        if start is not self.model:
            replace_(self.model, start)
        self.attach(with_data=False)
        if masked and part is not None and rate is not None:
            part.set_level(rate, plain)
        self._take_statistics(thoroughly=evaluated)

    def settle(self, finished: nn.Module, rate: float | None = None) -> None:
        """Become a finished model.

        Args:
            finished: a plain model; not to be used afterwards.
            rate: its compression rate; the current one by default.
        """
        replace_(self.model, finished)
        self.finished = True
        if self.rated is not None and rate is not None:
            self.rated.level = rate

    @torch.no_grad()
    def achieved_rate(self, stripped: nn.Module) -> float:
        """The compression rate measured on a finished model; with quantization alone, of bits saved."""
        return self.bits_saved() if self.rated is None else self.rated.achieved_rate(stripped)

    @property
    def left_alone(self) -> dict[str, str]:
        """Layer -> the reason why it keeps its filters although an algorithm selects it."""
        return AppliedAlgorithms([*self.parts]).left_alone

    def bits_saved(self) -> float:
        """Share in [0, 1) of the bits of the quantized weights that are saved."""
        if self.quantization is None:
            return 0.0
        return float(1 - self.quantization.targets[0].quant["quant_bits"]["weight"] / FLOAT_BITS)

    def _claims(self, rate: float) -> list[Claim]:
        """What must hold for a file of the model, independent of what the algorithms do later."""
        rated = self.rated
        claims = [] if rated is None else [Claim(copy.copy(rated), whole_model=False, rate=rate)]
        rounding = self._applied.compressions[len(self.parts) :]
        return claims + [Claim(each, whole_model=False, rate=self.bits_saved()) for each in rounding]

    def get_state(self) -> dict[str, Any]:
        """The state, as JSON, that is not in the state dict."""
        return {"finished": self.finished, "parts": {part.name: part.get_state() for part in self.parts}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `get_state` on a model of that structure."""
        self.finished = bool(state["finished"])
        for part in self.parts:
            known = state["parts"][part.name]
            if self.finished:
                part.level = float(known["level"])
            else:
                part.load_state(known, self.plain())

    def _plain_itself(self) -> nn.Module:
        """The model itself, with the weights that trials start from where filters do not come back."""
        (fold_parametrizations if self.quantization is None else make_plain_)(self.model)
        refresh_parameters_(self.model)
        return self.model

    def _take_statistics(self, *, thoroughly: bool) -> None:
        """Estimate BatchNorm's statistics first: with those of the wider model, ranges would be far too wide.

        A few samples give both in one pass.
        """
        data, estimated = self.reference.data, False
        if data is not None and (thoroughly or self.quantization is not None):
            samples = _SAMPLES_FOR_STATISTICS if thoroughly else _SAMPLES_TO_BEGIN_WITH
            with observing(self.model):
                estimated = recalibrate(self.model, first_samples(data, samples))
        if self.quantization is not None and (thoroughly or not estimated):
            calibrate(self.model, self.quantization)


def _copied(model: nn.Module) -> nn.Module:
    twin = copy_model(model)
    DistillationHook.forget(twin)
    return twin
