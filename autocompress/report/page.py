"""The pages of reports and of comparisons, rendered from templates and written with their plots."""

from __future__ import annotations

import base64
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from autocompress.errors import StoreError, command
from autocompress.report.comparison import Comparison, SearchOutcome, Spread, TunerRow
from autocompress.report.data import ReportData, best_scored, read_report_data, reasons, recipe
from autocompress.report.layers import layer_rows, sensitivity_plots
from autocompress.report.plots import PALETTE, Plot, plots
from autocompress.report.verdict import advice, counted, duration, findings, headline, holds, number, percent, verdict
from autocompress.store import ExperimentDirectory
from autocompress.store.directory import usable_path, write_json


def rendered(template: str, **values: Any) -> str:
    """A page as HTML; values are escaped."""
    return _environment().get_template(template).render(version=version("autocompress"), **values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("autocompress.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        percent=percent,
        duration=duration,
        verdict=verdict,
        holds=holds,
        count=lambda value: _or_dash(value, "{:,}"),
        signed=lambda value: _or_dash(value, "{:+.2g}"),
        milliseconds=lambda seconds: _or_dash(seconds and 1000 * seconds, "{:.3g}"),
    )
    environment.globals["command"] = command
    return environment


def _or_dash(value: float | None, layout: str) -> str:
    return "-" if value is None else layout.format(value)


_MOST_ROWS = 1000
"""Trials in the table."""


def page(data: ReportData, trials: str, drawn: Mapping[str, Plot] | None = None) -> str:
    """The page's HTML.

    Args:
        data: of the experiment.
        trials: path of the trials' directories relative to the page.
        drawn: its plots, where they have been drawn.
    """
    listed = {id(record) for record in best_scored(data.records, _MOST_ROWS)}
    rows = enumerate(zip(data.records, reasons(data), strict=True), 1)
    return rendered(
        "experiment.html",
        title=f"{data.module}: compression report",
        data=data,
        headline=headline(data),
        findings=findings(data),
        advice=advice(data),
        tiles=tiles(data),
        pictures=[(plot.caption, plot.svg(themed=True)) for plot in (drawn or all_plots(data)).values()],
        trials=[(index, record, reason) for index, (record, reason) in rows if id(record) in listed],
        place=trials,
        layers=layer_rows(data),
        recipe=(again := recipe(data)),
        described=json.dumps(again.content, indent=2),
        settings=json.dumps(data.plan.settings.to_dict(), indent=2),
        versions=sorted(data.plan.versions.items()),
    )


def all_plots(data: ReportData) -> dict[str, Plot]:
    """File name -> plot, of those that this experiment has data for."""
    return {**plots(data), **sensitivity_plots(data)}


def notebook(data: ReportData) -> str:
    """The verdict and the plots, for a notebook's cell."""
    images = [(plot.caption, base64.b64encode(plot.png()).decode()) for plot in plots(data).values()]
    pictures = [(caption, f"data:image/png;base64,{image}") for caption, image in images]
    return rendered("notebook.html", headline=headline(data), findings=findings(data), pictures=pictures)


def tiles(data: ReportData) -> list[tuple[str, str]]:
    """Label and value of the most important figures; empty without a feasible trial."""
    best, verdict = data.best, data.verdict
    if best is None:
        return []
    figures: Iterable[tuple[str, str | None]] = (
        ("parameters removed", percent(best.parameters_removed)),
        ("multiply-accumulates removed", percent(best.macs_removed)),
        ("bytes saved", percent(best.size_removed)),
        (f"accuracy, {number(data.plan.measured.accuracy)} before", number(best.accuracy)),
        (
            f"hold-out accuracy, {number(data.plan.measured.holdout_accuracy)} before",
            number(verdict.holdout_accuracy) if verdict and verdict.holdout_accuracy is not None else None,
        ),
    )
    return [(label, figure) for label, figure in figures if figure is not None]


_RATE = "Best rate within the budget against epochs of training: medians over seeds, the first tuner's range as a band."
HEADS = ("tuner", "best rate", "hold-out", "trials to best", "epochs to best", "false", "trials", "epochs", "seconds")
"""Of the table's columns."""


def comparison_page(comparison: Comparison, drawn: Mapping[str, Plot] | None = None) -> str:
    """The page's HTML; `drawn`: its plots, where they have been drawn."""
    drawn = drawn or comparison_plots(comparison)
    pictures = [(plot.caption, plot.svg(themed=True)) for plot in drawn.values()]
    return rendered(
        "comparison.html",
        title=f"{comparison.module}: tuners compared",
        comparison=comparison,
        headline=comparison_headline(comparison),
        explanation=explanation(comparison),
        pictures=pictures,
        heads=HEADS,
        rows=[(row, cells(row)) for row in comparison.rows],
        outcomes=comparison.outcomes,
    )


def comparison_headline(comparison: Comparison) -> str:
    """The result in one sentence."""
    rows = [row for row in comparison.rows if row.epochs_to_best.median is not None]
    if not rows or comparison.best_known is None:
        return "No tuner found anything within the accuracy budget."
    first = rows[0]
    missing = f" (but for {counted(first.epochs_to_best.missing, 'seed')})" if first.epochs_to_best.missing else ""
    return (
        f"{first.tuner} came within {number(comparison.minimal_step)} of the best known rate, "
        f"{number(comparison.best_known)}, after {number(first.epochs_to_best.median)} epochs of training{missing}."
    )


def explanation(comparison: Comparison) -> str:
    """How to read the table."""
    seeds = len({each.seed for each in comparison.outcomes})
    return (
        f"At most {comparison.trials} trials each, {counted(seeds, 'seed')}: median [range]; -N: N seeds never had it. "
        f"best rate: highest achieved {comparison.objective} within the budget (uncompressed accuracy "
        f"{number(comparison.baseline_accuracy)}, threshold {number(comparison.threshold)}). to best: until within "
        f"{number(comparison.minimal_step)} of the best known rate. false: trials within the budget on validation data "
        "and outside it on hold-out data. seconds: wall time of the trials."
    )


def comparison_plots(comparison: Comparison) -> dict[str, Plot]:
    """File name -> plot."""
    return {"comparison": Plot(_RATE, lambda axes: _draw(comparison, axes))}


def cells(row: TunerRow) -> list[str]:
    """A tuner's row as text, under `HEADS` without the name."""
    return [_spread_text(spread, 3 if spread is row.seconds else 4) for spread in row.spreads]


def _spread_text(spread: Spread, digits: int) -> str:
    if spread.median is None:
        return "never" if spread.missing else "-"
    text = number(spread.median, digits)
    if spread.low != spread.high:
        text += f" [{number(spread.low, digits)}, {number(spread.high, digits)}]"
    return f"{text} -{spread.missing}" if spread.missing else text


def _draw(comparison: Comparison, axes: Axes) -> None:
    names = [row.tuner for row in comparison.rows]
    longest = max((each.epochs for each in comparison.outcomes), default=0)
    for index, name in enumerate(names):
        searches = [each for each in comparison.outcomes if each.tuner == name and each.path]
        if searches:
            _draw_tuner(axes, searches, PALETTE[index % len(PALETTE)], longest, first=index == 0)
    axes.set(xlabel="epochs of training", ylabel="best rate within the budget")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(fontsize=8, loc="lower right")


def _draw_tuner(axes: Axes, searches: Sequence[SearchOutcome], colour: str, longest: int, *, first: bool) -> None:
    epochs = sorted({0, longest, *(point.epochs for each in searches for point in each.path)})
    reached = [[_at(each, moment) for each in searches] for moment in epochs]
    medians = [statistics.median(values) for values in reached]
    width = 2.4 if first else 1.3
    axes.step(
        epochs, medians, where="post", color=colour, linewidth=width, label=searches[0].tuner, zorder=4 if first else 3
    )
    if first:  # all bands above each other would hide one another
        low, high = [min(values) for values in reached], [max(values) for values in reached]
        axes.fill_between(epochs, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


def _at(search: SearchOutcome, epochs: int) -> float:
    known = [point.best for point in search.path if point.epochs <= epochs and point.best is not None]
    return known[-1] if known else 0.0


def write(directory: ExperimentDirectory, path: Path) -> Path:
    """Write the page and the plots of an experiment."""
    data = read_report_data(directory)
    usable_path(path)  # not resolved, as it may be a link, which is refused
    path = usable_path(path.parent) / path.name
    trials = os.path.relpath(directory.path / "trials", path.parent)
    drawn = all_plots(data)
    _write(path, page(data, trials, drawn), drawn)
    return path


def write_comparison(comparison: Comparison, directory: Path) -> Path:
    """Write `comparison.json`, `comparison.html`, and the plot as SVG and PNG in `plots/`; the page is returned."""
    path, drawn = directory / "comparison.html", comparison_plots(comparison)
    write_json(directory / "comparison.json", comparison.to_dict())
    _write(path, comparison_page(comparison, drawn), drawn)
    return path


def _refuse_links(*paths: Path) -> None:
    """A directory from elsewhere may contain links that lead out of it."""
    for path in paths:
        if path.is_symlink():
            raise StoreError(f"a report must not be written through a link; {path} leads to {path.readlink()}")


def _write(path: Path, text: str, drawn: Mapping[str, Plot]) -> None:
    try:
        folder = path.parent / "plots"
        _refuse_links(path, folder, *folder.glob("*"))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for name, plot in drawn.items():
            plot.write(folder / name)
    except OSError as error:
        raise StoreError(f"the report {path} cannot be written: {error}") from error
