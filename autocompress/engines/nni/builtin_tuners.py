"""NNI's built-in tuners and assessors, created in the launching process."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from nni.tools.package_utils import create_builtin_class_instance
from nni.tools.package_utils.config_manager import get_all_algo_meta
from nni.tuner import Tuner

from autocompress.engines.nni.tuner import RunningTrials
from autocompress.engines.nni.wire_format import flat_parameters, nested
from autocompress.errors import ConfigError, unknown_name
from autocompress.plan import ADAPTIVE_TUNER

_SendTrial = Callable[[int, dict[str, Any]], None]


def builtin_tuner_names() -> list[str]:
    """Names of NNI's tuners, without its advisors, which stop trials by themselves."""
    metas = [meta for meta in get_all_algo_meta() if meta.algo_type == "tuner" and not meta.is_advisor]
    return sorted(meta.name for meta in metas)


def builtin_assessor_names() -> list[str]:
    """Names of NNI's assessors."""
    return sorted(meta.name for meta in get_all_algo_meta() if meta.algo_type == "assessor")


def require_tuner(name: str) -> str:
    """The tuner's canonical name."""
    return _known("tuner", name, [ADAPTIVE_TUNER, *builtin_tuner_names()])


def require_assessor(name: str) -> str:
    """The assessor's canonical name."""
    return _known("assessor", name, [ADAPTIVE_TUNER, *builtin_assessor_names()])


def _known(what: str, name: str, known: list[str]) -> str:
    by_lower_case = {entry.lower(): entry for entry in known}
    if name.lower() not in by_lower_case:
        raise ConfigError(unknown_name(what, name, known))
    return by_lower_case[name.lower()]


def create_builtin_tuner(name: str, class_args: Mapping[str, Any] | None, seed: int) -> Tuner:
    """One of NNI's tuners, set to maximize, and seeded if it can be."""
    arguments = dict(class_args or {})
    if arguments.get("optimize_mode", "maximize") != "maximize":
        mode = arguments["optimize_mode"]
        raise ConfigError(f"optimize_mode must be 'maximize', since trials report a score; got {mode!r}")
    ours = {"optimize_mode": "maximize", "seed": seed}
    try:
        taken = _arguments_of(name)
        arguments = {argument: value for argument, value in ours.items() if argument in taken} | arguments
        return create_builtin_class_instance(name, arguments, "tuners")
    except ImportError as error:
        raise ConfigError(f"tuner {name!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # NNI's validators raise errors of many types
        raise ConfigError(f"tuner {name!r} could not be created with class_args {arguments!r}: {error}") from error


def _arguments_of(name: str) -> set[str]:
    meta = next(meta for meta in get_all_algo_meta() if meta.name == name)
    module, _, class_name = meta.class_name.rpartition(".")
    return set(inspect.signature(getattr(importlib.import_module(module), class_name)).parameters)


class BuiltinTuner(Tuner):  # type: ignore[misc]  # NNI is not typed
    """One of NNI's tuners for our trials: `search` is added to each trial's parameters, its results are scores.

    The experiment ends when its trials have used `maximal_total_epochs` epochs.
    """

    def __init__(
        self, tuner: Tuner, trials: RunningTrials, search: Mapping[str, Any], maximal_total_epochs: int
    ) -> None:
        self._tuner = tuner
        self._maximal_total_epochs = maximal_total_epochs
        self._trials = trials
        self._search = dict(search)
        self._adopted: set[int] = set()
        self._exhausted = False

    def update_search_space(self, search_space: Any) -> None:
        """Passed on."""
        self._tuner.update_search_space(search_space)

    def generate_multiple_parameters(
        self, parameter_id_list: list[int], st_callback: _SendTrial | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """What NNI's tuner generates, completed."""

        def send(parameter_id: int, parameters: dict[str, Any]) -> None:
            if st_callback is not None:
                st_callback(parameter_id, self._begin(parameter_id, parameters))

        with self._trials.lock:
            generated = self._tuner.generate_multiple_parameters(parameter_id_list, st_callback=send, **kwargs)
            self._exhausted = self._exhausted or len(generated) < len(parameter_id_list)
            complete = [self._begin(*pair) for pair in zip(parameter_id_list, generated, strict=False)]
            self._finish_if_done()
            return complete

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """Write a final metric to the ledger and pass it on."""
        with self._trials.lock:
            self._trials.settle(parameter_id, ended=False)
            plain = _chosen(parameters)
            if parameter_id in self._adopted:  # NNI's tuner has forgotten it
                self._tuner.import_data([{"parameter": plain, "value": value}])
            else:
                self._tuner.receive_trial_result(parameter_id, plain, value, **kwargs)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """A trial's process has ended."""
        with self._trials.lock:
            self._trials.settle(parameter_id, ended=True)
            if parameter_id not in self._adopted:
                self._tuner.trial_end(parameter_id, success, **kwargs)
            self._finish_if_done()

    def adopt(self, parameter_id: int, parameters: Mapping[str, Any]) -> None:
        """Take over a trial that runs again after a resume."""
        with self._trials.lock:
            self._adopted.add(parameter_id)
            self._trials.adopt(parameter_id, parameters)

    def import_data(self, data: list[dict[str, Any]]) -> None:
        """Pass on the trials that finished before a resume."""
        plain = copy.deepcopy(data)
        for trial in plain:
            trial["parameter"] = _chosen(trial["parameter"])
        self._tuner.import_data(plain)

    def _begin(self, parameter_id: int, parameters: dict[str, Any]) -> dict[str, Any]:
        complete = {**nested(parameters), "search": self._search}
        self._trials.begin(parameter_id, complete)
        return complete

    def _finish_if_done(self) -> None:
        epochs = sum(record.epochs for record in self._trials.ledger.records)
        if (self._exhausted and not self._trials.keys) or epochs >= self._maximal_total_epochs:
            self._trials.finish()


def _chosen(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a trial's parameters that NNI's tuner chose."""
    return flat_parameters({name: choice for name, choice in parameters.items() if name != "search"})
