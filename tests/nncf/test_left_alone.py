"""Layers that cannot be cut rightly keep their filters in loops as well."""

import logging

import torch

from autocompress.nncf import CompressionConfig, create_compressed_model
from tests.compression.structures import STRUCTURES
from tests.nncf.support import FILTERS


def created(name):
    config = {"input_info": {"sample_size": [1, *STRUCTURES[name].shape]}, "compression": [FILTERS]}
    torch.manual_seed(0)
    return create_compressed_model(STRUCTURES[name]().eval(), CompressionConfig.from_dict(config))


def test_the_rest_is_pruned_and_the_layers_are_named_once(caplog):
    with caplog.at_level(logging.WARNING, "autocompress.nncf"):
        controller, _ = created("channel_shuffle")
        for rate in (0.25, 0.5):
            controller.compression_rate = rate
    (warning,) = [record.getMessage() for record in caplog.records if "leaves a layer alone" in record.getMessage()]
    assert "depthwise.0: its channels are mixed or reordered on the way to second.0" in warning
    stripped = controller.strip()
    assert stripped.stem[0].out_channels == stripped.second[0].out_channels == 8
    assert stripped.first[0].out_channels == stripped.depthwise[0].out_channels == 16


def test_what_is_mended_is_masked_as_it_is_removed():
    controller, model = created("split_and_concat")
    controller.compression_rate = 0.5
    x = torch.randn(2, *STRUCTURES["split_and_concat"].shape)
    with torch.no_grad():
        masked = model.eval()(x)
        stripped = controller.strip().eval()
        assert stripped.first[0].out_channels == 16
        assert stripped.branch[0].out_channels == 8
        torch.testing.assert_close(stripped(x), masked)
