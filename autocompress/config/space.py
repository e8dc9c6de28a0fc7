"""A search space: which algorithms are searched, over which layers and rates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.config.algorithm_space import AlgorithmSpace
from autocompress.config.plain import plain
from autocompress.errors import ConfigError, unknown_name

ALGORITHM_KEY = "algorithm_name"


@dataclass(frozen=True)
class SearchSpace:
    """A checked search space in NNI 2.10's auto-compress format.

    Attributes:
        algorithms: what it offers, in its order, each at most once.
        text: the JSON it came from.
    """

    algorithms: tuple[AlgorithmSpace, ...]
    text: str

    @classmethod
    def parse(cls, wire: Mapping[str, Any]) -> SearchSpace:
        """Check a search space, as `AutoCompressionSearchSpaceGenerator.dumps` or a JSON file gives it.

        Raises:
            ConfigError: naming the algorithm and the key, the rule that is broken, and the value.
        """
        copied = plain("the search space", wire)
        algorithms = tuple(AlgorithmSpace.parse(option) for option in _options(copied))
        if not algorithms:
            raise ConfigError(f"{ALGORITHM_KEY}: '_value' must have at least one algorithm; got none")
        names = [algorithm.name for algorithm in algorithms]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"a search space must have each algorithm once; got {name!r} {names.count(name)} times"
                )
        return cls(algorithms, json.dumps(copied))

    @property
    def wire(self) -> dict[str, Any]:
        """The JSON object it came from: a new copy each time."""
        loaded: dict[str, Any] = json.loads(self.text)
        return loaded

    def algorithm(self, name: str) -> AlgorithmSpace:
        """The part of one algorithm.

        Raises:
            ConfigError: the search space does not have it.
        """
        for algorithm in self.algorithms:
            if algorithm.name == name:
                return algorithm
        names = [algorithm.name for algorithm in self.algorithms]
        raise ConfigError(unknown_name("algorithm of the search space", name, names))


def _options(wire: Any) -> list[Any]:
    if not isinstance(wire, dict) or set(wire) != {ALGORITHM_KEY}:
        got = sorted(wire) if isinstance(wire, dict) else wire
        raise ConfigError(f"a search space must be an object with the one key {ALGORITHM_KEY!r}; got {got!r}")
    choice = wire[ALGORITHM_KEY]
    if not isinstance(choice, dict) or set(choice) != {"_type", "_value"} or choice["_type"] != "choice":
        raise ConfigError(f"{ALGORITHM_KEY} must be {{'_type': 'choice', '_value': [...]}}; got {choice!r}")
    if not isinstance(choice["_value"], list):
        raise ConfigError(f"{ALGORITHM_KEY}: '_value' must be a list of algorithms; got {choice['_value']!r}")
    return choice["_value"]
