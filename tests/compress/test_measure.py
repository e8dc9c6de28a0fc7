from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autocompress.compress.measure import macs, measure, nonzero_parameters, parameters, weights_bytes

from .nets import IMAGE, Words, build


def test_a_network_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 5))
    with torch.no_grad():
        model[2].weight[:2] = 0
    measured = measure(model, IMAGE)
    assert measured.parameters == 4 * 27 + 4 + 5 * 256 + 5
    assert measured.nonzero_parameters == measured.parameters - 2 * 256
    assert measured.macs == 64 * 4 * 27 + 5 * 256


def test_shared_parameters_count_once() -> None:
    model = Words()
    assert parameters(model) == nonzero_parameters(model) == 11 * 8 + (8 * 16 + 16) + (16 * 8 + 8)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    model = build("residual")
    with (tmp_path / "weights.pt").open("wb") as file:
        torch.save(model.state_dict(), file)
    assert weights_bytes(model) == (tmp_path / "weights.pt").stat().st_size


def test_attention_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert macs(layer, (torch.randn(1, 4, 8),)) >= 4 * (4 * 8 * 8 + 2 * 8 * 16)
    assert torch.backends.mha.get_fastpath_enabled()


def test_modes_are_left_as_they_were() -> None:
    model = build("plain").train()
    model.bn1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, IMAGE)
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
