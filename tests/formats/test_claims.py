"""What a record claims is what the file holds, and a file that holds something else is found."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.compression.base import Compression, CompressionRequest, compressor
from autocompress.compression.model_state import forward_outputs
from autocompress.errors import StoreError
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.claims import Claim, load_verified, require_same_tensors
from autocompress.layer_selector import LayerRule
from tests.compression.modules import Calibrated
from tests.compression.nets import IMAGE, NETS, Plain, build, train

HALF = (LayerRule(("default",), rate=0.5),)
WEIGHTS = (LayerRule(("default",), quant_types=("weight",), quant={"quant_bits": 3}),)
CHANNELS = (
    LayerRule(("default",), quant_types=("weight",), quant={"quant_bits": 3, "quant_scheme": "per_channel_symmetric"}),
)
BINARY = (LayerRule(("default",), quant_types=("weight",)),)
INT8 = (LayerRule(("default",), quant_types=("weight", "output")),)
ASKED = {
    "l2": HALF,
    "level": HALF,
    "naive": WEIGHTS,
    "naive by channel": CHANNELS,
    "dorefa": WEIGHTS,
    "bnn": BINARY,
    "qat": INT8,
}


def compress(model: nn.Module, name: str) -> Compression:
    algorithm = name.split()[0]
    return compressor(algorithm).compress(model, CompressionRequest(algorithm, ASKED[name], IMAGE, module=Calibrated))


def saved(model: nn.Module, path: Path) -> nn.Module:
    save_checkpoint(model, path, Plain())
    return load_verified(path, model, Plain(), IMAGE)


@pytest.mark.parametrize("name", ASKED)
def test_the_file_holds_the_model_and_its_rate(name: str, tmp_path: Path) -> None:
    compression = compress(Plain(), name)
    train(compression.model)
    claim = Claim.of(compression)
    finished = compression.finish(compression.model).eval()
    loaded = saved(finished, tmp_path / "model")
    claim.require(loaded, tmp_path / "model")
    assert 0 < compression.achieved_rate(loaded) == claim.rate
    assert all(map(torch.equal, forward_outputs(loaded, IMAGE), forward_outputs(finished, IMAGE)))


@pytest.mark.parametrize("net", NETS)
def test_every_kind_of_net_is_read_back(net: str, tmp_path: Path) -> None:
    original = build(net)
    model = compressor("l1").compress(copy.deepcopy(original), CompressionRequest("l1", HALF, IMAGE)).model
    train(model)
    save_checkpoint(model, tmp_path / "model", original)
    assert load_verified(tmp_path / "model", model, original, IMAGE) is not model


@pytest.mark.parametrize("name", ["l2", "qat"])
def test_another_models_weights_are_found(name: str, tmp_path: Path) -> None:
    one, other = (compress(build("plain", seed), name) for seed in (0, 1))
    finished = [each.finish(each.model) for each in (one, other)]
    save_checkpoint(finished[1], tmp_path / "model", Plain())
    with pytest.raises(StoreError, match=r"must hold the model that was saved, bit for bit; .* differs"):
        load_verified(tmp_path / "model", finished[0], Plain(), IMAGE)


def test_one_wrong_value_is_found(tmp_path: Path) -> None:
    model = build("plain")
    save_checkpoint(model, tmp_path / "model", Plain())
    with torch.no_grad():
        model.head.bias[0] = torch.nextafter(model.head.bias[0], torch.tensor(9.0))
    with pytest.raises(StoreError, match=r"head\.bias differs"):
        load_verified(tmp_path / "model", model, Plain(), IMAGE)


def test_one_number_of_several_is_compared_by_its_bits(tmp_path: Path) -> None:
    number = torch.tensor([float("nan"), 1.0, 2.0])[::3]
    require_same_tensors({"x": number.clone()}, {"x": number}, tmp_path)
    pair = torch.complex(number, number).conj()
    require_same_tensors({"x": pair.clone()}, {"x": pair}, tmp_path)
    with pytest.raises(StoreError, match="bit for bit; x differs"):
        require_same_tensors({"x": -number}, {"x": number}, tmp_path)


def test_not_a_number_is_the_same_as_itself(tmp_path: Path) -> None:
    model = build("plain")
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    assert bool(saved(model, tmp_path / "model").head.bias[0].isnan())


class Scaled(Plain):
    """Computes with a number that no state dict holds."""

    scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


def test_what_is_in_no_tensor_is_found(tmp_path: Path) -> None:
    model = Scaled()
    model.scale = 0.5
    save_checkpoint(model, tmp_path / "model", Scaled())
    with pytest.raises(StoreError, match="must be parameters or buffers of its state dict"):
        load_verified(tmp_path / "model", model, Scaled(), IMAGE)


class Random(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.rand(())


def test_of_a_model_that_draws_at_random_nothing_is_asked(tmp_path: Path) -> None:
    model = Random()
    save_checkpoint(model, tmp_path / "model", Random())
    load_verified(tmp_path / "model", model, Random(), IMAGE)


def test_another_layout_in_memory_may_round_differently(tmp_path: Path) -> None:
    original = Plain().to(memory_format=torch.channels_last)
    model = compressor("l1").compress(copy.deepcopy(original), CompressionRequest("l1", HALF, IMAGE)).model
    model.to(memory_format=torch.channels_last)
    save_checkpoint(model, tmp_path / "model", original)
    load_verified(tmp_path / "model", model, original, IMAGE)


@pytest.mark.parametrize("name", ["level", "naive", "naive by channel", "dorefa", "bnn"])
def test_a_rate_that_the_file_has_not_is_found(name: str, tmp_path: Path) -> None:
    compression = compress(Plain(), name)
    claim = Claim.of(compression)
    finished = compression.finish(compression.model)
    with torch.no_grad():
        finished.hidden.weight.copy_(torch.randn_like(finished.hidden.weight))
    with pytest.raises(
        StoreError, match=rf"must have the compression rate of the model that was saved, {claim.rate:g}"
    ):
        claim.require(saved(finished, tmp_path / "model"), tmp_path / "model")


def test_filters_that_are_still_there_are_found() -> None:
    claim = Claim.of(compress(Plain(), "l2"))
    with pytest.raises(StoreError, match="it has 0"):
        claim.require(Plain(), "anywhere")


def test_weights_that_are_not_int8_are_found() -> None:
    def quantized(rule: LayerRule) -> Compression:
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))
        return compressor("qat").compress(model, CompressionRequest("qat", (rule,), IMAGE, module=Calibrated))

    both = ("weight", "output")
    claim = Claim.of(quantized(LayerRule(("default",), quant_types=both)))
    partly = quantized(LayerRule(op_names=("1",), quant_types=both))
    with pytest.raises(StoreError, match="compression rate"):
        claim.require(partly.finish(partly.model), "anywhere")


@pytest.mark.parametrize("second", ["naive", "qat"])
@pytest.mark.parametrize("first", ["l2", "level"])
def test_what_the_first_algorithm_removed_is_gone_after_the_second(first: str, second: str) -> None:
    claim = Claim.of(compress(Plain(), first))
    kept = claim.compression.finish(copy.deepcopy(claim.compression.model))
    quantization = compress(claim.compression.model, second)
    finished = claim.compression.finish(quantization.finish(quantization.model))
    claim.require_carried(kept, finished)
    whole = compress(Plain(), second)
    with pytest.raises(StoreError, match="quantization must keep"):
        claim.require_carried(kept, whole.finish(whole.model))
