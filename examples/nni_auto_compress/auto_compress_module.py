"""A module as it was written for NNI 2.10's auto-compress. Only its import line has changed."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn, optim
from torchvision import transforms

# NNI 2.10: from nni.compression.pytorch.auto_compress import AbstractAutoCompressionModule
from autocompress import AbstractAutoCompressionModule

torch.manual_seed(1)

_device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_transform = transforms.Normalize((0.3053,), (0.3761,))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1)
        self.conv2 = nn.Conv2d(16, 32, 3, 1)
        self.dropout1 = nn.Dropout2d(0.25)
        self.fc1 = nn.Linear(128, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return F.log_softmax(self.fc2(x), dim=1)


_digits = load_digits()
_images = _transform(torch.tensor(_digits.images, dtype=torch.float32)[:, None] / 16).to(_device)
_targets = torch.tensor(_digits.target).to(_device)


def _train(model, optimizer, criterion, epoch):
    model.train()
    for batch in torch.randperm(1400).split(64):
        optimizer.zero_grad()
        loss = criterion(model(_images[batch]), _targets[batch])
        loss.backward()
        optimizer.step()


def _test(model):
    model.eval()
    with torch.no_grad():
        predictions = model(_images[1400:]).argmax(dim=1)
    return 100 * (predictions == _targets[1400:]).float().mean().item()


_model = LeNet().to(_device)
_pretrained = Path(__file__).with_name("digits_pretrain_lenet.pth")
if _pretrained.exists():
    _model.load_state_dict(torch.load(_pretrained, map_location=_device))
else:
    _optimizer = optim.Adam(_model.parameters(), lr=0.003)
    for _epoch in range(8):
        _train(_model, _optimizer, F.nll_loss, _epoch)
    torch.save(_model.state_dict(), _pretrained)


class AutoCompressionModule(AbstractAutoCompressionModule):
    @classmethod
    def model(cls) -> nn.Module:
        return _model

    @classmethod
    def evaluator(cls) -> Callable[[nn.Module], float]:
        return _test

    @classmethod
    def optimizer_factory(cls) -> Callable[[Iterable], optim.Optimizer] | None:
        def _optimizer_factory(params: Iterable):
            return torch.optim.SGD(params, lr=0.01)

        return _optimizer_factory

    @classmethod
    def criterion(cls) -> Callable | None:
        return F.nll_loss

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name: str) -> Callable | None:
        return _train

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name: str) -> Callable | None:
        return _train

    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name: str) -> int:
        return 2
