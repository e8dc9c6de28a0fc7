"""What a controller is made from, and what is refused."""

import pytest

from autocompress import (
    CompressionConfig,
    ConfigError,
    StoreError,
    create_compressed_model,
    register_default_init_args,
)
from tests.controller.support import FILTERS, QUANTIZATION, SPARSITY, Net, X, Y, created


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
