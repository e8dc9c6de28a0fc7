"""A search space's variables as parameters of an Optuna trial, for samplers other than our own."""

from __future__ import annotations

import copy
import math
from typing import Any

from optuna import Trial

from autocompress.config.space import ALGORITHM_KEY, SearchSpace
from autocompress.config.values import Values, ValueSpace

_SIGMAS = 3


def suggest(trial: Trial, space: SearchSpace) -> dict[str, Any]:
    """Let the study's sampler choose an algorithm and its variables; constants are no parameters.

    Parameters are named `algorithm_name` and `<algorithm>/<key>`. Optuna has no normal distribution: values come evenly
    from three sigmas to each side.

    Returns:
        a trial's `algorithm_name`, as NNI's tuners give it.
    """
    name = trial.suggest_categorical(ALGORITHM_KEY, [algorithm.name for algorithm in space.algorithms])
    items = space.algorithm(name).items()
    return {ALGORITHM_KEY: {"_name": name, **{key: _value(trial, f"{name}/{key}", values) for key, values in items}}}


def _value(trial: Trial, name: str, values: Values) -> Any:
    if values.is_constant:
        return values.middle()
    if not isinstance(values, ValueSpace):
        head = {} if values.name is None else {"_name": values.name}
        return {**head, **{member: _value(trial, f"{name}/{member}", inner) for member, inner in values.members}}
    if values.type == "choice":
        return _chosen(trial, name, values.values)
    first, second = values.values[:2]
    if values.type == "randint":
        return trial.suggest_int(name, first, second - 1)
    return _in_range(trial, name, values.type, values.values)


def _chosen(trial: Trial, name: str, options: tuple[Any, ...]) -> Any:
    if all(option is None or isinstance(option, bool | int | float | str) for option in options):
        return trial.suggest_categorical(name, options)
    return copy.deepcopy(options[trial.suggest_categorical(name, range(len(options)))])


def _in_range(trial: Trial, name: str, kind: str, values: tuple[Any, ...]) -> float:
    low, high = values[:2]
    if "normal" in kind:
        low, high = low - _SIGMAS * high, low + _SIGMAS * high
        low, high = (math.exp(low), math.exp(high)) if "log" in kind else (low, high)
    found = trial.suggest_float(name, low, high, log="log" in kind)
    return min(max(round(found / values[2]) * values[2], low), high) if kind.startswith("q") else found
