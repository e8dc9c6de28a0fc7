"""A search by the command line, or by one call, that is begun, disturbed, gone on with, and compared."""

import contextlib
import json
import os
import subprocess
import sys

import psutil

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e.launch import search_space
from tests.e2e.support import ROOT, free_port, processes_of, trained_epochs

_ATTEMPTS = 6


class Search:
    """A search by the command line, whose experiment is in a folder; the logs are beside."""

    def __init__(self, folder, engine, module="CountsEpochs", **settings):
        self.folder, self.directory, self.engine = folder, folder / "experiment", engine
        self.settings, self.environment = {"preset": "nncf", **settings}, {}  # each trial is trained
        self.module = f"tests/curve_modules.py:{module}"
        self.log = folder / "epochs.log"
        self.log.touch()
        (folder / "space.json").write_text(json.dumps(search_space("l2")))

    def start(self):
        """Begin it, or go on with it."""
        port = ["--port", str(free_port())] if self.engine == "nni" else []
        program = "autocompress.cli"
        if self.engine == "compress":  # the same call begins it and goes on with it
            program, space = "tests.e2e.one_call", str(self.folder / "space.json")
            arguments = [self.module, space, str(self.directory), json.dumps(self.settings)]
        elif self.directory.exists() and ExperimentDirectory(self.directory).exists():
            arguments = ["resume", str(self.directory), *port]
        else:
            space = str(self.folder / "space.json")
            arguments = ["run", self.module, "--search-space", space, "--out", str(self.directory), *port]
            arguments += ["--engine", self.engine]
            arguments += [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        with (self.folder / "output.txt").open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, *arguments],
                cwd=ROOT,
                env={**os.environ, "EPOCHS_LOG": str(self.log), **self.environment},
                stdout=output,
                stderr=output,
            )
        return self.process

    def printed(self):
        """Of all its launchers."""
        return (self.folder / "output.txt").read_text(errors="replace")

    def finish(self):
        """Resume it until it ends by itself; whether it does."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.start().wait(240) == 0:
                    return True
        return False

    def has_ended(self):
        """Whether its best model has been verified."""
        return "verdict" in {event["event"] for event in ExperimentDirectory(self.directory).journal.read()}

    def told(self):
        """Records without what a clock says or what was killed, and the best model's file."""
        result = CompressionResult(ExperimentDirectory(self.directory))
        records = [{**record.to_dict(), "seconds": 0} for record in result.records if record.state != "lost"]
        return records, (result.checkpoint / "weights.pt").read_bytes()

    def epochs(self):
        return trained_epochs(self.log) if self.log.stat().st_size else {}

    def clean(self):
        for process in processes_of(self.directory):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
