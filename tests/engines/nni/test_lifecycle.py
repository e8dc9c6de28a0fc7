"""kill -9 of a trial, of NNI's manager, of the launcher: nothing is trained twice, and the answer is the same."""

import pytest

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e.support import Launcher, manager_of, results, trained_epochs, trial_of, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "experiment"
    launcher = Launcher(directory)
    try:
        assert launcher.wait() == 0, launcher.printed()
    finally:
        launcher.kill()
    return directory


def path_of(directory):
    return [
        (record.requested_rate, record.feasible, record.key) for record in results(directory) if record.state != "lost"
    ]


def best_of(directory):
    return CompressionResult(ExperimentDirectory(directory)).best.key


def test_the_undisturbed_search_finds_the_cliff(undisturbed):
    rates = [rate for rate, _, _ in path_of(undisturbed)]
    assert rates == [0.55, 0.6, 0.65], rates
    best = CompressionResult(ExperimentDirectory(undisturbed)).best
    assert best.requested_rate == 0.6, best


@pytest.mark.parametrize(
    ("victim", "finished", "place"),
    [
        ("trial", 1, "experiment"),
        ("manager", 1, "elsewhere/moved"),
        ("launcher", 0, "experiment"),
        ("launcher", 2, "experiment"),
    ],
)
def test_killed_and_gone_on_with(tmp_path, undisturbed, victim, finished, place):
    """Where it was begun, or where it has been moved to."""
    begun, directory, epochs_log = tmp_path / "experiment", tmp_path / place, tmp_path / "epochs.log"
    launcher = Launcher(begun, epochs_log=epochs_log)
    try:
        until(lambda: len(results(begun)) >= finished and trial_of(begun), launcher)
        before = path_of(begun)
        find = {"trial": lambda: trial_of(begun), "manager": lambda: manager_of(begun)}
        # The trial that was seen may be one that has just ended.
        (launcher.process if victim == "launcher" else until(find[victim], launcher)).kill()
        code = launcher.wait()
        if victim == "trial":
            assert code == 0, launcher.printed()
        else:
            assert code != 0, launcher.printed()
            if victim == "manager":
                assert "was killed by signal 9" in launcher.printed()
            if directory != begun:
                launcher.kill()  # with its trials, which write where it was
                directory.parent.mkdir()
                begun.rename(directory)
            launcher = Launcher(directory, action="resume", epochs_log=epochs_log)
            assert launcher.wait() == 0, launcher.printed()
    finally:
        launcher.kill()
    assert begun == directory or not begun.exists(), "nothing is written to where it was"
    assert path_of(directory)[: len(before)] == before
    assert path_of(directory) == path_of(undisturbed)
    assert best_of(directory) == best_of(undisturbed)
    epochs = trained_epochs(epochs_log)
    again = {rate: epochs[rate] for rate, _, key in before for rate in [round(rate, 4)] if rate in epochs}
    done = {round(record.requested_rate, 4): record.epochs for record in results(directory)}
    assert all(again[rate] == done[rate] for rate in again), (again, done)


def test_resuming_a_finished_search_trains_nothing(tmp_path, undisturbed):
    before = path_of(undisturbed)
    log = tmp_path / "epochs.log"
    launcher = Launcher(undisturbed, action="resume", epochs_log=log)
    try:
        assert launcher.wait() == 0, launcher.printed()
    finally:
        launcher.kill()
    assert path_of(undisturbed) == before
    assert not log.exists(), log.read_text()


def test_a_second_launcher_is_refused(tmp_path):
    directory = tmp_path / "experiment"
    first = Launcher(directory, "Slow")
    try:
        until(lambda: trial_of(directory), first)
        second = Launcher(directory, action="resume")
        assert second.wait() != 0
        assert f"is being run by process {first.process.pid}" in second.printed(), second.printed()
        assert first.process.poll() is None, first.printed()
    finally:
        first.kill()
