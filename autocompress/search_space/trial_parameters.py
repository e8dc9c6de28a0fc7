"""What a trial is asked to do: concrete parameters, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autocompress.algorithms import Algorithm, Kind, algorithm
from autocompress.errors import ConfigError, unknown_name
from autocompress.layer_selector import LayerRule, LayerSelector
from autocompress.search_space.layer_keys import (
    entry_kind,
    named_algorithm,
    require_argument,
    require_true,
    split,
)
from autocompress.search_space.plain import plain
from autocompress.search_space.space import ALGORITHM_KEY
from autocompress.search_space.values import check_quantizing_value, require_rate

SEARCH_KEY = "search"
"""What the adaptive search adds to a trial's parameters; not read here."""


@dataclass(frozen=True)
class AlgorithmChoice:
    """One algorithm with all its values.

    Attributes:
        name: of the algorithm.
        kind: pruner, quantizer or mix.
        rules: the config list, in its order.
        arguments: of the algorithm itself, those that were given.
    """

    name: str
    kind: Kind
    rules: tuple[LayerRule, ...]
    arguments: dict[str, Any] = field(default_factory=dict)

    def requested_rate(self) -> float | None:
        """The sparsity in [0, 1) where there is exactly one, else None: with several the search knows the position."""
        sparsities = [rule.rate for rule in self.rules if rule.rate is not None]
        return sparsities[0] if len(sparsities) == 1 else None

    @property
    def stages(self) -> tuple[AlgorithmChoice, ...]:
        """The algorithms to apply one after the other: those of a mix, each with its rules and arguments, or itself."""
        return tuple(self._stage(part) for part in algorithm(self.name).parts) or (self,)

    def _stage(self, part: Algorithm) -> AlgorithmChoice:
        taken = {argument.name for argument in part.arguments}
        rules = tuple(rule for rule in self.rules if entry_kind(rule.quant_types) == part.kind)
        arguments = {name: value for name, value in self.arguments.items() if name in taken}
        return AlgorithmChoice(part.name, part.kind, rules, arguments)


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
    elif layers.quant_types is None:
        require_rate(layers.key("sparsity"), sparsity)
        sparsity = float(sparsity)
    for name, value in entry.items():
        check_quantizing_value(layers.key(name), name, layers.quant_types or (), value)
    return LayerRule(layers.op_types, layers.op_names, layers.quant_types, sparsity, exclude, entry)
