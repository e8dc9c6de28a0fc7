"""`autocompress export`: the best model in a format of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.result import CompressionResult

if TYPE_CHECKING:
    from autocompress.compress.shipping.export import ExportReport


def ship(result: CompressionResult, path: Path, *, as_json: bool) -> str:
    """Export the best model; what is printed about it.

    Raises:
        AutoCompressError: nothing is within the budget, or the model cannot be exported.
    """
    report = result.export(path)
    if as_json:
        return json.dumps(report.to_dict(), indent=2)
    return _told(report, result.baseline.measurement.bytes)


def _told(report: ExportReport, uncompressed: int) -> str:
    lines = [f"wrote     {report.path}, {report.bytes:,} bytes (uncompressed weights {uncompressed:,})"]
    if report.weights is not None:
        lines.append(f"holds     {report.weights:,} weights, {report.zeros:,} of them zero")
    if report.checked is not None:
        sizes = " and ".join(str(size) for size in report.batches)
        lines.append(f"checked   with {report.checked} on batches of {sizes}")
        kernels = report.optimized_difference
        differs = f"differs   by at most {report.max_difference:.2g} (allowed {report.tolerance:.2g})"
        lines.append(differs if kernels is None else f"{differs}, by {kernels:.2g} with onnxruntime's own kernels")
    return "\n".join(lines)
