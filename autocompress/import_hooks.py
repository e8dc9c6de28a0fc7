"""Imports made lazy or possible: a package's public names (PEP 562), and modules of other packages.

torchvision can be imported beside a CPU torch, and torch_pruning does not import timm.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose stub file imports its public names.

    Type checkers read the stub; importing the package imports none of what it names. `lazy_loader` does the same for
    names from below the package only.

    Args:
        package: its `__name__`.
        file: its `__file__`; the stub is beside it, `__init__.pyi`.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    homes = {
        alias.name: str(statement.module)
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, names, sorted(homes)


_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # a Library takes its operators with it when it is collected


class PreparingFinder:
    """Finds two modules as Python does, and prepares what their execution needs right before it.

    torchvision's wheel on PyPI is built for CUDA torch; beside a CPU-only torch its import fails with "operator
    torchvision::nms does not exist". With the schemas defined models, transforms and data sets work; calling the
    operators themselves does not.

    torch_pruning's counter of operations, which is not used here, imports timm where it is installed, for seconds.
    """

    @classmethod
    def install(cls) -> None:
        """Let every import of those modules from now on go this way, whoever imports them."""
        if not any(isinstance(each, cls) for each in sys.meta_path):
            sys.meta_path.insert(0, cls())

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of one of them; None for all other modules."""
        spec = PathFinder.find_spec(name, path, target) if name in _EXECUTED else None
        if spec is None or spec.loader is None:
            return None
        execute, found = spec.loader.exec_module, spec
        spec.loader.exec_module = lambda module: _EXECUTED[name](found, module, execute)  # type: ignore[method-assign]
        return spec


def _with_operators(spec: ModuleSpec, module: ModuleType, execute: Callable[[ModuleType], None]) -> None:
    define_torchvision_operators(spec.submodule_search_locations or ())
    execute(module)


def _without_timm(_: ModuleSpec, module: ModuleType, execute: Callable[[ModuleType], None]) -> None:
    """Execute as if timm were not installed, unless it is imported already."""
    if "timm" in sys.modules:
        execute(module)
        return
    sys.modules["timm"] = None  # type: ignore[assignment] # its import raises ModuleNotFoundError
    try:
        execute(module)
    finally:
        del sys.modules["timm"]


_EXECUTED = {"torchvision": _with_operators, "torch_pruning.utils.op_counter": _without_timm}


def define_torchvision_operators(folders: Sequence[str]) -> None:
    """Define the schemas, unless they are defined or the compiled operators load.

    Args:
        folders: where torchvision's files are.
    """
    import torch

    if _kept or hasattr(torch.ops.torchvision, "nms") or _compiled_operators_load(folders):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _kept.append(library)


def _compiled_operators_load(folders: Sequence[str]) -> bool:
    """Try what torchvision itself tries at its import; loading twice is harmless, defining twice is not."""
    import torch

    for library in (path for folder in folders for path in sorted(Path(folder).glob("_C*.*"))):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            continue
        return True
    return False
