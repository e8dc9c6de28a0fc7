"""State dicts with the names of wrappers."""

import logging

import pytest
import torch
from torch import nn

from autocompress import CompressionConfig, StoreError, create_compressed_model, load_state

CONFIG = {
    "input_info": {"sample_size": [1, 4]},
    "compression": {"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 0.5}},
}


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


@pytest.mark.parametrize("prefix", ["", "module.", "nncf_module.", "module.nncf_module.", "_orig_mod."])
def test_prefixes_do_not_count(prefix):
    source, target = net(0), net(1)
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    assert load_state(target, state, is_resume=True) == len(state)
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in source.state_dict().items())


def test_weights_of_the_uncompressed_model_load_below_the_masks(caplog):
    source = net(0)
    _, model = create_compressed_model(net(1), CompressionConfig.from_dict(CONFIG))
    with caplog.at_level(logging.WARNING):
        loaded = load_state(model, source.state_dict())
    assert loaded == len(source.state_dict())
    assert torch.equal(model[0].weight, source[0].weight)
    assert "only in the model: 0.parametrizations.weight.0.pruned" in caplog.text


def test_with_is_resume_everything_must_match():
    target = net(1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = net(0).state_dict()
    state["extra"] = state.pop("0.weight")
    state["2.bias"] = torch.zeros(3)
    with pytest.raises(StoreError) as refused:
        load_state(target, state, is_resume=True)
    for told in (
        "only in the model: 0.weight",
        "only in the state dict: extra",
        "2.bias is (2,) in the model and (3,)",
    ):
        assert told in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_without_it_what_matches_is_loaded_and_the_rest_is_told(caplog):
    target, state = net(1), net(0).state_dict()
    state["2.bias"] = torch.zeros(3)
    with caplog.at_level(logging.WARNING):
        assert load_state(target, state) == len(state) - 1
    assert "2.bias is (2,) in the model and (3,) in the state dict" in caplog.text
    assert torch.equal(target[0].weight, net(0)[0].weight)
