"""The model of a loop that has ended: loaded and exported, here and in another process."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from autocompress import CompressionResult
from autocompress.errors import ConfigError, ModuleError, StoreError
from autocompress.nncf import (
    CompressionConfig,
    create_accuracy_aware_training_loop,
    create_compressed_model,
    register_default_init_args,
)
from tests.cli.support import invoke
from tests.e2e.support import ROOT

SIZE = 8
PARAMS = {
    "initial_training_phase_epochs": 1,
    "patience_epochs": 1,
    "minimal_compression_rate_step": 0.1,
    "maximal_absolute_accuracy_degradation": 25,
}
PRUNING = {
    "algorithm": "filter_pruning",
    "pruning_init": 0.5,
    "params": {"pruning_target": 0.5, "pruning_steps": 1, "prune_first_conv": True},
}
QUANTIZATION = {"algorithm": "quantization"}


class Stripes(nn.Module):
    """Tells horizontal from vertical stripes."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.features = nn.Sequential(
                *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
                *(nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
            )
            self.head = nn.Linear(8 * 4 * 4, 2)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def stripes():
    images = torch.rand(128, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    vertical = torch.arange(128) % 2 == 1
    images[vertical, :, :, ::2] += 1
    images[~vertical, :, ::2, :] += 1
    return images, vertical.long()


IMAGES, LABELS = stripes()


def train(model, optimizer, epochs=1):
    model.train()
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model):
    model.eval()
    return 100 * (model(IMAGES).argmax(1) == LABELS).float().mean().item()


def pretrained():
    model = Stripes()
    train(model, torch.optim.Adam(model.parameters(), lr=0.02), epochs=12)
    return model


def searched(directory, compression, *, mode="adaptive_compression_level", with_inputs=True, preflight=True):
    """A loop that has ended on the striped images, the uncompressed model, and the model that it returned."""
    params = PARAMS if mode == "adaptive_compression_level" else PARAMS_OF_EXIT
    config = CompressionConfig.from_dict(
        {
            **({"input_info": {"sample_size": [1, 1, SIZE, SIZE]}} if with_inputs else {}),
            "accuracy_aware_training": {"mode": mode, "params": params},
            "compression": compression,
        }
    )
    batches = list(zip(IMAGES.split(32), LABELS.split(32), strict=True))
    config = register_default_init_args(config, batches)
    original = pretrained()
    controller, model = create_compressed_model(pretrained(), config)
    loop = create_accuracy_aware_training_loop(config, controller, accuracy(original), maximal_compression_rate=0.6)

    def train_epoch(controller, model, optimizer, **_):
        controller.scheduler.epoch_step()
        train(model, optimizer)

    optimizers = lambda: (torch.optim.Adam(model.parameters(), lr=0.005), None)  # noqa: E731
    best = loop.run(model, train_epoch, accuracy, optimizers, log_dir=directory, preflight=preflight)
    return loop, original, best.eval()


PARAMS_OF_EXIT = {"maximal_total_epochs": 2, "maximal_absolute_accuracy_degradation": 25}


@pytest.fixture(scope="module", params=["pruning", "pruning and quantization", "quantization"])
def ended(request, tmp_path_factory):
    """A loop of each kind, its uncompressed model and what it returned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autocompress.engines.local.loop.Report", lambda store: None)
        compression, mode = {
            "pruning": ([PRUNING], "adaptive_compression_level"),
            "pruning and quantization": ([PRUNING, QUANTIZATION], "adaptive_compression_level"),
            "quantization": ([QUANTIZATION], "early_exit"),
        }[request.param]
        return searched(tmp_path_factory.mktemp("runs"), compression, mode=mode)


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


def test_the_model_is_loaded_again(ended):
    loop, original, best = ended
    uncompressed = outputs(original)
    for result in (loop.result, CompressionResult(loop.directory)):
        for model in (result.load_model(original), loop.result.load_model()):
            assert torch.equal(outputs(model), outputs(best))
            assert accuracy(model) == result.verdict.accuracy
    assert torch.equal(outputs(original), uncompressed), "the model that is given does not change"


def test_it_is_smaller_where_filters_were_removed(ended):
    loop, original, _ = ended
    model, record = loop.result.load_model(original), loop.result.best
    before, after = (list(each.parameters()) for each in (original, model))
    sizes, nonzero = (
        [sum(map(count, each)) for each in (before, after)] for count in (torch.numel, torch.count_nonzero)
    )
    assert 1 - int(nonzero[1]) / int(nonzero[0]) == pytest.approx(record.parameters_removed, abs=1e-9)
    assert (sizes[1] < sizes[0]) == ("filter_pruning" in record.algorithm)


SCRIPT = """
import sys, torch
from autocompress import CompressionResult
from tests.engines.local.test_result import accuracy, outputs, pretrained

result = CompressionResult(sys.argv[1])
model = result.load_model(pretrained())
torch.save(outputs(model), sys.argv[2])
print(accuracy(model) == result.verdict.accuracy)
"""


@pytest.mark.parametrize("ended", ["pruning", "quantization"], indirect=True)
def test_in_a_new_process(ended, tmp_path):
    loop, _, best = ended
    command = [sys.executable, "-c", SCRIPT, str(loop.directory), str(tmp_path / "outputs.pt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"]
    assert torch.equal(torch.load(tmp_path / "outputs.pt"), outputs(best))


@pytest.mark.parametrize("ended", ["pruning", "quantization"], indirect=True)
def test_exports_compute_what_the_model_does(ended, tmp_path):
    loop, original, best = ended
    report = CompressionResult(loop.directory).export(tmp_path / "model.pt2", original)
    exported = torch.export.load(report.path).module()
    with torch.no_grad():
        assert torch.allclose(exported(IMAGES), outputs(best), atol=1e-4)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(loop.result.export(tmp_path / "model.onnx").path)
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    agreeing = (torch.from_numpy(found).argmax(1) == outputs(best).argmax(1)).float().mean()
    assert agreeing > 0.95


def test_without_the_model_the_remedy_is_named(ended, tmp_path):
    loop, _, _ = ended
    opened = CompressionResult(loop.directory)
    with pytest.raises(ModuleError, match=r"training loop names no module that builds it: load_model\(model\)$"):
        opened.load_model()
    with pytest.raises(ModuleError, match=r"export\('.*model.onnx', model\)$"):
        opened.export(tmp_path / "model.onnx")
    with pytest.raises(StoreError):
        opened.load_model(nn.Linear(3, 3))
    assert not list(tmp_path.iterdir())


def test_example_inputs_are_those_of_the_configuration_or_must_be_given(tmp_path, no_report):
    loop, original, _ = searched(tmp_path / "runs", [PRUNING], with_inputs=False, preflight=False)
    opened = CompressionResult(loop.directory)
    with pytest.raises(ConfigError, match="example_inputs must be given"):
        opened.export(tmp_path / "model.pt2", original)
    assert opened.export(tmp_path / "given.pt2", original, IMAGES[:1]).checked.startswith("torch")
    assert loop.result.export(tmp_path / "own.pt2").checked.startswith("torch")


def test_the_plan_is_of_the_configuration(ended):
    loop, _, _ = ended
    plan = loop.result.plan
    assert (plan.module, plan.search_space, plan.model_name) == ({}, {}, "Stripes")
    assert plan.engine.config["compression"][0]["algorithm"] in ("filter_pruning", "quantization")
    assert not plan.proposals(loop.result.records), "the search has ended"
    answer = invoke("status", loop.directory)
    assert answer.exit_code == 0, answer.output
    assert "Stripes" in answer.output
    assert loop.result.summary().startswith(loop.result.best.algorithm)
    page = loop.result.report().read_text()
    assert "Stripes" in page
    assert "create_accuracy_aware_training_loop(config, compression_ctrl," in page
