"""A model of two convolutions under compression, and its training."""

import torch
from torch import nn

from autocompress.nncf import CompressionConfig, create_compressed_model, register_default_init_args

FILTERS = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.25,
    "params": {"schedule": "exponential", "pruning_target": 0.75, "pruning_steps": 2, "prune_first_conv": True},
}
SPARSITY = {
    "algorithm": "magnitude_sparsity",
    "params": {"schedule": "multistep", "multistep_steps": [1, 2], "multistep_sparsity_levels": [0.0, 0.3, 0.6]},
}
LEARNED = {
    "algorithm": "rb_sparsity",
    "params": {"sparsity_target": 0.6, "sparsity_target_epoch": 1, "schedule": "exponential"},
}
QUANTIZATION = {"algorithm": "quantization"}
TEACHER = {"algorithm": "knowledge_distillation", "type": "softmax", "scale": 2.0}


class Net(nn.Module):
    """Two convolutions with BatchNorm, an addition that couples them, a classifier."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x)
        return self.head((x + self.second(x)).mean((2, 3)))


X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 4


def created(*compression, data=True, model=None, state=None, **top):
    config = {"input_info": {"sample_size": [1, 1, 8, 8]}, "compression": list(compression), **top}
    config = CompressionConfig.from_dict(config)
    if data:
        config = register_default_init_args(config, [(X, Y)])
    return create_compressed_model(Net() if model is None else model, config, state)


def train(controller, model, epochs=1, lr=0.05, step=True):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        if step:
            controller.scheduler.epoch_step()
        model.train()
        for _ in range(3):
            controller.scheduler.step()
            optimizer.zero_grad()
            (nn.functional.cross_entropy(model(X), Y) + controller.loss()).backward()
            optimizer.step()
    return model.eval()
