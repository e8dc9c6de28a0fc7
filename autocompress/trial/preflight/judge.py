"""Judge the evaluations of a preflight, by numbers alone, and destroy output layers for them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from autocompress.budget import AccuracyBudget, accuracy_margin
from autocompress.compression.base import layer_shapes
from autocompress.compression.model_state import copy_model, device_of, eval_mode, to_device
from autocompress.compression.pruning.graph import ChannelGraph
from autocompress.compression.pruning.recurrent_tracing import RecurrentLayers
from autocompress.errors import CompressionError, ConfigError, ModuleError
from autocompress.evaluation import Evaluation
from autocompress.search.noise import share_error, share_unit

_LARGE = 50_000_000
"""Parameters from which following all channels takes longer than a preflight may."""


def output_layers(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """Names of the layers that make a model's outputs.

    Those that the channel graph finds; else the layer with parameters that is called last in a forward pass.
    """
    found: list[str] = []
    if sum(parameter.numel() for parameter in model.parameters()) < _LARGE:
        with contextlib.suppress(CompressionError):
            copied = copy_model(model)
            recurrent = RecurrentLayers.of(copied)
            with recurrent.replaced(copied):
                graph = ChannelGraph(copied, inputs, {**layer_shapes(model), **recurrent.shapes})
            found = sorted(set(map(recurrent.whole, graph.outputs)))
    return found or _called_last(model, inputs)


def innermost_layers(model: nn.Module) -> list[str]:
    """Names of all layers with parameters of their own."""
    return list(_layers(model))


def damage(model: nn.Module, layers: Sequence[str], shift: int) -> None:
    """Destroy layers in place.

    With `shift` 0 they output 0; else each output is replaced by the one `shift` places before it, and a single output
    changes its sign.
    """
    for name in layers:
        layer = model.get_submodule(name)
        if layer._forward_pre_hooks or layer._parameters.get("weight") is None:  # made from other parameters
            layer.register_forward_hook(_hook(shift, 1 if isinstance(layer, _ConvNd) else -1))
            continue
        with torch.no_grad():
            for parameter in layer._parameters.values():
                if parameter is not None:
                    outputs = 1 if _is_transposed(layer) and parameter.dim() > 1 else 0
                    parameter.copy_(_destroyed(parameter, shift, outputs))


def _hook(shift: int, dimension: int) -> Any:
    def destroyed(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _destroyed(value, shift, dimension)
        return tuple(map(destroyed, value)) if type(value) is tuple else value

    return lambda _, __, answer: destroyed(answer)


def most_outputs(model: nn.Module, layers: Sequence[str]) -> int:
    """The largest number of outputs of layers, as far as their weights show; else 1."""
    sizes = [1]
    for name in layers:
        layer = model.get_submodule(name)
        weight = layer._parameters.get("weight")
        if weight is not None and weight.dim():
            sizes.append(weight.shape[1 if _is_transposed(layer) and weight.dim() > 1 else 0])
    return max(sizes)


def _destroyed(values: torch.Tensor, shift: int, dimension: int) -> torch.Tensor:
    """Outputs lie along a dimension."""
    if not shift:
        return torch.zeros_like(values)
    return values.roll(shift, dimension) if values.dim() and values.shape[dimension] > 1 else -values


def _is_transposed(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)


def _called_last(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    layers = _layers(model)
    called: list[str] = []
    handles = [
        part.register_forward_hook(lambda _, __, ___, name=name: called.append(name)) for name, part in layers.items()
    ]
    try:
        with eval_mode(model), torch.no_grad():
            model(*to_device(inputs, device_of(model)))
    except Exception:  # noqa: BLE001 - evaluating the model reports its errors better
        called.clear()
    finally:
        for handle in handles:
            handle.remove()
    return [called[-1] if called else list(layers)[-1]]


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost modules with parameters; one whose weight is made of others counts as such."""
    found: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        within = [parameter for child in part.children() for parameter in child.parameters()]
        made = parametrize.is_parametrized(part)
        if (made or not within) and any(True for _ in part.parameters()) and ".parametrizations" not in f".{name}":
            found[name] = part
    return found


_SAMPLES_FOR_CHANCE = 30
_SIGMAS = 3.0
_NEGLIGIBLE = 0.01
"""Share of the budget below which noise, such as that of rounding on a GPU, is not warned of."""
_LITTLE_ABOVE = 1.5
_LUCK = 0.1
"""Interchangeable outputs, such as colours of grey images, may be better interchanged by such a share of what zeroing
them costs."""


@dataclass(frozen=True)
class Names:
    """The user's names for messages."""

    evaluator: str  # what evaluates, such as `MyModule.evaluator()`
    direction: str  # what says which accuracies are better


@dataclass(frozen=True)
class Judge:
    """Decides whether evaluations can guide a search."""

    budget: AccuracyBudget  # the tolerated accuracy degradation
    higher_is_better: bool  # direction of the accuracy, as the user says
    names: Names  # for the messages
    confirmed: bool = True  # whether an unusual budget only causes a warning

    def require_budget(self) -> None:
        """Check that the budget does not tolerate the loss of all accuracy."""
        percent = self.budget.maximal_relative_accuracy_degradation
        if self.higher_is_better and percent is not None and percent >= 100:
            raise ConfigError(
                "maximal_relative_accuracy_degradation (--max-relative-drop) is in percent and must be below 100 where "
                f"a higher accuracy is better; got {percent:g}, which tolerates the loss of all accuracy: 1 is 1 %"
            )

    def require_accuracy(self, accuracy: float) -> None:
        """Check that a relative budget has an uncompressed accuracy other than 0."""
        if accuracy == 0 and self.budget.maximal_relative_accuracy_degradation is not None:
            raise ModuleError(
                f"{self.names.evaluator} must give the uncompressed model another accuracy than 0, of which a relative "
                "budget has no share; it gives 0: evaluate a trained model on the right labels, or set "
                "maximal_absolute_accuracy_degradation (--max-absolute-drop)"
            )

    def require_repeatable(self, accuracies: Sequence[float]) -> str | None:
        """Check that evaluations of the same model differ by less than the budget; a warning if they differ notably."""
        noise = spread(accuracies)
        threshold = self.budget.threshold(accuracies[0], higher_is_better=self.higher_is_better)
        tolerated, numbers = abs(accuracies[0] - threshold), _listed(accuracies)
        if noise == 0 or noise < _NEGLIGIBLE * tolerated:
            return None
        differ = f"{numbers} in turn, a difference of {noise:.3g}, where the budget tolerates a loss of {tolerated:.3g}"
        if noise >= tolerated:
            raise ModuleError(
                f"{self.names.evaluator} must give the same model the same accuracy up to less than the budget; the "
                f"uncompressed model gets {differ}: evaluate in eval() mode, fix the seed of what is drawn, take more "
                "validation data, or set a larger budget"
            )
        return f"{self.names.evaluator} is noisy: the uncompressed model gets {differ}"

    def sampling_warnings(self, evaluation: Evaluation, samples: int) -> list[str]:
        """What may be wrong with the samples: too few for the budget, or another number of values than of samples.

        Args:
            evaluation: of the uncompressed model.
            samples: how many went through it; 0: not known.
        """
        accuracy, values = evaluation.accuracy, evaluation.values
        if values is not None:
            if samples in (0, len(values)):
                return []
            return [
                f"{self.names.evaluator} returns {len(values):,} values, and {samples:,} samples go through the model: "
                "there should be one value for each"
            ]
        unit = share_unit([accuracy], samples)
        error = 0.0 if unit is None else share_error(accuracy, samples, unit)
        tolerated = abs(accuracy - self.budget.threshold(accuracy, higher_is_better=self.higher_is_better))
        if error < tolerated or not error:
            return []
        return [
            f"the accuracy {accuracy:.4g} of {samples:,} samples has a standard error of {error:.2g}, and the budget "
            f"tolerates a loss of {tolerated:.2g}: chance decides what is within it. Take more validation data or a "
            f"larger budget, or let {self.names.evaluator} return one value for each sample, always in the same order, "
            "so that models are compared sample by sample"
        ]

    def require_response(
        self, accuracies: Sequence[float], zeroed: float | None, shuffled: Sequence[float] = (), samples: int = 0
    ) -> None:
        """Check that a model without its output layer is worse, and too bad for the budget.

        One whose output layer is zeroed always outputs the same; `shuffled` are accuracies of ones whose outputs are
        interchanged; `samples` were evaluated (0: unknown).
        """
        if zeroed is None:
            return
        accuracy, noise, known = accuracies[0], spread(accuracies), [zeroed, *shuffled]
        if all(each in accuracies for each in known):
            raise ModuleError(
                f"{self.names.evaluator} must depend on the model that it is given; with its output layer destroyed it "
                f"gets {zeroed:g} as well: evaluate that model, and train it before it is compressed"
            )
        gains = [self._gain(each, accuracy) for each in known]
        if all(gain > noise for gain in gains) and _is_far(accuracy, zeroed):
            raise ModuleError(self._wrong_direction(accuracy, zeroed))
        threshold = self.budget.threshold(accuracy, higher_is_better=self.higher_is_better)
        if accuracy_margin(zeroed, threshold, higher_is_better=self.higher_is_better) >= 0:
            raise ModuleError(self._answers_always_the_same(accuracy, zeroed, threshold))
        better_shuffled = max(gains) > max(noise, _LUCK * abs(accuracy - zeroed))
        if better_shuffled or self._is_chance(accuracy, known, samples):
            better = "better" if better_shuffled else f"the same as far as {samples} samples can tell"
            raise ModuleError(
                f"model() must be trained: {self.names.evaluator} gives it {accuracy:g}, and with its output layer "
                f"zeroed or its outputs interchanged {_listed(known)}, which is {better}: load its trained weights, or "
                "check labels and preprocessing"
            )

    def require_plausible(self, accuracy: float) -> str | None:
        """Check that the budget is not an unusual one; a warning where that has been confirmed."""
        return self.budget.require_plausible(accuracy, confirmed=self.confirmed, higher_is_better=self.higher_is_better)

    def _gain(self, accuracy: float, than: float) -> float:
        """By how much it is better."""
        return accuracy_margin(accuracy, than, higher_is_better=self.higher_is_better)

    def _wrong_direction(self, accuracy: float, zeroed: float) -> str:
        kind = ("lower", "False") if self.higher_is_better else ("higher", "True")
        return (
            f"{self.names.direction} must be the direction of {self.names.evaluator}: the uncompressed model gets "
            f"{accuracy:g} and one whose output layer is zeroed {zeroed:g}, which counts as better: if {kind[0]} is "
            f"better set higher_is_better = {kind[1]} (maximize or minimize), else train the model first"
        )

    def _answers_always_the_same(self, accuracy: float, zeroed: float, threshold: float) -> str:
        better = self._gain(zeroed, accuracy) > 0
        direction = f", check {self.names.direction}" if better else ""
        return (
            f"a model that always answers the same must be outside the budget, or the search would end with one; "
            f"{self.names.evaluator} gives the uncompressed model {accuracy:g} and one whose output layer is zeroed "
            f"{zeroed:g}, and the threshold is {threshold:g}: train model() first{direction}, set a smaller budget, or "
            "evaluate what such a model cannot reach"
        )

    def _is_chance(self, accuracy: float, damaged: Sequence[float], samples: int) -> bool:
        """Whether an accuracy, a share of right answers, is that of damaged models but for the luck of the samples.

        Counts that are shares have the standard deviation of a binomial distribution, p (1 - p) / n.
        """
        if not self.higher_is_better or samples < _SAMPLES_FOR_CHANCE or len(damaged) < 2:
            return False
        numbers = [accuracy, *damaged]
        unit = share_unit(numbers, samples)
        if unit is None:
            return False  # a similarity, an error in percent, a mean over classes
        share = sum(numbers) / len(numbers) / unit
        deviation = unit * math.sqrt(2 * share * (1 - share) / samples)
        near = all(abs(accuracy - each) <= _SIGMAS * deviation for each in damaged)
        return near and accuracy <= _LITTLE_ABOVE * max(damaged)


def spread(accuracies: Sequence[float]) -> float:
    """The largest difference between evaluations."""
    return max(accuracies) - min(accuracies)


def _is_far(accuracy: float, other: float) -> bool:
    """Whether it differs by more than an untrained model's luck."""
    return abs(accuracy - other) > 0.25 * max(abs(accuracy), abs(other))


def _listed(numbers: Sequence[float]) -> str:
    """Numbers with as many digits as distinguish them."""
    texts = [f"{each:.4g}" for each in numbers]
    if len(set(texts)) < len(set(numbers)):
        texts = [f"{each:.9g}" for each in numbers]
    return " and ".join((", ".join(texts[:-1]), texts[-1])) if len(texts) > 1 else texts[0]
