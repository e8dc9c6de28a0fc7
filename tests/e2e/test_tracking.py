"""Trackers, told of real searches, and read with their own packages."""

import pytest

from autocompress.errors import ConfigError
from autocompress.search_space import requested_rate
from autocompress.tracking import Callback
from autocompress.tracking.callback import tracker
from tests.e2e.study import on_nni, study

pytestmark = pytest.mark.slow


class Told(Callback):
    def __init__(self):
        self.epochs, self.rates, self.ends = [], [], []

    def on_epoch_end(self, trial, epoch):
        self.epochs.append((requested_rate(trial.parameters), epoch["epoch"]))

    def on_trial_end(self, record):
        self.rates.append(record.requested_rate)

    def on_search_end(self, result):
        self.ends.append(result.best.requested_rate)


@pytest.fixture(autouse=True)
def epochs_log(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))


def on_optuna(directory, module, callbacks):
    return study(directory, module).optimize(callbacks=callbacks)


@pytest.mark.parametrize("run", [on_nni, on_optuna])
def test_every_engine_tells_the_same(run, tmp_path):
    told = Told()
    result = run(tmp_path / "experiment", "Cliff", callbacks=[told])
    assert told.rates == [0.55, 0.6, 0.65]
    assert told.ends == [0.6]
    curves = [
        (record.requested_rate, point["epoch"])
        for record in result.records
        for point in result.directory.trial(record.key).curve()
    ]
    assert told.epochs == curves


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tensorbord=runs", "unknown tracker 'tensorbord'; did you mean 'tensorboard'"),
        ("mlflow", "a tracker must be given as NAME=WHERE"),
        ("mlflow=nonsense://here", "MLflow at nonsense://here cannot be used"),
    ],
)
def test_trackers_that_cannot_be(text, told):
    with pytest.raises(ConfigError, match=told):
        tracker(text)
