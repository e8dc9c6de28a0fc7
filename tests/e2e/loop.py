"""A training loop as a user's script would run it: `loop.py DIRECTORY [RUN]`, RUN to resume; the result is beside."""

import json
import sys
from pathlib import Path

import torch

from autocompress.nncf import CompressionConfig, create_accuracy_aware_training_loop, create_compressed_model
from tests.benchmarks import nncf_loop

CONFIG = {
    "input_info": {"sample_size": [1, 1, 8, 8]},
    "accuracy_aware_training": {
        "mode": "adaptive_compression_level",
        "params": {
            "initial_training_phase_epochs": 3,
            "patience_epochs": 2,
            "maximal_absolute_accuracy_degradation": 2,
        },
    },
    "compression": [
        {
            "algorithm": "filter_pruning",
            "pruning_init": 0.1,
            "params": {"pruning_target": 0.4, "pruning_steps": 2, "prune_first_conv": True},
        }
    ],
}


def main(directory, run=None):
    torch.set_num_threads(1)  # equal sums on any machine
    torch.manual_seed(0)
    model = nncf_loop.Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        nncf_loop.train_epoch(nncf_loop.NoController(), model, optimizer)
    config = CompressionConfig.from_dict(CONFIG)
    base = nncf_loop.accuracy(model)
    controller, model = create_compressed_model(model, config)
    loop = create_accuracy_aware_training_loop(config, controller, base)
    epochs = Path(directory, "epochs.log")

    def train_epoch(controller, model, epoch, optimizer, **_):
        nncf_loop.train_epoch(controller, model, optimizer)
        with epochs.open("a") as log:
            log.write(f"{epoch}\n")

    loop.run(
        model,
        train_epoch,
        nncf_loop.accuracy,
        lambda: (torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), None),
        log_dir=Path(directory, "runs"),
        resume=run,
    )
    loop.report()
    records = [{**record.to_dict(), "seconds": 0} for record in loop.result.records]
    Path(directory, "records.json").write_text(json.dumps(records))
    torch.save(model.state_dict(), Path(directory, "weights.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
