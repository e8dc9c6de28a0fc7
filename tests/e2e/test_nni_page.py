"""NNI's web page of our experiments, in a real browser."""

import json
import re
import signal
import subprocess
import sys

import pytest
import requests

from autocompress import AutoCompressionExperiment
from autocompress.engines.nni.wire_format import flattened, to_page_parameters
from autocompress.nncf import CompressionConfig
from autocompress.nncf.translation import search_space_of
from autocompress.search import proposals
from autocompress.search_space import load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.trial.baseline import uncompressed_parameters
from tests import curve_modules
from tests.e2e.browser import looking
from tests.e2e.launch import search_space
from tests.e2e.study import FEW
from tests.e2e.support import ROOT, free_port, processes_of, until

pytestmark = pytest.mark.slow
HOST = "127.0.0.1"
SPACES = sorted((ROOT / "search_spaces").iterdir())


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
        assert look.complaints == []
        assert look.hosts == {HOST}, "nothing is asked of anybody else"


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
        assert look.complaints == []
        assert look.hosts == {HOST}, "nothing is asked of anybody else"
        assert look.page.get_by_text("SUCCEEDED").count() == 4, "the uncompressed model and three trials"


def axes(page):
    """Names of the hyper-parameter view's axes."""
    page.get_by_role("tab", name="Hyper-parameter").click()
    page.locator(".parcoords .dimension .label").first.wait_for()
    return page.locator(".parcoords .dimension .label").all_text_contents()


def test_the_hyper_parameter_view_has_axes_that_differ(experiment):
    with looking(place(experiment.url, "detail")) as look:
        found = axes(look.page)
    assert found == [
        "search/requested_rate",
        "search/start_from",
        "default",
        "accuracy",
        "accuracy_margin",
        "parameters_removed",
        "bytes",
        "algorithm",
    ]


def test_the_icons_are_there(experiment):
    with looking(place(experiment.url, "detail")) as look:
        look.page.get_by_text("SUCCEEDED").first.wait_for()
        loaded = look.page.evaluate(
            "document.fonts.ready.then(() => [...document.fonts].map(f => [f.family, f.status]))"
        )
        icons = [status for family, status in loaded if "FabricMDL2Icons" in family and status != "unloaded"]
        assert icons
        assert set(icons) == {"loaded"}


def shown_instead(experiment, space):
    """What the manager answers, with another search space and trials that it may give."""
    url = place(experiment.url, "api/v1/nni")
    profile = requests.get(f"{url}/experiment", timeout=10).json()
    profile["params"]["searchSpace"] = flattened(space.wire)
    settings = AccuracyAwareSettings()
    rates = [proposal.requested_rate for proposal in proposals(settings.searches(space), [])]
    chosen = [
        settings.parameters(space, algorithm.name, rate)
        for algorithm, rate in zip(space.algorithms, rates, strict=True)
    ]
    search = {"lr_factor": 1.0, "start_from": None, "epochs": 3, "initial": True, "seed": 0}
    given = [uncompressed_parameters(), *({**parameters, "search": search} for parameters in chosen)]
    jobs = requests.get(f"{url}/trial-jobs", timeout=10).json()
    trials = []
    for number, parameters in enumerate(given):
        sent = {"parameter_id": number, "parameter_source": "algorithm", "parameters": to_page_parameters(parameters)}
        trials.append({**jobs[number % len(jobs)], "sequenceId": number, "hyperParameters": [json.dumps(sent)]})
        trials[-1]["trialJobId"] = f"trial{number}"
    return profile, trials


def test_no_search_space_leaves_the_page_blank(experiment):
    answers = {}
    with looking(place(experiment.url, "oview")) as look:
        look.page.route("**/api/v1/nni/experiment", lambda route: route.fulfill(json=answers["profile"]))
        look.page.route("**/api/v1/nni/trial-jobs", lambda route: route.fulfill(json=answers["trials"]))
        look.page.route("**/api/v1/nni/metric-data**", lambda route: route.fulfill(json=[]))  # of the real trials
        for file in SPACES:
            config = file.suffix == ".json5"  # NNCF's
            space = load_search_space(search_space_of(CompressionConfig.from_json(file)) if config else file)
            answers["profile"], answers["trials"] = shown_instead(experiment, space)
            look.page.goto(place(experiment.url, "detail"))
            look.page.get_by_text("SUCCEEDED").first.wait_for()
            assert look.page.get_by_text("SUCCEEDED").count() == len(answers["trials"]), file.name
            assert 1 < len(axes(look.page)) <= 8, file.name
            look.keep(f"nni-space-{file.stem}")
            assert look.complaints == [], file.name
        assert look.hosts == {HOST}


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
        assert look.complaints == []
        assert look.hosts == {HOST}, "nothing is asked of anybody else"


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
