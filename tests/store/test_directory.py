import subprocess
import sys

import pytest

from autocompress.errors import StoreError
from autocompress.records import TrialRecord
from autocompress.store import ExperimentDirectory

HOLD = (
    "import sys, time; from autocompress.store import ExperimentDirectory\n"
    "with ExperimentDirectory(sys.argv[1]).locked(): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def directory(tmp_path):
    return ExperimentDirectory(tmp_path / "experiment")


def test_settings_come_back(directory):
    directory.create()
    directory.write_settings({"tuner": "TPE"})
    assert directory.settings() == {"tuner": "TPE"}
    assert directory.exists()


def test_another_experiments_directory_is_refused(directory):
    directory.create()
    directory.write_settings({})
    with pytest.raises(StoreError, match="must not belong to another experiment"):
        directory.create()


def test_a_directory_with_other_files_is_refused(directory):
    directory.path.mkdir()
    (directory.path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"must be empty; .* holds thesis\.tex"):
        directory.create()


def test_a_file_in_its_place_is_told(directory):
    directory.path.touch()
    with pytest.raises(StoreError, match="cannot be made"):
        directory.create()


def test_no_experiment_is_told(directory):
    with pytest.raises(StoreError, match="holds no experiment"):
        directory.settings()


@pytest.mark.parametrize("text", ["{}", '{"schema_version": 99}', "[]", "not json"])
def test_damaged_settings_are_told(directory, text):
    directory.create()
    directory.settings_path.write_text(text)
    with pytest.raises(StoreError, match=r"experiment\.json"):
        directory.settings()


def test_one_launcher_at_a_time(directory):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(directory.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"is being run by process {holder.pid}"), directory.locked():
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with directory.locked():
        pass  # a killed holder lets go


def test_a_trials_files(directory):
    trial = directory.trial("a")
    assert (trial.record(), trial.curve(), trial.traceback()) == (None, [], None)
    trial.append_epoch({"epoch": 1})
    trial.append_epoch({"epoch": 2})
    trial.write_traceback("oh")
    record = TrialRecord(key="a", algorithm="l1", state="completed")
    trial.write_record(record)
    assert (trial.record(), trial.curve(), trial.traceback()) == (record, [{"epoch": 1}, {"epoch": 2}], "oh")
    trial.clear()
    assert (trial.record(), trial.curve(), trial.traceback()) == (None, [], None)


def test_nothing_but_the_record_is_left_beside_it(directory):
    directory.trial("a").write_record(TrialRecord(key="a", algorithm="l1", state="completed"))
    assert [path.name for path in directory.trial("a").path.iterdir()] == ["record.json"]
