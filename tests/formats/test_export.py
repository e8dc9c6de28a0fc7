from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.errors import CompressionError, ConfigError, StoreError
from autocompress.formats.checkpoint import load_compressed
from autocompress.formats.export import export
from autocompress.layer_selector import LayerRule
from tests.compression.modules import Calibrated
from tests.compression.nets import IMAGE, NETS, Convolutions, TwoHeads, Words, build

RATE = (LayerRule(("default",), rate=0.5),)
WEIGHTS = (LayerRule(("default",), quant_types=("weight",)),)
ALL = (LayerRule(("default",), quant_types=("weight", "output")),)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.image, self.head = nn.Embedding(7, 12), nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, words: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.words(words).mean(1) + self.image(image)))


def finished(
    model: nn.Module, name: str, targets: tuple[LayerRule, ...], inputs: tuple[torch.Tensor, ...]
) -> nn.Module:
    compression = compressor(name).compress(model, CompressionRequest(name, targets, inputs))
    return compression.finish(compression.model).eval()


def model_and_inputs(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    if name in NETS:
        return build(name), IMAGE
    made = {
        "heads": (TwoHeads(), (torch.randn(1, 3, 16, 16),)),
        "words": (Words(), (torch.randint(0, 11, (1, 4)),)),
        "two_inputs": (TwoInputs(), (torch.randint(0, 7, (1, 5)), torch.randn(1, 4))),
        "one_dimension": (Convolutions(1), (torch.randn(1, 2, 4),)),
    }
    return made[name]


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", [*NETS, "heads", "words", "two_inputs", "one_dimension"])
def test_what_is_written_computes_what_the_model_does(name: str, suffix: str, tmp_path: Path) -> None:
    model, inputs = model_and_inputs(name)
    pruned = finished(model, "level" if name in ("words", "two_inputs") else "l2", RATE, inputs)
    before = copy.deepcopy(pruned.state_dict())
    report = export(pruned, tmp_path / f"model{suffix}", inputs)
    assert report.batches == (1, 3), report
    assert report.max_difference is not None
    assert report.tolerance is not None
    assert report.max_difference <= report.tolerance <= 0.1, report
    assert report.bytes == (tmp_path / f"model{suffix}").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == [f"model{suffix}"]
    assert all(torch.equal(before[key], value) for key, value in pruned.state_dict().items())


@pytest.mark.parametrize(("name", "targets"), [("naive", WEIGHTS), ("dorefa", ALL), ("qat", ALL)])
@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ""])
def test_quantized_models(name: str, targets: tuple[LayerRule, ...], suffix: str, tmp_path: Path) -> None:
    original = build("grouped")
    model = finished(copy.deepcopy(original), name, targets, IMAGE)
    report = export(model, tmp_path / f"model{suffix}", IMAGE[0], original=original)
    assert report.max_difference is not None
    assert report.max_difference <= (report.tolerance or 0), report
    assert report.checked is not None
    assert report.checked.split()[0] == ("onnxruntime" if suffix == ".onnx" else "torch")


@pytest.mark.slow
def test_an_int8_model_is_int8_in_onnx(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    inputs = (torch.randn(1, 64),)
    float_report = export(model, tmp_path / "float.onnx", inputs)
    int8_report = export(finished(copy.deepcopy(model), "qat", ALL, inputs), tmp_path / "int8.onnx", inputs)
    assert int8_report.bytes < float_report.bytes / 3
    kinds = [entry.data_type for entry in onnx.load(tmp_path / "int8.onnx").graph.initializer if len(entry.dims) == 2]
    assert kinds == [onnx.TensorProto.INT8] * 2


@pytest.mark.slow
def test_the_weights_of_a_large_model_lie_beside_it_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.formats.onnx._LARGEST", 1000)
    report = export(build("plain"), tmp_path / "model.onnx", IMAGE)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"model.onnx", "model.onnx.data"}
    assert report.bytes == sum(sizes.values())
    assert sizes["model.onnx.data"] > 20_000
    monkeypatch.undo()
    export(build("plain"), tmp_path / "model.onnx", IMAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_inputs_outputs_and_the_batch_have_names(tmp_path: Path) -> None:
    export(TwoHeads(), tmp_path / "model.onnx", torch.randn(2, 3, 16, 16))
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [entry.name for entry in graph.input] == ["x"]
    assert [entry.name for entry in graph.output] == ["boxes", "classes"]
    batches = {entry.type.tensor_type.shape.dim[0].dim_param for entry in (*graph.input, *graph.output)}
    assert batches == {"batch"}


@dataclass
class Output:
    """As Hugging Face's models give it."""

    logits: torch.Tensor
    task: str = "classify"
    loss: torch.Tensor | None = None


class Classifier(nn.Module):
    """Arguments left out in between, and an object of tensors and texts as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None, scale: torch.Tensor | None = None) -> Output:
        logits = self.head(ids if mask is None else ids * mask)
        return Output(logits if scale is None else logits * scale)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_inputs_by_name_and_an_object_as_output(suffix: str, tmp_path: Path) -> None:
    report = export(
        nn.DataParallel(Classifier()),
        tmp_path / f"model{suffix}",
        {"scale": torch.ones(1, 1), "ids": torch.randn(1, 4)},
    )
    assert (report.batches, report.dynamic_batch) == ((1, 3), True)
    if suffix == ".onnx":
        graph = onnx.load(tmp_path / "model.onnx").graph
        assert [entry.name for entry in graph.input] == ["ids", "scale"]
        assert [entry.name for entry in graph.output] == ["logits"]
    else:
        program = torch.export.load(tmp_path / "model.pt2")
        assert list(program.module()(torch.randn(5, 4), None, torch.ones(5, 1))) == ["logits"]


class EachSample(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([sample * 2 for sample in x])


class MeanOfMany(nn.Module):
    """Computes something else for a batch of one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0) if x.shape[0] > 1 else x


@pytest.mark.parametrize("model", [EachSample(), MeanOfMany()])
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_batch_that_cannot_be_dynamic_is_fixed_and_said_to_be(
    model: nn.Module, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = export(model, tmp_path / f"model{suffix}", torch.randn(1, 4))
    assert (report.batches, report.dynamic_batch, report.max_difference) == ((1,), False, 0.0)
    assert "takes inputs whose dimension 0, the batch, is 1 only" in caplog.text


class Eigenvalues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x @ x.T).real


@pytest.mark.slow
def test_an_operator_that_onnx_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"exported to ONNX: .*aten\.linalg_eig") as caught:
        export(Eigenvalues(), tmp_path / "model.onnx", torch.randn(3, 3))
    assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def test_a_directory_holds_an_ordinary_state_dict(tmp_path: Path) -> None:
    original = build("plain")
    model = finished(copy.deepcopy(original), "level", (LayerRule(("default",), rate=0.9),), IMAGE)
    report = export(model, tmp_path / "plain", IMAGE, original=original)
    assert (report.format, report.max_difference) == ("state_dict", 0.0)
    state = torch.load(tmp_path / "plain" / "weights.pt", weights_only=True)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "plain").iterdir())
    loaded = load_compressed(tmp_path / "plain", original).eval()
    assert torch.equal(loaded(IMAGE[0]), model(IMAGE[0]))


def test_the_graph_before_and_after(tmp_path: Path) -> None:
    original = build("residual")
    model = finished(copy.deepcopy(original), "l2", RATE, IMAGE)
    report = export(model, tmp_path / "after.dot", IMAGE)
    export(original, tmp_path / "before.dot", IMAGE)
    before, after = (tmp_path / "before.dot").read_text(), (tmp_path / "after.dot").read_text()
    assert (report.format, report.checked, report.tolerance) == ("dot", None, None)
    assert before.startswith('digraph "Residual" {')
    assert r"stem\nConv2d\n448 parameters\nn x 16 x 8 x 8" in before, before
    assert r"stem\nConv2d\n224 parameters\nn x 8 x 8 x 8" in after, after
    assert before.count("->") == after.count("->")
    for name, _ in original.named_children():
        assert f'"{name}' in after, name


def test_the_report_is_json(tmp_path: Path) -> None:
    report = export(build("plain"), tmp_path / "model.pt2", IMAGE)
    told = json.loads(json.dumps(report.to_dict()))
    assert told["path"] == str(tmp_path / "model.pt2")
    assert told["seconds"] > 0


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_text("stale")
    export(build("plain"), tmp_path / "model.onnx", IMAGE)
    assert onnx.load(tmp_path / "model.onnx").graph.node
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


class Refuses(nn.Module):
    """Its code asks for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if float(x.sum()) > 0 else x


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".dot"])
def test_a_model_that_cannot_be_traced(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"torch\.export must be able to trace the model; "):
        export(Refuses(), tmp_path / f"model{suffix}", torch.ones(1, 4))
    assert list(tmp_path.iterdir()) == []


class Moody(nn.Module):
    """Computes something else every time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def test_something_else_is_not_shipped(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("the one before")
    with pytest.raises(CompressionError, match=r"must compute what the model does, within .*; an output differs by"):
        export(Moody(), tmp_path / "model.onnx", torch.ones(1, 4))
    assert (tmp_path / "model.onnx").read_text() == "the one before"


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"must be named <name>\.dot, <name>\.onnx, <name>\.pt2, or have no suffix.*got .*model\.tflite",
    ):
        export(build("plain"), tmp_path / "model.tflite", IMAGE)
    with pytest.raises(ConfigError, match="a directory needs the uncompressed model"):
        export(build("plain"), tmp_path / "model", IMAGE)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is a directory; .*'.*file' is a file"):
        export(build("plain"), tmp_path / "file", IMAGE, original=build("plain"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match=r"replaces an earlier one or an empty directory; .* holds 'thesis\.tex'"):
        export(build("plain"), tmp_path / "full", IMAGE, original=build("plain"))
    with pytest.raises(StoreError, match="the export must be writable"):
        export(build("plain"), tmp_path / "file" / "model.dot", IMAGE)


@pytest.mark.parametrize("place", ["small.onnx", "small.pt2", "small"])
def test_weights_and_zeros_are_counted_in_the_file(place: str, tmp_path: Path) -> None:
    original = build("plain")
    model = finished(copy.deepcopy(original), "level", RATE, IMAGE)
    report = export(model, tmp_path / place, IMAGE, original=original)
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    assert report.weights == sum(weight.numel() for weight in weights)
    assert report.zeros == sum(int((weight == 0).sum()) for weight in weights) > 0
    files = [entry for entry in tmp_path.rglob("*") if entry.is_file()]
    assert report.bytes == sum(entry.stat().st_size for entry in files)


def test_weights_beside_an_onnx_file_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.formats.onnx._LARGEST", 1000)
    model = finished(build("plain"), "level", RATE, IMAGE)
    report = export(model, tmp_path / "small.onnx", IMAGE)
    assert (tmp_path / "small.onnx.data").exists()
    assert report.zeros == sum(int((each == 0).sum()) for each in model.parameters() if each.dim() > 1)
    assert report.bytes == sum(entry.stat().st_size for entry in tmp_path.iterdir())


@pytest.mark.parametrize("place", ["small.onnx", "small.pt2"])
def test_int8_weights_are_counted(place: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))
    request = CompressionRequest("qat", ALL, IMAGE, module=Calibrated)
    compression = compressor("qat").compress(model, request)
    report = export(compression.finish(compression.model), tmp_path / place, IMAGE)
    assert report.weights == 192 * 16 + 16 * 5
