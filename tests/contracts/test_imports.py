"""What may import what, seen by importing it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "torch_pruning", "torchao", "nni", "optuna", "pydantic", "numpy")
FRAMEWORKS = ("torch", "torchvision", "torch_pruning", "torchao", "nni", "optuna", "pydantic")

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
{code}
loaded = sorted(name for name in sys.modules if name.partition(".")[0] in {blocked!r})
assert not loaded, f"loaded: {{loaded}}"
"""


def run_blocked(code, blocked):
    """Run code in a fresh interpreter that cannot import the blocked packages."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=set(blocked), code=code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )


@pytest.mark.parametrize("package", [name for name in HEAVY if name != "optuna"])
def test_the_block_blocks(package):
    seen = run_blocked(f"import {package}", HEAVY)
    assert seen.returncode != 0
    assert f"{package} is blocked" in seen.stderr, seen.stderr


def test_the_package_needs_nothing_heavy():
    seen = run_blocked("import autocompress\nassert 'AccuracyBudget' in dir(autocompress)", HEAVY)
    assert seen.returncode == 0, seen.stderr


def test_the_training_loops_know_no_framework():
    seen = run_blocked("import autocompress.engines.local.loop", ("torch", "nni", "optuna", "torch_pruning"))
    assert seen.returncode == 0, seen.stderr


RULE = ["search", "budget", "records", "errors", "registry", "search.adaptive"]


@pytest.mark.parametrize("module", RULE)
def test_the_rule_knows_no_framework(module):
    seen = run_blocked(f"import autocompress.{module}", FRAMEWORKS)
    assert seen.returncode == 0, seen.stderr


def test_the_store_knows_no_framework():
    seen = run_blocked("import autocompress.store, autocompress.result", FRAMEWORKS)
    assert seen.returncode == 0, seen.stderr


def test_the_settings_know_no_framework_but_their_own():
    seen = run_blocked("import autocompress.search_space", set(FRAMEWORKS) - {"pydantic"})
    assert seen.returncode == 0, seen.stderr


LIGHT = """
from autocompress import AccuracyBudget, AutoCompressError, CompressionResult
from autocompress.errors import InfeasibleBudgetError
from autocompress.records import Proposal, TrialRecord
from autocompress.search import StepHalving
"""


def test_light_names_load_without_a_framework():
    seen = run_blocked(LIGHT, FRAMEWORKS)
    assert seen.returncode == 0, seen.stderr


def test_importing_writes_and_logs_nothing(tmp_path):
    """No files in the home or the working directory, no logging set up, nothing printed."""
    code = "import logging, autocompress; assert not logging.root.handlers, logging.root.handlers"
    seen = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (seen.returncode, seen.stdout, seen.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_walls_stand():
    """The import-linter contracts of pyproject.toml."""
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    if not command.exists():
        pytest.skip("import-linter is not installed")
    seen = subprocess.run(
        [command, "--config", ROOT / "pyproject.toml", "--no-cache"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert seen.returncode == 0, f"{seen.stdout}\n{seen.stderr}"
    assert " 0 broken" in seen.stdout, seen.stdout
