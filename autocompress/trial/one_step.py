"""One algorithm at once, without a search: on a model at hand, in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.compression.base import AppliedAlgorithms
from autocompress.compression.measure import ReferenceModel, RemovedShares, measure
from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass
from autocompress.compression.module import evaluate as evaluated
from autocompress.compression.module_loading import reference_of
from autocompress.errors import ConfigError
from autocompress.records import Measurement, Sensitivity
from autocompress.registry import algorithm as algorithm_named
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, SearchSpace, read_parameters
from autocompress.settings import AccuracyAwareSettings
from autocompress.trial.live_module import live_module
from autocompress.trial.probe import SearchProbe
from autocompress.trial.spec import preserved_rng_state, seed_everything
from autocompress.trial.tasks import require_hooks


@dataclass(frozen=True)
class AppliedCompression(RemovedShares):
    """A model that was compressed without a search, and what was measured on it.

    Attributes:
        model: the compressed model, not fine-tuned; the one that was given is unchanged.
        algorithm: that was applied.
        requested_rate: in [0, 1); None for a quantizer.
        achieved_rate: of filters removed, weights zeroed or bits saved, measured, in [0, 1).
        before: size of the uncompressed model.
        after: size of this model.
        simulated: whether it computes in floating point what other kernels would in fewer bits.
        left_alone: layer -> a sentence why it keeps its filters.
        accuracy: by `evaluate`; None without it.
        accuracy_before: of the uncompressed model.
    """

    model: nn.Module = field(repr=False)
    algorithm: str
    requested_rate: float | None
    achieved_rate: float
    before: Measurement
    after: Measurement
    simulated: bool = False
    left_alone: dict[str, str] = field(default_factory=dict)
    accuracy: float | None = None
    accuracy_before: float | None = None

    def __str__(self) -> str:
        """In a line."""
        rate = "" if self.requested_rate is None else f" at rate {self.requested_rate:g}"
        text = (
            f"{self.algorithm}{rate}: {self.parameters_removed:.1%} of the parameters, {self.macs_removed:.1%} of the "
            f"multiply-accumulates and {self.size_removed:.1%} of the bytes removed"
        )
        if self.accuracy is None:
            return text
        return f"{text}, accuracy {self.accuracy:g} (uncompressed {self.accuracy_before:g})"


@checked_arguments
def prune(
    model: nn.Module,
    algorithm: str,
    rate: float,
    example_inputs: Any = None,
    *,
    calibration_data: Any = None,
    evaluate: Callable[..., Any] | None = None,
    train_epoch: Callable[..., Any] | None = None,
    optimizer: Any = None,
    criterion: Any = None,
    **arguments: Any,
) -> AppliedCompression:
    """Remove filters, or zero weights, of a copy of a model at once, without fine-tuning it.

    Args:
        model: not changed.
        algorithm: a pruner, such as `l2`, `fpgm` or `level`.
        rate: of filters or weights of each layer, as the algorithm distributes it, in [0, 0.95].
        example_inputs: as for `compress`; by default of the calibration data.
        calibration_data: batches of inputs; BatchNorm's statistics are estimated on them again, and algorithms that
            look at data need them.
        evaluate: measures the accuracy of both models, if given.
        train_epoch: as for `compress`, for algorithms that rank by gradients; the model is not fine-tuned.
        optimizer: as for `compress`, beside `train_epoch`.
        criterion: as for `compress`.
        arguments: of the algorithm, such as `allocation="global"`.

    Returns:
        the model and what was measured on it.

    Raises:
        ConfigError: an argument breaks a rule.
        CompressionError: the algorithm cannot be applied to the model.
        ModuleError: the model does not take the inputs, or the algorithm needs data or training that is not given.
    """
    _require_kind("prune", algorithm, "pruner")
    if not 0 <= rate <= _HIGHEST:
        raise ConfigError(f"rate must be in [0, {_HIGHEST}]; got {rate:g}")
    functions = {"evaluate": evaluate, "train_epoch": train_epoch, "optimizer": optimizer, "criterion": criterion}
    with preserved_rng_state():
        prepared = _prepared(model, example_inputs, calibration_data, **functions)
        return _applied(*prepared, algorithm, rate, arguments, batches=calibration_data)


@checked_arguments
def quantize(
    model: nn.Module,
    algorithm: str = "qat",
    example_inputs: Any = None,
    *,
    calibration_data: Any = None,
    evaluate: Callable[..., Any] | None = None,
    **arguments: Any,
) -> AppliedCompression:
    """Quantize a copy of a model at once, without training.

    Args:
        model: not changed.
        algorithm: a quantizer, such as `qat`, which makes an int8 model.
        example_inputs: as for `compress`; by default of the calibration data.
        calibration_data: batches of inputs, on which ranges of activations are measured; by default the example inputs.
        evaluate: measures the accuracy of both models, if given.
        arguments: of the algorithm.

    Returns:
        the model and what was measured on it.

    Raises:
        ConfigError: an argument breaks a rule.
        CompressionError: the algorithm cannot be applied to the model.
        ModuleError: the model does not take the inputs.
    """
    _require_kind("quantize", algorithm, "quantizer")
    with preserved_rng_state():
        prepared = _prepared(model, example_inputs, _data(example_inputs, calibration_data), evaluate=evaluate)
        return _applied(*prepared, algorithm, None, arguments)


@checked_arguments
def sensitivity(
    model: nn.Module,
    algorithm: str = "l2",
    example_inputs: Any = None,
    *,
    calibration_data: Any = None,
    loss: Callable[..., Any] | None = None,
    **arguments: Any,
) -> Sensitivity:
    """How far a model's outputs move where one layer, with those that lose filters together with it, is narrower.

    Args:
        model: not changed.
        algorithm: a pruner of filters, whose ranking chooses the filters.
        example_inputs: as for `compress`; by default of the calibration data.
        calibration_data: batches of inputs, on which the outputs are compared; by default the example inputs.
        loss: of a model, lower is better, whose rise is measured; None: how far the outputs move.
        arguments: of the algorithm.

    Returns:
        the sensitivity of each coupling, at several widths; `result.of("conv1").at(0.5)` is one number.

    Raises:
        ConfigError: an argument breaks a rule, or the algorithm removes no filters.
        CompressionError: the algorithm cannot rank the model's filters.
        ModuleError: the model does not take the inputs.
    """
    _require_kind("sensitivity", algorithm, "pruner")
    with preserved_rng_state():
        module, reference = _prepared(
            model, example_inputs, _data(example_inputs, calibration_data), sensitivity_loss=loss
        )
        space = _space_of(algorithm, {"allocation": "sensitivity", **arguments})
        probe = SearchProbe(module, AccuracyAwareSettings(), reference, reference_of(module).fingerprint(), cache=None)
        return probe.run(space)[0]


_HIGHEST = 0.95


def _require_kind(function: str, name: str, kind: str) -> None:
    found = algorithm_named(name).kind
    if found != kind:
        raise ConfigError(
            f"algorithm of {function} must be a {kind}; {name!r} is a {found} (prune, quantize and then compress are "
            "for a pruner, a quantizer and a mix)"
        )


def _data(example_inputs: Any, calibration_data: Iterable[Any] | None) -> Any:
    """The calibration data, else the example inputs as one batch of it."""
    if calibration_data is not None or example_inputs is None:
        return calibration_data
    return [(example_inputs,) if isinstance(example_inputs, list | tuple) else example_inputs]


def _prepared(model: nn.Module, example_inputs: Any, data: Any, **functions: Any) -> tuple[ModuleClass, ReferenceModel]:
    if example_inputs is None and data is None and functions.get("evaluate") is None:
        raise ConfigError("example_inputs or calibration_data must be given: the model is run to see its channels")
    module = live_module(model, example_inputs=example_inputs, calibration_data=data, **functions)
    return module, ReferenceModel.of(module)


def _space_of(name: str, arguments: Mapping[str, Any]) -> SearchSpace:
    """All layers, with arguments of the algorithm."""
    generator = AutoCompressionSearchSpaceGenerator()
    entries = [part.default_entry() for part in algorithm_named(name).stages]
    generator.add_config(name, entries, **arguments)
    return SearchSpace.parse(generator.dumps())


def _applied(
    module: ModuleClass,
    reference: ReferenceModel,
    name: str,
    rate: float | None,
    arguments: Mapping[str, Any],
    batches: Iterable[Any] | None = None,
) -> AppliedCompression:
    seed_everything(0)
    (entry,) = _space_of(name, arguments).algorithms
    (part,) = read_parameters(entry.parameters(rate)).stages
    require_hooks(module, name, arguments=part.arguments)
    applied = AppliedAlgorithms()
    request = reference.request(part.name, part.rules, part.arguments, module)
    training = applied.apply(copy_model(reference.original), request, batches)
    achieved = applied.compressions[0].achieved_rate(training)
    made = applied.finish(training).eval()
    found = AppliedCompression(
        model=made,
        algorithm=name,
        requested_rate=rate,
        achieved_rate=achieved,
        before=reference.size,
        after=measure(made, reference.inputs),
        simulated=applied.simulated,
        left_alone=applied.left_alone,
    )
    return found if module.evaluator() is None else _evaluated(found, module, reference.original)


def _evaluated(found: AppliedCompression, module: ModuleClass, original: nn.Module) -> AppliedCompression:
    accuracies = [evaluated(module.evaluator(), each) for each in (found.model, copy_model(original).eval())]
    return dataclasses.replace(found, accuracy=accuracies[0], accuracy_before=accuracies[1])
