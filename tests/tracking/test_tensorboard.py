"""TensorBoard's files of a real search, read with its own reader."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autocompress.tracking import TensorBoardCallback
from tests.cli.support import invoke
from tests.e2e.launch import search_space
from tests.e2e.study import study
from tests.e2e.support import results

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def epochs_log(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))


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


def test_by_the_command_line(tmp_path):
    space, out = tmp_path / "space.json", tmp_path / "experiment"
    space.write_text(json.dumps(search_space("l2")))
    track = ["--track", f"tensorboard={tmp_path / 'runs'}"]
    command = ["run", "tests/curve_modules.py:Cliff", "--search-space", space, "--engine", "optuna", "--out", out]
    answer = invoke(*command, *track, "--quiet")
    assert answer.exit_code == 0, answer.output
    search = EventAccumulator(str(tmp_path / "runs" / "search")).Reload()
    assert len(search.Scalars("search/accuracy")) == len(results(out)) > 0
