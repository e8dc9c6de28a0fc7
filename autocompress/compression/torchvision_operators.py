"""Makes `import torchvision` work if its compiled operators cannot be loaded."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[torch.library.Library] = []  # operators live as long as their Library


def define_torchvision_operators() -> None:
    """Define the two operator schemas that `import torchvision` needs, if its compiled operators cannot be loaded.

    torchvision's wheel on PyPI is built for CUDA torch; with a CPU-only torch its import fails with "operator
    torchvision::nms does not exist". With the schemas defined, models, transforms and data sets work; the operators do
    not.
    """
    spec = None if _kept else importlib.util.find_spec("torchvision")
    if spec is None or hasattr(torch.ops.torchvision, "nms") or _load_compiled(spec.submodule_search_locations or ()):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _kept.append(library)


def _load_compiled(folders: Iterable[str]) -> bool:
    """Whether torchvision's own import would load them; loading twice is harmless, defining twice is not."""
    for library in (path for folder in folders for path in sorted(Path(folder).glob("_C.*"))):
        with contextlib.suppress(ImportError, OSError):
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
            return True
    return False
