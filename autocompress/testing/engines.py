"""Conformance suite of engines, on models whose accuracy is a closed form of their rate.

For an engine of your own, in a test:

    from autocompress.testing.engines import check_engine

    def test_it_is_an_engine(tmp_path):
        check_engine(MyEngine(), tmp_path)
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from autocompress.compression.module import ModuleClass
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import Engine, Search, SearchRequest
from autocompress.errors import ConfigError, InfeasibleBudgetError, StoreError
from autocompress.plan import ExperimentPlan
from autocompress.records import TrialRecord
from autocompress.result import CompressionResult
from autocompress.search_space import AutoCompressionSearchSpaceGenerator
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.testing.fakes import Curve, CurveModule, cliff, never
from autocompress.tracking import Callback

_EDGE = 0.62
_SETTINGS = AccuracyAwareSettings(
    maximal_absolute_accuracy_degradation=0.01,
    initial_compression_rate=0.65,
    initial_compression_rate_step=0.05,
    minimal_compression_rate_step=0.05,
    learning_rate_factors=(1.0, 0.3),
    final_training_epochs=1,
)
"""The search ends at 0.6, after both learning rates and the initial rate were outside."""
_FIRST_TRIALS = 1
_Rates = list[tuple[float | None, str]]
"""What each trial tried, and what for."""


class CliffModule(CurveModule):
    """Keeps its accuracy up to a rate of 0.62 and loses it beyond."""

    curve: ClassVar[Curve] = staticmethod(cliff(_EDGE))


class NeverModule(CurveModule):
    """Loses its accuracy at every rate."""

    curve: ClassVar[Curve] = staticmethod(never())


@dataclass
class _Followed(Callback):
    """What a search reported while it ran."""

    epochs: list[str] = field(default_factory=list)
    trials: list[TrialRecord] = field(default_factory=list)
    ends: list[CompressionResult] = field(default_factory=list)
    closed: int = 0

    def on_epoch_end(self, trial: Any, epoch: Mapping[str, Any]) -> None:  # noqa: ARG002
        self.epochs.append(trial.key)

    def on_trial_end(self, record: TrialRecord) -> None:
        self.trials.append(record)

    def on_search_end(self, result: CompressionResult) -> None:
        self.ends.append(result)

    def close(self) -> None:
        self.closed += 1


def check_engine(engine: Engine, folder: Path, options: Mapping[str, Any] | None = None) -> _Rates:
    """Run searches on an engine and check the requirements.

    A request that breaks a rule is refused before anything is written. A search reports each trial once, ends by itself
    at the highest rate within the budget, to the step, and verifies it. Learning rates are tried first, and the best
    model is trained on last. Its directory has a
    plan that names the engine, and can be opened: a search that was stopped after its first trial resumes with the same
    trials as one that was not; a finished one runs nothing more. If nothing is within the budget, it raises.

    Args:
        engine: to be checked.
        folder: empty; searches are stored in it.
        options: of the engine, such as a port for each search.

    Returns:
        the requested rate of each trial and its purpose, in order.

    Raises:
        AssertionError: a requirement is violated.
    """
    check_refusals(engine, folder / "refused")
    search = engine.create(_request(folder / "whole", CliffModule, options))
    assert search.url is None, f"a search that has not started must have no page; it is at {search.url}"
    rates = _check_whole(engine, search)
    _check_ended(engine, folder / "whole", rates)
    _check_goes_on(engine, folder / "parts", options, rates)
    _check_infeasible(engine, folder / "infeasible", options)
    return rates


def check_refusals(engine: Engine, folder: Path) -> None:
    """Check that a request that breaks a rule is refused before anything is written."""
    _raises(ConfigError, lambda: engine.create(_request(folder, CliffModule, {"no_such_option": 1})), "no_such_option")
    _raises(ConfigError, lambda: engine.open(folder, no_such_option=1), "no_such_option")
    _raises(StoreError, lambda: engine.open(folder).run(), "holds no experiment")
    assert not folder.exists(), f"a refused request must leave no directory; {folder} is there"


def _check_whole(engine: Engine, search: Search) -> _Rates:
    followed = _Followed()
    try:
        assert search.run([followed]), "a search that was not interrupted must return True"
        assert search.url is not None, "a search that has started must have a page, or the empty text"
        result = search.result
    finally:
        search.stop()
    records = result.records
    assert [each.key for each in followed.trials] == [each.key for each in records], "each trial must be reported once"
    assert {each.key for each in records} <= set(followed.epochs), "a trial's evaluations must be reported"
    assert len(followed.ends) == followed.closed == 1, f"the end must be reported once; got {followed}"
    for record in records:
        expected = record.achieved_rate is not None and record.achieved_rate <= _EDGE + 1e-9
        assert record.feasible is expected, f"{record.key}: feasible {record.feasible} at {record.achieved_rate}"
    step = _SETTINGS.minimal_compression_rate_step
    achieved = result.best.achieved_rate
    assert achieved is not None
    assert _EDGE - step <= achieved <= _EDGE + 1e-9, f"the best rate must be near {_EDGE}; got {achieved}"
    assert result.verdict is not None, "the best model must be verified"
    assert result.verdict.feasible, f"the best model must be within the budget; got {result.verdict}"
    plan = ExperimentPlan.read(ExperimentDirectory(search.directory))
    assert plan.engine is not None, "the plan must name the engine"
    assert plan.engine.name == engine.name, f"the plan must name {engine.name}; it names {plan.engine.name}"
    assert engine.owners(plan, search.directory) == [], "a finished search must have no owner"
    return _rates(records)


def _check_ended(engine: Engine, directory: Path, rates: _Rates) -> None:
    """A finished search runs nothing more, and its page can be served or is named by a command."""
    for trials in (None, 0):
        again = engine.open(directory, trials=trials)
        try:
            assert again.run(), "a search that has ended must end again"
            assert _rates(again.result.records) == rates, "a search that has ended must run nothing more"
        finally:
            again.stop()
    _raises(ConfigError, lambda: engine.show(directory, no_such_option=1), "no_such_option")
    page = engine.show(directory)
    if not isinstance(page, str):
        page.stop()


def _check_goes_on(engine: Engine, directory: Path, options: Mapping[str, Any] | None, rates: _Rates) -> None:
    first = engine.create(_request(directory, CliffModule, options, trials=_FIRST_TRIALS))
    with contextlib.suppress(InfeasibleBudgetError):  # so far
        _run(first)
    assert _rates(first.result.records) == rates[:_FIRST_TRIALS], "no more trials must be run than requested"
    rest = engine.open(directory, trials=len(rates))
    _run(rest)
    assert _rates(rest.result.records) == rates, "a search that goes on must try what an undisturbed one tries"


def _check_infeasible(engine: Engine, directory: Path, options: Mapping[str, Any] | None) -> None:
    request = _request(directory, NeverModule, options)
    lowest = request.settings.with_changes({"initial_compression_rate": 0.05})
    search = engine.create(dataclasses.replace(request, settings=lowest))
    try:
        _raises(InfeasibleBudgetError, search.run, "")
        assert not any(each.feasible for each in search.result.records), "no rate of this model is feasible"
        assert search.result.records, "what was tried must be kept"
    finally:
        search.stop()


def _request(
    directory: Path, module: ModuleClass, options: Mapping[str, Any] | None, trials: int | None = None
) -> SearchRequest:
    space = AutoCompressionSearchSpaceGenerator()
    space.add_config("l2", [{"sparsity": {"_type": "uniform", "_value": [0, 0.95]}, "op_names": ["hidden"]}])
    return SearchRequest(
        ModuleReference.of(module), space, directory, _SETTINGS, trials=trials, options=dict(options or {})
    )


def _run(search: Search) -> None:
    try:
        search.run()
    finally:
        search.stop()


def _rates(records: Sequence[TrialRecord]) -> _Rates:
    return [(record.requested_rate, record.purpose) for record in records]


def _raises(kind: type[Exception], call: Callable[[], Any], text: str) -> None:
    try:
        call()
    except kind as error:
        message = str(error)
    else:
        raise AssertionError(f"{kind.__name__} must be raised; nothing was")
    assert text in message, f"the error must contain {text!r}; it is {message}"
