"""An experiment whose module is a file of its own, and whose best model is a real checkpoint; nothing is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from autocompress.compression.module_loading import ModuleReference
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.records import Baseline
from autocompress.store import ExperimentDirectory, Ledger
from tests.formats.strange import Small, write_checkpoint
from tests.written import plan, propose, record

SOURCE = """
from pathlib import Path
from autocompress.compression.module import AbstractAutoCompressionModule
from tests.formats.strange import INPUTS, Small

with open({log!r}, "a") as log:
    log.write("imported\\n")


class Thing(AbstractAutoCompressionModule):
    @classmethod
    def model(cls):
        from {helper} import VALUE  # lies beside this file
        assert VALUE == 7
        return Small()

    @classmethod
    def evaluator(cls):
        return lambda model: 1.0

    @classmethod
    def example_inputs(cls):
        from {helper} import VALUE
        return INPUTS
"""
ROOT = Path(__file__).parents[1]


class Owned:
    """The experiment, and the file in which its module notes that it is run."""

    def __init__(self, folder: Path, kind: str, code: Path, name: str) -> None:
        self.log, self.file = folder / "log", code / f"{name}.py"
        code.mkdir(parents=True, exist_ok=True)
        (code / f"{name}_helper.py").write_text("VALUE = 7\n")
        self.file.write_text(SOURCE.format(log=str(self.log), helper=f"{name}_helper"))
        self.reference = ModuleReference.parse(f"{self.file}:Thing")
        self.directory = ExperimentDirectory(folder / "experiment")
        self.directory.path.mkdir(exist_ok=True)
        baseline = {**plan().to_dict()["baseline"], "fingerprint": self.reference.fingerprint()}
        changed = plan(module=self.reference.to_dict(), baseline=Baseline.from_dict(baseline))
        self.directory.write_settings(changed.to_dict())
        ledger = Ledger(self.directory)
        key, rate = propose(ledger)
        ledger.add(record(key, rate, feasible=True))
        self.checkpoint = self.directory.trial(key).checkpoint
        self.model = load_compressed(write_checkpoint(kind, folder / "made"), Small())
        save_checkpoint(self.model, self.checkpoint, Small(), self.reference)

    @property
    def runs(self) -> int:
        """How often the module's file was run."""
        return self.log.read_text().count("imported") if self.log.exists() else 0


def python(code: str, cwd: Path) -> str:
    """What a fresh process prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
