"""Makes `import torchvision` work where its compiled operators cannot load."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # a Library takes its operators with it when it is collected


class TorchvisionFinder:
    """Finds torchvision as Python does, and defines the operators that its import needs right before it is executed.

    torchvision's wheel on PyPI is built for CUDA torch; beside a CPU-only torch its import fails with "operator
    torchvision::nms does not exist". With the schemas defined models, transforms and data sets work; calling the
    operators themselves does not.
    """

    @classmethod
    def install(cls) -> None:
        """Let every import of torchvision from now on go this way, whoever imports it."""
        if not any(isinstance(each, cls) for each in sys.meta_path):
            sys.meta_path.insert(0, cls())

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of torchvision; None for all other modules."""
        spec = PathFinder.find_spec(name, path, target) if name == "torchvision" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            define_torchvision_operators(spec.submodule_search_locations or ())
            execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


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

    for library in (path for folder in folders for path in sorted(Path(folder).glob("_C.*"))):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            continue
        return True
    return False
