"""The walls of the house, and the bare install."""

import subprocess
import sys
from pathlib import Path

import pytest

import autocompress

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
"""
FRAMEWORKS = {"torch", "torchvision", "torch_pruning", "nni", "optuna", "pydantic", "numpy", "rich", "typer"}


def python(code, blocked=()):
    program = BLOCK.format(blocked=set(blocked)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    ["autocompress", *(f"autocompress.{name}" for name in ("search", "budget", "records", "errors", "algorithms"))],
)
def test_the_middle_of_the_house_needs_no_framework(module):
    done = python(f"import {module}", FRAMEWORKS)
    assert done.returncode == 0, done.stderr


def test_the_block_blocks():
    done = python("import autocompress; autocompress.AutoCompressionExperiment", FRAMEWORKS)
    assert "is blocked" in done.stderr


def test_importing_the_package_loads_no_framework():
    done = python(f"import sys, autocompress; loaded = {FRAMEWORKS!r} & set(sys.modules); assert not loaded, loaded")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", autocompress.__all__)
def test_every_public_name_is_there(name):
    assert getattr(autocompress, name) is not None


def test_unknown_names_are_told():
    with pytest.raises(AttributeError, match="module 'autocompress' has no attribute 'AutoCompress'"):
        autocompress.AutoCompress  # noqa: B018


def test_torchvision_can_be_imported_after_any_of_our_names_that_users_need():
    done = python("from autocompress import AutoCompressionExperiment\nimport torchvision.transforms")
    assert done.returncode == 0, done.stderr


def test_the_walls_hold():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
