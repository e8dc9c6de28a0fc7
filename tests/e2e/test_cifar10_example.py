"""The CIFAR-10 example on images that it makes up: alone, and as two processes that train together."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

from autocompress import load_compressed
from autocompress.nncf import CompressionConfig
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e.support import ROOT, free_port

# isort: split
# After autocompress: beside a CPU-only torch, torchvision cannot be imported before it.
from torchvision import models

pytestmark = pytest.mark.e2e

EXAMPLE = ROOT / "examples" / "cifar10_resnet18.py"
LEFT_ALONE = {"conv1.weight", "layer2.0.conv1.weight", "layer4.0.downsample.0.weight"}
"""NNCF's defaults prune neither the first convolution nor those with a stride."""


def run(logs, images, *options, launcher=()):
    """What the example printed, and the run in its log directory."""
    command = [sys.executable, *launcher, EXAMPLE, "--generated-data", images, "--log-dir", logs, *options]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (directory,) = [path for path in logs.iterdir() if path.is_dir()]
    return done.stdout, CompressionResult(ExperimentDirectory(directory))


def uncompressed(logs):
    model = models.resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 2, padding=1, bias=False), nn.Identity()
    model.load_state_dict(torch.load(logs / "resnet18_generated.pt", weights_only=True))
    return model


@torch.no_grad()
def accuracy(model, images):
    """On the example's images to validate."""
    spec = importlib.util.spec_from_file_location("cifar10_resnet18", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    pictures, labels = example.generated(images)[1].tensors
    return 100 * (model.eval()(pictures).argmax(1) == labels).float().mean().item()


def require_smaller_within_the_budget(logs, images, printed, result):
    """The best checkpoint, loaded here, has lost filters, and is as accurate as the run and its output say."""
    whole, best, verdict = uncompressed(logs), result.best, result.verdict
    model, one_image = load_compressed(result.checkpoint, whole), 200 / images + 1e-3
    assert accuracy(whole, images) == pytest.approx(result.baseline.accuracy, abs=one_image)
    assert accuracy(model, images) == pytest.approx(verdict.accuracy, abs=one_image)
    assert verdict.feasible
    assert verdict.accuracy >= result.threshold

    before, after = whole.state_dict(), model.state_dict()
    narrower = {name for name, weights in after.items() if weights.dim() == 4 and len(weights) < len(before[name])}
    assert {"layer1.0.conv1.weight", "layer4.1.conv1.weight"} <= narrower
    assert not narrower & LEFT_ALONE
    assert best.parameters_removed > 0.05, best
    assert best.macs_removed > 0.05, best

    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in (whole, model)]
    assert f"parameters           {sizes[0]:,} -> {sizes[1]:,} " in printed, printed
    assert f"accuracy          {verdict.accuracy:g} (uncompressed {result.baseline.accuracy:g}, " in printed, printed
    assert f"search            {len(result.records)} rates, " in printed, printed
    assert all(record.state == "completed" for record in result.records), result.records


def test_the_configuration_is_the_documented_scenario():
    config = CompressionConfig.from_json(ROOT / "search_spaces" / "resnet18_cifar10.json5")
    training = config.accuracy_aware_training
    assert config.input_info[0].sample_size == (1, 3, 32, 32)
    assert [section.algorithm for section in config.compression] == ["filter_pruning", "quantization"]
    assert training.mode == "adaptive_compression_level"
    assert training.params.maximal_relative_accuracy_degradation == 1.0
    assert (training.params.initial_training_phase_epochs, training.params.patience_epochs) == (5, 3)


def test_in_one_process(tmp_path):
    small = tmp_path / "small.onnx"
    printed, result = run(tmp_path, 240, "--export", small)
    require_smaller_within_the_budget(tmp_path, 240, printed, result)
    assert len(result.records) > 1
    assert small.exists()


def test_in_two_processes_that_train_together(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    printed, result = run(tmp_path, 240, "--batch-size", "10", launcher=launcher)
    require_smaller_within_the_budget(tmp_path, 240, printed, result)
    assert printed.count("search            ") == 1, "only the first process prints"
