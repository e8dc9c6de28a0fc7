from __future__ import annotations

import ast
import inspect
import typing
from importlib import metadata
from pathlib import Path

import pytest

import autocompress
import autocompress.nncf
import autocompress.optuna
import autocompress.testing
import autocompress.tracking

PACKAGES = [autocompress, autocompress.nncf, autocompress.optuna, autocompress.tracking, autocompress.testing]
"""Where users import from, besides `errors`, `settings` and `records`."""
NAMES = [(package, name) for package in PACKAGES for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[f"{package.__name__}.{name}" for package, name in NAMES])
def test_every_public_name_resolves(package, name):
    value = getattr(package, name)
    assert value is getattr(package, name)
    is_alias = typing.get_origin(value) is not None  # of a type, such as Curve; a class to Python 3.10's inspect
    if not is_alias and (inspect.isclass(value) or inspect.isfunction(value)):
        assert getattr(value, "__name__", name) == name
        assert value.__doc__, f"{name} is not documented"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_each_name_is_listed_once_and_in_order(package):
    names = package.__all__
    assert sorted(set(names)) == sorted(names)
    assert set(dir(package)) >= set(names)


@pytest.mark.parametrize("package", [autocompress, autocompress.nncf], ids=lambda package: package.__name__)
def test_type_checkers_see_the_same_names_under_their_own(package):
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {alias.asname: alias.name for line in stub.body if isinstance(line, ast.ImportFrom) for alias in line.names}
    assert seen == {name: name for name in package.__all__}


def test_the_top_level_is_what_most_users_write():
    assert len(autocompress.__all__) <= 20


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
