"""MLflow's runs of a real search, read with its own client."""

import pytest
from mlflow import MlflowClient

from autocompress.tracking import MlflowCallback
from tests.e2e.study import study

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def epochs_log(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))


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
