"""One self-contained HTML page about an experiment: no other file and no network is needed to read it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autocompress.report.drawing import png, svg
from autocompress.report.phrases import number, percent
from autocompress.report.plots import plots
from autocompress.report.reasons import reasons
from autocompress.report.reproduce import recipe
from autocompress.report.story import Story
from autocompress.report.templates import rendered
from autocompress.report.words import advice, findings, headline

_TOTAL = "whole model"


@dataclass(frozen=True)
class LayerRow:
    """A layer before and after.

    Attributes:
        name: of the layer.
        kind: its class.
        parameters: before and after; None where it is not known.
        macs: the same.
        seconds: the same.
        total: whether it is the whole model's row.
    """

    name: str
    kind: str
    parameters: tuple[int | None, int | None]
    macs: tuple[int | None, int | None]
    seconds: tuple[float | None, float | None]
    total: bool = False


def page(story: Story, trials: str) -> str:
    """The page's HTML.

    Args:
        story: the experiment's.
        trials: where the trials' directories are, from where the page is.
    """
    return rendered(
        "experiment.html",
        title=f"{story.module}: compression report",
        story=story,
        headline=headline(story),
        findings=findings(story),
        advice=advice(story),
        tiles=tiles(story),
        pictures=[(caption, svg(draw, themed=True)) for caption, draw in plots(story).values()],
        trials=list(zip(story.records, reasons(story), strict=True)),
        place=trials,
        layers=layer_rows(story),
        recipe=(again := recipe(story)),
        described=json.dumps(again.content, indent=2),
        settings=json.dumps(story.settings["settings"], indent=2),
        versions=sorted(story.settings["versions"].items()),
    )


def notebook(story: Story) -> str:
    """The verdict and the plots, for a notebook's cell."""
    pictures = [(caption, _data_url(png(draw))) for caption, draw in plots(story).values()]
    return rendered("notebook.html", headline=headline(story), findings=findings(story), pictures=pictures)


def _data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def tiles(story: Story) -> list[tuple[str, str]]:
    """Label and figure of what matters most; empty where nothing was found."""
    best, verdict = story.best, story.verdict
    if best is None:
        return []
    shown: Iterable[tuple[str, str | None]] = (
        ("parameters removed", percent(best.parameters_removed)),
        ("multiply-accumulates removed", percent(best.macs_removed)),
        ("bytes saved", percent(best.size_removed)),
        (f"accuracy, {number(story.baseline.accuracy)} before", number(best.accuracy)),
        (
            f"hold-out accuracy, {number(story.baseline.holdout_accuracy)} before",
            number(verdict.holdout_accuracy) if verdict and verdict.holdout_accuracy is not None else None,
        ),
    )
    return [(label, figure) for label, figure in shown if figure is not None]


def layer_rows(story: Story) -> list[LayerRow]:
    """The layers of the uncompressed model beside what is left of each, the whole model last."""
    sizes, best = story.sizes, story.best
    if sizes is None or best is None:
        return []
    after: dict[str, Any] = {layer.name: layer for layer in sizes.after}
    rows = [
        LayerRow(layer.name, layer.kind, *(_pair(layer, after, field) for field in ("parameters", "macs", "seconds")))
        for layer in sizes.before
    ]
    whole = story.baseline.measurement
    left = [round(share * (1 - (gone or 0))) for share, gone in (
        (whole.nonzero_parameters, best.parameters_removed), (whole.macs, best.macs_removed)
    )]  # fmt: skip
    times = (sizes.seconds_before, sizes.seconds_after)
    return [*rows, LayerRow(_TOTAL, "", (whole.nonzero_parameters, left[0]), (whole.macs, left[1]), times, total=True)]


def _pair(layer: Any, after: dict[str, Any], field: str) -> Any:
    left = after.get(layer.name)
    gone = 0 if after else None  # a layer that is not there any more, or a model whose layers cannot be told apart
    return getattr(layer, field), gone if left is None else getattr(left, field)
