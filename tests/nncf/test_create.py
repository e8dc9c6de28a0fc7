"""What a controller is made from, and what is refused."""

import logging

import pytest
import torch
from torch import nn

from autocompress.errors import ConfigError, StoreError
from autocompress.nncf import CompressionConfig, create_compressed_model, load_state, register_default_init_args
from tests.nncf.support import FILTERS, QUANTIZATION, SPARSITY, Net, X, Y, created


def test_graphs_are_written_to_the_log_directory(tmp_path):
    created(FILTERS, QUANTIZATION, log_dir=str(tmp_path / "logs"))
    original = (tmp_path / "logs" / "original_graph.dot").read_text()
    compressed = (tmp_path / "logs" / "compressed_graph.dot").read_text()
    assert "first.0" in original
    assert original.startswith("digraph")
    assert compressed.startswith("digraph")
    assert original != compressed


def test_scopes_hold():
    controller, model = created({**SPARSITY, "ignored_scopes": "second"}, ignored_scopes=["{re}head"])
    controller.compression_rate = 0.5
    assert bool((model.second[0].weight != 0).all())
    assert bool((model.head.weight != 0).all())
    assert float((model.first[0].weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_what_is_wrong_is_said_before_training():
    with pytest.raises(ConfigError, match="'frist' matches nothing"):
        created({**FILTERS, "ignored_scopes": "frist"})
    with pytest.raises(ConfigError, match="input_info must be given"):
        create_compressed_model(Net(), CompressionConfig.from_dict({"compression": FILTERS}))
    wrong = CompressionConfig.from_dict({"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": FILTERS})
    with pytest.raises(ConfigError, match=r"input_info must describe the model's inputs; it fails on \[1, 3, 8, 8\]"):
        create_compressed_model(Net(), wrong)
    controller, _ = created(FILTERS)
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\); got 1.5"):
        controller.compression_rate = 1.5
    with pytest.raises(ConfigError, match="needs pruning or sparsity; the algorithms are quantization"):
        created(QUANTIZATION)[0].compression_rate = 0.5
    with pytest.raises(StoreError, match="schema_version must be 1; got 7"):
        created(FILTERS, state={"schema_version": 7})
    with pytest.raises(StoreError, match="another configuration: it has no 'magnitude_sparsity'"):
        created(SPARSITY, state=controller.get_compression_state())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_model_in_a_wrapper_is_refused(wrap):
    config = CompressionConfig.from_dict({"input_info": {"sample_size": [1, 3, 8, 8]}, "compression": FILTERS})
    with pytest.raises(ConfigError, match="model must be the net itself; DataParallel or "):
        create_compressed_model(wrap(Net()), config)


def test_inputs_come_from_the_data_where_none_are_described():
    config = CompressionConfig.from_dict({"compression": FILTERS})
    controller, _ = create_compressed_model(Net(), register_default_init_args(config, [(X, Y)]))
    assert controller.uncompressed.inputs[0].shape == (1, 1, 8, 8)


def test_how_values_are_rounded_is_the_configurations():
    def quantized(**options):
        return created({**QUANTIZATION, **options})[1].second[0]

    assert quantized().output_quantizer.symmetric
    assert not quantized(preset="mixed").output_quantizer.symmetric
    assert quantized(preset="mixed", activations={"mode": "symmetric"}).output_quantizer.symmetric
    assert not quantized(activations={"mode": "asymmetric"}).output_quantizer.symmetric
    levels = {
        by_channel: int(quantized(weights={"bits": 3, "per_channel": by_channel}).weight.unique().numel())
        for by_channel in (False, True)
    }
    assert levels[False] <= 7 < levels[True], levels


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
