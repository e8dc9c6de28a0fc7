from __future__ import annotations

import ast
from importlib import metadata
from pathlib import Path

import pytest

import autocompress


@pytest.mark.parametrize("name", autocompress.__all__)
def test_every_public_name_resolves(name):
    value = getattr(autocompress, name)
    assert value == getattr(autocompress, name)
    assert name == "__version__" or value.__name__ == name
    assert name == "__version__" or value.__doc__, f"{name} is not documented"


def test_the_names_are_told_once_and_in_order():
    names = autocompress.__all__
    assert len(set(names)) == len(names)
    assert set(names) - {"__version__"} == set(autocompress._HOMES)
    assert set(dir(autocompress)) >= set(names)
    assert dir(autocompress) == sorted(dir(autocompress))


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(autocompress.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert homes == autocompress._HOMES


def test_the_version_is_in_one_place():
    assert autocompress.__version__ == metadata.version("autocompress")


@pytest.mark.parametrize("name", ["no_such_name", "AccuracyBudgett", "_private", "__wrapped__"])
def test_an_unknown_attribute(name):
    with pytest.raises(AttributeError, match=f"^module 'autocompress' has no attribute '{name}'$"):
        getattr(autocompress, name)


def test_star_import():
    names: dict = {}
    exec("from autocompress import *", names)
    assert set(names) >= set(autocompress.__all__)
