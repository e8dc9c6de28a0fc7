"""How the loops call the user's functions."""

import pytest
import torch

from autocompress.errors import InfeasibleBudgetError, TrialError
from autocompress.nncf import create_accuracy_aware_training_loop, create_compressed_model
from autocompress.testing import cliff
from tests.engines.local.support import PARAMS, Net, config_of, run, told

pytestmark = pytest.mark.usefixtures("no_report")


def test_functions_get_what_the_documents_promise(tmp_path):
    config, calls = config_of(PARAMS), []
    controller, model = create_compressed_model(Net(), config)
    loop = create_accuracy_aware_training_loop(config, controller, 0.9)

    def train_epoch(compression_ctrl, model, **kwargs):
        calls.append(("train", compression_ctrl is controller, model is net, sorted(kwargs), kwargs["epoch"]))
        assert isinstance(kwargs["optimizer"], torch.optim.SGD)
        assert model.training

    def validate(model, **kwargs):
        calls.append(("validate", model is net, kwargs))
        return 0.9 if controller.compression_rate <= 0.6 else 0.5

    def optimizers():
        calls.append(("optimizers",))
        return torch.optim.SGD(net.parameters(), lr=0.1), None

    net = model
    assert loop.run(model, train_epoch, validate, optimizers, preflight=False, log_dir=tmp_path) is net
    kinds = [call[0] for call in calls]
    assert kinds[:2] == ["optimizers", "validate"], "the initial phase validates before it trains"
    trained = [call for call in calls if call[0] == "train"]
    assert all(call[1:4] == (True, True, ["epoch", "lr_scheduler", "optimizer"]) for call in trained), trained
    assert [call[4] for call in trained] == list(range(len(trained))), "epochs are counted over all rates"
    assert kinds.count("optimizers") == len(loop.result.records), "a new optimizer for each rate"


def test_functions_may_take_only_what_they_need(tmp_path):
    config = config_of(PARAMS)
    controller, model = create_compressed_model(Net(), config)
    loop = create_accuracy_aware_training_loop(config, controller, 0.9)
    loop.run(model, lambda controller, model: None, lambda model: 0.9, preflight=False, log_dir=tmp_path)
    assert loop.statistics.compressed_accuracy == 0.9


@pytest.mark.parametrize("scheduled", [False, True])
def test_learning_rates_fall_where_the_search_turns(tmp_path, scheduled):
    config, seen = config_of(PARAMS), []
    controller, model = create_compressed_model(Net(), config)
    loop = create_accuracy_aware_training_loop(config, controller, 0.9)

    def optimizers():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if scheduled else None

    def train_epoch(controller, model, optimizer, **_):
        seen.append((controller.compression_rate, optimizer.param_groups[0]["lr"]))

    loop.run(model, train_epoch, lambda model: 0.9 if controller.compression_rate <= 0.62 else 0.5, optimizers,
             preflight=False, log_dir=tmp_path)  # fmt: skip
    first = dict(reversed(seen))
    factors = {record.requested_rate: record.lr_factor for record in loop.result.records if record.epochs}
    assert set(factors.values()) >= {1.0, 0.5}
    assert first == {rate: pytest.approx(0.4 * factor) for rate, factor in factors.items()}
    if scheduled:
        second = [lr for rate, lr in seen if rate == 0.7][1]
        assert second == pytest.approx(0.2), "the scheduler steps after each epoch"


def test_a_plateau_scheduler_gets_the_loss(tmp_path):
    config, seen = config_of({**PARAMS, "patience_epochs": 3}), []
    controller, model = create_compressed_model(Net(), config)
    loop = create_accuracy_aware_training_loop(config, controller, 0.9)

    def optimizers():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
        return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

    with pytest.raises(TrialError, match="train_epoch_fn must return it"):
        loop.run(
            model, lambda *_, **__: None, lambda model: 0.5, optimizers, preflight=False, log_dir=tmp_path / "no loss"
        )
    with pytest.raises(InfeasibleBudgetError):
        loop.run(model, lambda _, __, optimizer: seen.append(optimizer.param_groups[0]["lr"]) or 1.0,
                 lambda model: 0.5, optimizers, preflight=False, log_dir=tmp_path / "loss")  # fmt: skip
    assert len(set(seen)) > 1, seen


def test_the_users_way_to_update_learning_rates(tmp_path):
    seen = []
    functions = {"update_learning_rate_fn": lambda *told: seen.append(told), "configure_optimizers_fn": None}
    run(told(cliff(0.62, epochs_needed=1)), tmp_path, functions=functions)
    assert seen[0] == (None, 0, 0.5, None)


def test_early_stopping_leaves_a_rate(tmp_path):
    loop, _, _ = run(told(cliff(0.62)), tmp_path, functions={"early_stopping_fn": lambda accuracy: accuracy < 0.6})
    assert max(record.epochs for record in loop.result.records) == 1


def test_the_users_checkpoints(tmp_path):
    dumped, loaded = {}, []
    config = config_of(PARAMS)
    controller, model = create_compressed_model(Net(), config)
    loop = create_accuracy_aware_training_loop(config, controller, 0.9)

    def dump(model, compression_controller, accuracy_aware_runner, save_dir):
        path = f"{save_dir}/mine-{compression_controller.compression_rate:g}.pt"
        assert compression_controller is controller
        torch.save(model.state_dict(), path)
        dumped[compression_controller.compression_rate] = path
        return path

    def load(model, path):
        loaded.append(path)
        model.load_state_dict(torch.load(path))

    accuracy = lambda model: 0.9 if controller.compression_rate <= 0.62 else 0.5  # noqa: E731
    loop.run(model, lambda *_, **__: None, accuracy, None, dump, load, preflight=False, log_dir=tmp_path)
    feasible = [record.requested_rate for record in loop.result.records if record.feasible]
    assert list(dumped) == feasible
    assert loaded[-1] == dumped[max(feasible)], "the best is the user's own"
    assert float((model.layer.weight == 0).float().mean()) == pytest.approx(max(feasible), abs=1e-3)
