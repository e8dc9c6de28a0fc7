"""The algorithms, one module each: options, required hooks, source.

To add your own, derive from `FilterPruner`, `WeightPruner` or `Quantizer` and call `autocompress.register_algorithm`.
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
