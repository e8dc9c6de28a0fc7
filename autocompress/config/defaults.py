"""What an algorithm is tried with where nobody has written a search space: all layers it supports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from autocompress.algorithms import Algorithm, algorithm
from autocompress.config.generator import AutoCompressionSearchSpaceGenerator
from autocompress.config.space import SearchSpace

_RATES = {"_type": "uniform", "_value": [0.0, 0.95]}
_QUANT_TYPES = {"qat": ["weight", "output"]}
_BITS = {"bnn": 1, "dorefa": 4}


def default_space(names: Iterable[str]) -> SearchSpace:
    """All layers at rates from 0 to 0.95; weights in 8 bits, of `dorefa` in 4, of `bnn` in 1, of `qat` activations too.

    Raises:
        ConfigError: no algorithm has such a name.
    """
    generator = AutoCompressionSearchSpaceGenerator()
    for name in names:
        known = algorithm(name)
        generator.add_config(name, [_entry(part) for part in known.stages])
    return SearchSpace.parse(generator.dumps())


def _entry(known: Algorithm) -> dict[str, Any]:
    if known.kind == "pruner":
        return {"sparsity": _RATES, "op_types": ["default"]}
    quant_types = _QUANT_TYPES.get(known.name, ["weight"])
    return {"quant_types": quant_types, "quant_bits": _BITS.get(known.name, 8), "op_types": ["default"]}
