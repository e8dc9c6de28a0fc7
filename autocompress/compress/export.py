"""Shipping a finished model: ONNX, `.pt2`, a graph to look at, or a plain state dict."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autocompress.compress.activations import ActivationQuantizer
from autocompress.compress.checkpoint import load_compressed, save_checkpoint
from autocompress.compress.dot import dot
from autocompress.compress.int8 import Int8Model
from autocompress.compress.onnx import require_onnx, run_onnx, write_onnx
from autocompress.compress.quiet import quiet
from autocompress.compress.state import device_of, evaluating, moved, tensors
from autocompress.compress.tracing import batch_of_two, takes_any_batch, traced
from autocompress.errors import CompressionError, ConfigError, StoreError

FORMATS = (".dot", ".onnx", ".pt2")
"""Suffixes; a path without one is a directory with a plain state dict."""

_TOLERANCE, _NUDGE, _NUDGES = 1e-4, 1e-6, 4
_LARGER = 3

_Outputs = list[torch.Tensor]
_Run = Callable[[tuple[Any, ...]], _Outputs]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it was compared with the model.

    Attributes:
        path: the file or directory.
        format: onnx, pt2, dot or state_dict.
        bytes: of all files that belong to it, external data included.
        checked: with what it was run; None where there is nothing to run.
        batches: sizes of the batches it was run on.
        max_difference: largest absolute difference of an output, on any batch, operator by operator as written.
        tolerance: the largest that was allowed: 1e-4 of the largest output; of a model that rounds activations at least
            what its own outputs change by when its inputs change by a millionth, which may move a value by a level.
        optimized_difference: the same with onnxruntime's own int8 kernels, which round elsewhere; not judged.
        seconds: how long it took.
    """

    path: str
    format: str
    bytes: int
    checked: str | None
    batches: tuple[int, ...]
    max_difference: float | None
    tolerance: float | None
    optimized_difference: float | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    original: nn.Module | None = None,
) -> ExportReport:
    """Write a finished model in the format that the path's suffix names; what was there is replaced.

    `.onnx`: checked by onnx and compared with onnxruntime. `.pt2`: torch.export's, loaded again and compared. `.dot`:
    the graph of its layers, for Graphviz. No suffix: a directory with `weights.pt`, an ordinary state dict, and
    `structure.json`, loaded again by `load_compressed` and compared. Batches may be of any size where the model lets
    them.

    Args:
        model: finished; not changed.
        path: of the file or the directory.
        example_inputs: a tensor, or a tuple of the positional arguments of one forward pass.
        original: the uncompressed model; needed for a directory.

    Raises:
        ConfigError: an unknown suffix, or the packages or the uncompressed model that a format needs are missing.
        CompressionError: the model cannot be exported, or what was written computes something else; nothing is left.
        StoreError: the files cannot be written.
    """
    target, started = Path(path), time.monotonic()
    inputs = tuple(example_inputs) if isinstance(example_inputs, list | tuple) else (example_inputs,)
    write = _writer(target, original)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
            beside = Path(folder, target.name)
            checked = write(model, beside, inputs)
            size = _move(Path(folder), target)
    except OSError as error:
        raise StoreError(f"the export must be writable; {str(target)!r} is not: {error}") from error
    kind = target.suffix.removeprefix(".") or "state_dict"
    seconds = round(time.monotonic() - started, 3)
    return ExportReport(str(target), kind, size, **checked, seconds=seconds)


_Checked = dict[str, Any]
"""The fields of a report that tell of the comparison."""


def _writer(target: Path, original: nn.Module | None) -> Callable[[nn.Module, Path, tuple[Any, ...]], _Checked]:
    if target.suffix == ".onnx":
        require_onnx()
        return _onnx
    if target.suffix == ".pt2":
        return _pt2
    if target.suffix == ".dot":
        return _dot
    if target.suffix:
        raise ConfigError(
            f"an export must be named {', '.join(FORMATS)}, or have no suffix for a directory; got {target.name!r}"
        )
    if original is None:
        raise ConfigError("a directory needs the uncompressed model: export(..., original=model)")
    return lambda model, path, inputs: _state_dict(model, path, inputs, original)


def _onnx(model: nn.Module, path: Path, inputs: tuple[Any, ...]) -> _Checked:
    program = traced(model, inputs)
    version, any_batch = write_onnx(program, path), takes_any_batch(program)
    checked = _compared(model, inputs, lambda given: run_onnx(path, given), version, any_batch)
    case = batch_of_two(inputs)
    kernels = run_onnx(path, case, optimized=True)
    return {**checked, "optimized_difference": _difference(_run(model, case), kernels)}


def _pt2(model: nn.Module, path: Path, inputs: tuple[Any, ...]) -> _Checked:
    program = traced(model, inputs)
    with quiet("torch.export"):
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()

    def run(given: tuple[Any, ...]) -> _Outputs:
        with torch.no_grad():
            return tensors(loaded(*moved(given, device_of(model))))

    return _compared(model, inputs, run, f"torch {torch.__version__}", takes_any_batch(program))


def _dot(model: nn.Module, path: Path, inputs: tuple[Any, ...]) -> _Checked:
    path.write_text(dot(model, inputs), encoding="utf-8")
    return {"checked": None, "batches": (), "max_difference": None, "tolerance": None, "optimized_difference": None}


def _state_dict(model: nn.Module, path: Path, inputs: tuple[Any, ...], original: nn.Module) -> _Checked:
    save_checkpoint(model, path, original, plain=True)
    loaded = load_compressed(path, original)
    return _compared(model, inputs, lambda given: _run(loaded, given), f"torch {torch.__version__}", any_batch=True)


def _compared(model: nn.Module, inputs: tuple[Any, ...], run: _Run, checked: str, any_batch: bool) -> _Checked:
    """Run what was written on the example inputs, and on larger batches of them where it takes any."""
    given = batch_of_two(inputs)
    cases = [given] + ([_larger(given)] if any_batch else [])
    worst, tolerance = 0.0, 0.0
    for case in cases:
        wanted = _run(model, case)
        allowed, difference = _allowed(model, case, wanted), _difference(wanted, run(case))
        if difference > allowed:
            raise CompressionError(
                f"what was exported must compute what the model does, within {allowed:.2g}; an output differs by "
                f"{difference:.2g} ({checked})"
            )
        worst, tolerance = max(worst, difference), max(tolerance, allowed)
    return {
        "checked": checked,
        "batches": tuple(_batch(case) for case in cases),
        "max_difference": worst,
        "tolerance": tolerance,
        "optimized_difference": None,
    }


def _allowed(model: nn.Module, inputs: tuple[Any, ...], wanted: _Outputs) -> float:
    largest = max((float(tensor.abs().max()) for tensor in wanted if tensor.numel()), default=0.0)
    allowed = _TOLERANCE * max(largest, 1e-3)
    if not any(isinstance(module, Int8Model | ActivationQuantizer) for module in model.modules()):
        return allowed
    generator = torch.Generator().manual_seed(0)
    nudged = [tuple(_nudged(item, generator) for item in inputs) for _ in range(_NUDGES)]
    return max(allowed, *(_difference(wanted, _run(model, case)) for case in nudged))


def _nudged(value: Any, generator: torch.Generator) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
        return value
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value)
    return value + _NUDGE * value.abs().max() * noise


def _run(model: nn.Module, inputs: tuple[Any, ...]) -> _Outputs:
    with evaluating(model), torch.no_grad():
        return tensors(model(*moved(inputs, device_of(model))))


def _difference(wanted: _Outputs, found: _Outputs) -> float:
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in found]:
        shapes = [[tuple(tensor.shape) for tensor in each] for each in (wanted, found)]
        raise CompressionError(f"what was exported must have the model's outputs {shapes[0]}; it has {shapes[1]}")
    pairs = zip(wanted, found, strict=True)
    return max((float((a.cpu().double() - b.cpu().double()).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def _larger(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        torch.cat([item] * _LARGER) if isinstance(item, torch.Tensor) and item.dim() else item for item in inputs
    )


def _batch(inputs: tuple[Any, ...]) -> int:
    return next((item.shape[0] for item in inputs if isinstance(item, torch.Tensor) and item.dim()), 0)


def _move(folder: Path, target: Path) -> int:
    """Put everything in the folder beside the target, in place of what is there; the bytes of it."""
    for stale in (target, target.with_name(f"{target.name}.data")):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    for entry in sorted(folder.iterdir()):
        entry.replace(target.with_name(entry.name))
    return size
