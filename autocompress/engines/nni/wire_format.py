"""Search spaces as NNI's tuners and its page read them: every variable has `_type` and `_value` of its own.

NNI 2.10's auto-compress nests the bits of `weight` and `output` under one key; NNI 3.0 cannot read that.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import nni

from autocompress.search_space.space import ALGORITHM_KEY
from autocompress.search_space.trial_parameters import RATE_KEY, requested_rate

_MEMBER = "/"
"""Joins a key and the name of a value nested under it; no variable's name has it."""


_SEARCH = "search"


def flattened(search_space: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a search space in which nested values have their own keys: `...::quant_bits/weight`."""
    flat = copy.deepcopy(dict(search_space))
    choice = flat[ALGORITHM_KEY]
    choice["_value"] = [_flat(option) for option in choice["_value"]]
    return flat


def nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a trial, chosen in a flattened space, as in the original one."""
    chosen: dict[str, Any] = {}
    for key, value in parameters[ALGORITHM_KEY].items():
        head, separator, member = key.rpartition(_MEMBER)
        if separator and "::" not in member:
            chosen.setdefault(head, {})[member] = value
        else:
            chosen[key] = value
    return {**parameters, ALGORITHM_KEY: chosen}


def flat_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `nested`."""
    return {**parameters, ALGORITHM_KEY: _flat(parameters[ALGORITHM_KEY])}


def _flat(option: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in option.items():
        if isinstance(value, Mapping) and not value.keys() & {"_type", "_name"}:
            flat |= {f"{key}{_MEMBER}{member}": values for member, values in value.items()}
        else:
            flat[key] = value
    return flat


def to_page_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters as NNI's page draws them: each entry under `search`, and each nested value, has its own key.

    The page is left blank by a key that the flattened search space does not have.
    """
    parameters = flat_parameters(parameters) if ALGORITHM_KEY in parameters else parameters
    known = parameters.get(_SEARCH)
    search = {f"{_SEARCH}{_MEMBER}{name}": value for name, value in (known or {}).items()}
    if known is not None and (rate := requested_rate(parameters)) is not None:
        search[f"{_SEARCH}{_MEMBER}{RATE_KEY}"] = rate  # one axis for all algorithms
    return {**{name: value for name, value in parameters.items() if name != _SEARCH}, **search}


def from_page_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `to_page_parameters`."""
    parameters = nested(parameters) if ALGORITHM_KEY in parameters else parameters
    prefix = f"{_SEARCH}{_MEMBER}"
    search = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
    if sum(name.endswith("::sparsity") for name in parameters.get(ALGORITHM_KEY, {})) == 1:
        search.pop(RATE_KEY, None)
    others = {name: value for name, value in parameters.items() if not name.startswith(prefix)}
    return {**others, _SEARCH: search} if search else others


_logger = logging.getLogger(__name__)


class NniChannel:
    """Connects `autocompress.trial` to the NNI manager that started the process."""

    def parameters(self) -> dict[str, Any]:
        """The parameters that the tuner generated."""
        return from_page_parameters(nni.get_next_parameter())

    def report_epoch(self, result: dict[str, Any]) -> None:
        """Report an intermediate result. If NNI has gone, the trial continues: its record on disk counts."""
        try:
            nni.report_intermediate_result(result)
        except OSError as error:
            _logger.warning("NNI did not take an intermediate result: %s", error)

    def report_final(self, result: dict[str, Any]) -> None:
        """Report the final result, `default` being the score."""
        try:
            nni.report_final_result(result)
        except OSError as error:
            _logger.warning("NNI did not take the final result: %s", error)
