"""ONNX files: written from a traced model, without debugging data, and run with onnxruntime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import TensorArgument
from torch.utils import _pytree as pytree

from autocompress.compression.model_state import flatten_tensors, suppress_output
from autocompress.compression.tracing import batch_symbol, user_inputs
from autocompress.compression.verify import Run
from autocompress.errors import CompressionError, ConfigError, first_line

_LARGEST = 1 << 30
"""Bytes of weights above which they go to a file of their own; ONNX ends at 2 GiB."""
_WEIGHTS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8")


def require_onnx() -> None:
    """Check that the packages are installed; ConfigError if not."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'export to ONNX needs packages that are not installed ({error}): pip install "autocompress[onnx]"'
        ) from error


def write_onnx(program: ExportedProgram, path: Path) -> str:
    """Write an ONNX file and check it with onnx; returns the runtime's name and version.

    Inputs are named as the arguments of `forward`, outputs by their keys in a dictionary or their places in a tuple, a
    dynamic batch size `batch`. Weights of a large model go to `<name>.data` beside it.

    Raises:
        CompressionError: torch cannot translate an operator, or the file is invalid.
    """
    import onnx
    import onnxruntime

    try:
        with suppress_output("torch.onnx", "onnxscript"):
            translated: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                output_names=_output_names(program),
                custom_translation_table={torch.ops.aten._int_mm.default: _integer_product},
            )
        model = translated.model_proto
        _strip(model)
        _name_batch(model, batch_symbol(program))
        large = sum(len(entry.raw_data) for entry in model.graph.initializer) > _LARGEST
        onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)
        onnx.checker.check_model(str(path))
    except Exception as error:
        cause: BaseException = error  # torch wraps it in pages of coloured advice
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise CompressionError(f"the model cannot be exported to ONNX: {first_line(cause)}") from error
    return f"onnxruntime {onnxruntime.__version__}"


def _integer_product(rows: Any, columns: Any) -> Any:
    """ONNX's operator for the product of int8 matrices, which torch does not translate."""
    from onnxscript import opset18

    return opset18.MatMulInteger(rows, columns)


def onnx_runner(path: Path, *, optimized: bool = False) -> Run:
    """A function that runs an ONNX file on the CPU, without graph optimization unless `optimized`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions: list[Any] = []

    def run(inputs: tuple[Any, ...]) -> list[torch.Tensor]:
        if not sessions:  # lazily, so that errors are raised by the first run
            sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
        names = [entry.name for entry in sessions[0].get_inputs()]
        feed = dict(zip(names, (tensor.detach().cpu().numpy() for tensor in flatten_tensors(inputs)), strict=True))
        return [torch.from_numpy(output) for output in sessions[0].run(None, feed)]

    return run


def onnx_weights(path: Path) -> tuple[int, int]:
    """The number of weights in an ONNX file, its external data included, and how many of these are zero.

    Weights are the values of initializers of two dimensions or more, in floating point or int8.
    """
    import numpy as np
    import onnx

    kinds = {onnx.TensorProto.DataType.Value(name) for name in _WEIGHTS}
    held = [entry for entry in onnx.load(path).graph.initializer if len(entry.dims) > 1 and entry.data_type in kinds]
    values = [onnx.numpy_helper.to_array(entry) for entry in held]
    count = sum(each.size for each in values)
    return count, count - sum(int(np.count_nonzero(each)) for each in values)


def _output_names(program: ExportedProgram) -> list[str] | None:
    """Keys and places, joined by underscores; None (torch chooses) if not all are tensors or names collide."""
    spec = program.call_spec.out_spec
    if spec is None or not all(isinstance(each.arg, TensorArgument) for each in program.graph_signature.output_specs):
        return None
    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    names = [re.sub(r"\W+", "_", pytree.keystr(path)).strip("_") for path in paths]
    names = [name if name.isidentifier() else f"output_{name}".rstrip("_") for name in names]
    taken = {node.name for node in user_inputs(program)}
    return names if len({*names, *taken}) == len(names) + len(taken) else None


def _strip(model: Any) -> None:
    """Remove the origin of each node: in a small model that is most of the file."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
    for entry in (*model.graph.value_info, *model.graph.initializer, *model.graph.input, *model.graph.output):
        entry.ClearField("doc_string")
        if hasattr(entry, "metadata_props"):
            entry.ClearField("metadata_props")


def _name_batch(model: Any, symbol: str | None) -> None:
    if symbol is None:
        return
    for entry in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        for size in entry.type.tensor_type.shape.dim:
            if size.HasField("dim_param"):
                size.dim_param = re.sub(rf"\b{symbol}\b", "batch", size.dim_param)
