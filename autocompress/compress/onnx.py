"""ONNX files: written from a traced model, without what only debugging needs, and run with onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from autocompress.compress.quiet import quiet
from autocompress.compress.state import tensors
from autocompress.compress.tracing import first_line
from autocompress.errors import CompressionError, ConfigError

_LARGEST = 1 << 30
"""Bytes above which the weights go to a file of their own; ONNX ends at 2 GiB."""


def require_onnx() -> None:
    """Check that the packages are there.

    Raises:
        ConfigError: one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'export to ONNX needs packages that are not installed ({error}): pip install "autocompress[onnx]"'
        ) from error


def write_onnx(program: ExportedProgram, path: Path) -> str:
    """Write an ONNX file and let onnx check it; a large one's weights go to `<name>.data` beside it.

    Returns:
        what it can be run with.

    Raises:
        CompressionError: torch cannot translate an operator, or onnx finds the file wrong.
    """
    import onnx
    import onnxruntime

    try:
        with quiet("torch.onnx", "onnxscript"):
            translated: Any = torch.onnx.export(program, dynamo=True, verbose=False)
        model = translated.model_proto
        _strip(model)
        large = model.ByteSize() > _LARGEST
        onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise CompressionError(f"the model cannot be exported to ONNX: {first_line(error)}") from error
    return f"onnxruntime {onnxruntime.__version__}"


def run_onnx(path: Path, inputs: tuple[Any, ...], *, optimized: bool = False) -> list[torch.Tensor]:
    """The outputs of an ONNX file on the CPU.

    Args:
        path: the file.
        inputs: positional arguments of one forward pass.
        optimized: let onnxruntime replace operators by its own kernels, instead of running each as it is written.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feed = dict(zip(names, (tensor.detach().cpu().numpy() for tensor in tensors(inputs)), strict=True))
    return [torch.from_numpy(output) for output in session.run(None, feed)]


def _strip(model: Any) -> None:
    """Remove where each node came from: in a small model that is most of the file."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for node in graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
    for entry in (*model.graph.value_info, *model.graph.initializer, *model.graph.input, *model.graph.output):
        entry.ClearField("doc_string")
        if hasattr(entry, "metadata_props"):
            entry.ClearField("metadata_props")
