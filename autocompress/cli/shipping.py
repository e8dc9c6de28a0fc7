"""`autocompress export`: the best model in a format of other tools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.compress.shipping.grammar import shown_path
from autocompress.errors import ModuleError
from autocompress.result import CompressionResult

if TYPE_CHECKING:
    from autocompress.compress.loading import ModuleReference
    from autocompress.compress.shipping.export import ExportReport


def ship(result: CompressionResult, path: Path, *, as_json: bool, trust_module: bool = False) -> str:
    """Export the best model; what is printed about it. The module's file is run, which is said on standard error.

    Raises:
        AutoCompressError: nothing is within the budget, or the model cannot be exported.
        ModuleError: the file is another than the search began with, or came with the directory, and it is not trusted.
    """
    from autocompress.compress.loading import ModuleReference

    recorded = result.directory.settings()["module"]
    if "file" in recorded:
        reference = ModuleReference.from_dict(recorded)
        if not trust_module:
            _require_own(reference, result)
        print(f"runs      {shown_path(reference.file)}", file=sys.stderr)
    report = result.export(path, trust_module=True)
    if as_json:
        return json.dumps(report.to_dict(), indent=2)
    return _told(report, result.baseline.measurement.bytes)


def _require_own(reference: ModuleReference, result: CompressionResult) -> None:
    """The file must be what the search measured, and not have come with the directory."""
    rule = f"the module's file {shown_path(reference.file)!r} must be"
    remedy = "where you trust it, give --trust-module"
    if Path(reference.file).resolve().is_relative_to(result.directory.path):
        raise ModuleError(f"{rule} outside of the experiment's directory, which may be another's; {remedy}")
    if reference.fingerprint() != result.baseline.fingerprint:
        raise ModuleError(f"{rule} the one that the search began with; it has changed since: {remedy}")


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
