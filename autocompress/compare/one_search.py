"""The tuners that can be compared, and one search of a comparison, in its own directory and process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from autocompress.engines.base import Interrupts, SearchRequest, engine_named
from autocompress.errors import AutoCompressError, ConfigError, InfeasibleBudgetError, unknown_name
from autocompress.records import Baseline
from autocompress.registry import load_if_unknown
from autocompress.search_space.space import algorithm_names
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.store.directory import write_json

DEFAULT_TUNERS = ("adaptive", "tpe", "random", "grid", "evolution", "optuna-tpe", "optuna-gp")
"""Compared where none are named."""

Framework = Literal["adaptive", "nni", "optuna"]

_SHORT = {"grid": "GridSearch"}
_OPTUNA = "optuna-"
_INSTALL = {
    "Anneal": "nni[Anneal]",
    "DNGO": "nni[DNGO]",
    "PPO": "nni[PPOTuner]",
    "SMAC": "nni[SMAC]",
    "TPE_legacy": "nni[Anneal]",
    "CmaEs": "cmaes",
}


@dataclass(frozen=True)
class TunerName:
    """A tuner as users name it, and as its framework does."""

    label: str  # in tables: `adaptive`, `tpe`, `optuna-gp`
    framework: Framework  # whose it is
    name: str  # the framework's own name of it

    @property
    def install(self) -> str | None:
        """Package to install where the tuner cannot be imported; None where it is unknown."""
        return _INSTALL.get(self.name)


def tuner_named(label: str) -> TunerName:
    """The tuner of that name: `adaptive`, one of NNI's, or `optuna-` and one of Optuna's samplers.

    Raises:
        ConfigError: there is none.
    """
    text = label.strip().lower()
    if text in ("adaptive", "adaptivecompression"):
        return TunerName("adaptive", "adaptive", "AdaptiveCompression")
    if text.startswith(_OPTUNA):
        from autocompress.engines.optuna.storage import sampler_name

        return TunerName(text, "optuna", sampler_name(text.removeprefix(_OPTUNA)))
    return TunerName(text, "nni", _of_nni(text))


def _of_nni(text: str) -> str:
    from autocompress.engines.nni.builtin_tuners import builtin_tuner_names
    from autocompress.engines.optuna.storage import sampler_names

    known = {name.lower(): name for name in builtin_tuner_names()}
    wanted = _SHORT.get(text, text).lower()
    if wanted not in known:
        others = [f"{_OPTUNA}{name.lower()}" for name in sampler_names()]
        raise ConfigError(unknown_name("tuner", text, ["adaptive", *sorted(known), *_SHORT, *others]))
    return known[wanted]


def tuners_named(labels: str | Sequence[str]) -> list[TunerName]:
    """Several tuners, each once, from names or one comma-separated string."""
    texts = labels.split(",") if isinstance(labels, str) else labels
    named = [tuner_named(text) for text in texts if text.strip()]
    if not named:
        raise ConfigError(f"tuners must name at least one; got {labels!r}")
    return list(dict.fromkeys(named))


Engine = Literal["nni-tuner", "nni"]
"""The engine of NNI's tuners and ours: without NNI's manager, or each as a real experiment; others have their own."""


@dataclass(frozen=True)
class SearchSpec:
    """One search."""

    tuner: TunerName  # what chooses the trials
    settings: AccuracyAwareSettings  # of the search, its seed among them
    directory: Path  # the experiment's
    trials: int  # the most trials
    engine: Engine  # where it runs
    module: Mapping[str, Any]  # reference to the user's module, as JSON
    search_space: Mapping[str, Any]  # in NNI's wire format
    objective: str  # what trials are compared by
    baseline: Baseline  # the uncompressed model

    @property
    def seed(self) -> int:
        """Of the tuner and of its trials."""
        return self.settings.seed

    @property
    def engine_name(self) -> str:
        """The engine that runs it."""
        return "optuna" if self.tuner.framework == "optuna" else self.engine

    def request(self) -> SearchRequest:
        """As the engine takes it."""
        from autocompress.compression.module_loading import ModuleReference
        from autocompress.engines.nni.manager import free_port

        return SearchRequest(
            module=ModuleReference.from_dict(self.module),
            search_space=dict(self.search_space),
            directory=self.directory,
            settings=self.settings,
            tuner=self.tuner.name,
            objective=self.objective,
            trials=self.trials,
            baseline=self.baseline,
            options={"port": free_port()} if self.engine_name == "nni" else {},
        )


SPECS = TypeAdapter(SearchSpec)
"""To and from JSON."""


def run(spec: SearchSpec) -> None:
    """Run or resume the search. That nothing stays within the budget is a result, not an error."""
    from autocompress.compression.module_loading import ModuleReference

    engine = engine_named(spec.engine_name)
    load_if_unknown(algorithm_names(spec.search_space), ModuleReference.from_dict(spec.module).load)
    if ExperimentDirectory(spec.directory).exists():
        done = len(Ledger(ExperimentDirectory(spec.directory)).records)
        search = engine.open(spec.directory, trials=max(0, spec.trials - done))
    else:
        search = engine.create(spec.request())
    interrupts = Interrupts()
    with interrupts.counted():
        try:
            if not search.run():
                raise KeyboardInterrupt
        except InfeasibleBudgetError:
            return
        finally:
            interrupts.settle()
            search.stop()


def _error(spec: SearchSpec) -> str | None:
    try:
        run(spec)
    except AutoCompressError as error:
        return str(error.args[0])  # without a trial's traceback
    except Exception as error:  # noqa: BLE001 - tuners raise any error; the other searches go on
        return f"{type(error).__name__}: {error}"
    return None


def main(request: str, result: str) -> None:
    """Run the search of the spec file and write its error to the result file."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until `run` counts them
    spec = SPECS.validate_json(Path(request).read_bytes())
    write_json(Path(result), {"error": _error(spec)})


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
