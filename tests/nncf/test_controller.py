"""Models under compression: masks that come back, physical removal, states, statistics."""

import copy
import json

import pytest
import torch

from autocompress.errors import CompressionError, ConfigError, StoreError
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.claims import load_verified
from autocompress.nncf import CompressionStage, load_state
from tests.nncf.support import FILTERS, LEARNED, QUANTIZATION, SPARSITY, TEACHER, Net, X, created, train

ALL = {
    "filters": [FILTERS],
    "sparsity": [SPARSITY],
    "learned": [LEARNED],
    "quantization": [QUANTIZATION],
    "filters and quantization": [FILTERS, QUANTIZATION],
    "sparsity and quantization": [SPARSITY, QUANTIZATION],
    "all that go together": [FILTERS, QUANTIZATION, TEACHER],
}


@pytest.mark.parametrize("compression", ALL.values(), ids=ALL)
def test_the_stripped_model_computes_what_the_trained_one_does(compression):
    controller, model = created(*compression)
    train(controller, model, epochs=3)
    stripped = controller.strip().eval()
    with torch.no_grad():
        assert torch.allclose(stripped(X), model(X), atol=1e-5), (stripped(X) - model(X)).abs().max()
    assert not any("parametrizations" in name for name in stripped.state_dict())
    assert model.training is False, "stripping leaves the model as it is"


@pytest.mark.parametrize("compression", ALL.values(), ids=ALL)
def test_state_and_state_dict_bring_everything_back(compression, tmp_path):
    controller, model = created(*compression)
    train(controller, model, epochs=2)
    state = json.loads(json.dumps(controller.get_compression_state()))
    torch.save({"model": model.state_dict(), "state": state}, tmp_path / "checkpoint.pt")
    saved = torch.load(tmp_path / "checkpoint.pt")
    other, again = created(*compression, state=saved["state"])
    load_state(again, saved["model"], is_resume=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(X), model(X))
        assert torch.allclose(other.strip().eval()(X), controller.strip().eval()(X), atol=1e-6)
    assert other.compression_rate == controller.compression_rate
    assert other.compression_stage() == controller.compression_stage()
    assert other.scheduler.get_state() == controller.scheduler.get_state()
    for each, its in ((controller, model), (other, again)):
        torch.manual_seed(1)
        train(each, its)
    assert torch.equal(again(X), model(X)), "it goes on in the same way"


def test_filters_that_were_masked_come_back():
    controller, model = created(FILTERS)
    weight = model.first[0].weight.detach().clone()
    controller.compression_rate = 0.75
    assert int((model.first[0].weight.flatten(1) == 0).all(1).sum()) == 12
    controller.compression_rate = 0.0
    assert torch.count_nonzero(model.first[0].weight) == torch.count_nonzero(
        controller.uncompressed.original.first[0].weight
    )
    assert not torch.equal(weight, model.first[0].weight), "a quarter was masked at first"
    assert controller.strip().state_dict().keys() == controller.uncompressed.original.state_dict().keys()


def test_masks_empty_exactly_what_removal_takes():
    controller, model = created(FILTERS)
    controller.compression_rate = 0.5
    stripped = controller.strip().eval()
    assert stripped.first[0].weight.shape == (8, 1, 3, 3)
    assert stripped.second[0].weight.shape == (8, 8, 3, 3)
    assert stripped.head.weight.shape == (4, 8)
    assert torch.count_nonzero(model.second[0].weight) == torch.count_nonzero(stripped.second[0].weight)
    assert torch.count_nonzero(model.first[1].weight) == 8, "the BatchNorm's scales are masked too"


def test_masked_filters_do_not_train():
    controller, model = created(FILTERS)
    controller.compression_rate = 0.5
    masked = (model.first[0].weight.flatten(1) == 0).all(1)
    train(controller, model, epochs=2, step=False)
    assert torch.equal((model.first[0].weight.flatten(1) == 0).all(1), masked)


def test_the_schedule_moves_the_level_before_each_epoch():
    controller, _ = created(FILTERS)
    rates, stages = [controller.compression_rate], [controller.compression_stage()]
    for _ in range(4):
        controller.scheduler.epoch_step()
        rates.append(round(controller.compression_rate, 6))
        stages.append(controller.compression_stage())
    assert rates == [0.25, 0.25, 0.566987, 0.75, 0.75]
    assert stages[:3] == [CompressionStage.PARTIALLY_COMPRESSED] * 3
    assert stages[3:] == [CompressionStage.FULLY_COMPRESSED] * 2


def test_stages():
    controller, _ = created(SPARSITY)
    assert controller.compression_stage() is CompressionStage.UNCOMPRESSED
    controller.scheduler.epoch_step()
    controller.scheduler.epoch_step()
    assert controller.compression_stage() is CompressionStage.PARTIALLY_COMPRESSED
    controller.scheduler.epoch_step()
    assert controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    assert created(SPARSITY, QUANTIZATION)[0].compression_stage() is CompressionStage.PARTIALLY_COMPRESSED
    assert created(QUANTIZATION)[0].compression_stage() is CompressionStage.FULLY_COMPRESSED


def test_setting_the_rate_ends_the_schedule():
    controller, _ = created(SPARSITY)
    controller.compression_rate = 0.4
    controller.scheduler.epoch_step()
    assert controller.compression_rate == 0.4
    assert controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    assert controller.statistics().achieved_rate == pytest.approx(0.4, abs=1e-3)


def test_sparsity_freezes():
    frozen = {**SPARSITY, "params": {**SPARSITY["params"], "sparsity_freeze_epoch": 2}}
    controller, model = created(frozen)
    train(controller, model, epochs=3)
    zeros = model.second[0].weight == 0
    train(controller, model, epochs=3, lr=0.5)
    assert torch.equal(model.second[0].weight == 0, zeros)
    moving, other = created(SPARSITY)
    train(moving, other, epochs=3)
    zeros = other.second[0].weight == 0
    train(moving, other, epochs=3, lr=0.5)
    assert not torch.equal(other.second[0].weight == 0, zeros), "without the freeze the masks follow the weights"


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


def test_the_loss_is_that_of_the_teacher_and_counts_once():
    controller, model = created(TEACHER)
    assert float(controller.loss()) == 0.0
    with torch.no_grad():
        model.head.weight.add_(1.0)
    model.train()
    logits = model(X)
    loss = controller.loss()
    assert loss.requires_grad
    assert float(loss) > 0
    assert float(controller.loss()) == 0.0, "there is no new answer"
    assert logits.shape == (32, 4)


def test_statistics_are_measured():
    controller, _ = created(FILTERS)
    controller.compression_rate = 0.5
    found = controller.statistics()
    assert found.achieved_rate == 0.5
    assert found.after.parameters == sum(each.numel() for each in controller.strip().parameters())
    assert found.before.parameters == sum(each.numel() for each in Net().parameters())
    assert 0 < found.macs_removed < 1
    assert "requested 0.5, achieved 0.5" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["stage"] == "FULLY_COMPRESSED"


@pytest.mark.parametrize("compression", [[FILTERS], [FILTERS, QUANTIZATION]], ids=["filters", "and quantization"])
def test_the_export_is_run_and_compared(compression, tmp_path):
    controller, model = created(*compression)
    train(controller, model, epochs=3)
    report = controller.export_model(tmp_path / "model.onnx")
    assert report.checked.startswith("onnxruntime")
    import onnx

    shapes = {each.name: list(each.dims) for each in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert [4, 1, 3, 3] in shapes.values(), shapes


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
