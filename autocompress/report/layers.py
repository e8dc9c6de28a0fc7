"""Layer by layer: how sensitive each one is, and what it lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from autocompress.records import CouplingSensitivity, Sensitivity
from autocompress.report.data import ReportData
from autocompress.report.plots import FAINT, PALETTE, PAPER, Plot, in_percent

_TOTAL = "whole model"


@dataclass(frozen=True)
class LayerRow:
    """A layer before and after."""

    name: str  # of the layer
    kind: str  # its class
    width: tuple[int | None, int | None]  # filters before and after; None where it has none or it is not known
    parameters: tuple[int | None, int | None]  # the same
    macs: tuple[int | None, int | None]  # the same
    seconds: tuple[float | None, float | None]  # the same
    total: bool = False  # whether it is the whole model's row


_FIELDS = ("width", "parameters", "macs", "seconds")


def layer_rows(data: ReportData) -> list[LayerRow]:
    """The layers of the uncompressed model and what is left of each; the whole model last."""
    sizes, best = data.sizes, data.best
    if sizes is None or best is None:
        return []
    after: dict[str, Any] = {layer.name: layer for layer in sizes.after}
    rows = [
        LayerRow(layer.name, layer.kind, *(_pair(layer, after, field) for field in _FIELDS)) for layer in sizes.before
    ]
    whole = data.plan.measured.measurement
    left = [round(share * (1 - (gone or 0))) for share, gone in (
        (whole.nonzero_parameters, best.parameters_removed), (whole.macs, best.macs_removed)
    )]  # fmt: skip
    times = (sizes.seconds_before, sizes.seconds_after)
    counts = ((None, None), (whole.nonzero_parameters, left[0]), (whole.macs, left[1]))
    return [*rows, LayerRow(_TOTAL, "", *counts, times, total=True)]


def _pair(layer: Any, after: dict[str, Any], field: str) -> Any:
    left = after.get(layer.name)
    gone = 0 if after else None  # a layer that was removed, or a model whose layers cannot be distinguished
    return getattr(layer, field), gone if left is None else getattr(left, field)


_CAPTION = (
    "How sensitive each layer is: how far the outputs move where it alone loses filters. Layers that lose filters "
    "together are one line, named by the first."
)
_BEST = " Points: what the best model has left, at about the same damage in each."
_MOST_NAMED = 8
_DECADES = 4
_STEPS = 100


def sensitivity_plots(data: ReportData) -> dict[str, Plot]:
    """File name -> plot of each algorithm's sensitivities; none where no allocation needed them."""
    found = data.plan.measured.sensitivities
    return {
        f"sensitivity-{each.algorithm}" if len(found) > 1 else "sensitivity": Plot(
            _CAPTION + (_BEST if _kept(data, each) else ""),
            lambda axes, each=each: draw_sensitivity(data, axes, each),  # type: ignore[misc]
        )
        for each in found
    }


def draw_sensitivity(data: ReportData, axes: Axes, found: Sensitivity) -> None:
    """Damage against the share of filters removed: a line for each coupling, and what the best model lost.

    Where there are many, the most sensitive ones and the least are named.
    """
    highest = max((each.damage[-1] for each in found.couplings), default=1.0) or 1.0
    lowest = highest / 10**_DECADES
    order = sorted(found.couplings, key=lambda each: -each.at(0.5))
    half = _MOST_NAMED // 2
    named = order if len(order) <= _MOST_NAMED else [*order[:half], *order[-half:]]
    kept = _kept(data, found)
    for each in [*(each for each in order if each not in named), *named]:
        own = PALETTE[named.index(each)] if each in named else FAINT
        gone = sorted({*(1 - share for share in each.kept), *(step / _STEPS for step in range(1, _STEPS))})
        gone = [lost for lost in gone if lost <= 1 - each.kept[-1]]
        line = axes.plot(gone, [max(each.at(1 - lost), lowest) for lost in gone], color=own, linewidth=1.5)[0]
        line.set(label=each.layers[0] if each in named else "_", alpha=1.0 if each in named else 0.35)
        if each.layers[0] in kept:
            lost = 1 - kept[each.layers[0]]
            axes.scatter(lost, max(each.at(1 - lost), lowest), s=34, color=own, edgecolors=PAPER, zorder=4)
    axes.set_yscale("log")
    axes.set_ylim(lowest, highest * 1.6)
    axes.set(xlabel="filters removed from this layer alone", ylabel="how far outputs move")
    axes.set_xlim(0, 1)
    in_percent(axes)
    axes.legend(fontsize=8, loc="lower right", ncols=2, title=_title(order, named), title_fontsize=8)


def _title(order: list[CouplingSensitivity], named: list[CouplingSensitivity]) -> str:
    return "most sensitive first" if order == named else f"most and least sensitive of {len(order)}"


def _kept(data: ReportData, found: Sensitivity) -> dict[str, float]:
    """Share of the filters that the best model has left, by the first layer of each coupling."""
    rows = {row.name: row.width for row in layer_rows(data)}
    widths = {each.layers[0]: rows.get(each.layers[0], (None, None)) for each in found.couplings}
    return {name: left / before for name, (before, left) in widths.items() if before and left is not None}
