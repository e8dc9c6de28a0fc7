"""Read a trial's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autocompress.errors import ConfigError, unknown_name
from autocompress.layer_selector import LayerRule, LayerSelector
from autocompress.plain_json import plain
from autocompress.registry import Algorithm, Kind, algorithm
from autocompress.search_space.space import (
    ALGORITHM_KEY,
    entry_kind,
    named_algorithm,
    require_argument,
    require_true,
    split,
)
from autocompress.search_space.values import check_quantizing_value, require_rate

RATE_KEY = "requested_rate"
SEARCH_KEY = "search"
"""What the adaptive search adds to a trial's parameters; not read here."""


@dataclass(frozen=True)
class AlgorithmChoice:
    """One algorithm with all its values."""

    name: str  # of the algorithm
    kind: Kind  # pruner, quantizer or mix
    rules: tuple[LayerRule, ...]  # the config list, in its order
    arguments: dict[str, Any] = field(default_factory=dict)  # of the algorithm itself, those that were given

    @property
    def stages(self) -> tuple[AlgorithmChoice, ...]:
        """The algorithms to apply one after the other: the parts of a mix with their rules and arguments, or itself."""
        return tuple(self._stage(part) for part in algorithm(self.name).parts) or (self,)

    def _stage(self, part: Algorithm) -> AlgorithmChoice:
        taken = {argument.name for argument in part.arguments}
        rules = tuple(rule for rule in self.rules if entry_kind(rule.quant_types) == part.kind)
        arguments = {name: value for name, value in self.arguments.items() if name in taken}
        return AlgorithmChoice(part.name, part.kind, rules, arguments)


def requested_rate(parameters: Mapping[str, Any]) -> float | None:
    """The requested rate of a trial in [0, 1), or the position in [0, 1] of several sparsities; None without one.

    It is stored once: as the only sparsity, or else, as in a training loop, as `requested_rate` under `search`.
    """
    rate = (parameters.get(SEARCH_KEY) or {}).get(RATE_KEY)
    sparsities = [value for key, value in parameters[ALGORITHM_KEY].items() if key.endswith("::sparsity")]
    if rate is None and len(sparsities) == 1:
        rate = sparsities[0]
    return None if rate is None else float(rate)


def read_parameters(parameters: Mapping[str, Any]) -> AlgorithmChoice:
    """Read a trial's parameters, from the adaptive search or from one of NNI's tuners.

    Raises:
        ConfigError: naming the algorithm and the key, the rule that is broken, and the value.
    """
    copied = plain("the parameters", parameters)
    if not isinstance(copied, dict) or ALGORITHM_KEY not in copied:
        raise ConfigError(f"a trial's parameters must be an object with {ALGORITHM_KEY!r}; got {parameters!r}")
    for key in copied:
        if key not in (ALGORITHM_KEY, SEARCH_KEY):
            raise ConfigError(unknown_name("key of a trial's parameters", key, (ALGORITHM_KEY, SEARCH_KEY)))
    known = named_algorithm(copied[ALGORITHM_KEY], ALGORITHM_KEY)
    try:
        entries, arguments = split(known, copied[ALGORITHM_KEY])
        rules = tuple(_rule(layers, entry) for layers, entry in entries.items())
        arguments = {name: require_argument(known, name).check(value) for name, value in arguments.items()}
    except ConfigError as error:
        raise ConfigError(f"algorithm {known.name!r}: {error}") from error
    return AlgorithmChoice(known.name, known.kind, rules, arguments)


def _rule(layers: LayerSelector, entry: dict[str, Any]) -> LayerRule:
    sparsity = entry.pop("sparsity", None)
    exclude = "exclude" in entry
    if exclude:
        require_true(layers.key("exclude"), entry.pop("exclude"))
    elif layers.quant_types is None or sparsity is not None:
        require_rate(layers.key("sparsity"), sparsity)
        sparsity = float(sparsity)
    for name, value in entry.items():
        check_quantizing_value(layers.key(name), name, layers.quant_types or (), value)
    return LayerRule(layers.op_types, layers.op_names, layers.quant_types, sparsity, exclude, entry)
