"""Render the pages' templates."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from autocompress.report.data import ReportData, reasons, recipe
from autocompress.report.format import duration, holds, number, percent, verdict
from autocompress.report.plot_style import png, svg
from autocompress.report.plots import plots
from autocompress.report.verdict import advice, findings, headline


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
    return environment


def _or_dash(value: float | None, layout: str) -> str:
    return "-" if value is None else layout.format(value)


_TOTAL = "whole model"


@dataclass(frozen=True)
class LayerRow:
    """A layer before and after."""

    name: str  # of the layer
    kind: str  # its class
    parameters: tuple[int | None, int | None]  # before and after; None where it is not known
    macs: tuple[int | None, int | None]  # the same
    seconds: tuple[float | None, float | None]  # the same
    total: bool = False  # whether it is the whole model's row


def page(data: ReportData, trials: str) -> str:
    """The page's HTML; `trials` is the path of the trials' directories relative to it."""
    return rendered(
        "experiment.html",
        title=f"{data.module}: compression report",
        data=data,
        headline=headline(data),
        findings=findings(data),
        advice=advice(data),
        tiles=tiles(data),
        pictures=[(caption, svg(draw, themed=True)) for caption, draw in plots(data).values()],
        trials=list(zip(data.records, reasons(data), strict=True)),
        place=trials,
        layers=layer_rows(data),
        recipe=(again := recipe(data)),
        described=json.dumps(again.content, indent=2),
        settings=json.dumps(data.plan.settings.to_dict(), indent=2),
        versions=sorted(data.plan.versions.items()),
    )


def notebook(data: ReportData) -> str:
    """The verdict and the plots, for a notebook's cell."""
    images = [(caption, base64.b64encode(png(draw)).decode()) for caption, draw in plots(data).values()]
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


def layer_rows(data: ReportData) -> list[LayerRow]:
    """The layers of the uncompressed model and what is left of each; the whole model last."""
    sizes, best = data.sizes, data.best
    if sizes is None or best is None:
        return []
    after: dict[str, Any] = {layer.name: layer for layer in sizes.after}
    rows = [
        LayerRow(layer.name, layer.kind, *(_pair(layer, after, field) for field in ("parameters", "macs", "seconds")))
        for layer in sizes.before
    ]
    whole = data.plan.measured.measurement
    left = [round(share * (1 - (gone or 0))) for share, gone in (
        (whole.nonzero_parameters, best.parameters_removed), (whole.macs, best.macs_removed)
    )]  # fmt: skip
    times = (sizes.seconds_before, sizes.seconds_after)
    return [*rows, LayerRow(_TOTAL, "", (whole.nonzero_parameters, left[0]), (whole.macs, left[1]), times, total=True)]


def _pair(layer: Any, after: dict[str, Any], field: str) -> Any:
    left = after.get(layer.name)
    gone = 0 if after else None  # a layer that was removed, or a model whose layers cannot be distinguished
    return getattr(layer, field), gone if left is None else getattr(left, field)
