"""How far a model's outputs move where single layers are narrower: the probe behind equal damage.

Each coupling alone is cut to several widths on a copy, BatchNorm is recalibrated, and the outputs are compared with the
uncompressed model's on the same inputs, which needs neither labels nor training; or the module's own loss is measured.

Sources: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710, section 3.2, measures sensitivities
by the accuracy; Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, compares outputs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compression.base import CompressionRequest, recalibrate
from autocompress.compression.model_state import copy_model, device_of, eval_mode, flatten_tensors, to_device
from autocompress.compression.module import ModuleClass, call_hook, raising
from autocompress.compression.pruning.groups import Coupling, removals, remove
from autocompress.compression.pruning.pruner import NOT_RANKING, pruner_of
from autocompress.compression.pruning.reference_models import fixed_seeds
from autocompress.compression.trainer_hooks import input_batches
from autocompress.errors import CompressionError, ConfigError, ModuleError, first_line
from autocompress.records import PROBE_BATCHES, PROBE_WIDTHS, CouplingSensitivity, Sensitivity

PROBE_SECONDS = 60.0
"""The longest that a probe may take where the time of an epoch is not known."""

_LARGEST = 1e9
"""Stands for outputs that are not finite."""
_MOST_VALUES = 1 << 28
"""Output values of the uncompressed model that are kept in memory; 1 GiB."""
_LARGE_BATCH = 16
"""Samples from which a batch's own statistics stand for recalibrated ones."""

Inputs = tuple[Any, ...]


def probe_inputs(request: CompressionRequest, model: nn.Module, batches: int = PROBE_BATCHES) -> list[Inputs]:
    """Batches of model inputs: calibration data, else what the user's trainer passes to the model.

    Raises:
        ConfigError: there is no module to take them from.
        ModuleError: the module has neither, or no data in it.
    """
    if request.module is None:
        raise ConfigError(
            f"allocation {_named(request)} needs inputs to compare the model's outputs on, and there are none: define "
            "calibration_data() in a module, or register data with register_default_init_args"
        )
    found = input_batches(request.module, request.algorithm, model, batches)
    if not found:
        raise ModuleError(
            f"allocation {_named(request)} needs inputs to compare the model's outputs on; the trainer of "
            f"{request.module.__name__} never calls the model: define calibration_data()"
        )
    return found


def _named(request: CompressionRequest) -> str:
    return repr(pruner_of(request).allocation(request))


def ranking_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an algorithm's arguments that decide which filters of a layer are the least important, as JSON."""
    chosen = {name: value for name, value in arguments.items() if name not in NOT_RANKING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


def damage_of(outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """How far outputs have moved, summed over them; 0: not at all.

    Of class scores, (samples, classes), the Kullback-Leibler divergence of their probabilities; of other outputs the
    mean squared error relative to their variance.

    Raises:
        CompressionError: there are others, or of other shapes.
    """
    pairs = [(own, other) for own, other in zip(outputs, expected, strict=False) if other.is_floating_point()]
    if len(outputs) != len(expected) or any(own.shape != other.shape for own, other in pairs) or not pairs:
        raise CompressionError("outputs must be floating point numbers of the same shapes")
    return min(sum(_distance(own.float(), other.float()) for own, other in pairs), _LARGEST)


def _distance(output: torch.Tensor, expected: torch.Tensor) -> float:
    if output.dim() == 2 and output.shape[1] > 1:
        log, target = functional.log_softmax(output, 1), functional.log_softmax(expected, 1)
        found = functional.kl_div(log, target, reduction="batchmean", log_target=True)
    else:
        spread = expected.var(unbiased=False).clamp_min(torch.finfo(expected.dtype).tiny)
        found = functional.mse_loss(output, expected) / spread
    value = float(found)
    return max(0.0, value) if math.isfinite(value) else _LARGEST  # rounding


class Probe:
    """Compares narrower copies of a model with it.

    Args:
        model: the uncompressed one; not changed.
        inputs: batches of positional arguments.

    Attributes:
        seconds: that one copy takes, without the cutting.

    Raises:
        CompressionError: no output is a floating point number.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Inputs]) -> None:
        self._model, self._inputs = model, list(inputs)
        self._by_batch = min(map(_samples, inputs)) >= _LARGE_BATCH
        self._expected: list[list[torch.Tensor]] = []
        next(self._outputs(copy_model(model)))  # the first pass takes longer than others
        started, values = time.monotonic(), 0
        for outputs in self._outputs(copy_model(model)):
            damage_of(outputs, outputs)
            self._expected.append(outputs)
            values += sum(tensor.numel() for tensor in outputs)
            if values > _MOST_VALUES:
                break
        self.limit(len(self._expected))
        self.seconds = time.monotonic() - started

    @property
    def batches(self) -> int:
        """Batches that outputs are compared on."""
        return len(self._inputs)

    @property
    def samples(self) -> int:
        """Samples in them."""
        return sum(map(_samples, self._inputs))

    def limit(self, batches: int) -> None:
        """Compare on the first batches only, whose statistics are then those that count."""
        fewer = batches < len(self._inputs)
        del self._inputs[batches:], self._expected[batches:]
        if fewer and not self._by_batch:
            self._expected = list(self._outputs(copy_model(self._model)))

    def damage(self, smaller: nn.Module) -> float:
        """How far the outputs of a copy without some filters, which is changed, have moved: the mean over samples."""
        total = 0.0
        for inputs, outputs, expected in zip(self._inputs, self._outputs(smaller), self._expected, strict=True):
            total += damage_of(outputs, expected) * _samples(inputs)
        return total / self.samples

    def _outputs(self, model: nn.Module) -> Iterator[list[torch.Tensor]]:
        """Outputs for each batch, with BatchNorm's statistics of these inputs: of the batch, where it is large."""
        device = device_of(model)
        if not self._by_batch:
            recalibrate(model, [_batch_of(inputs) for inputs in self._inputs])
        with eval_mode(model), torch.no_grad(), fixed_seeds(device):
            for module in model.modules():
                if self._by_batch and isinstance(module, _BatchNorm):
                    module.train()
            for inputs in self._inputs:
                yield flatten_tensors(model(*to_device(inputs, device)))


class LossProbe(Probe):
    """Compares the module's own loss of narrower copies with the model's.

    Args:
        model: the uncompressed one; not changed.
        inputs: batches of positional arguments, on which BatchNorm is recalibrated.
        loss: of a model; lower is better.

    Raises:
        ModuleError: the loss cannot be called, fails, or is not a finite number.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Inputs], loss: Callable[[nn.Module], Any]) -> None:
        self._inputs, self._loss = list(inputs), loss
        self._before = self._measured(copy_model(model))
        if not math.isfinite(self._before):
            raise ModuleError(f"sensitivity_loss(): the uncompressed model's loss must be finite; got {self._before}")
        started = time.monotonic()
        self.damage(copy_model(model))
        self.seconds = time.monotonic() - started

    @property
    def batches(self) -> int:
        """The loss is measured as a whole."""
        return 1

    def limit(self, batches: int) -> None:
        """Nothing: what the loss is measured on is its own."""

    def damage(self, smaller: nn.Module) -> float:
        """How much the loss of a copy without some filters, which is changed, has risen; 0 where it fell."""
        recalibrate(smaller, [_batch_of(inputs) for inputs in self._inputs])
        after = self._measured(smaller)
        return min(max(0.0, after - self._before), _LARGEST) if math.isfinite(after) else _LARGEST

    def _measured(self, model: nn.Module) -> float:
        with (
            raising("sensitivity_loss() must return a function that returns a model's loss, a number"),
            eval_mode(model),
            torch.no_grad(),
            fixed_seeds(device_of(model)),
        ):
            return float(self._loss(model))


def probe_of(module: ModuleClass | None, model: nn.Module, inputs: Sequence[Inputs]) -> Probe:
    """What compares narrower copies of a model with it: the module's `sensitivity_loss`, else the outputs.

    Raises:
        CompressionError: no output is a floating point number.
        ModuleError: `sensitivity_loss` fails.
    """
    loss = None if module is None else call_hook(module, "sensitivity_loss")
    return Probe(model, inputs) if loss is None else LossProbe(model, inputs, loss)


def _batch_of(inputs: Inputs) -> Any:
    return inputs if len(inputs) > 1 else inputs[0]


def _samples(inputs: Inputs) -> int:
    tensors = [tensor for tensor in flatten_tensors(inputs) if tensor.dim()]
    return int(tensors[0].shape[0]) if tensors else 1


@dataclass(frozen=True)
class CouplingProbe:
    """Measures couplings of one model.

    Attributes:
        model: the uncompressed one; not changed.
        probe: compares copies with it.
        widths: at which each coupling is measured, beside its full one.
    """

    model: nn.Module
    probe: Probe
    widths: int

    @classmethod
    def within(cls, model: nn.Module, probe: Probe, couplings: int, widths: int, seconds: float) -> CouplingProbe:
        """A probe that takes at most so many seconds: on fewer batches, then at fewer widths, where it would be longer.

        Args:
            model: the uncompressed one.
            probe: compares copies with it; changed.
            couplings: that are to be measured.
            widths: the most for each.
            seconds: the limit; a single batch and two widths are always taken.
        """
        batches, one = probe.batches, probe.seconds / probe.batches
        while couplings * widths * batches * one > seconds and (batches > 1 or widths > 2):
            batches, widths = (batches // 2, widths) if batches > 1 else (batches, widths - 1)
        probe.limit(batches)
        return cls(model, probe, widths)

    def counts(self, coupling: Coupling) -> list[int]:
        """The numbers of channels of each part at which a coupling is measured: evenly spaced, falling to one."""
        units = coupling.width // coupling.channel_groups
        spaced = (max(1, round(units * (1 - step / self.widths))) for step in range(1, self.widths + 1))
        return [count for count in dict.fromkeys(spaced) if count < units]

    def measure(
        self, coupling: Coupling, scores: Sequence[float], done: Callable[[], None] = lambda: None
    ) -> CouplingSensitivity:
        """The sensitivity of a coupling whose channels with the lowest scores are removed first.

        Args:
            coupling: of the model.
            scores: of the channels of a part.
            done: called after each width.

        Raises:
            CompressionError: the model fails without some of its channels.
        """
        parts, units = coupling.channel_groups, coupling.width // coupling.channel_groups
        kept, damage = [1.0], [0.0]
        for count in self.counts(coupling):
            channels = least_important(coupling, scores, (units - count) * parts)
            damage.append(max(damage[-1], self._damage(coupling, channels)))
            kept.append(count / units)
            done()
        shares, rounded = (tuple(float(f"{each:.6g}") for each in values) for values in (kept, damage))
        return CouplingSensitivity(coupling.members, coupling.width, shares, rounded)

    def _damage(self, coupling: Coupling, channels: list[int]) -> float:
        smaller = copy_model(self.model)
        try:
            remove(smaller, removals([(coupling, channels)]))
            return self.probe.damage(smaller)
        except Exception as error:
            raise CompressionError(
                f"its sensitivity cannot be measured: the model fails without some of its filters ({first_line(error)})"
            ) from error


def least_important(coupling: Coupling, scores: Sequence[float], surplus: int) -> list[int]:
    """The channels of a coupling with the lowest scores, as many of each part; so many in all."""
    parts = coupling.channel_groups
    order = torch.argsort(torch.tensor(scores), stable=True).tolist()
    per_part, count = coupling.width // parts, surplus // parts
    orders = coupling.orders or (order,) * parts
    return sorted(channel + part * per_part for part, own in enumerate(orders) for channel in own[:count])


def removal_damage(known: CouplingSensitivity, width: int, original: int, parts: int) -> list[float]:
    """The damage after each removal of one more channel of each part: never falls.

    Args:
        known: measured.
        width: current channels.
        original: channels of the uncompressed model.
        parts: equal parts of the channels.
    """
    return [known.at((width - gone) / original) for gone in range(parts, width + 1, parts)]


def rising_slopes(start: float, damage: Sequence[float]) -> list[float]:
    """What each removal adds to the damage, evened out so that later ones never add less: steps of its convex hull.

    By these the removals that do the least damage for what they free come first, whatever else goes.

    Args:
        start: the damage before any removal.
        damage: after each one; never falls.
    """
    hull: list[tuple[int, float]] = []
    for point in enumerate((start, *damage)):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [_slope(one, other) for one, other in itertools.pairwise(hull) for _ in range(one[0], other[0])]


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def measured_in_place(
    model: nn.Module, request: CompressionRequest, ranked: Sequence[tuple[Coupling, Sequence[float]]]
) -> Sensitivity:
    """The sensitivities of a model's couplings, each given with its scores, where nothing has measured them before.

    Raises:
        ConfigError: there is no module to take inputs from.
        ModuleError: the module has none.
    """
    started = time.monotonic()
    compared = probe_of(request.module, model, probe_inputs(request, model))
    probe = CouplingProbe.within(model, compared, len(ranked), PROBE_WIDTHS, PROBE_SECONDS)
    return Sensitivity(
        key="",
        algorithm=request.algorithm,
        arguments=ranking_arguments(request.arguments),
        samples=probe.probe.samples,
        seconds=round(time.monotonic() - started, 3),
        couplings=tuple(measured(probe, ranked)),
    )


def measured(
    probe: CouplingProbe,
    ranked: Sequence[tuple[Coupling, Sequence[float]]],
    done: Callable[[], None] = lambda: None,
) -> Iterator[CouplingSensitivity]:
    """The sensitivity of each coupling, given with its scores, as soon as it is measured; without those that fail."""
    for coupling, scores in ranked:
        try:
            yield probe.measure(coupling, scores, done)
        except CompressionError:
            continue  # it keeps its filters
