"""NNCF-style: the configuration file, the four functions, one process. No module to inherit, no NNI.

    python examples/nncf_style.py [--config search_spaces/filter_pruning.json5] [--log-dir runs] [--resume RUN]

The network and the data are those of `autocompress.demo`.
"""

import argparse
from pathlib import Path

import torch

from autocompress.demo import DATA, DigitsModule, accuracy_on
from autocompress.nncf import (
    CompressionConfig,
    create_accuracy_aware_training_loop,
    create_compressed_model,
    register_default_init_args,
)

CONFIG = Path(__file__).parents[1] / "search_spaces" / "filter_pruning.json5"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG, help="NNCF-style configuration, JSON with comments")
    parser.add_argument("--log-dir", default="runs")
    parser.add_argument("--resume", help="directory of a run that was interrupted")
    parser.add_argument("--export", default="digits.onnx")
    arguments = parser.parse_args()

    model, validate = DigitsModule.model(), accuracy_on("validation")
    uncompressed_accuracy = validate(model)
    config = CompressionConfig.from_json(arguments.config)
    config = register_default_init_args(config, DATA["train"][0].split(256))
    compression_ctrl, model = create_compressed_model(model, config)

    def train_epoch_fn(compression_ctrl, model, optimizer, **_):
        x, y = DATA["train"]
        compression_ctrl.scheduler.epoch_step()
        model.train()
        for batch in torch.randperm(len(x)).split(64):
            compression_ctrl.scheduler.step()
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch]) + compression_ctrl.loss()
            loss.backward()
            optimizer.step()

    def validate_fn(model, **_):
        return validate(model)

    def configure_optimizers_fn():  # filters are removed between rates: the model's parameters are others each time
        return torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4), None

    loop = create_accuracy_aware_training_loop(config, compression_ctrl, uncompressed_accuracy)
    model = loop.run(
        model,
        train_epoch_fn,
        validate_fn,
        configure_optimizers_fn,
        log_dir=arguments.log_dir,
        resume=arguments.resume,
    )
    print(loop.verdict)
    print(loop.statistics)
    print(compression_ctrl.statistics())
    print("exported:", compression_ctrl.export_model(arguments.export))
    print("report:", loop.report())


if __name__ == "__main__":
    main()
