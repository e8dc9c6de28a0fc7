"""An experiment as it was written for NNI 2.10's auto-compress. Only its import line has changed.

NNI's TPE is given the score; leave the two tuner lines out and the adaptive search takes its place.
"""

import sys
from pathlib import Path

# NNI 2.10: from nni.compression.pytorch.auto_compress import AutoCompressionExperiment, ...
from autocompress import AutoCompressionExperiment, AutoCompressionSearchSpaceGenerator

from auto_compress_module import AutoCompressionModule

generator = AutoCompressionSearchSpaceGenerator()
generator.add_config("level", [{"sparsity": {"_type": "uniform", "_value": [0.01, 0.99]}, "op_types": ["default"]}])
generator.add_config("l1", [{"sparsity": {"_type": "uniform", "_value": [0.01, 0.99]}, "op_types": ["Conv2d"]}])
generator.add_config(
    "qat",
    [
        {
            "quant_types": ["weight", "output"],
            "quant_bits": {"weight": 8, "output": 8},
            "op_types": ["Conv2d", "Linear"],
        }
    ],
)
search_space = generator.dumps()

experiment = AutoCompressionExperiment(AutoCompressionModule, "local")
experiment.config.experiment_name = "auto compression torch example"
experiment.config.trial_concurrency = 1
experiment.config.max_trial_number = 6
experiment.config.search_space = search_space
experiment.config.trial_code_directory = Path(__file__).parent
experiment.config.tuner.name = "TPE"
experiment.config.tuner.class_args["optimize_mode"] = "maximize"

experiment.run(int(sys.argv[1]) if len(sys.argv) > 1 else 8088)
print(experiment.result.summary())
