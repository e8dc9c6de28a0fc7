"""Makes `import torchvision` work where its compiled operators cannot load."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[torch.library.Library] = []  # a Library takes its operators with it when it is collected


def define_torchvision_operators() -> None:
    """Define the two operator schemas that `import torchvision` needs, if its compiled operators cannot load.

    torchvision's wheel on PyPI is built for CUDA torch; beside a CPU-only torch its import fails with "operator
    torchvision::nms does not exist". With the schemas defined models, transforms and data sets work; calling the
    operators themselves does not. Does nothing where torchvision works, is not installed, or this was done before.
    """
    if _kept or not _installed() or _defined() or _compiled_operators_load():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _kept.append(library)


def _defined() -> bool:
    return hasattr(torch.ops.torchvision, "nms")


def _installed() -> bool:
    return importlib.util.find_spec("torchvision") is not None


def _compiled_operators_load() -> bool:
    """Try what torchvision itself tries at its import; loading twice is harmless, defining twice is not."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(folder).glob("_C*.*")):  # `_C_stable` from 0.29 on
            try:
                torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
            except (ImportError, OSError):
                continue
            return True
    return False
