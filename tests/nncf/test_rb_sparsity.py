"""Learned masks."""

import pytest
import torch

from autocompress.nncf.rb_sparsity import LearnedMask
from tests.nncf.support import LEARNED, created, train


@pytest.mark.slow
def test_learned_masks_reach_their_level():
    controller, model = created(LEARNED)
    assert float(controller.loss()) < 1
    train(controller, model, epochs=200, lr=0.1)
    assert controller.compression_rate == pytest.approx(0.6, abs=0.06)
    stripped = controller.strip()
    zeros = sum(int((each.weight == 0).sum()) for each in stripped.modules() if hasattr(each, "weight"))
    assert zeros > 0
    assert controller.statistics().achieved_rate == pytest.approx(controller.compression_rate)
    assert float(controller.loss()) < 1, "it is 1 where the sparsity is 0.05 off"


def test_small_weights_are_the_likelier_to_go():
    weight = torch.tensor([[0.01, -1.0, 3.0, 0.0]])
    mask = LearnedMask(weight)
    assert mask.score.detach().argsort().flatten().tolist() == [3, 0, 1, 2]


def test_in_eval_mode_a_weight_stays_if_that_is_the_likelier():
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    mask = LearnedMask(weight).eval()
    assert torch.equal(mask(weight), weight), "nearly all stay at first"
    with torch.no_grad():
        mask.score.copy_(torch.tensor([[-0.1, 0.1, -5.0]]))
    assert mask(weight).tolist() == [[0.0, 2.0, 0.0]]


def test_in_training_mode_weights_are_drawn_by_their_probability():
    torch.manual_seed(0)
    weight = torch.ones(1, 20_000)
    mask = LearnedMask(weight).train()
    with torch.no_grad():
        mask.score.fill_(1.0)
    kept = mask(weight)
    share = float((kept != 0).float().mean())
    assert share == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))), abs=0.02)
    kept.sum().backward()
    assert float(mask.score.grad.min()) > 0, "a weight that counts pulls its score up, drawn or not"
