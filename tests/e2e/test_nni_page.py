"""NNI's web page of our experiments, in a real browser."""

import json
import re
import signal
import subprocess
import sys

import pytest
import requests

from autocompress import AutoCompressionExperiment
from tests import curve_modules
from tests.e2e.browser import looking
from tests.e2e.launch import search_space
from tests.e2e.study import FEW
from tests.e2e.support import ROOT, free_port, processes_of, until

pytestmark = pytest.mark.slow
NAMELESS = re.compile(r"net::ERR_(NAME_NOT_RESOLVED|INTERNET_DISCONNECTED|NAME_RESOLUTION_FAILED)")
"""Of NNI's icons, which are Microsoft's: a page of NNI's works without them."""


def complaints(look):
    return [text for text in look.complaints if not NAMELESS.search(text)]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """One that has ended; its page is still there."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCHS_LOG", str(folder / "epochs.log"))
        running = AutoCompressionExperiment(curve_modules.CountsEpochs, "local", directory=folder / "experiment")
        running.config.search_space = search_space("l2")
        running.config.tuner.class_args = FEW
        running.run(free_port())
        yield running
        running.stop()


def place(url, name):
    return f"{url.rpartition('/')[0]}/{name}"


def test_the_overview(experiment):
    with looking(place(experiment.url, "oview")) as look:
        look.page.get_by_text("DONE").first.wait_for()
        look.page.get_by_text("AdaptiveCompression").first.wait_for()
        look.keep("nni-overview")
        assert complaints(look) == []


@pytest.mark.parametrize("tab", ["Default metric", "Hyper-parameter", "Duration", "Intermediate result"])
def test_the_trials(experiment, tab):
    with looking(place(experiment.url, "detail")) as look:
        look.page.get_by_role("tab", name=tab).click()
        look.page.get_by_text("SUCCEEDED").first.wait_for()
        if tab == "Hyper-parameter":
            look.page.get_by_text("search/requested_rate").first.wait_for()
            look.page.get_by_text("uncompressed").first.wait_for()
        look.page.wait_for_timeout(1000)  # charts are drawn bit by bit
        look.keep(f"nni-{tab.lower().replace(' ', '-')}")
        assert complaints(look) == []
        assert look.page.get_by_text("SUCCEEDED").count() == 4, "the uncompressed model and three trials"


def test_the_uncompressed_model_is_at_rate_0(experiment):
    trials = requests.get(place(experiment.url, "api/v1/nni/trial-jobs"), timeout=10).json()
    metrics = requests.get(place(experiment.url, "api/v1/nni/metric-data?type=FINAL"), timeout=10).json()
    first = min(trials, key=lambda trial: trial["sequenceId"])
    (final,) = [each["data"] for each in metrics if each["trialJobId"] == first["trialJobId"]]
    assert "uncompressed" in first["hyperParameters"][0]
    accuracy = experiment.result.baseline.accuracy
    assert f'\\"accuracy\\": {accuracy}' in final or f'"accuracy": {accuracy}' in final, final
    assert len(experiment.result.records) == 3, "it is no trial of the search"


class Command:
    def __init__(self, folder, *arguments):
        self.output = folder / f"{arguments[0]}.txt"
        with self.output.open("w") as output:
            command = [sys.executable, "-u", "-m", "autocompress.cli", *map(str, arguments)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

    def printed(self):
        return self.output.read_text(errors="replace")

    def address(self):
        """Of its page, as soon as it is there."""
        return until(lambda: re.search(r"page +(http\S+)", self.printed()), self)[1]

    def page(self):
        """Its address, as soon as it is told to stay."""
        return until(lambda: re.search(r"page +(http\S+) +\(Ctrl-C ends it\)", self.printed()), self)[1]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, self.printed()


def look_at(url, text, name):
    with looking(url) as look:
        look.page.get_by_text(text).first.wait_for()
        look.keep(name)
        assert complaints(look) == []


def test_a_page_while_it_runs_that_stays_and_is_opened_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    space, out = tmp_path / "space.json", tmp_path / "experiment"
    space.write_text(json.dumps(search_space("l2")))
    module = ["tests/curve_modules.py:Slow", "--search-space", space, "--out", out, "--port", free_port()]
    shown = Command(tmp_path, "run", *module, "--keep-page")
    look_at(shown.address(), "RUNNING", "nni-running")
    look_at(shown.page(), "DONE", "nni-kept")
    shown.end()
    assert "load it" in shown.printed()
    assert not list(processes_of(out)), "nothing may be left running"
    again = Command(tmp_path, "view", out, "--port", free_port())
    look_at(again.page(), "Slow", "nni-viewed")
    again.end()
    assert not list(processes_of(out)), "nothing may be left running"
