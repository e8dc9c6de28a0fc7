"""Loops on a model whose accuracy is told, not measured."""

import torch
from torch import nn

from autocompress.nncf import CompressionConfig, create_accuracy_aware_training_loop, create_compressed_model

SIZE = 60


class Net(nn.Module):
    """A layer of 3,600 weights, and what it has been trained for: the rate, epochs at it, epochs in all."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Linear(SIZE, SIZE)
        self.register_buffer("trained", torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64))

    def forward(self, x):
        return self.layer(x)


def config_of(params, *, mode="adaptive_compression_level", target=0.5, ramp=None, algorithm="magnitude_sparsity"):
    schedule = {"schedule": "multistep", "multistep_steps": [10_000], "multistep_sparsity_levels": [target, target]}
    if ramp:
        steps = list(range(1, len(ramp)))
        schedule = {"schedule": "multistep", "multistep_steps": steps, "multistep_sparsity_levels": list(ramp)}
    return CompressionConfig.from_dict(
        {
            "input_info": {"sample_size": [1, SIZE]},
            "accuracy_aware_training": {"mode": mode, "params": params},
            "compression": {"algorithm": algorithm, "params": schedule},
        }
    )


class Teller:
    """The user's functions: they count epochs and tell accuracies.

    Args:
        controller: whose rate is asked.
        tell: (rate, epochs trained at it, epochs trained in all) -> accuracy.
    """

    def __init__(self, controller, tell):
        self.controller, self.tell = controller, tell
        self.total = 0
        self.told = []

    def train_epoch(self, controller, model, **_):
        controller.scheduler.epoch_step()
        rate, at_rate = self._look(model)
        self.total += 1
        model.trained.copy_(torch.tensor([rate, at_rate + 1, self.total], dtype=torch.float64))

    def validate(self, model, **_):
        rate, at_rate = self._look(model)
        accuracy = self.tell(rate, at_rate, int(model.trained[2]) if at_rate else self.total)
        self.told.append((rate, at_rate, accuracy))
        return accuracy

    def _look(self, model):
        """The rate, and for how many epochs these weights were trained at it."""
        rate = self.controller.compression_rate
        return rate, int(model.trained[1]) if float(model.trained[0]) == rate else 0


def loop_of(config, uncompressed, tell, **arguments):
    """A loop, its model and its functions."""
    controller, model = create_compressed_model(Net(), config)
    loop = create_accuracy_aware_training_loop(config, controller, uncompressed, **arguments)
    return loop, model, Teller(controller, tell)


PARAMS = {"initial_training_phase_epochs": 2, "patience_epochs": 2, "maximal_relative_accuracy_degradation": 1.0}


def told(curve):
    """An accuracy of the rate and the epochs trained at it."""
    return lambda rate, at_rate, _: curve(rate, at_rate)


def run(tell, directory, params=PARAMS, *, config=None, uncompressed=0.9, functions=None, **arguments):
    config = config or config_of(params)
    loop, model, teller = loop_of(config, uncompressed, tell, **arguments)
    given = {
        "train_epoch_fn": teller.train_epoch,
        "validate_fn": teller.validate,
        "log_dir": directory,
        "preflight": False,
    }
    return loop, loop.run(model, **{**given, **(functions or {})}), teller


def rates(loop):
    return [record.requested_rate for record in loop.result.records]
