"""A study in the real optuna-dashboard, in a real browser."""

import shlex
import subprocess
import sys
import time

import pytest
import requests

from tests.cli.support import invoke
from tests.e2e.browser import looking
from tests.e2e.study import study
from tests.e2e.support import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A finished study, and the address of the dashboard that `autocompress view` names."""
    directory = tmp_path_factory.mktemp("dashboard") / "experiment"
    done = study(directory, "Cliff")
    done.optimize()
    told = invoke("view", directory)
    assert told.exit_code == 0, told.output
    command = shlex.split(told.output.partition("show it with: ")[2])
    assert command.pop(0) == "optuna-dashboard"
    port = free_port()
    code = "from optuna_dashboard._cli import main; main()"
    server = subprocess.Popen([sys.executable, "-c", code, *command, "--host", "127.0.0.1", "--port", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        until_it_answers(url)
        yield done, url
    finally:
        server.terminate()
        server.wait()


def until_it_answers(url):
    for _ in range(300):
        try:
            return requests.get(url, timeout=5).raise_for_status()
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError("the dashboard did not start within 30 s")


def test_constraints_are_seen(shown):
    done, url = shown
    trials = requests.get(f"{url}/api/studies/{done.study._study_id}", timeout=10).json()["trials"]
    assert [trial["constraints"][0] <= 0 for trial in trials] == [True, True, False]
    assert {trial["state"] for trial in trials} == {"Complete"}


def test_artefacts_are_seen_and_can_be_had(shown):
    done, url = shown
    known = requests.get(f"{url}/api/studies/{done.study._study_id}", timeout=10).json()["artifacts"]
    files = {file["filename"]: file["artifact_id"] for file in known}
    assert set(files) >= {"report.html", "accuracy.png", "record.json", "weights.pt", "structure.json"}
    place = f"{url}/artifacts/{done.study._study_id}/{files['weights.pt']}"
    assert requests.get(place, timeout=10).content == (done.result.checkpoint / "weights.pt").read_bytes()


def test_searching_on_gives_it_nothing_twice(shown):
    done, url = shown
    before = requests.get(f"{url}/api/studies/{done.study._study_id}", timeout=10).json()["artifacts"]
    done.optimize()
    after = requests.get(f"{url}/api/studies/{done.study._study_id}", timeout=10).json()["artifacts"]
    assert after == before


def test_its_pages(shown):
    done, url = shown
    with looking(f"{url}/dashboard/studies/{done.study._study_id}") as look:
        look.page.get_by_text("Cliff").first.wait_for()
        look.page.wait_for_timeout(1500)
        look.keep("optuna-dashboard")
        look.page.goto(f"{url}/dashboard/studies/{done.study._study_id}/trials?numbers=1")
        look.page.get_by_text("compression_rate").first.wait_for()
        look.page.wait_for_timeout(1500)
        look.keep("optuna-dashboard-trial")
        assert look.complaints == []
        assert look.hosts == {"127.0.0.1"}
