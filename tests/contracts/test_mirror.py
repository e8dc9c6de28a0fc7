"""Where a module's tests are: `autocompress/x/y.py` has `tests/x/test_y.py`."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEWEST_STATEMENTS = 12
"""Inside of functions; a module with fewer is data, types or an adapter, and tested by what uses it."""

_LOOP = "tests/engines/local/test_loop.py runs it whole"
_ENGINE = "translates for the engine's search, whose tests run it"
EXCEPTIONS = {
    "autocompress/compression/pruning/pruner.py": "the base of the pruners, each of which is tested in test_filters.py",
    "autocompress/engines/local/factory.py": _LOOP,
    "autocompress/engines/local/training.py": _LOOP,
    "autocompress/engines/nni/engine.py": _ENGINE,
    "autocompress/tracking/wandb.py": "Weights & Biases needs a server",
    "autocompress/trial/__main__.py": "the program that tests/trial/test_process.py starts",
}
"""Modules without a test file, and why."""


@functools.cache
def statements(path):
    """How many statements the functions of a module have, without docstrings."""

    def count(node, *, inside):
        total = 0
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
                total += inside and not docstring
                total += count(child, inside=inside or isinstance(child, ast.FunctionDef))
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                total += count(child, inside=inside)
        return total

    return count(ast.parse(path.read_text()), inside=False)


def test_file(module):
    return ROOT / "tests" / module.relative_to(ROOT / "autocompress").with_name(f"test_{module.name}")


test_file.__test__ = False
MODULES = sorted(path for path in (ROOT / "autocompress").rglob("*.py") if path.name != "__init__.py")


def name(path):
    return path.relative_to(ROOT).as_posix()


def test_every_module_with_logic_has_its_test_file():
    lacking = [path for path in MODULES if statements(path) >= FEWEST_STATEMENTS and not test_file(path).is_file()]
    assert [name(path) for path in lacking if name(path) not in EXCEPTIONS] == []


def test_the_test_files_of_modules_test_something():
    files = [test_file(path) for path in MODULES if test_file(path).is_file()]
    tests = {path: [node for node in ast.walk(ast.parse(path.read_text())) if _is_test(node)] for path in files}
    assert [name(path) for path, found in tests.items() if not found] == []
    assert len(files) > 50


@pytest.mark.parametrize("module", EXCEPTIONS)
def test_exceptions_are_needed(module):
    assert (ROOT / module).is_file()
    assert statements(ROOT / module) >= FEWEST_STATEMENTS
    assert not test_file(ROOT / module).exists()


def _is_test(node):
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test")
