"""Filling in the pages' templates."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from autocompress.report.phrases import duration, holds, number, percent, verdict


def rendered(template: str, **values: Any) -> str:
    """A page as HTML; what comes from outside is escaped."""
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
        count=_count,
        signed=_signed,
        milliseconds=_milliseconds,
    )
    return environment


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2g}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g}"
