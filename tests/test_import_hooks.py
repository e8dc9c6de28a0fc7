"""torchvision beside a torch that its compiled operators cannot load with, and torch_pruning beside timm."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code: str, *, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)


def loads_by_itself() -> bool:
    return python("import torch, torchvision").returncode == 0


@pytest.mark.parametrize(
    "first", ["import autocompress", "from autocompress import AccuracyBudget", "import autocompress.cli"]
)
def test_it_can_be_imported_after_any_part_of_the_package(first: str) -> None:
    done = python(
        f"{first}\n"
        "import sys\n"
        "assert 'torch' not in sys.modules, 'nothing heavy is imported before it is needed'\n"
        "import torchvision, torch\n"
        "assert torchvision.transforms.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)\n"
        "assert torchvision.models.resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
    )
    assert done.returncode == 0, done.stderr


def test_without_autocompress_it_fails_here() -> None:
    """Else the tests above would show nothing."""
    if loads_by_itself():
        pytest.skip("this torchvision goes with this torch")
    assert "operator torchvision::nms does not exist" in python("import torchvision").stderr


def test_looking_for_it_imports_nothing() -> None:
    done = python(
        "import autocompress, importlib.util, sys\n"
        "assert importlib.util.find_spec('torchvision').name == 'torchvision'\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


def test_where_it_is_not_installed_nothing_changes(tmp_path: Path) -> None:
    done = python(
        "import sys, autocompress\n"
        "sys.path[:] = [each for each in sys.path if 'site-packages' not in each]\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('torchvision') is None\n"
        "try:\n    import torchvision\n"
        "except ModuleNotFoundError as error:\n    assert error.name == 'torchvision'\n"
        "else:\n    raise AssertionError\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("first", ["", "import timm\n"])
def test_pruning_imports_no_timm_of_its_own(first: str) -> None:
    done = python(
        "import autocompress\n"
        f"{first}import sys\n"
        "import autocompress.compression.pruning.dependency_graph\n"
        "from torch_pruning.utils import op_counter\n"
        f"assert op_counter.has_timm == ('timm' in sys.modules) == {bool(first)}\n"
        "import timm\n"
        "assert timm.create_model('resnet10t') is not None\n"
    )
    assert done.returncode == 0, done.stderr


MODULE = """
import torchvision
from autocompress import AbstractAutoCompressionModule


class Vision(AbstractAutoCompressionModule):
    @classmethod
    def model(cls):
        import torch

        torch.manual_seed(0)
        return torchvision.models.squeezenet1_1(num_classes=4)

    @classmethod
    def evaluator(cls):
        import torch

        inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = cls.model().eval()(inputs)
            return lambda model: 1 - ((model.eval()(inputs) - wanted).norm() / wanted.norm()).item()
"""


@pytest.mark.slow
def test_check_looks_at_a_module_in_a_package_that_imports_it(tmp_path: Path) -> None:
    """The package is imported in the launching process, to find the module's file, and in others to load it."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import torchvision\n")
    (tmp_path / "package" / "vision.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-m", "autocompress.cli", "check", "package.vision:Vision", "--algorithm", "level"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "level" in done.stdout
    assert "applies" in done.stdout


@pytest.mark.slow
def test_a_launching_script_may_import_it_after_autocompress(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text(
        "import autocompress\n"
        f"{MODULE}\n"
        "if __name__ == '__main__':\n"
        "    (check,) = autocompress.check_module(Vision, autocompress.AutoCompressionSearchSpaceGenerator.loads("
        "{'algorithm_name': {'_type': 'choice', '_value': [{'_name': 'level', "
        "'config_list::default::::sparsity': {'_type': 'uniform', '_value': [0, 0.9]}}]}}))\n"
        "    assert check.applies, check\n"
    )
    done = subprocess.run(
        [sys.executable, "launch.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
