"""Try every algorithm on a model before any search: which apply, and what they would remove."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autocompress.argument_checks import checked_arguments
from autocompress.compression.base import AppliedAlgorithms
from autocompress.compression.measure import ReferenceModel, measure
from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass, require_module_class
from autocompress.errors import AutoCompressError
from autocompress.registry import algorithm, algorithms
from autocompress.search_space import (
    AlgorithmSpace,
    SearchSpace,
    SearchSpaceSource,
    default_space,
    load_search_space,
    read_parameters,
    requested_rate,
)
from autocompress.settings import AccuracyAwareSettings
from autocompress.trial.fine_tuning import find_trainer
from autocompress.trial.probe import SearchProbe
from autocompress.trial.spec import seed_everything
from autocompress.trial.tasks import deciding_arguments, missing_hooks, require_hooks
from autocompress.typed_fields import from_fields

RATES = (0.3, 0.9)
"""A low and a high rate."""

_QUICK = {"training_epochs": 0, "training_batches": 1}
_QUICK_PROBE = {"probe_batches": 1, "probe_widths": 2}


@dataclass(frozen=True)
class Reduction:
    """What an algorithm removes at one rate, untrained.

    Attributes:
        requested_rate: in [0, 1); None for a quantizer.
        achieved_rate: measured, in [0, 1).
        parameters_removed: share of the parameters that are gone or zero.
        macs_removed: share of the multiply-accumulates.
        size_removed: share of the bytes.
        seconds: that compressing took.
    """

    requested_rate: float | None
    achieved_rate: float
    parameters_removed: float
    macs_removed: float
    size_removed: float
    seconds: float


@dataclass(frozen=True)
class AlgorithmCheck:
    """The result of trying one algorithm.

    Attributes:
        algorithm: its name.
        applies: whether it can be used on the model with the module's hooks.
        reason: why not; None if it can.
        missing_hooks: hooks of the module that it needs.
        fine_tunes: whether the module has a trainer for it; else its models are only evaluated.
        simulated: whether it only simulates its bits.
        reductions: at a low and a high rate; one for a quantizer, none where it does not apply.
        left_alone: layer -> a sentence why it keeps its filters at one of these rates or both.
        coverage: a sentence what share of the parameters can lose filters; empty if it removes none.
    """

    algorithm: str
    applies: bool
    reason: str | None = None
    missing_hooks: tuple[str, ...] = ()
    fine_tunes: bool = False
    simulated: bool = False
    reductions: tuple[Reduction, ...] = ()
    left_alone: dict[str, str] = field(default_factory=dict)
    coverage: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AlgorithmCheck:
        """The check that `to_dict` wrote."""
        return from_fields(cls, data)


@checked_arguments
def check_module(module: ModuleClass, search_space: SearchSpaceSource | None = None) -> list[AlgorithmCheck]:
    """Try each algorithm of a search space on the module's model, at a low and a high rate, without training.

    Algorithms that look at data look at one batch; `slim` ranks without its sparsity training.

    Args:
        module: the user's module.
        search_space: as for an experiment; None: every algorithm on all layers.

    Raises:
        ConfigError: the search space breaks a rule.
        ModuleError: a hook returns something unusable. What fails for one algorithm only is in its check.
    """
    space = default_space(algorithms()) if search_space is None else load_search_space(search_space)
    require_module_class(module)
    return list(checks_of(module, space))


def checks_of(module: ModuleClass, space: SearchSpace) -> Iterator[AlgorithmCheck]:
    """The checks of `check_module`, each as soon as its algorithm has been tried."""
    reference_model = ReferenceModel.of(module)
    for entry in space.algorithms:
        yield _checked(module, entry, reference_model)


def _checked(module: ModuleClass, space: AlgorithmSpace, reference_model: ReferenceModel) -> AlgorithmCheck:
    check = AlgorithmCheck(algorithm=space.name, applies=False)
    try:
        check = _with_hooks(check, module, space)
        if check.missing_hooks:
            return dataclasses.replace(check, reason=f"needs {', '.join(check.missing_hooks)}")
        require_hooks(module, space.name, arguments=deciding_arguments(space))
        settings = AccuracyAwareSettings.from_dict(_QUICK_PROBE)
        quick = SearchProbe(module, settings, reference_model, fingerprint="", cache=None)
        reference_model = dataclasses.replace(reference_model, sensitivities=quick.run(SearchSpace((space,), "{}")))
        rates = RATES if space.axis() is not None else RATES[:1]
        found = [_reduced(module, space, rate, reference_model) for rate in rates]
    except AutoCompressError as error:
        return dataclasses.replace(check, reason=str(error))
    except Exception as error:  # noqa: BLE001 - an error of the user's code is this algorithm's result
        return dataclasses.replace(check, reason=f"{type(error).__name__}: {error}")
    return dataclasses.replace(
        check,
        applies=True,
        simulated=any(applied.simulated for _, applied in found),
        reductions=tuple(reduction for reduction, _ in found),
        left_alone={name: why for _, applied in found for name, why in applied.left_alone.items()},
        coverage=next((applied.coverage for _, applied in found), ""),
    )


def _with_hooks(check: AlgorithmCheck, module: ModuleClass, space: AlgorithmSpace) -> AlgorithmCheck:
    """The check with what the module's hooks allow."""
    arguments = deciding_arguments(space)
    names = [part.name for part in algorithm(check.algorithm).stages]
    missing = tuple(dict.fromkeys(hook for name in names for hook in missing_hooks(module, name, arguments=arguments)))
    fine_tunes = find_trainer(module, names[-1]) is not None
    return dataclasses.replace(check, missing_hooks=missing, fine_tunes=fine_tunes)


def _reduced(
    module: ModuleClass, space: AlgorithmSpace, rate: float, reference_model: ReferenceModel
) -> tuple[Reduction, AppliedAlgorithms]:
    """The reduction at the nearest allowed rate, and the algorithms that made it."""
    seed_everything(0)
    axis = space.axis()
    parameters = space.parameters(None if axis is None else axis.snap(min(max(rate, axis.low), axis.high)))
    model, applied, achieved, seconds = copy_model(reference_model.original), AppliedAlgorithms(), 0.0, 0.0
    for part in read_parameters(parameters).stages:
        known = {argument.name for argument in algorithm(part.name).arguments}
        quick = {name: value for name, value in _QUICK.items() if name in known}
        arguments = {**part.arguments, **quick}
        started = time.monotonic()
        model = applied.apply(model, reference_model.request(part.name, part.rules, arguments, module))
        seconds += time.monotonic() - started
        if len(applied.compressions) == 1:
            achieved = applied.compressions[0].achieved_rate(model)
    reduction = Reduction(
        requested_rate=requested_rate(parameters),
        achieved_rate=achieved,
        **reference_model.size.removed_in(measure(applied.finish(model), reference_model.inputs)),
        seconds=round(seconds, 3),
    )
    return reduction, applied
