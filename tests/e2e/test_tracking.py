"""Trackers, told of real searches, and read with their own packages."""

import json

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autocompress.errors import ConfigError
from autocompress.search_space import requested_rate
from autocompress.tracking import Callback, MlflowCallback, TensorBoardCallback
from autocompress.tracking.following import tracker
from tests.cli.support import invoke
from tests.e2e.launch import search_space
from tests.e2e.study import on_nni, study
from tests.e2e.support import results

pytestmark = pytest.mark.e2e


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


def test_tensorboard(tmp_path):
    result = study(tmp_path / "experiment", "Cliff").optimize(callbacks=[TensorBoardCallback(tmp_path / "runs")])
    search = EventAccumulator(str(tmp_path / "runs" / "search")).Reload()
    assert [event.value for event in search.Scalars("search/accuracy")] == pytest.approx(
        [record.accuracy for record in result.records]
    )
    assert [event.step for event in search.Scalars("search/requested_rate")] == [1, 2, 3]
    assert b"l2 at rate 0.6 removes" in search.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0]
    (trial,) = (tmp_path / "runs").glob("l2-0.65-*")
    curve = EventAccumulator(str(trial)).Reload().Scalars("trial/accuracy")
    points = result.directory.trial(result.records[-1].key).curve()
    assert [event.step for event in curve] == [point["epoch"] for point in points]


def test_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    place = f"file:{tmp_path / 'mlruns'}"
    result = study(tmp_path / "experiment", "Cliff").optimize(callbacks=[MlflowCallback(place, "digits")])
    client = MlflowClient(place)
    experiment = client.get_experiment_by_name("digits").experiment_id
    runs = client.search_runs([experiment])
    (search,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == search.info.run_id]
    assert {run.data.tags["mlflow.runName"] for run in trials} == {"l2-0.55", "l2-0.6", "l2-0.65"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {float(run.data.params["requested_rate"]) for run in trials} == {0.55, 0.6, 0.65}
    assert {run.data.tags["autocompress.verdict"] for run in trials} == {"within", "outside"}
    history = client.get_metric_history(search.info.run_id, "accuracy")
    assert [point.value for point in history] == pytest.approx([record.accuracy for record in result.records])
    assert {file.path for file in client.list_artifacts(search.info.run_id)} == {"report.html", "checkpoint"}
    assert "threshold" in search.data.tags["mlflow.note.content"]


def test_by_the_command_line(tmp_path):
    space, out = tmp_path / "space.json", tmp_path / "experiment"
    space.write_text(json.dumps(search_space("l2")))
    track = ["--track", f"tensorboard={tmp_path / 'runs'}"]
    command = ["run", "tests/curve_modules.py:Cliff", "--search-space", space, "--engine", "optuna", "--out", out]
    answer = invoke(*command, *track, "--quiet")
    assert answer.exit_code == 0, answer.output
    search = EventAccumulator(str(tmp_path / "runs" / "search")).Reload()
    assert len(search.Scalars("search/accuracy")) == len(results(out)) > 0


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
