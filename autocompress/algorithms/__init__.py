"""The algorithms, each in a module of its name: what it does, its arguments, the hooks that it needs, its source.

An algorithm of your own derives from `FilterPruner`, `WeightPruner` or `Quantizer`; see
`autocompress.register_algorithm`.
"""

from autocompress.compression.pruning.pruner import FilterPruner, PruningContext, WeightPruner
from autocompress.compression.quantization.quantizer import Quantizer
from autocompress.registry import Argument, algorithm, algorithms, register_algorithm

__all__ = [
    "Argument",
    "FilterPruner",
    "PruningContext",
    "Quantizer",
    "WeightPruner",
    "algorithm",
    "algorithms",
    "register_algorithm",
]
