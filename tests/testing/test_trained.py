"""Nets that are trained on digits: well, the same each time, and not anew."""

import pytest
import torch

from autocompress.testing.trained import TRAINED


@pytest.mark.parametrize("name", ["MLP"])
def test_they_have_learned_their_digits(name):
    module = TRAINED[name]
    model = module.model()
    pictures, digits = module.pictures()
    assert pictures.shape == (640, 1, 8, 8)
    assert float((model(pictures).argmax(1) == digits).float().mean()) > 0.97
    assert module.loss(model) < 0.2


def test_each_model_is_a_copy_of_the_same_one():
    one, other = TRAINED["MLP"].model(), TRAINED["MLP"].model()
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in one.state_dict().items())
    with torch.no_grad():
        one[1].weight.zero_()
    assert bool(TRAINED["MLP"].model()[1].weight.any())
