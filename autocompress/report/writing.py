"""Writing a report's files."""

from __future__ import annotations

import os
from pathlib import Path

from autocompress.errors import StoreError
from autocompress.report.drawing import write as write_plot
from autocompress.report.page import page
from autocompress.report.plots import plots
from autocompress.report.story import story_of
from autocompress.store import ExperimentDirectory


def write(directory: ExperimentDirectory, path: Path) -> Path:
    """See `autocompress.report.write_report`."""
    story, path = story_of(directory), path.expanduser().resolve()
    trials = os.path.relpath(directory.path / "trials", path.parent)
    try:
        (path.parent / "plots").mkdir(parents=True, exist_ok=True)
        path.write_text(page(story, trials), encoding="utf-8")
        for name, (_, draw) in plots(story).items():
            write_plot(draw, path.parent / "plots" / name)
    except OSError as error:
        raise StoreError(f"the report {path} cannot be written: {error}") from error
    return path
