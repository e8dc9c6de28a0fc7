from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autocompress.compression.base import CompressionRequest, compressor, layer_shapes
from autocompress.compression.measure import weights_bytes
from autocompress.compression.module_loading import ModuleReference
from autocompress.compression.quantization.rounding import attach
from autocompress.errors import ModuleError, StoreError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.formats.export import export
from autocompress.formats.files import read_description
from autocompress.layer_selector import LayerRule
from tests.compression.modules import Minimal, TiedWords
from tests.compression.nets import IMAGE, NETS, Convolutions, Residual, Words, build, outputs, train


def compress(model: nn.Module, rate: float, name: str = "l1", inputs: tuple[torch.Tensor, ...] = IMAGE) -> nn.Module:
    request = CompressionRequest(name, (LayerRule(("default",), rate=rate),), inputs)
    return compressor(name).compress(model, request).model


@pytest.mark.parametrize("name", ["l1", "fpgm", "level"])
@pytest.mark.parametrize("net", NETS)
def test_the_loaded_model_is_the_saved_one_bit_for_bit(name: str, net: str, tmp_path: Path) -> None:
    model, uncompressed = build(net), build(net, seed=5)
    request = CompressionRequest(name, (LayerRule(("default",), rate=0.5),), IMAGE)
    compression = compressor(name).compress(model, request)
    train(model)
    compression.finish(model)
    save_checkpoint(model, tmp_path / "checkpoint", build(net))
    before = {key: value.clone() for key, value in uncompressed.state_dict().items()}
    loaded = load_compressed(tmp_path / "checkpoint", uncompressed)
    assert torch.equal(outputs(loaded), outputs(model))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in uncompressed.state_dict().items())
    train(loaded, steps=1)


def test_after_two_rounds_of_pruning_with_training_between(tmp_path: Path) -> None:
    model, original = build("residual"), layer_shapes(build("residual"))
    rule = (LayerRule(("default",), rate=0.25),)
    for index, rate in enumerate((0.25, 0.6)):
        rule = (LayerRule(("default",), rate=rate),)
        compressor("l2").compress(model, CompressionRequest("l2", rule, IMAGE, original))
        train(model)
        save_checkpoint(model, tmp_path / str(index), build("residual"))
        loaded = load_compressed(tmp_path / str(index), build("residual", seed=9))
        assert torch.equal(outputs(loaded), outputs(model))
        model = loaded
    assert model.stem.out_channels == 6


@pytest.mark.parametrize("dimensions", [1, 3])
def test_other_dimensions(dimensions: int, tmp_path: Path) -> None:
    model, inputs = Convolutions(dimensions), (torch.randn(Convolutions(dimensions).shape),)
    compress(model, 0.5, inputs=inputs)
    save_checkpoint(model, tmp_path / "checkpoint", Convolutions(dimensions))
    loaded = load_compressed(tmp_path / "checkpoint", Convolutions(dimensions))
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))


def test_from_the_module_it_names(tmp_path: Path) -> None:
    model = compress(copy.deepcopy(Minimal.model()), 0.5)
    reference = ModuleReference.of(Minimal)
    save_checkpoint(model, tmp_path / "checkpoint", Minimal.model(), reference)
    assert ModuleReference.from_dict(read_description(tmp_path / "checkpoint")["module"]) == reference
    assert torch.equal(outputs(load_compressed(tmp_path / "checkpoint")), outputs(model))


def test_shared_parameters_stay_shared(tmp_path: Path) -> None:
    inputs = (torch.tensor([[1, 2]]),)
    model = compress(TiedWords.model(), 0.5, inputs=inputs)
    save_checkpoint(model, tmp_path / "checkpoint", TiedWords.model())
    loaded = load_compressed(tmp_path / "checkpoint", Words())
    assert loaded.head.weight is loaded.embedding.weight
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))


def test_a_shared_parameter_of_another_shape_stays_shared(tmp_path: Path) -> None:
    small = Words()
    small.embedding.weight = small.head.weight = nn.Parameter(torch.randn(7, 8))
    small.embedding.num_embeddings = small.head.out_features = 7
    save_checkpoint(small, tmp_path / "checkpoint", Words())
    loaded = load_compressed(tmp_path / "checkpoint", Words())
    assert loaded.head.weight is loaded.embedding.weight
    assert loaded.head.out_features == 7


class Twice(nn.Module):
    """One layer by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def test_a_shared_layer_and_its_quantizer_stay_shared(tmp_path: Path) -> None:
    model, inputs = Twice(), (torch.randn(3, 4),)
    attach(model.first, "output", 4)
    outputs(model.train(), inputs)
    save_checkpoint(model, tmp_path / "checkpoint", Twice())
    loaded = load_compressed(tmp_path / "checkpoint", Twice())
    assert loaded.first is loaded.second
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))


def test_a_shared_layer_of_another_shape_stays_shared(tmp_path: Path) -> None:
    model, inputs = Twice(), (torch.randn(3, 2),)
    model.first.weight, model.first.bias = (nn.Parameter(torch.randn(2, 2)), nn.Parameter(torch.randn(2)))
    model.first.in_features = model.first.out_features = 2
    save_checkpoint(model, tmp_path / "checkpoint", Twice())
    loaded = load_compressed(tmp_path / "checkpoint", Twice())
    assert loaded.first is loaded.second
    assert loaded.first.out_features == 2
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))


def normalised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight_norm(module)
    return model


def test_parametrized_layers_come_back(tmp_path: Path) -> None:
    model, inputs = normalised(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))), (torch.randn(3, 8),)
    original = normalised(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    save_checkpoint(model, tmp_path / "checkpoint", original)
    loaded = load_compressed(tmp_path / "checkpoint", original)
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))


class Converts(nn.Linear):
    """Its weights were halves before its second version."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version", 1) < 2:
            state[f"{prefix}weight"] = state[f"{prefix}weight"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("weight", [torch.randn(16, 16), torch.ones(16, 16)], ids=["as it is", "as codes"])
def test_a_module_that_converts_older_state_is_told_its_version(weight: torch.Tensor, tmp_path: Path) -> None:
    model = Converts(16, 16)
    model.weight.data.copy_(weight)
    save_checkpoint(model, tmp_path / "checkpoint", Converts(16, 16))
    assert torch.equal(load_compressed(tmp_path / "checkpoint", Converts(16, 16)).weight, weight)


def test_a_parameter_that_became_integers(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    save_checkpoint(model, tmp_path / "checkpoint", nn.Linear(4, 4))
    assert load_compressed(tmp_path / "checkpoint", nn.Linear(4, 4)).weight.dtype is torch.int8


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    model, uncompressed = build("plain"), build("plain")
    for frozen in (model, uncompressed):
        frozen.conv1.requires_grad_(False)
    compress(model, 0.5)
    save_checkpoint(model, tmp_path / "checkpoint", uncompressed)
    loaded = load_compressed(tmp_path / "checkpoint", uncompressed)
    assert not loaded.conv1.weight.requires_grad
    assert loaded.conv2.weight.requires_grad


def test_the_files(tmp_path: Path) -> None:
    model = compress(build("plain"), 0.5)
    save_checkpoint(model, tmp_path / "deep" / "checkpoint", build("plain"))
    folder = tmp_path / "deep" / "checkpoint"
    assert sorted(file.name for file in folder.iterdir()) == ["structure.json", "weights.pt"]
    assert [file.name for file in folder.parent.iterdir()] == ["checkpoint"]
    assert (folder / "weights.pt").stat().st_size == weights_bytes(model)
    description = json.loads((folder / "structure.json").read_text())
    assert description["structure"]["conv2"]["attributes"] == {"in_channels": 8, "out_channels": 12}
    assert description["structure"]["bn1"]["attributes"] == {"num_features": 8}
    assert "bn1" in description["structure"]
    assert "dropout" not in description["structure"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    for rate in (0.25, 0.5):
        model = compress(build("plain"), rate)
        save_checkpoint(model, folder, build("plain"))
        assert torch.equal(outputs(load_compressed(folder, build("plain"))), outputs(model))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_a_replacement_that_was_killed_half_way(tmp_path: Path) -> None:
    """Between the two renames the old checkpoint lies beside."""
    model = compress(build("plain"), 0.5)
    save_checkpoint(model, tmp_path / "checkpoint", build("plain"))
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.previous")
    assert torch.equal(outputs(load_compressed(tmp_path / "checkpoint", build("plain"))), outputs(model))


class TestErrors:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        save_checkpoint(compress(build("plain"), 0.5), tmp_path / "checkpoint", build("plain"))
        return tmp_path / "checkpoint"

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"must be a directory with structure\.json; '.*nowhere' has none"):
            load_compressed(tmp_path / "nowhere", build("plain"))

    def test_weights_missing(self, folder: Path) -> None:
        (folder / "weights.pt").unlink()
        with pytest.raises(StoreError, match=r"must have weights\.pt"):
            load_compressed(folder, build("plain"))

    def test_a_flipped_byte(self, folder: Path) -> None:
        data = bytearray((folder / "weights.pt").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "weights.pt").write_bytes(data)
        with pytest.raises(StoreError, match=r"is damaged: weights\.pt does not have the checksum"):
            load_compressed(folder, build("plain"))

    def test_half_a_structure(self, folder: Path) -> None:
        text = (folder / "structure.json").read_text()
        (folder / "structure.json").write_text(text[: len(text) // 2])
        with pytest.raises(StoreError, match=r"is damaged: structure\.json cannot be read"):
            load_compressed(folder, build("plain"))

    def test_another_schema(self, folder: Path) -> None:
        (folder / "structure.json").write_text('{"schema_version": 99}')
        with pytest.raises(StoreError, match="schema_version must be 2; got 99"):
            load_compressed(folder, build("plain"))

    def test_missing_keys(self, folder: Path) -> None:
        (folder / "structure.json").write_text('{"schema_version": 2, "module": null}')
        with pytest.raises(StoreError, match="structure, weights_sha256 must be there"):
            load_compressed(folder, build("plain"))

    @pytest.mark.parametrize("other", [Residual, Words, nn.Identity])
    def test_another_model(self, folder: Path, other: type[nn.Module]) -> None:
        with pytest.raises(StoreError, match="is of another model") as caught:
            load_compressed(folder, other())
        assert caught.value.__cause__ is not None

    def test_no_module_named(self, folder: Path) -> None:
        with pytest.raises(StoreError, match=r"holds the weights .* give the uncompressed model, as in autocompress\."):
            load_compressed(folder)

    def test_an_export_says_what_it_is(self, tmp_path: Path) -> None:
        original = build("plain")
        export(original, tmp_path / "small", torch.randn(1, 3, 8, 8), original=original)
        message = r"the directory '.*small' holds the weights of a compressed model, as an export without a suffix"
        with pytest.raises(StoreError, match=message) as refused:
            load_compressed(tmp_path / "small")
        assert f"autocompress.load_compressed('{tmp_path}/small', model=MyModule.model())" in str(refused.value)
        load_compressed(tmp_path / "small", original)

    def test_a_module_that_is_gone(self, tmp_path: Path) -> None:
        reference = ModuleReference(str(tmp_path / "gone.py"), "gone", str(tmp_path), "Gone")
        save_checkpoint(build("plain"), tmp_path / "checkpoint", build("plain"), reference)
        with pytest.raises(ModuleError, match="needs its module: the module's file must be readable"):
            load_compressed(tmp_path / "checkpoint", trust_module=True)

    def test_an_unfinished_compression(self, tmp_path: Path) -> None:
        model = compress(build("plain"), 0.5, "level")
        with pytest.raises(StoreError, match=r"finish the compression before saving.*at 'conv1'"):
            save_checkpoint(model, tmp_path / "checkpoint", build("plain"))

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="must be writable"):
            save_checkpoint(build("plain"), tmp_path / "file" / "checkpoint", build("plain"))
