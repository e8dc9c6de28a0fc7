"""What a trial is asked to do: concrete parameters, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autocompress.algorithms import Kind
from autocompress.config.entries import Layers, named_algorithm, require_true, split
from autocompress.config.plain import plain
from autocompress.config.rates import require_rate
from autocompress.config.space import ALGORITHM_KEY
from autocompress.errors import ConfigError, unknown_name

SEARCH_KEY = "search"
"""What the adaptive search adds to a trial's parameters; not read here."""


@dataclass(frozen=True)
class LayerChoice:
    """What is done to the layers of one entry.

    Attributes:
        op_types: types of the layers; may be empty.
        op_names: names of the layers; may be empty.
        sparsity: requested sparsity in [0, 1); None for an exclude or a quantizer.
        exclude: whether the layers stay as they are.
        quant_types: what a quantizer quantizes in them; None for a pruner.
        quant: the quantizer's variables, such as quant_bits.
    """

    op_types: tuple[str, ...]
    op_names: tuple[str, ...]
    sparsity: float | None = None
    exclude: bool = False
    quant_types: tuple[str, ...] | None = None
    quant: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AlgorithmChoice:
    """One algorithm with all its values.

    Attributes:
        name: of the algorithm.
        kind: pruner or quantizer.
        rules: the config list, in its order.
        arguments: of the algorithm itself.
    """

    name: str
    kind: Kind
    rules: tuple[LayerChoice, ...]
    arguments: dict[str, Any] = field(default_factory=dict)

    def requested_rate(self) -> float | None:
        """The sparsity in [0, 1) where there is exactly one, else None: with several the search knows the position."""
        sparsities = [rule.sparsity for rule in self.rules if rule.sparsity is not None]
        return sparsities[0] if len(sparsities) == 1 else None


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
    except ConfigError as error:
        raise ConfigError(f"algorithm {known.name!r}: {error}") from error
    return AlgorithmChoice(known.name, known.kind, rules, arguments)


def _rule(layers: Layers, entry: dict[str, Any]) -> LayerChoice:
    sparsity = entry.pop("sparsity", None)
    exclude = "exclude" in entry
    if exclude:
        require_true(str(layers.key("exclude")), entry.pop("exclude"))
    elif layers.quant_types is None:
        require_rate(str(layers.key("sparsity")), sparsity)
        sparsity = float(sparsity)
    return LayerChoice(layers.op_types, layers.op_names, sparsity, exclude, layers.quant_types, entry)
