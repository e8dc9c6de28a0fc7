"""A search in one call, in this process, of a model and functions at hand."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from torch import nn

from autocompress.argument_checks import AT_LEAST_1, checked_arguments
from autocompress.budget import AccuracyBudget
from autocompress.cli.execute import new_directory
from autocompress.cli.live_display import watching
from autocompress.compression.module_loading import reference_of
from autocompress.engines.base import Search, SearchRequest, engine_named
from autocompress.errors import ConfigError
from autocompress.result import CompressionResult
from autocompress.search_space import SearchSpace, SearchSpaceSource, default_space, load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.tracking import Callback
from autocompress.tracking.callback import without_progress
from autocompress.trial.live_module import live_module


@checked_arguments
def compress(
    model: nn.Module,
    evaluate: Callable[..., Any],
    train_epoch: Callable[..., Any] | None = None,
    optimizer: Any = None,
    *,
    max_drop: str | float | None = None,
    budget: AccuracyBudget | None = None,
    algorithm: str | Sequence[str] = "l2",
    criterion: Any = None,
    scheduler: Any = None,
    train_loader: Any = None,
    validation_loader: Any = None,
    example_inputs: Any = None,
    calibration_data: Any = None,
    holdout_evaluate: Callable[..., Any] | None = None,
    sensitivity_loss: Callable[..., Any] | None = None,
    higher_is_better: bool = True,
    search_space: SearchSpaceSource | None = None,
    objective: str | None = None,
    settings: AccuracyAwareSettings | Mapping[str, Any] | None = None,
    trials: Annotated[int, AT_LEAST_1] | None = None,
    callbacks: Sequence[Callback] = (),
    directory: str | Path | None = None,
    quiet: bool = False,
) -> CompressionResult:
    """Search the highest compression rate of a model within an accuracy budget, in this process.

    The functions are checked before anything is trained. Their arguments are found by names: `model`; `optimizer`;
    `criterion` or `loss_fn`; `epoch`, from 0; `train_loader`, `validation_loader` or `loader`, whose own it is;
    `device`, the model's. The first argument is the model whatever its name.

    Ctrl-C stops after saving; the same call with the same directory goes on, also after a kill, and trains no finished
    trial again. The model must be the same to the last bit. Where instructions of the functions have changed, which is
    warned of, finished trials keep their results; what their variables hold is not looked at.

    Args:
        model: trained; not changed.
        evaluate: returns the accuracy of a model on validation data, a number, or one number for each sample, as a 1-D
            tensor, array or list.
        train_epoch: trains a model for one epoch with an optimizer; None: models are compressed and not fine-tuned.
        optimizer: a function that makes one of the parameters (or of an argument `model`), a class and its arguments as
            `(torch.optim.SGD, {"lr": 0.01})`, or one of the uncompressed model, whose class, options and groups are
            made anew for each compressed model.
        max_drop: the tolerated loss of accuracy: `"1%"` of the uncompressed accuracy (the default), or a number in the
            evaluator's unit.
        budget: the same as an object, which also allows unusual losses.
        algorithm: its name, such as `l2`, or `l2+qat`; or several, which are searched in turn.
        criterion: passed to functions that take it; with a known one the uncompressed model teaches.
        scheduler: a function that makes a learning-rate scheduler of the optimizer, or of `optimizer, epochs`; it is
            stepped after each epoch.
        train_loader: passed to functions that take it; its inputs stand for `calibration_data` where that is not given.
        validation_loader: passed to functions that take it.
        example_inputs: a tensor, or a tuple or dictionary of the arguments of one forward pass; by default those of the
            data, or the first ones that `evaluate` passes to the model.
        calibration_data: batches of training inputs.
        holdout_evaluate: as `evaluate`, on data that the search does not use.
        sensitivity_loss: returns the loss of a model, for allocations by sensitivity, which otherwise look at how far
            outputs move.
        higher_is_better: direction of the accuracy; False for a loss.
        search_space: layers and rates of algorithms, instead of `algorithm`.
        objective: what trials are compared by: `rate`, `parameters`, `macs`, `size`, `latency`; by default the
            rate of one algorithm, the size of several.
        settings: of the search, or a mapping of those that differ from the defaults.
        trials: the most trials; None: as many as the search takes.
        callbacks: notified of trials.
        directory: the search's; by default a new one in `autocompress-out`.
        quiet: print nothing.

    Returns:
        the result; `result.model` is the best model, loaded from its file.

    Raises:
        ConfigError: an argument breaks a rule; named.
        ModuleError: the functions cannot evaluate or train the model.
        InfeasibleBudgetError: nothing stayed within the budget.
        StoreError: the directory holds another search, or cannot be written.
        TrialError: all of the first trials failed.
        KeyboardInterrupt: Ctrl-C.
    """
    wanted = _settings(settings, max_drop, budget)
    space = _space(algorithm, search_space)
    module = live_module(
        model,
        evaluate=evaluate,
        holdout_evaluate=holdout_evaluate,
        sensitivity_loss=sensitivity_loss,
        train_epoch=train_epoch,
        optimizer=optimizer,
        scheduler=scheduler,
        criterion=criterion,
        train_loader=train_loader,
        validation_loader=validation_loader,
        example_inputs=example_inputs,
        calibration_data=calibration_data,
        higher_is_better=higher_is_better,
    )
    reference = reference_of(module)
    place = new_directory(reference, None if directory is None else Path(directory)).expanduser().resolve()
    request = SearchRequest(
        module=reference,
        search_space=space,
        directory=place,
        settings=wanted,
        objective=objective,
        trials=trials,
        confirmed=max_drop is None,
    )
    search = engine_named("local").create(request)
    if not _run(search, callbacks, quiet=quiet):
        raise KeyboardInterrupt(f"stopped; the same call with directory={str(place)!r} goes on")
    return search.result


def _run(search: Search, callbacks: Sequence[Callback], *, quiet: bool) -> bool:
    """Run to the end: live on a terminal, else with a line for each trial, in notebooks below a bar."""
    console = Console()
    with contextlib.ExitStack() as shown:
        if quiet or console.is_terminal:
            shown.enter_context(without_progress())
            store = ExperimentDirectory(search.directory)
            shown.enter_context(watching(store, console, lambda: search.url, quiet=quiet, trials=search.trials))
        return search.run(callbacks)


def _settings(
    given: AccuracyAwareSettings | Mapping[str, Any] | None, max_drop: str | float | None, budget: AccuracyBudget | None
) -> AccuracyAwareSettings:
    """The settings with the budget that is given beside them, if any."""
    settings = given if isinstance(given, AccuracyAwareSettings) else AccuracyAwareSettings.from_dict(given or {})
    if max_drop is not None and budget is not None:
        raise ConfigError(f"max_drop or budget must be given, not both; got {max_drop!r} and {budget!r}")
    if max_drop is not None:
        budget = _budget(max_drop)
    return settings if budget is None else settings.with_budget(budget)


def _budget(max_drop: str | float) -> AccuracyBudget:
    rule = "max_drop must be a share of the accuracy such as '1%', or a number >= 0 in the evaluator's unit"
    try:
        number = float(max_drop.strip().removesuffix("%")) if isinstance(max_drop, str) else float(max_drop)
    except ValueError as error:
        raise ConfigError(f"{rule}; got {max_drop!r}") from error
    relative = isinstance(max_drop, str)
    if not math.isfinite(number) or number < 0 or (isinstance(max_drop, str) and "%" not in max_drop):
        raise ConfigError(f"{rule}; got {max_drop!r}")
    return AccuracyBudget(number if relative else None, None if relative else number)


def _space(algorithm: str | Sequence[str], search_space: SearchSpaceSource | None) -> SearchSpace:
    if search_space is not None:
        return load_search_space(search_space)
    return default_space([algorithm] if isinstance(algorithm, str) else algorithm)
