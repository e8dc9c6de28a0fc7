"""The in-process loop in processes of its own: killed, and gone on with."""

import json
import subprocess
import sys

import pytest
import torch

from tests.e2e.support import ROOT, results, until

pytestmark = pytest.mark.slow


class Loop:
    """The loop of `tests/e2e/loop.py`, begun or resumed."""

    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "output.txt"
        directory.mkdir(exist_ok=True)

    def start(self):
        command = [sys.executable, "-m", "tests.e2e.loop", str(self.directory)]
        if (run := self.run()) is not None:
            command.append(str(run))
        with self.log.open("a") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        return self

    def run(self):
        runs = list((self.directory / "runs").glob("*")) if (self.directory / "runs").exists() else []
        assert len(runs) <= 1, runs
        return runs[0] if runs else None

    def ended(self):
        run = self.run()
        return len(results(run)) if run is not None and (run / "journal.jsonl").exists() else 0

    def epochs(self):
        log = self.directory / "epochs.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def printed(self):
        return self.log.read_text(errors="replace")

    def wait(self):
        assert self.process.wait(120) == 0, self.printed()
        return self

    def told(self):
        return json.loads((self.directory / "records.json").read_text())

    def weights(self):
        return torch.load(self.directory / "weights.pt", weights_only=True)


@pytest.fixture
def undisturbed(shared):
    return Loop(shared("undisturbed loop", lambda folder: Loop(folder).start().wait()))


def test_the_undisturbed_loop_removes_filters(undisturbed):
    best = max((record for record in undisturbed.told() if record["feasible"]), key=lambda each: each["score"])
    assert best["requested_rate"] > 0.4, undisturbed.told()
    assert undisturbed.weights()["features.0.weight"].shape[0] < 32
    run = undisturbed.run()
    assert (run / "report.html").exists()
    assert (run / "plots" / "accuracy.svg").exists()


@pytest.mark.parametrize("at", ["in the initial phase", "at the second rate", "at the third rate"])
def test_killed_and_gone_on_with(tmp_path, undisturbed, at):
    loop = Loop(tmp_path / "killed").start()
    begun = {
        "in the initial phase": lambda: loop.epochs() >= 1,
        "at the second rate": lambda: loop.ended() >= 1,
        "at the third rate": lambda: loop.ended() >= 2,
    }
    until(begun[at], loop, every=0.005)
    loop.process.kill()
    loop.process.wait()
    before = loop.ended()
    loop.start().wait()
    assert loop.told() == undisturbed.told()
    mine, other = loop.weights(), undisturbed.weights()
    assert mine.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    done = [record["epochs"] for record in undisturbed.told()]
    assert loop.epochs() <= sum(done) + max(done), f"{before} rates had ended: they must not be trained again"
