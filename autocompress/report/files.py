"""Write reports' files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from autocompress.errors import StoreError
from autocompress.report.comparison import Comparison
from autocompress.report.comparison_page import comparison_page, comparison_plots
from autocompress.report.data import read_report_data
from autocompress.report.page import page
from autocompress.report.plot_style import Draw
from autocompress.report.plot_style import write as write_plot
from autocompress.report.plots import plots
from autocompress.store import ExperimentDirectory
from autocompress.store.disk import write_json


def write(directory: ExperimentDirectory, path: Path) -> Path:
    """Write the page and the plots of an experiment."""
    data, path = read_report_data(directory), path.expanduser()
    path = path.parent.resolve() / path.name
    trials = os.path.relpath(directory.path / "trials", path.parent)
    _write(path, page(data, trials), plots(data))
    return path


def write_comparison(comparison: Comparison, directory: Path) -> Path:
    """Write `comparison.json`, `comparison.html`, and the plot as SVG and PNG in `plots/`; the page is returned."""
    path = directory / "comparison.html"
    write_json(directory / "comparison.json", comparison.to_dict())
    _write(path, comparison_page(comparison), comparison_plots(comparison))
    return path


def _refuse_links(*paths: Path) -> None:
    """A directory from elsewhere may contain links that lead out of it."""
    for path in paths:
        if path.is_symlink():
            raise StoreError(f"a report must not be written through a link; {path} leads to {path.readlink()}")


def _write(path: Path, text: str, drawn: Mapping[str, tuple[str, Draw]]) -> None:
    try:
        folder = path.parent / "plots"
        _refuse_links(path, folder, *folder.glob("*"))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for name, (_, draw) in drawn.items():
            write_plot(draw, folder / name)
    except OSError as error:
        raise StoreError(f"the report {path} cannot be written: {error}") from error
