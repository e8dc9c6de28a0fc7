"""Tuners compared: real tuners, real trials in processes."""

import json
import re
import signal
import subprocess
import sys

import pytest

from autocompress import compare_tuners
from autocompress.compare import Comparison
from autocompress.errors import ConfigError, StoreError
from autocompress.report.data import read_report_data
from autocompress.store import ExperimentDirectory
from tests import curve_modules
from tests.cli.support import invoke
from tests.e2e.launch import search_space
from tests.e2e.support import ROOT, processes_of, trained_epochs, until

pytestmark = pytest.mark.e2e
SPACE = search_space("l2")


def compared(directory, tuners, **options):
    return compare_tuners(curve_modules.CountsEpochs, SPACE, tuners, directory=directory, **options)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    home = tmp_path_factory.mktemp("compared") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCHS_LOG", str(home.parent / "epochs.log"))
        return home, compared(home, "adaptive,random,optuna-random,anneal", seeds=1, trials=3)


def test_each_search_is_an_experiment_of_its_own(comparison):
    home, found = comparison
    ended = [each for each in found.outcomes if each.error is None]
    assert [each.tuner for each in ended] == ["adaptive", "random", "optuna-random"]
    for each in ended:
        data = read_report_data(ExperimentDirectory(home / each.directory))
        assert len(data.records) == each.trials == 3
        assert sum(record.epochs for record in data.records) == each.epochs
        assert data.plan.settings.seed == 0
        assert data.plan.measured == read_report_data(ExperimentDirectory(home / "adaptive" / "0")).plan.measured
    assert sum(trained_epochs(home.parent / "epochs.log").values()) == sum(each.epochs for each in ended)
    assert [record.requested_rate for record in read_report_data(ExperimentDirectory(home / "adaptive/0")).records] == [
        0.5,
        0.6,
        0.7,
    ]


def test_a_tuner_that_is_not_installed_is_named_with_what_to_install(comparison):
    _, found = comparison
    (error,) = [each.error for each in found.outcomes if each.error is not None]
    assert error == (
        "tuner 'Anneal' needs a package that is not installed: No module named 'hyperopt' (pip install nni[Anneal])"
    )


def test_it_is_written(comparison):
    home, found = comparison
    assert Comparison.from_dict(json.loads((home / "comparison.json").read_text())) == found
    assert "anneal: tuner &#39;Anneal&#39; needs" in (home / "comparison.html").read_text()


def test_called_again_it_runs_nothing_again(comparison, monkeypatch):
    home, found = comparison
    monkeypatch.setenv("EPOCHS_LOG", str(home.parent / "again.log"))
    assert compared(home, "adaptive,random", seeds=1, trials=3).outcomes == found.outcomes[:2]
    assert not (home.parent / "again.log").exists()


def test_another_comparison_needs_another_directory(comparison):
    home, _ = comparison
    with pytest.raises(StoreError, match="must be of the same comparison; its trials is another one"):
        compared(home, "adaptive", seeds=1, trials=4)


def test_a_second_comparison_in_one_directory_is_refused(tmp_path):
    with ExperimentDirectory(tmp_path / "home").locked(), pytest.raises(StoreError, match="is being run by process"):
        compared(tmp_path / "home", "adaptive", seeds=1, trials=3)


def test_bad_input_is_told_before_anything_is_measured(tmp_path):
    for options, told in (({"seeds": 0}, "seeds must be"), ({"engine": "moon"}, "unknown engine 'moon'")):
        with pytest.raises(ConfigError, match=told):
            compared(tmp_path / "home", "adaptive", **options)
    answer = invoke("compare", "tests/curve_modules.py:Cliff", "--search-space", "nowhere.json", "--tuners", "tpe")
    assert answer.exit_code == 2
    assert not (tmp_path / "home").exists()


def test_real_nni_experiments_find_the_same(comparison, tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    home, found = comparison
    real = compared(tmp_path / "home", "random", seeds=1, trials=3, engine="nni", jobs=1)
    driven = next(each for each in found.outcomes if each.tuner == "random")
    assert (real.outcomes[0].error, real.outcomes[0].path) == (None, driven.path)
    records = [read_report_data(ExperimentDirectory(place / "random/0")).records for place in (home, tmp_path / "home")]
    assert [record.parameters for record in records[0]] == [record.parameters for record in records[1]]
    log = tmp_path / "home" / "random" / "0.log"
    assert re.search(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/", log.read_text()), "NNI's address is in it"
    assert log.stat().st_mode & 0o777 == 0o600, "which others must not read"


class Command:
    def __init__(self, home, space):
        self.output = home.with_suffix(".txt")
        command = [sys.executable, "-m", "autocompress.cli", "compare", "tests/curve_modules.py:Slow"]
        options = ["--search-space", str(space), "--tuners", "adaptive,random", "--seeds", "1", "--trials", "4"]
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [*command, *options, "--out", str(home)], cwd=ROOT, stdout=output, stderr=output
            )

    def printed(self):
        return self.output.read_text(errors="replace")


def test_ctrl_c_ends_it_and_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    space, home = tmp_path / "space.json", tmp_path / "home"
    space.write_text(json.dumps(SPACE))
    first = Command(home, space)
    until(lambda: list(home.glob("*/0/trials/*/record.json")), first)
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(120) == 130, first.printed()
    assert f"the same command with --out {home} goes on" in first.printed()
    assert not list(processes_of(home)), "nothing may be left running"
    ended = [path for path in home.glob("*/0/trials/*/record.json") if '"completed"' in path.read_text()]
    kept = {path: path.stat().st_mtime_ns for path in ended}
    assert kept
    again = Command(home, space)
    assert again.process.wait(240) == 0, again.printed()
    assert "of the best known rate" in again.printed()
    done = json.loads((home / "comparison.json").read_text())
    assert [each["error"] for each in done["outcomes"]] == [None, None]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "nothing that had ended runs again"
