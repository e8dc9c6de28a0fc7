"""A pruner of your own: which filters vary least over their kernel, searched on the digits of `autocompress.demo`.

    python examples/own_pruner.py
    autocompress run examples/own_pruner.py:SpreadModule --algorithm spread

Trials are processes of their own; they import the module's file, and with it what it registers.
"""

from autocompress import AccuracyBudget, AutoCompressionSearchSpaceGenerator, CompressionStudy, register_algorithm
from autocompress.algorithms import FilterPruner
from autocompress.demo import DigitsModule


class Spread(FilterPruner):
    """Removes the filters whose weights differ least from each other."""

    name = "spread"

    def score(self, layer):
        weights = layer.weight.detach().flatten(1)
        return (weights - weights.mean(1, keepdim=True)).abs().mean(1)


register_algorithm(Spread())


class SpreadModule(DigitsModule):
    """The digits' module, in a file that registers the algorithm."""


if __name__ == "__main__":
    generator = AutoCompressionSearchSpaceGenerator()
    sparsity = {"_type": "uniform", "_value": [0.0, 0.95]}
    generator.add_config("spread", [{"op_types": ["default"], "sparsity": sparsity}])
    study = CompressionStudy(SpreadModule, generator, AccuracyBudget(maximal_relative_accuracy_degradation=1.0))
    study.optimize()
    print(study.result.summary())
