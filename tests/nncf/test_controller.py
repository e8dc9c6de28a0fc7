"""What a controller says of its model."""

import json

import pytest
import torch

from autocompress.nncf import CompressionStage, load_state
from tests.nncf.support import FILTERS, LEARNED, QUANTIZATION, SPARSITY, TEACHER, Net, X, created, train


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


@pytest.mark.parametrize("compression", [[FILTERS], [FILTERS, QUANTIZATION]], ids=["filters", "and quantization"])
def test_the_export_is_run_and_compared(compression, tmp_path):
    controller, model = created(*compression)
    train(controller, model, epochs=3)
    report = controller.export_model(tmp_path / "model.onnx")
    assert report.checked.startswith("onnxruntime")
    import onnx

    shapes = {each.name: list(each.dims) for each in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert [4, 1, 3, 3] in shapes.values(), shapes
