"""Workers of a study in processes of their own, and what one without a disturbance finds."""

import copy
import subprocess
import sys

from tests.e2e.support import ROOT


class Process:
    """A worker in a process of its own."""

    def __init__(self, directory, module, storage, *names):
        self.output = directory.parent / "worker.log"
        command = [sys.executable, "-m", "tests.e2e.study", str(directory), module, storage, *names]
        with self.output.open("a") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

    def printed(self):
        return self.output.read_text(errors="replace")

    def wait(self, seconds=120):
        return self.process.wait(seconds)


def told(result):
    """All records without what a clock says."""
    plain = [copy.deepcopy(record.to_dict()) for record in result.records]
    return sorted(({**each, "seconds": 0} for each in plain), key=lambda each: (each["algorithm"], each["key"]))
