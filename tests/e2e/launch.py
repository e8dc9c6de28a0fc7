"""Launches an experiment as a user's script would: `launch.py DIRECTORY MODULE PORT [resume]`."""

import sys

from autocompress import AutoCompressionExperiment, AutoCompressionSearchSpaceGenerator
from tests import curve_modules


def search_space(*names):
    generator = AutoCompressionSearchSpaceGenerator()
    for name in names:
        sparsity = {"_type": "uniform", "_value": [0, 0.95]}
        generator.add_config(name, [{"sparsity": sparsity, "op_names": ["hidden"]}])
    return generator.dumps()


def main(directory, module, port, action="run"):
    if action == "resume":
        experiment = AutoCompressionExperiment.open(directory)
        experiment.resume(int(port))
    else:
        experiment = AutoCompressionExperiment(getattr(curve_modules, module), "local", directory=directory)
        experiment.config.search_space = search_space("l2")
        experiment.config.tuner.name = "AdaptiveCompression"
        experiment.config.tuner.class_args = {  # few trials, each trained: 0.55, 0.6, 0.65 where the edge is at 0.62
            "preset": "nncf",
            "initial_compression_rate": 0.55,
            "initial_compression_rate_step": 0.05,
            "minimal_compression_rate_step": 0.05,
        }
        experiment.run(int(port))
    print(experiment.result.summary())
    experiment.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
