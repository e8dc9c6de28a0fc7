"""What an engine is: it starts a search, or goes on with one, is interrupted, and gives up where all trials fail."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

from autocompress.errors import ConfigError, TrialError, unknown_name
from autocompress.plan import EnginePlan, ExperimentPlan
from autocompress.records import TrialRecord
from autocompress.search import LOST_TRIALS_UNTIL_INFEASIBLE
from autocompress.search_space import SearchSpaceSource, load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory

if TYPE_CHECKING:
    from autocompress.compression.module_loading import AnyReference, ModuleReference
    from autocompress.records import Baseline
    from autocompress.result import CompressionResult
    from autocompress.tracking import Callback


_ENGINES = {
    "local": "autocompress.engines.local.engine",
    "nni": "autocompress.engines.nni.engine",
    "nni-tuner": "autocompress.engines.nni.local_runner",
    "optuna": "autocompress.engines.optuna.engine",
}
"""Module whose `ENGINE` it is, by name: imported when it is chosen."""


@dataclass(frozen=True)
class SearchRequest:
    """A search that is to be started.

    Attributes:
        module: the user's.
        search_space: a file, NNI's wire format, a generator, or a search space.
        directory: where it is kept.
        settings: of the search, the accuracy budget among them.
        tuner: name of what chooses trials; None: the adaptive search.
        objective: what trials are compared by; None: rate for one algorithm, size for several.
        trials: the most trials; None for as many as it takes.
        concurrency: trials at a time.
        confirmed: whether an unusual budget is only warned of.
        baseline: the uncompressed model, where it has been measured already.
        options: what only this engine takes, such as `port` or `storage`.
    """

    module: AnyReference
    search_space: SearchSpaceSource
    directory: Path
    settings: AccuracyAwareSettings = field(default_factory=AccuracyAwareSettings)
    tuner: str | None = None
    objective: str | None = None
    trials: int | None = None
    concurrency: int = 1
    confirmed: bool = True
    baseline: Baseline | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def importable(self) -> ModuleReference:
        """The module, for engines whose trials are other processes.

        Raises:
            ModuleError: it is made of objects of this process.
        """
        from autocompress.compression.module_loading import ModuleReference

        module = self.module
        return module if isinstance(module, ModuleReference) else ModuleReference.of(module.load())

    def plan(self, tuner: str, engine: EnginePlan) -> ExperimentPlan:
        """Its plan on an engine that keeps nothing else, with the baseline where there is one.

        Args:
            tuner: canonical name of what chooses trials.
            engine: the engine's part.

        Raises:
            ConfigError: the search space, its range or the objective breaks a rule.
        """
        space, module = load_search_space(self.search_space), self.module.to_dict()
        return ExperimentPlan.of(
            module, space, self.settings, self.objective, tuner, engine=engine, baseline=self.baseline
        )


class Search(Protocol):
    """A search on an engine, to be run once, or gone on with."""

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        ...

    @property
    def url(self) -> str | None:
        """Its web page; None while it has not started, empty where there is none."""
        ...

    @property
    def trials(self) -> int | None:
        """The most that are run; None for as many as it takes."""
        ...

    def run(self, callbacks: Sequence[Callback] = ()) -> bool:
        """Run to its end and verify the best model.

        Args:
            callbacks: called while it runs.

        Returns:
            False where it was interrupted and has stopped by itself.

        Raises:
            InfeasibleBudgetError: nothing stayed within the budget.
            AutoCompressError: something is wrong with the input, or the engine fails.
        """
        ...

    def stop(self) -> None:
        """End what is left of it; what has been found stays."""
        ...

    @property
    def result(self) -> CompressionResult:
        """What has been found so far."""
        ...


class Engine(Protocol):
    """Starts searches and goes on with them. It translates between its framework and the plan, and decides nothing.

    Attributes:
        name: as users write it.
        logger: name of the logger that it tells about searches on.
        framework_logger: of the framework beneath, of which the command line prints warnings only.
        create_options: names of the options of a request that no other engine has.
        open_options: names of the options of `open` and `show` that no other engine has.
    """

    name: str
    logger: str
    framework_logger: str
    create_options: tuple[str, ...]
    open_options: tuple[str, ...]

    def create(self, request: SearchRequest) -> Search:
        """A new search, not yet begun; nothing is written before it runs.

        Raises:
            AutoCompressError: the request breaks a rule.
        """
        ...

    def open(self, directory: Path, *, trials: int | None = None, **options: Any) -> Search:
        """The search in a directory, to go on with.

        Args:
            directory: its own.
            trials: at most so many more; 0 to verify only; None for as many as it takes.
            options: what only this engine takes.

        Raises:
            StoreError: there is none.
        """
        ...

    def show(self, directory: Path, **options: Any) -> Search | str:
        """The page of a search that has ended, being served until `stop`; or the command that shows it.

        Raises:
            ConfigError: an option is for another engine.
        """
        ...

    def owners(self, plan: ExperimentPlan, directory: Path) -> list[str]:
        """The processes that run trials of a search, where the engine knows them: `process 12 on host`."""
        ...


def engine_names() -> tuple[str, ...]:
    """All engines, by name."""
    return tuple(_ENGINES)


def engine_named(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ConfigError: no engine has it.
    """
    if name not in _ENGINES:
        raise ConfigError(unknown_name("engine", name, _ENGINES))
    return cast(Engine, importlib.import_module(_ENGINES[name]).ENGINE)


def engine_of(plan: ExperimentPlan) -> Engine:
    """The engine that a plan was made for.

    Raises:
        ConfigError: it is of no engine that searches can be gone on with by, such as a training loop.
    """
    name = None if plan.engine is None else plan.engine.name
    if name == "loop" or (plan.module and "file" not in plan.module):
        what, call = ("a training loop", "loop.run(..., resume=directory)")
        if name != "loop":
            what, call = "a search of autocompress.compress", "the same call with directory=..."
        raise ConfigError(
            f"{what} has the user's functions, which no directory holds: its own script goes on with it, by {call}"
        )
    if name not in _ENGINES:
        raise ConfigError(f"an experiment to go on with must be of an engine ({', '.join(_ENGINES)}); it is of {name}")
    return engine_named(name)


def require_options(engine: Engine, known: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, all of which must be known.

    Raises:
        ConfigError: one is for another engine.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if name not in known:
            raise ConfigError(f"{name} is not for the engine {engine.name!r} (its own: {', '.join(known) or 'none'})")
    return chosen


FAILURES_UNTIL_STOP = 3
"""So many failed trials with no other result in between end the experiment: the cause is not the rate."""


def lost_trial_message(lost: TrialRecord, records: Sequence[TrialRecord]) -> str:
    """What to warn of when a trial's process was killed.

    Args:
        lost: the trial's record.
        records: of all trials so far, it among them.
    """
    same = [(record.algorithm, record.requested_rate, record.state) for record in records]
    times = same.count((lost.algorithm, lost.requested_rate, lost.state))
    message = f"trial {lost.key} ({lost.algorithm} at {lost.requested_rate}): {lost.error}"
    if times < LOST_TRIALS_UNTIL_INFEASIBLE:
        return message
    return f"{message}; after {times} such trials the rate counts as infeasible"


def check_failures(records: Sequence[TrialRecord], directory: ExperimentDirectory) -> None:
    """Check that not all of the first trials have failed.

    Args:
        records: of all trials, in the order they ended.
        directory: the experiment's, for the traceback.

    Raises:
        TrialError: they have, with the last reason.
    """
    recent = records[-FAILURES_UNTIL_STOP:]
    ended = any(record.state in ("completed", "stopped") for record in records)
    if ended or len(recent) < FAILURES_UNTIL_STOP or any(record.state != "failed" for record in recent):
        return
    raise TrialError(
        f"all of the first {FAILURES_UNTIL_STOP} trials failed, the last one with {recent[-1].error}",
        directory.trial(recent[-1].key).traceback(),
    )


_AGAIN_SECONDS = 1.0


class Interrupts:
    """Ctrl-C or SIGTERM stops cleanly; once more changes nothing, not to break off the stopping; a third forces it.

    It is raised again until it has come through: Python drops what is raised in a finalizer or in a callback of its
    import machinery, and much code catches whatever is raised.

    Attributes:
        count: how often it came.
    """

    def __init__(self) -> None:
        self.count = 0
        self._settled = threading.Event()
        self._again = False

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count interrupts while the block runs, and raise `KeyboardInterrupt` in it; in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self.settle()
            for number, handler in before.items():
                signal.signal(number, handler)

    def settle(self) -> None:
        """The block is being left, or has done its work: what comes now no longer interrupts it."""
        self._settled.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the interface of signal handlers
        again, self._again = self._again, False
        if again:
            if not self._settled.is_set() and not _is_interrupted():
                raise KeyboardInterrupt
            return
        self.count += 1
        if self.count == 1:
            threading.Thread(target=self._repeat, args=(number,), daemon=True).start()
        if self.count > 2 or (self.count == 1 and not self._settled.is_set()):
            raise KeyboardInterrupt

    def _repeat(self, number: int) -> None:
        main = threading.main_thread().ident
        while main is not None and not self._settled.wait(_AGAIN_SECONDS):
            self._again = True
            signal.pthread_kill(main, number)


def _is_interrupted() -> bool:
    """Whether this thread is handling a `KeyboardInterrupt`, as by stopping what it has started."""
    error: BaseException | None = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
