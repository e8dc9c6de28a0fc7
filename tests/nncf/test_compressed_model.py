"""What lies in a model under compression: captures, removal, settling."""

import copy
import json

import pytest
import torch
from torch import nn

from autocompress.errors import CompressionError, ConfigError, StoreError
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.claims import load_verified
from autocompress.nncf import load_state
from tests.nncf.support import FILTERS, LEARNED, QUANTIZATION, SPARSITY, TEACHER, X, created, train

ALL = {
    "filters": [FILTERS],
    "sparsity": [SPARSITY],
    "learned": [LEARNED],
    "quantization": [QUANTIZATION],
    "filters and quantization": [FILTERS, QUANTIZATION],
    "sparsity and quantization": [SPARSITY, QUANTIZATION],
    "all that go together": [FILTERS, QUANTIZATION, TEACHER],
}


def test_removed_filters_cannot_come_back():
    controller, model = created(FILTERS)
    controller.start_from(controller.compressed.plain(), 0.5, removed=True)
    assert model.first[0].weight.shape[0] == 8
    assert model is controller.model
    controller.compression_rate = 0.75
    assert controller.strip().first[0].weight.shape[0] == 4
    with pytest.raises(CompressionError, match="cannot come back"):
        controller.compression_rate = 0.25


def test_a_model_that_is_settled_is_plain_and_keeps_hooks():
    controller, model = created(FILTERS)
    seen = []
    model.register_forward_hook(lambda *_: seen.append("model"))
    model.head.register_forward_hook(lambda *_: seen.append("head"))
    given = controller.strip(do_copy=False)
    seen.clear()
    assert given is model
    assert model.first[0].weight.shape[0] == 12
    model(X)
    assert seen == ["head", "model"], "hooks stay, once"
    assert controller.statistics().achieved_rate == 0.25
    with pytest.raises(ConfigError, match="finished"):
        controller.compression_rate = 0.5
    state = controller.get_compression_state()
    other, again = created(FILTERS, state=json.loads(json.dumps(state)))
    load_state(again, model.state_dict(), is_resume=True)
    assert torch.equal(again.eval()(X), model.eval()(X))
    assert other.compression_rate == controller.compression_rate


def test_what_was_achieved_is_known_of_a_model_that_came_finished():
    controller, model = created(FILTERS)
    controller.strip(do_copy=False)
    other, again = created(FILTERS, state=controller.get_compression_state())
    load_state(again, model.state_dict(), is_resume=True)
    assert other.statistics().achieved_rate == controller.statistics().achieved_rate == 0.25


@pytest.mark.parametrize(
    "compression", [[FILTERS], [FILTERS, QUANTIZATION], [SPARSITY]], ids=["filters", "both", "zeros"]
)
def test_going_on_from_the_model_as_it_stands_is_starting_from_its_copy(compression):
    states = []
    for stands in (True, False):
        torch.manual_seed(1)
        controller, model = created(*compression)
        calls = []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        controller.start_from(controller.compressed.plain(), 0.25, removed=True)
        train(controller, model, epochs=2)
        controller.start_from(
            None if stands else copy.deepcopy(controller.compressed.snapshot(plain=False).start), 0.5, removed=True
        )
        assert all(parameter.grad is None for parameter in model.parameters())
        train(controller, model)
        assert calls, "the user's hooks stay"
        states.append(model.state_dict())
    assert sorted(states[0]) == sorted(states[1])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_capture_does_not_change():
    controller, model = created(FILTERS, QUANTIZATION)
    train(controller, model)
    capture, stripped, plain = (
        controller.compressed.snapshot(plain=True),
        controller.strip().eval(),
        controller.compressed.plain(),
    )
    rate = controller.statistics().achieved_rate
    train(controller, model)
    assert torch.equal(capture.finished.eval()(X), stripped(X))
    state = capture.start.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert capture.rate == rate > 0
    assert capture.finished is capture.finished


@pytest.mark.parametrize("compression", ALL.values(), ids=ALL)
def test_a_file_is_held_to_what_was_captured(compression, tmp_path):
    controller, model = created(*compression)
    train(controller, model, epochs=3)
    original, capture = controller.uncompressed.original, controller.compressed.snapshot(plain=False)
    train(controller, model)  # what it is held to does not move on with the model
    save_checkpoint(capture.finished, tmp_path / "model", original)
    loaded = load_verified(tmp_path / "model", capture.finished, original, controller.uncompressed.inputs)
    capture.require(loaded, tmp_path / "model")
    with pytest.raises(StoreError, match=r"must have (the compression rate|weights of few bits)"):
        capture.require(copy.deepcopy(original), tmp_path / "model")


class Attends(nn.Module):
    """An attention whose inputs keep their width."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 4, batch_first=True)
        self.position, self.head = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 4)

    def forward(self, x):
        x = self.embed(x.squeeze(1)).view(-1, 8, 8) + self.position
        return self.head(self.attention(x, x, x, need_weights=False)[0]).mean(1)


@pytest.mark.parametrize("more", [[], [QUANTIZATION]], ids=["filters", "both"])
def test_heads_are_masked_removed_saved_and_resumed(more, tmp_path):
    controller, model = created(FILTERS, *more, model=Attends())
    controller.compression_rate = 0.5
    train(controller, model, step=False)
    stripped = controller.strip().eval()
    assert (model.attention.num_heads, stripped.attention.num_heads) == (4, 2)
    assert torch.allclose(stripped(X), model(X), atol=1e-6)
    save_checkpoint(stripped, tmp_path / "checkpoint", controller.uncompressed.original)
    loaded = load_verified(tmp_path / "checkpoint", stripped, controller.uncompressed.original, (X,))
    assert loaded.attention.num_heads == 2
    state = json.loads(json.dumps(controller.get_compression_state()))
    other, again = created(FILTERS, *more, model=Attends(), state=state)
    load_state(again, model.state_dict(), is_resume=True)
    assert torch.equal(again.eval()(X), model(X))
    assert torch.equal(other.strip().eval()(X), stripped(X))
    controller.start_from(controller.compressed.plain(), 0.75, removed=True)
    assert model.attention.num_heads == 1
