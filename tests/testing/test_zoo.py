"""Models of the zoo: the same each time, with data that fits, and trainers that train."""

import pytest
import torch

from autocompress.testing.zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_modules(name):
    module = ZOO[name]
    model, again = module.model(), module.model()
    assert all(
        torch.equal(*pair) for pair in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert not model.training
    accuracy = module.evaluator()(model)
    assert accuracy == module.evaluator()(again)
    assert model(module.example_inputs()).shape == (1, module.outputs)
    before = {key: parameter.clone() for key, parameter in model.named_parameters()}
    optimizer = module.optimizer_factory()(model.parameters())
    module.sparsifying_trainer("l2")(model.train(), optimizer, module.criterion(), 0)
    assert all(
        not torch.equal(parameter, before[key]) for key, parameter in model.named_parameters() if "bias" not in key
    )


def test_random_numbers_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ZOO["cnn"].model()
    ZOO["cnn"].data()
    assert torch.equal(torch.get_rng_state(), before)
