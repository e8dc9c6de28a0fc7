"""Giving a model another one's shapes and values while it stays the same object.

A user's code holds on to the model: its optimizers, closures and hooks must see every change.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.compression.base import CompressionRequest
from autocompress.compression.batchnorm import recalibrate
from autocompress.compression.model_state import output_shapes
from autocompress.compression.parametrizations import fold_parametrizations, strip_parametrizations
from autocompress.compression.quantization.activations import activation_quantizers, detach, hook
from autocompress.compression.quantization.fake_quantizers import (
    FLOAT_BITS,
    FakeQuantization,
    FakeQuantizer,
    calibrate,
    observing,
)
from autocompress.errors import CompressionError, ConfigError, StoreError
from autocompress.formats.claims import require_same_rate
from autocompress.nncf.algorithms import LevelPart, PruningPart
from autocompress.nncf.requests import first_samples
from autocompress.records import Measurement
from autocompress.trial.distillation import Lesson


def become(model: nn.Module, source: nn.Module) -> None:
    """Make a model what another one is, submodule by submodule; the other one must not be used afterwards.

    Hooks stay those of the model; only quantizers of activations are taken over.

    Args:
        model: changed; whatever of ours is on it is gone.
        source: a model of the same submodules with plain weights.
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
            become(old, child)
    model._modules = kept
    if activation_quantizers(model):
        hook(model)


def renew(model: nn.Module) -> None:
    """Give a model new parameters of the same values: gradients, hooks and optimizers stay with the old ones."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                known[old] = known.get(old, nn.Parameter(old.data, old.requires_grad))
                module._parameters[name] = known[old]


class Capture:
    """What a model was, made when it is asked for, by whatever thread has time for it.

    Args:
        rate: the compression rate that it had reached.
        require: checks that the finished model, as its file at a path gave it back, has that rate and weights of few
            bits; raises StoreError.
        finish: makes the finished model.
        begin: makes what rates start from; None: they start from the finished model.
    """

    def __init__(
        self,
        rate: float,
        require: Callable[[nn.Module, Path], None],
        finish: Callable[[], nn.Module],
        begin: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.rate, self.require = rate, require
        self._finish: Callable[[], nn.Module] | None = finish
        self._begin = begin
        self._finished: nn.Module | None = None
        self._start: nn.Module | None = None
        self._lock = threading.RLock()

    @property
    def finished(self) -> nn.Module:
        """Without anything of ours on it: filters removed, zeros and rounded values written."""
        with self._lock:
            if self._finish is not None:
                self._finished, self._finish = self._finish(), None  # what it is made of is not needed any more
            assert self._finished is not None
            return self._finished

    @property
    def start(self) -> nn.Module:
        """What rates start from; to be copied, as a rate uses it up."""
        with self._lock:
            if self._begin is not None:
                self._start, self._begin = self._begin(), None
            return self.finished if self._start is None else self._start


def laid_bare(model: nn.Module) -> nn.Module:
    """Take all of ours off a model, without a trace in its weights."""
    for module in strip_parametrizations(model).modules():
        detach(module)
    return model


_SAMPLES_FOR_STATISTICS = 512
_SAMPLES_TO_BEGIN_WITH = 32
"""For a model that training follows: it moves the statistics on at once."""


@dataclass(frozen=True)
class Surveyed:
    """The uncompressed model.

    Attributes:
        model: a copy; not changed.
        inputs: positional arguments of one forward pass.
        size: its size.
        output_shapes: of that forward pass.
        data: registered training data; None without any.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    size: Measurement
    output_shapes: list[tuple[int, ...]]
    data: Any = None


class CompressedModel:
    """A model that stays the same object whatever is put on it or taken out of it.

    Args:
        model: the model.
        uncompressed: as it was.
        parts: the algorithms with a level.
        quantization: what is asked of the quantizer; None: nothing is quantized.

    Attributes:
        finished: whether nothing of ours is on the model any more.
    """

    def __init__(
        self,
        model: nn.Module,
        uncompressed: Surveyed,
        parts: list[LevelPart],
        quantization: CompressionRequest | None,
    ) -> None:
        self.model, self.uncompressed = model, uncompressed
        self.parts, self.quantization = parts, quantization
        self.finished = False
        self._rounding: FakeQuantization | None = None

    @property
    def rated(self) -> LevelPart | None:
        """The algorithm whose level is the compression rate: filters before weights."""
        return min(self.parts, key=lambda part: not isinstance(part, PruningPart), default=None)

    def attach(self, *, with_data: bool = True) -> None:
        """Put all algorithms on the model, which has nothing of ours on it.

        Args:
            with_data: take ranges of activations from data; else they are taken, or loaded, afterwards.
        """
        self.finished = False
        if self.quantization is not None:
            put = FakeQuantizer().compress if with_data else FakeQuantizer().attach
            self._rounding = put(self.model, self.quantization)
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
        """A copy with the weights below masks and rounding; what was removed stays removed."""
        plain = _copied(self.model)
        if self.finished:
            return plain
        return laid_bare(plain)

    def stripped(self) -> nn.Module:
        """A copy without anything of ours on it: filters removed, zeros and rounded values written.

        Raises:
            CompressionError: it fails without its filters.
        """
        twin = _copied(self.model)
        if self.finished:
            return twin
        folded = fold_parametrizations(twin)
        for part in self.parts:
            part.finish(folded)
        if any(part.removes for part in self.parts):
            self._require_shapes(folded)
        return folded

    def capture(self, *, plain: bool) -> Capture:
        """What the model is now, whatever becomes of it afterwards.

        Args:
            plain: whether rates are to start from the weights below masks, filters among them that may come back; where
                weights are rounded they always start from what is below the rounding.

        Raises:
            CompressionError: it fails without its filters.
        """
        plain = plain or self.quantization is not None
        if any(part.removes for part in self.parts):  # what is left of the model is to be checked now
            finished = self.stripped()
            start, rate = self.plain() if plain else finished, self.achieved_rate(finished)
            return Capture(rate, self._claims(rate), lambda: finished, lambda: start)
        twin = _copied(self.model).eval()
        rate = self.achieved_rate(twin)
        if not plain:
            return Capture(rate, self._claims(rate), lambda: fold_parametrizations(twin))
        return Capture(
            rate,
            self._claims(rate),
            lambda: fold_parametrizations(copy.deepcopy(twin)),
            lambda: laid_bare(copy.deepcopy(twin)),
        )

    def start_from(
        self, model: nn.Module | None, rate: float | None, *, removed: bool, evaluated: bool = False
    ) -> None:
        """Put other weights in the model and compress them.

        Args:
            model: with plain weights; used up. None: go on from the model's own, of which nothing is masked that could
                be removed.
            rate: compression rate in [0, 1); None: the algorithms have none.
            removed: remove filters physically, so that epochs get faster; else they are masked.
            evaluated: the model is to be evaluated before it is trained: estimate BatchNorm's statistics, and the
                ranges of activations, thoroughly on the registered data. Else training soon does.

        Raises:
            CompressionError: nothing would change, or the model fails without its filters.
        """
        start = self._laid_bare() if model is None else model
        part = None if rate is None else self.rated
        if part is not None and rate is not None and removed:
            start = part.remove(start, rate)
        masked = part is not None and not (removed and isinstance(part, PruningPart))
        plain = copy.deepcopy(start) if masked else start
        if start is not self.model:
            become(self.model, start)
        self.attach(with_data=False)
        if masked and part is not None and rate is not None:
            part.set_level(rate, plain)
        self._take_statistics(thoroughly=evaluated)

    def settle(self, finished: nn.Module, rate: float | None = None) -> None:
        """Become a finished model, which nothing of ours is on.

        Args:
            finished: used up.
            rate: its compression rate; that in force by default.
        """
        become(self.model, finished)
        self.finished = True
        if self.rated is not None and rate is not None:
            self.rated.level = rate

    @torch.no_grad()
    def achieved_rate(self, stripped: nn.Module) -> float:
        """The compression rate measured on a model whose filters are gone; with quantization alone, of bits saved."""
        return self.bits_saved() if self.rated is None else self.rated.achieved(stripped)

    @property
    def left_alone(self) -> dict[str, str]:
        """Layer -> a sentence why it keeps its filters, although an algorithm selects it."""
        return {name: why for part in self.parts for name, why in part.left_alone.items()}

    def bits_saved(self) -> float:
        """Share in [0, 1) of the bits of the quantized weights that are saved."""
        if self.quantization is None:
            return 0.0
        return float(1 - self.quantization.targets[0].quant["quant_bits"]["weight"] / FLOAT_BITS)

    def _claims(self, rate: float) -> Callable[[nn.Module, Path], None]:
        """Checks a model's file against what is claimed now, whatever becomes of the algorithms afterwards."""
        rated, rounding = copy.copy(self.rated), self._rounding

        @torch.no_grad()
        def require(loaded: nn.Module, path: Path) -> None:
            if rated is not None:
                require_same_rate(rated.achieved(loaded), rate, path)
            if rounding is not None and (wider := rounding.layers_beyond_bits(loaded)):
                raise StoreError(
                    f"the checkpoint {str(path)!r} must have weights of few bits; {', '.join(wider)} have more values "
                    "than their bits tell apart"
                )

        return require

    def get_state(self) -> dict[str, Any]:
        """What a state dict does not hold, as JSON."""
        return {"finished": self.finished, "parts": {part.name: part.get_state() for part in self.parts}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where `get_state` was asked, attached to a model of that structure."""
        self.finished = bool(state["finished"])
        for part in self.parts:
            known = state["parts"][part.name]
            if self.finished:
                part.level = float(known["level"])
            else:
                part.load_state(known, self.plain())

    def _laid_bare(self) -> nn.Module:
        """The model itself, as `capture` gives what rates start from where filters do not come back."""
        (fold_parametrizations if self.quantization is None else laid_bare)(self.model)
        renew(self.model)
        return self.model

    def _take_statistics(self, *, thoroughly: bool) -> None:
        """BatchNorm's statistics first, as ranges taken with those of the wider model would be far too wide.

        Where a few samples do, the same pass gives both.
        """
        data, estimated = self.uncompressed.data, False
        if data is not None and (thoroughly or self.quantization is not None):
            samples = _SAMPLES_FOR_STATISTICS if thoroughly else _SAMPLES_TO_BEGIN_WITH
            with observing(self.model):
                estimated = recalibrate(self.model, first_samples(data, samples))
        if self.quantization is not None and (thoroughly or not estimated):
            calibrate(self.model, self.quantization)

    def _require_shapes(self, model: nn.Module) -> None:
        wanted = self.uncompressed.output_shapes
        try:
            found = output_shapes(model, self.uncompressed.inputs)
        except Exception as error:
            raise CompressionError(
                f"the model must run without the removed filters; its forward pass fails: {error}"
            ) from error
        if found != wanted:
            raise CompressionError(f"the output's shape must not change; {wanted} became {found}")


def _copied(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    Lesson.forget(twin)
    return twin
