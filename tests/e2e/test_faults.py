"""What else may go wrong: full disks, trials that hang or are killed, kills while files are written, odd clocks."""

import os
import signal
import subprocess
import sys
import time

import pytest

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.errors import StoreError
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from tests import curve_modules
from tests.e2e.launch import search_space
from tests.e2e.search import Search
from tests.e2e.study import FEW, on_nni, study
from tests.e2e.support import ROOT, processes_of, results, skip, trained_epochs, trial_of, until

pytestmark = pytest.mark.slow
ENGINES = ["nni", "optuna"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], check=False).returncode == 0
    )
    if not mounted:
        skip("needs the right to mount a disk")
    yield folder
    for _ in range(50):
        if subprocess.run(["umount", str(folder)], check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"still in use: {[process.info for process in processes_of(folder)]}")


def fill(folder, leave):
    """Take all space but so many bytes; the file that does."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    filler = folder / "filler"
    filler.write_bytes(bytes(free - leave))
    return filler


@pytest.fixture
def undisturbed(shared):
    """Records, best model, and epochs by rate, by the engine's name."""

    def searched(engine):
        def finish(folder):
            search = Search(folder, engine, "Bulky")
            assert search.start().wait(240) == 0, search.printed()

        search = Search(shared(f"Bulky on {engine}", finish), engine, "Bulky")
        return search.told(), search.epochs()

    return searched


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_that_is_full_ends_the_search_and_it_goes_on(engine, small_disk, undisturbed):
    expected, epochs = undisturbed(engine)
    search = Search(small_disk, engine, "Bulky")
    launcher = search.start()
    try:
        until(lambda: results(search.directory), search, every=0.002)
        filler = fill(small_disk, leave=600_000)  # a checkpoint does not fit, what is written beside it does
        assert launcher.wait(240) != 0, search.printed()
        assert f"the disk of {search.directory} is full: free some space, then resume" in search.printed()
        found = [record.requested_rate for record in results(search.directory)]
        assert found == [record["requested_rate"] for record in expected[0][: len(found)]]
        assert {record.state for record in results(search.directory)} == {"completed"}
        filler.unlink()
        assert search.finish(), search.printed()
        assert search.told() == expected
        assert all(search.epochs()[rate] == epochs[rate] for rate in found), "nothing that had ended is trained twice"
    finally:
        search.clean()


def test_a_journal_on_a_full_disk_is_whole_afterwards(small_disk):
    store = ExperimentDirectory(small_disk)
    store.journal.append("note", text="before")
    filler = fill(small_disk, leave=4096)
    with pytest.raises(StoreError, match=r"journal.jsonl cannot be written: .*No space left"):
        store.journal.append("note", text="x" * 9000)
    filler.unlink()
    kept = store.journal.read()
    assert kept[0]["text"] == "before"
    store.journal.repair()
    store.journal.append("note", text="after")
    assert [event["text"] for event in store.journal.read()] == [*(event["text"] for event in kept), "after"]


def on_optuna(directory, module, **settings):
    return study(directory, module, None, **settings).optimize()


@pytest.mark.parametrize("run", [on_nni, on_optuna])
def test_a_trial_that_hangs_is_ended(run, tmp_path):
    result = run(tmp_path / "experiment", "HangsAbove", maximal_trial_seconds=12.0)
    assert [(record.requested_rate, record.state) for record in result.records] == [
        (0.55, "completed"),
        (0.6, "completed"),
        (0.65, "failed"),
    ]
    hung = result.records[-1]
    assert hung.error == "the trial took longer than maximal_trial_seconds; its traceback shows where it was"
    assert "curve_modules.py" in result.directory.trial(hung.key).traceback()
    assert result.best.requested_rate == 0.6


def on_tuner(directory, module, **settings):
    """NNI's tuner protocol without NNI's manager."""
    request = SearchRequest(
        ModuleReference.of(getattr(curve_modules, module)),
        search_space("l2"),
        directory,
        AccuracyAwareSettings.from_dict({**FEW, **settings}),
    )
    search = engine_named("nni-tuner").create(request)
    search.run()
    return search.result


def states(result):
    return [(record.requested_rate, record.state) for record in result.records]


@pytest.mark.parametrize("run", [on_nni, on_optuna])
def test_a_trial_that_is_stopped_is_ended_from_outside(run, tmp_path, monkeypatch):
    monkeypatch.setenv("STOP", str(tmp_path / "stop"))
    (tmp_path / "stop").touch()
    for module in ("autocompress.trial.process", "autocompress.engines.nni.configuration"):
        monkeypatch.setattr(f"{module}.GRACE_SECONDS", 1.0)
    result = run(tmp_path / "experiment", "StopsOnce", maximal_trial_seconds=12.0)
    assert states(result) == [(0.55, "completed"), (0.6, "completed"), (0.65, "lost"), (0.65, "completed")]
    assert result.records[2].error == (
        "the trial's process was killed, as it did not end by itself after maximal_trial_seconds (12): it may have "
        "been stopped"
    )
    assert not list(processes_of(result.directory.path, "-m autocompress.trial "))


@pytest.mark.parametrize("run", [on_nni, on_optuna, on_tuner])
def test_a_trial_that_exits_has_failed(run, tmp_path):
    result = run(tmp_path / "experiment", "ExitsAbove")
    assert states(result) == [(0.55, "completed"), (0.6, "completed"), (0.65, "failed")]
    assert result.records[-1].error == "the trial's process ended without a result"
    assert result.best.requested_rate == 0.6


@pytest.mark.parametrize("run", [on_nni, on_optuna])
def test_a_rate_whose_trials_are_killed_counts_as_infeasible_in_the_end(run, tmp_path, caplog):
    caplog.set_level("WARNING")
    result = run(tmp_path / "experiment", "KilledAbove")
    assert [(record.requested_rate, record.state) for record in result.records] == [
        (0.55, "completed"),
        (0.6, "completed"),
        *[(0.65, "lost")] * 3,
    ]
    assert result.best.requested_rate == 0.6
    assert all("killed by SIGKILL" in record.error for record in result.records[2:]), result.records[2:]
    told = [message for message in caplog.messages if "counts as infeasible" in message]
    assert len(told) == 1, caplog.messages
    assert "(l2 at 0.65)" in told[0]
    assert "after 3 such trials the rate counts as infeasible" in told[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_trial_that_is_killed_while_it_writes_its_checkpoint(engine, tmp_path, undisturbed, monkeypatch):
    expected, epochs = undisturbed(engine)
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("HOLD_CHECKPOINTS", str(hold))
    search = Search(tmp_path, engine, "Bulky")
    launcher = search.start()
    try:
        half = until(lambda: next(search.directory.glob("trials/*/.checkpoint.*/weights.pt"), None), search)
        trial_of(search.directory).kill()
        hold.unlink()
        assert half.exists(), "it was killed before the checkpoint was whole"
        assert not (half.parents[1] / "record.json").exists()
        assert launcher.wait(240) == 0, search.printed()
        assert search.told() == expected
        first = max(epochs, key=lambda rate: search.epochs()[rate] - epochs[rate])
        again = {rate: search.epochs()[rate] - epochs[rate] for rate in epochs}
        assert again == {**dict.fromkeys(epochs, 0), first: epochs[first]}, "only what was killed is trained again"
    finally:
        search.clean()


def test_a_second_launcher_of_a_study_is_refused(tmp_path):
    search = Search(tmp_path, "optuna", "Slow")
    first = search.start()
    try:
        until(lambda: next(processes_of(search.directory, "-m autocompress.trial "), None), search)
        assert search.start().wait(120) != 0
        assert f"is being run by process {first.pid}" in search.printed(), search.printed()
        assert first.poll() is None, search.printed()
        first.send_signal(signal.SIGINT)
        first.wait(60)
    finally:
        search.clean()


_BACKWARDS = """
import itertools, time
real, steps = time.time, itertools.count()
time.time = lambda: real() - 600 * next(steps)
import sys
from tests.e2e.study import study
study(*sys.argv[1:]).optimize()
"""


def test_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    log = tmp_path / "epochs.log"
    monkeypatch.setenv("EPOCHS_LOG", str(log))
    right = study(tmp_path / "right", "CountsEpochs", None, "l2", "level").optimize()
    epochs = trained_epochs(log)
    log.unlink()
    storage = f"sqlite:///{tmp_path}/study.db"
    command = [sys.executable, "-c", _BACKWARDS, str(tmp_path / "wrong"), "CountsEpochs", storage, "l2", "level"]
    workers = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [worker.wait(240) for worker in workers] == [0, 0]
    wrong = study(tmp_path / "wrong", "CountsEpochs", storage, "l2", "level").result
    assert sorted(record.key for record in wrong.records) == sorted(record.key for record in right.records)
    assert wrong.best.key == right.best.key
    assert trained_epochs(log) == epochs
