"""Export of finished models: ONNX, torch.export, state dict, and a graph of the layers for Graphviz."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from autocompress.argument_checks import checked_arguments
from autocompress.compression.model_state import (
    device_of,
    flatten_tensors,
    forward_outputs,
    suppress_output,
    take_keywords_by_position,
    to_device,
    without_wrappers,
)
from autocompress.compression.module import argument_inputs
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.quantization.stored_linear import stored_layers
from autocompress.compression.tracing import (
    batch_symbol,
    dynamic_batches,
    export_graph,
    has_dataclasses,
    triple_batch,
    user_inputs,
)
from autocompress.compression.verify import Run, batch_size, compare, differences, rounds_activations
from autocompress.errors import CompressionError, ConfigError, StoreError, first_line
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.formats.files import STRUCTURE, WEIGHTS
from autocompress.formats.onnx import onnx_runner, onnx_weights, require_onnx, write_onnx


def to_graphviz(model: nn.Module, example_inputs: tuple[Any, ...]) -> str:
    """A Graphviz graph with a box for each layer (type, parameters, output shape) and one for each other operator.

    Raises:
        CompressionError: torch.export cannot trace the model.
    """
    program = export_graph(model, example_inputs)
    inputs, symbol = set(user_inputs(program)), batch_symbol(program)
    layers = {} if isinstance(model, Int8Model) else _layers(model)
    boxes: dict[str, str] = {}
    home: dict[fx.Node, str] = {}
    edges: dict[tuple[str, str], None] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node not in inputs:
            continue  # a parameter or a buffer: part of its layer
        name = _home(node, layers)
        home[node] = name
        boxes[name] = _label(node, name, layers, symbol)
        for source in node.all_input_nodes:
            if source in home and home[source] != name:
                edges[home[source], name] = None
    lines = [f"  {_quote(name)} [label={_quote(label)}];" for name, label in boxes.items()]
    lines += [f"  {_quote(source)} -> {_quote(target)};" for source, target in edges]
    body = "\n".join(lines)
    return f'digraph "{type(model).__name__}" {{\n  node [shape=box, fontname="Helvetica"];\n{body}\n}}\n'


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Leaf modules with parameters or of PyTorch's types, and its attention layers."""
    return {name: module for name, module in model.named_modules() if name and _is_layer(module)}


def _is_layer(module: nn.Module) -> bool:
    own = next(module.parameters(recurse=False), None) is not None
    of_pytorch = type(module).__module__.startswith("torch.nn")
    return (own or of_pytorch) if not any(module.children()) else (own and of_pytorch)


def _home(node: fx.Node, layers: dict[str, nn.Module]) -> str:
    """The layer that a node belongs to, or its own name; each call of a layer has its own box."""
    stack = list((node.meta.get("nn_module_stack") or {}).items())
    if not stack:
        return node.name
    key, (path, _) = stack[-1]
    call = key.rpartition("@")[2] if "@" in key else ""
    return f"{path}@{call}" if path in layers and call else path if path in layers else node.name


def _label(node: fx.Node, name: str, layers: dict[str, nn.Module], symbol: str | None) -> str:
    shape = _shape(node, symbol)
    layer = layers.get(name.partition("@")[0])
    if layer is None:
        kind = str(node.target).removeprefix("aten.").partition(".")[0] if node.op == "call_function" else node.op
        return f"{kind}{shape}" if node.op != "placeholder" else f"{node.name}{shape}"
    count = sum(parameter.numel() for parameter in layer.parameters())
    parameters = f"\\n{count:,} parameters" if count else ""
    return f"{name.partition('@')[0]}\\n{type(layer).__name__}{parameters}{shape}"


def _shape(node: fx.Node, symbol: str | None) -> str:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.dim():
        return ""
    sizes = " x ".join(str(size) for size in value.shape)
    return "\\n" + (sizes if symbol is None else re.sub(rf"\b{symbol}\b", "n", sizes))


def _quote(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


_logger = logging.getLogger("autocompress.formats")

FORMATS = (".dot", ".onnx", ".pt2")
"""Suffixes; a path without one is a directory with a plain state dict."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how it compares with the model.

    Attributes:
        path: the file or directory.
        format: onnx, pt2, dot or state_dict.
        bytes: of all its files, external data included.
        checked: what it was run with; None if it cannot be run.
        batches: sizes of the batches it was run on: the example inputs, and three times as many if the batch is
            dynamic.
        max_difference: largest absolute difference, on any batch, of the output that came closest to its tolerance; for
            ONNX without graph optimization.
        tolerance: tolerance of that output: 1e-4 of its largest value; for models that round activations, and outputs
            below 1e-3, at least the change of the model's own output when its inputs, or its parameters, change by a
            millionth.
        dynamic_batch: whether it takes batches of any size; None if that is not fixed in the format.
        optimized_difference: largest absolute difference of any output with onnxruntime's optimized kernels. Those for
            int8 round activations, so it is not checked for models that do, or have int8 weights.
        weights: values in the file's tensors of two dimensions or more, in floating point or int8.
        zeros: how many of them are zero. Equal tensors may be stored once.
        seconds: duration of the export.
    """

    path: str
    format: str
    bytes: int
    checked: str | None = None
    batches: tuple[int, ...] = ()
    max_difference: float | None = None
    tolerance: float | None = None
    dynamic_batch: bool | None = None
    optimized_difference: float | None = None
    weights: int | None = None
    zeros: int | None = None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


@checked_arguments
def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    original: nn.Module | None = None,
) -> ExportReport:
    """Write a finished model in the format of the path's suffix, replacing an earlier export.

    `.onnx`: checked by onnx and compared with onnxruntime. `.pt2`: torch.export's, loaded again and compared. `.dot`:
    the graph of its layers, for Graphviz. No suffix: a directory with `weights.pt`, an ordinary state dict, and
    `structure.json`, loaded again by `load_compressed` and compared. The batch size is dynamic if the model allows it.

    Args:
        model: finished; not changed.
        path: of the file or the directory.
        example_inputs: a tensor, or a tuple or dictionary of the arguments of one forward pass.
        original: the uncompressed model; needed for a directory.

    Raises:
        ConfigError: an unknown suffix, or the packages or the uncompressed model that a format needs are missing.
        CompressionError: the model cannot be exported, or the export computes something else; nothing is left.
        StoreError: the files cannot be written, or the path exists and is no earlier export.
    """
    target, started = Path(path), time.monotonic()
    model = take_keywords_by_position(without_wrappers(model))
    inputs = argument_inputs(model, example_inputs, "example_inputs")
    write = _writer(target, original)
    _require_replaceable(target)
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
    return ExportReport(path=str(target), format=kind, bytes=size, seconds=seconds, **checked)


_Checked = dict[str, Any]
"""Fields of an `ExportReport` about the comparison."""


def _writer(target: Path, original: nn.Module | None) -> Callable[[nn.Module, Path, tuple[Any, ...]], _Checked]:
    if target.suffix == ".onnx":
        require_onnx()
        return lambda model, path, inputs: _traced(model, inputs, partial(_onnx, model, path, inputs))
    if target.suffix == ".pt2":
        return lambda model, path, inputs: _traced(model, inputs, partial(_pt2, model, path, inputs))
    if target.suffix == ".dot":
        return _dot
    if target.suffix or target.name in ("", "..", *FORMATS):
        raise ConfigError(
            f"an export must be named <name>{', <name>'.join(FORMATS)}, or have no suffix for a directory; "
            f"got {str(target)!r}"
        )
    if original is None:
        raise ConfigError("a directory needs the uncompressed model: export(..., original=model)")
    return lambda model, path, inputs: _state_dict(model, path, inputs, original)


def _require_replaceable(target: Path) -> None:
    """Never delete anything that is not an export."""
    if target.suffix and target.is_dir():
        raise StoreError(f"an export with a suffix is a file; {str(target)!r} is a directory")
    if target.suffix or not target.exists():
        return
    if not target.is_dir():
        raise StoreError(f"an export without a suffix is a directory; {str(target)!r} is a file")
    others = sorted({entry.name for entry in target.iterdir()} - {WEIGHTS, STRUCTURE})
    if others:
        raise StoreError(
            f"an export replaces an earlier one or an empty directory; {str(target)!r} holds {others[0]!r}"
            + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        )


def _traced(model: nn.Module, inputs: tuple[Any, ...], write: Callable[[ExportedProgram], _Checked]) -> _Checked:
    """Write the graph for any batch size, or, where that computes something else or nothing, for the examples'."""
    program = export_graph(model, inputs)
    dynamic = any(dynamic_batches(program))
    try:
        checked = write(program)
    except CompressionError:
        if not dynamic:
            raise
        checked, dynamic = write(export_graph(model, inputs, any_batch=False)), False
    if not dynamic:
        _logger.warning(
            "the exported model takes inputs whose dimension 0, the batch, is %d only: what it computes depends on it",
            batch_size(inputs),
        )
    return {**checked, "dynamic_batch": dynamic}


def _onnx(model: nn.Module, path: Path, inputs: tuple[Any, ...], program: ExportedProgram) -> _Checked:
    cases, version = _cases(inputs, program), write_onnx(program, path)
    checked = _compared(model, cases, onnx_runner(path), version)
    kernels, (weights, zeros) = onnx_runner(path, optimized=True), onnx_weights(path)
    if not rounds_activations(model) and not stored_layers(model):  # its kernels for int8 weights round activations
        compare(model, cases, kernels, f"{version}, optimized")
    apart = max(differences(forward_outputs(model, cases[-1]), kernels(cases[-1])))
    return {**checked, "optimized_difference": apart, "weights": weights, "zeros": zeros}


def _pt2(model: nn.Module, path: Path, inputs: tuple[Any, ...], program: ExportedProgram) -> _Checked:
    try:
        with suppress_output("torch.export"):
            if has_dataclasses(inputs):
                program.example_inputs = None  # they are saved by pickle, and not loaded again
            torch.export.save(program, path)
            program = torch.export.load(path)
            loaded = program.module()
    except OSError:
        raise
    except Exception as error:
        raise CompressionError(f"torch.export must be able to save and load the graph; {first_line(error)}") from error

    def run(given: tuple[Any, ...]) -> list[torch.Tensor]:
        with torch.no_grad():
            return flatten_tensors(loaded(*to_device(given, device_of(model))))

    held = {**program.constants, **program.state_dict}
    return {**_compared(model, _cases(inputs, program), run, f"torch {torch.__version__}"), **_counted(held.values())}


def _dot(model: nn.Module, path: Path, inputs: tuple[Any, ...]) -> _Checked:
    path.write_text(to_graphviz(model, inputs), encoding="utf-8")
    return {}


def _state_dict(model: nn.Module, path: Path, inputs: tuple[Any, ...], original: nn.Module) -> _Checked:
    save_checkpoint(model, path, original, plain=True)
    loaded = load_compressed(path, original)
    checked = _compared(model, [inputs], lambda given: forward_outputs(loaded, given), f"torch {torch.__version__}")
    return {**checked, **_counted(loaded.state_dict().values())}


def _counted(held: Iterable[Any]) -> _Checked:
    """Weights, and zeros among them."""
    weights = [
        value
        for value in held
        if isinstance(value, torch.Tensor)
        and value.dim() > 1
        and (value.is_floating_point() or value.dtype in (torch.int8, torch.uint8))
    ]
    count = sum(weight.numel() for weight in weights)
    return {"weights": count, "zeros": count - sum(int(torch.count_nonzero(weight)) for weight in weights)}


def _cases(inputs: tuple[Any, ...], program: ExportedProgram) -> list[tuple[Any, ...]]:
    """The example inputs, and three times as many if the graph has a dynamic batch size."""
    free = dynamic_batches(program)
    return [inputs, triple_batch(inputs, free)] if any(free) else [inputs]


def _compared(model: nn.Module, cases: Sequence[tuple[Any, ...]], run: Run, checked: str) -> _Checked:
    found = compare(model, cases, run, checked)
    return {"checked": checked, **asdict(found)}


def _move(folder: Path, target: Path) -> int:
    """Move the folder's content next to the target, replacing an earlier export; returns its bytes."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    new = sorted(folder.iterdir(), reverse=True)  # external data before the file that names it
    if target.is_dir():
        target.rename(folder / ".earlier")  # deleted with the folder
    for entry in new:
        entry.replace(target.with_name(entry.name))
    if target.suffix == ".onnx" and len(new) == 1:
        target.with_name(f"{target.name}.data").unlink(missing_ok=True)
    return size
