"""Compress a CNN trained on scikit-learn's digits within 1 % relative accuracy, from Python.

    python examples/digits.py

`autocompress demo` does the same from the command line. The module is `autocompress/demo.py`.
"""

from pathlib import Path

from autocompress import AutoCompressionExperiment
from autocompress.demo import DATA, DigitsModule, accuracy_on

__all__ = ["DATA", "DigitsModule", "accuracy_on"]

if __name__ == "__main__":
    experiment = AutoCompressionExperiment(DigitsModule, "local")
    experiment.config.search_space_file = Path(__file__).parents[1] / "search_spaces" / "l2.json"
    experiment.run(8080)
    print(experiment.result.summary())
