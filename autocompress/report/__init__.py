"""Reports: tables, plots and pages of an experiment's files. They decide nothing and load no model."""

from __future__ import annotations

import os
from pathlib import Path

from autocompress.store import ExperimentDirectory


def write_report(directory: ExperimentDirectory, path: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of an experiment, finished or not: one self-contained HTML file, and its plots.

    Args:
        directory: the experiment.
        path: the HTML file; `report.html` in the experiment's directory by default. The plots are written beside it, in
            `plots/`, as SVG and PNG.

    Returns:
        the HTML file.

    Raises:
        StoreError: there is no experiment, its files are damaged, or the report cannot be written.
    """
    from autocompress.report.page import write  # draws: matplotlib is loaded when it is needed

    return write(directory, Path(path) if path is not None else directory.path / "report.html")
