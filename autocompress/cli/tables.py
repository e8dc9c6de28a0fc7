"""What the commands print: tables and lines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from autocompress.errors import printable
from autocompress.records import TrialRecord
from autocompress.report.verdict import counted, disagreement, holds, number, percent, verdict
from autocompress.store import Verdict

if TYPE_CHECKING:
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.records import Preflight
    from autocompress.report.comparison import Comparison, SearchOutcome
    from autocompress.search_space import SearchSpaceSource
    from autocompress.setting_fields import SettingDescription
    from autocompress.settings import AccuracyAwareSettings
    from autocompress.trial.check import AlgorithmCheck, Reduction


_PIPED_WIDTH = 1000


def piped_console() -> Console:
    """Standard output; where it is no terminal, nothing is cut or wrapped."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)


_COLUMNS = (
    "#",
    "algorithm",
    "rate",
    "achieved",
    "removed",
    "saved",
    "accuracy",
    "budget",
    "epochs",
    "sec",
    "verdict",
)
_LEFT = ("algorithm", "verdict")


def trials_table(
    records: Iterable[TrialRecord],
    first: int = 1,
    *,
    cut: bool = False,
    verdicts: Mapping[str, Verdict] = MappingProxyType({}),
) -> Table:
    """One row a trial: requested and achieved rate, share of parameters removed, of bytes saved, accuracy, verdict.

    Args:
        records: the rows.
        first: number of the first of them.
        cut: cut long reasons of failure to the width instead of wrapping them.
        verdicts: what trials' models came to when they were loaded afresh, by the trials' keys.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in _COLUMNS:
        justify: JustifyMethod = "left" if column in _LEFT else "right"
        table.add_column(column, justify=justify, no_wrap=cut or column != "verdict")
    for index, record in enumerate(records, first):
        table.add_row(str(index), *_cells(record), styled_verdict(record, verdicts.get(record.key)))
    return table


def trial_lines(records: Iterable[TrialRecord], verdicts: Mapping[str, Verdict]) -> list[str]:
    """The same table as aligned lines of plain text, quickly; nothing is cut or wrapped."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for index, record in enumerate(records, 1):
        rows.append((str(index), *_cells(record), verdict(record, verdicts.get(record.key))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    layout = " ".join(
        f"{{:{'<' if name in _LEFT else '>'}{width}}}" for name, width in zip(_COLUMNS, widths, strict=True)
    )
    return [layout.format(*row).rstrip() for row in rows]


def styled_verdict(record: TrialRecord, fresh: Verdict | None = None) -> Text:
    """The verdict in its colour."""
    text, sure = verdict(record, fresh), holds(record, fresh) and disagreement(record, fresh) is None
    if record.error is not None:
        return Text(text, style="red", overflow="ellipsis")
    return Text(text, style="green" if sure else "yellow", overflow="ellipsis")


def _cells(record: TrialRecord) -> tuple[str, ...]:
    return (
        printable(record.algorithm),
        _aligned(record.requested_rate),
        _aligned(record.achieved_rate),
        percent(record.parameters_removed),
        percent(record.size_removed),
        _aligned(record.accuracy),
        _signed(record.accuracy_margin, _layout(record.accuracy_margin, "+")),
        str(record.epochs),
        f"{record.seconds:.1f}",
    )


def _aligned(value: float | None) -> str:
    """A number with as many decimals as its neighbours in a column have, so that their points are in line."""
    return _signed(value, _layout(value))


def _layout(value: float | None, sign: str = "") -> str:
    size = abs(value or 0.0)
    if size >= 10 or 0 < size < 0.0001:
        return f"{sign}.4g"
    return f"{sign}.4f"


def _signed(value: float | None, layout: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, layout)


_CHECK_COLUMNS = ("algorithm", "rate", "achieved", "removed", "MACs", "saved", "sec", "verdict")


def check_algorithms(
    module: ModuleReference, search_space: SearchSpaceSource | None, settings: AccuracyAwareSettings
) -> tuple[list[AlgorithmCheck], Preflight, list[str]]:
    """Make the preflight, and try the algorithms of a search space, or all, in another process.

    Args:
        module: the user's.
        search_space: whose algorithms are tried; None: every algorithm.
        settings: of the search that may follow.

    Returns:
        the check of each algorithm; the preflight; and that in words, a line each.

    Raises:
        AutoCompressError: there is no such module, or the search space breaks a rule.
    """
    from autocompress.engines.start import duration, findings, length_of_space
    from autocompress.search_space import load_search_space
    from autocompress.trial.check import AlgorithmCheck
    from autocompress.trial.child import check_in_child

    space = None if search_space is None else load_search_space(search_space)
    checks, preflight = check_in_child(module.to_dict(), None if space is None else space.wire, settings)
    lines = findings(preflight)
    if space is not None:
        lines.append(duration(preflight, length_of_space(space, settings)))
    lines += [f"warning: {each}" for each in preflight.warnings]
    return [AlgorithmCheck.from_dict(check) for check in checks], preflight, lines


def checks_table(checks: Sequence[AlgorithmCheck]) -> Table:
    """A row for each rate an algorithm was tried at, or one for an algorithm that does not apply."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in _CHECK_COLUMNS:
        justify: JustifyMethod = "left" if column in ("algorithm", "verdict") else "right"
        table.add_column(column, justify=justify, no_wrap=column != "verdict")
    for check in checks:
        if not check.applies:
            table.add_row(check.algorithm, *[""] * 6, Text("does not apply", style="yellow"))
        for index, reduction in enumerate(check.reductions):
            first = index == 0
            table.add_row(check.algorithm if first else "", *_check_cells(reduction), _verdict(check) if first else "")
    return table


def reasons_against(checks: Sequence[AlgorithmCheck]) -> list[str]:
    """Why algorithms do not apply, a line each: in the table such a reason would be a column of single words."""
    return [f"{check.algorithm} does not apply: {check.reason}" for check in checks if not check.applies]


def layers_left_alone(checks: Sequence[AlgorithmCheck]) -> list[str]:
    """What can lose filters, and why layers keep theirs: each sentence once, behind the names of its algorithms."""
    reasons: dict[str, list[str]] = {}
    for check in checks:
        why_left = [f"left alone: {why}" for why in check.left_alone.values()]
        for sentence in dict.fromkeys([*filter(None, [check.coverage]), *why_left]):
            reasons.setdefault(sentence, []).append(check.algorithm)
    return [f"{', '.join(algorithms)}: {sentence}" for sentence, algorithms in reasons.items()]


def _check_cells(reduction: Reduction) -> tuple[str, ...]:
    requested = "-" if reduction.requested_rate is None else f"{reduction.requested_rate:.3f}"
    return (
        requested,
        f"{reduction.achieved_rate:.3f}",
        percent(reduction.parameters_removed),
        percent(reduction.macs_removed),
        percent(reduction.size_removed),
        f"{reduction.seconds:.1f}",
    )


def _verdict(check: AlgorithmCheck) -> Text:
    notes = ["simulated"] if check.simulated else []
    notes += [] if check.fine_tunes else ["no trainer: only evaluated"]
    return Text("applies" + (f" ({', '.join(notes)})" if notes else ""), style="green")


def setting_text(setting: SettingDescription, default: Any) -> str:
    """A setting and its default as --set takes them, what is allowed, and what it does."""
    return f"{setting.name}={'...' if default is ... else json.dumps(default)}  ({setting.rule})\n    {setting.help}"


def outcome_line(outcome: SearchOutcome) -> str:
    """A search that has ended, in one line."""
    named = f"{outcome.tuner}, seed {outcome.seed}"
    if outcome.error is not None:
        return f"{named}: {outcome.error}"
    best = "nothing within the budget" if outcome.best_rate is None else f"best rate {number(outcome.best_rate)}"
    return f"{named}: {best}, {counted(outcome.trials, 'trial')}, {counted(outcome.epochs, 'epoch')}"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The comparison_headline, the table, how it is to be read, and the tuners without results."""
    from autocompress.report.page import HEADS, cells, comparison_headline, explanation

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in HEADS:
        table.add_column(head, justify="left" if head == HEADS[0] else "right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(*(Text(text) for text in (row.tuner, *cells(row))))
    console.print(comparison_headline(comparison), soft_wrap=True, highlight=False)
    console.print(table)
    console.print(explanation(comparison), style="dim", highlight=False, markup=False)
    for row in comparison.rows:
        for error in row.errors:
            console.print(f"{row.tuner}: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
