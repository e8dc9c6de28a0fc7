"""`autocompress check`: the table of what applies to a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from autocompress.report.phrases import percent

if TYPE_CHECKING:
    from autocompress.budget import AccuracyBudget
    from autocompress.records import Preflight
    from autocompress.trial.checking import AlgorithmCheck, Reduction

_COLUMNS = ("algorithm", "rate", "achieved", "removed", "MACs", "saved", "sec", "verdict")


def tried(
    module: str, search_space: Path | None, budget: AccuracyBudget | None = None
) -> tuple[list[AlgorithmCheck], Preflight, list[str]]:
    """Make the preflight, and try the algorithms of a search space, or all, in another process.

    Args:
        module: reference to the user's module.
        search_space: its file; None: every algorithm.
        budget: the tolerated accuracy degradation; None: the default.

    Returns:
        what became of each algorithm; what the preflight found; and that in words, a line each.

    Raises:
        AutoCompressError: there is no such module, or the search space breaks a rule.
    """
    from autocompress.compress.loading import ModuleReference
    from autocompress.config import AccuracyAwareSettings, SearchSpace, load_search_space
    from autocompress.engines.preflight import duration, findings, length_of_space
    from autocompress.trial.checking import AlgorithmCheck
    from autocompress.trial.child import check_in_child

    space = None if search_space is None else load_search_space(search_space).wire
    settings = AccuracyAwareSettings()
    settings = settings if budget is None else settings.with_budget(budget)
    checks, preflight = check_in_child(ModuleReference.parse(module).to_dict(), space, settings)
    lines = findings(preflight)
    if space is not None:
        lines.append(duration(preflight, length_of_space(SearchSpace.parse(space), settings)))
    lines += [f"warning: {each}" for each in preflight.warnings]
    return [AlgorithmCheck.from_dict(check) for check in checks], preflight, lines


def checks_table(checks: Sequence[AlgorithmCheck]) -> Table:
    """A row for each rate an algorithm was tried at, or one that says why it does not apply."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in _COLUMNS:
        justify: JustifyMethod = "left" if column in ("algorithm", "verdict") else "right"
        table.add_column(column, justify=justify, no_wrap=column != "verdict")
    for check in checks:
        if not check.applies:
            table.add_row(check.algorithm, *[""] * 6, Text(f"does not apply: {check.reason}", style="yellow"))
        for index, reduction in enumerate(check.reductions):
            first = index == 0
            table.add_row(check.algorithm if first else "", *_cells(reduction), _verdict(check) if first else "")
    return table


def layers_left_alone(checks: Sequence[AlgorithmCheck]) -> list[str]:
    """Why layers keep their filters, each sentence once, behind the names of the algorithms that it holds for."""
    reasons: dict[str, list[str]] = {}
    for check in checks:
        for why in dict.fromkeys(check.left_alone.values()):
            reasons.setdefault(why, []).append(check.algorithm)
    return [f"{', '.join(algorithms)}: left alone: {why}" for why, algorithms in reasons.items()]


def _cells(reduction: Reduction) -> tuple[str, ...]:
    requested = "-" if reduction.requested_rate is None else f"{reduction.requested_rate:.3f}"
    return (
        requested,
        f"{reduction.compression_rate:.3f}",
        percent(reduction.parameters_removed),
        percent(reduction.macs_removed),
        percent(reduction.size_removed),
        f"{reduction.seconds:.1f}",
    )


def _verdict(check: AlgorithmCheck) -> Text:
    notes = ["simulated"] if check.simulated else []
    notes += [] if check.fine_tunes else ["no trainer: only evaluated"]
    return Text("applies" + (f" ({', '.join(notes)})" if notes else ""), style="green")
