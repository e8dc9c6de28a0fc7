"""The result of an experiment in words: headline, findings and advice; trials that verification contradicts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from autocompress.budget import accuracy_margin
from autocompress.errors import beginning, evaluates_differently, printable
from autocompress.records import TrialRecord
from autocompress.registry import algorithms
from autocompress.search import nearest_accuracy
from autocompress.search.noise import is_within_noise
from autocompress.store import Verdict

if TYPE_CHECKING:
    from autocompress.report.data import ReportData

_MOST_SENTENCES = 3


def number(value: float | None, digits: int = 4) -> str:
    """A number with the given significant digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share as percent; a dash for none."""
    return "-" if share is None else f"{share:.1%}"


def counted(count: int, what: str) -> str:
    """A number of things."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def gain(record: TrialRecord) -> str:
    """How much smaller the model is."""
    return f"{percent(record.parameters_removed)} of the parameters removed, {percent(record.size_removed)} smaller"


def at_rate(algorithm: str, rate: float | None) -> str:
    """An algorithm and its requested rate, if any."""
    algorithm = printable(algorithm)
    return algorithm if rate is None else f"{algorithm} at rate {number(rate)}"


def verdict(record: TrialRecord, fresh: Verdict | None = None) -> str:
    """Whether a trial is within the budget, or why it has no result; `fresh` is the verification of its checkpoint."""
    if record.error is not None:
        return f"{record.state}: {beginning(record.error)}"
    stopped = "" if record.state == "completed" else f"{record.state}, "
    text = f"{stopped}{'within' if holds(record, fresh) else 'outside'}"
    text += " by less than the noise" if is_within_noise(record.accuracy_margin, record.accuracy_error) else ""
    if not record.feasible and 0 <= (record.accuracy_margin or 0.0) < record.required_margin:
        text += f"; a margin of {number(record.required_margin, 2)} is required"
    if not record.feasible and record.simulated_accuracy not in (None, record.accuracy):
        text += f" as int8; {number(record.simulated_accuracy)} in simulation"
    differs = None if fresh is None else evaluates_differently(fresh.accuracy, record.accuracy)
    return text if differs is None else f"{text}; {differs}"


def trial_line(record: TrialRecord, index: int) -> str:
    """One finished trial in one line of plain text."""
    named = f"trial {index}: {at_rate(record.algorithm, record.requested_rate)}{_aim(record)}: "
    if record.accuracy is None:
        return f"{named}{verdict(record)}"
    margin = "-" if record.accuracy_margin is None else f"{record.accuracy_margin:+.2g}{with_error(record)}"
    return (
        f"{named}accuracy {number(record.accuracy)} ({margin} to the threshold), {gain(record)}, "
        f"{counted(record.epochs, 'epoch')}, {record.seconds:.1f} s: {verdict(record)}"
    )


def with_error(record: TrialRecord) -> str:
    """The standard error of a trial's accuracy margin, to stand behind it; empty where it is not known."""
    return "" if record.accuracy_error is None else f" +- {number(record.accuracy_error, 2)}"


def closeness(record: TrialRecord, *, paired: bool) -> str:
    """How far a trial is from the threshold, its standard error, and which of them is larger; "-" for no accuracy.

    Args:
        record: the trial's.
        paired: whether it was compared with the uncompressed model sample by sample.
    """
    margin, error = record.accuracy_margin, record.accuracy_error
    if margin is None:
        return "-"
    text = f"{number(abs(margin), 2)}{with_error(record)} {'inside' if margin >= 0 else 'outside'} the threshold"
    if error is None:
        return text
    how = " (compared with the uncompressed model sample by sample)" if paired else ""
    return f"{text}{how}{': within the noise' if is_within_noise(margin, error) else ''}"


def _aim(record: TrialRecord) -> str:
    """What a trial is for, where that is not its rate."""
    if record.purpose == "learning_rate":
        return f" (learning rates times {number(record.lr_factor)})"
    return {"beyond": " (one step beyond)", "final": " (trained to the end)"}.get(record.purpose, "")


def holds(record: TrialRecord, fresh: Verdict | None = None) -> bool:
    """Whether a trial is within the budget, and was when its checkpoint was verified."""
    return record.feasible and (fresh is None or fresh.feasible)


def disagreement(record: TrialRecord, fresh: Verdict | None) -> str | None:
    """How a trial's model evaluates differently when loaded afresh, without the subject; None where they agree."""
    return None if fresh is None else evaluates_differently(fresh.accuracy, record.accuracy)


def disagreements(records: Iterable[TrialRecord], verdicts: Mapping[str, Verdict]) -> list[str]:
    """A sentence about each trial whose model evaluates differently when loaded afresh, at most three."""
    found = [
        f"{at_rate(record.algorithm, record.requested_rate)} {sentence}"
        for record in records
        if (sentence := disagreement(record, verdicts.get(record.key))) is not None
    ]
    left = len(found) - _MOST_SENTENCES
    return found[:_MOST_SENTENCES] + ([f"and so {'does' if left == 1 else 'do'} {left} more"] if left > 0 else [])


def nearest_verified_accuracy(
    records: Iterable[TrialRecord], verdicts: Mapping[str, Verdict], threshold: float, *, higher_is_better: bool
) -> float | None:
    """The accuracy nearest to the threshold, or furthest inside it; verified ones count as they were verified."""
    return nearest_accuracy(_fresh(each, verdicts.get(each.key), threshold, higher_is_better) for each in records)


def _fresh(record: TrialRecord, fresh: Verdict | None, threshold: float, higher_is_better: bool) -> TrialRecord:
    if fresh is None:
        return record
    budget = accuracy_margin(fresh.accuracy, threshold, higher_is_better=higher_is_better)
    return dataclasses.replace(record, accuracy=fresh.accuracy, accuracy_margin=budget, feasible=fresh.feasible)


_SAME_EACH_TIME = (
    "Let the evaluator call model.eval(), and see the same data in the same order each time: its answers differ for "
    "one model."
)
_SURELY_INSIDE = 1.0
"""Margin in spreads of the last trial's accuracies beyond which a result is not called close."""


def headline(data: ReportData) -> str:
    """The result in one sentence."""
    best = data.best
    if best is None:
        return f"Nothing stayed within the accuracy budget in {counted(len(data.records), 'trial')}."
    return (
        f"{at_rate(best.algorithm, best.requested_rate)} removes {percent(best.parameters_removed)} of the parameters "
        f"and {percent(best.macs_removed)} of the multiply-accumulates, and makes the file "
        f"{percent(best.size_removed)} smaller, within the accuracy budget{_slower(data)}."
    )


_SURELY_SLOWER = 1.05


def _slower(data: ReportData) -> str:
    """What a headline must not leave out: the model that was found runs longer than the uncompressed one."""
    sizes = data.sizes
    if sizes is None or sizes.seconds_after <= _SURELY_SLOWER * sizes.seconds_before:
        return ""
    return f"; in PyTorch it takes {sizes.seconds_after / sizes.seconds_before:.2g} times as long"


def findings(data: ReportData) -> list[str]:
    """How certain the result is: accuracies, margins, the nearest failure, the cost."""
    return [
        text
        for text in (
            _accuracy(data),
            *_disagreements(data),
            _holdout(data),
            _sampling(data),
            _closeness(data),
            _failure(data),
            _conversions(data),
            _speed(data),
            _cost(data),
        )
        if text
    ]


def advice(data: ReportData) -> list[str]:
    """What to try next, the most promising first."""
    return _after_nothing(data) if data.best is None else _after_success(data)


def _accuracy(data: ReportData) -> str:
    base = f"{number(data.plan.measured.accuracy)} uncompressed, {number(data.plan.threshold)} tolerated"
    if data.best is None:
        higher = data.plan.measured.higher_is_better
        nearest = nearest_verified_accuracy(data.records, data.verdicts, data.plan.threshold, higher_is_better=higher)
        return f"Accuracy: {base}; the nearest trial reached {number(nearest)}."
    verdict = data.verdict
    checked = "not verified yet" if verdict is None else f"{number(verdict.accuracy)} when loaded afresh"
    close = closeness(data.best, paired=data.plan.measured.paired)
    return f"Accuracy: {number(data.best.accuracy)} ({base}): {close}; {checked}."


def _disagreements(data: ReportData) -> list[str]:
    return [f"Verification: {sentence}." for sentence in disagreements(data.records, data.verdicts)]


def _conversions(data: ReportData) -> str:
    """Trials that were within the budget only while rounding was simulated."""
    worse = [record for record in data.records if not record.feasible and data.simulated_margin(record) >= 0]
    if not worse:
        return ""
    last = worse[-1]
    return (
        f"Int8: {counted(len(worse), 'trial')} within the budget in simulation, and outside as the int8 model that was "
        f"saved; the last {at_rate(last.algorithm, last.requested_rate)}, {number(last.simulated_accuracy)} and "
        f"{number(last.accuracy)}."
    )


def _holdout(data: ReportData) -> str:
    if data.best is not None and data.plan.measured.holdout_accuracy is None:
        return "Hold-out: there is no such data, so that nothing checks the choice by validation data."
    margin, verdict = data.holdout_margin, data.verdict
    if margin is None or verdict is None:
        return ""
    return (
        f"Hold-out: {number(verdict.holdout_accuracy)} ({number(data.plan.measured.holdout_accuracy)} uncompressed, "
        f"{number(data.holdout_threshold)} tolerated by the same budget): {number(abs(margin), 2)} "
        f"{'inside' if margin >= 0 else 'outside'} it."
    )


def _sampling(data: ReportData) -> str:
    """What the number of samples alone leaves open, where it is known."""
    preflight, found = data.plan.measured.preflight, data.best
    accuracy = data.plan.measured.accuracy if found is None else found.accuracy
    error = data.standard_error(accuracy)
    if error is None or preflight is None or preflight.samples is None or data.plan.measured.paired:
        return ""
    text = f"Samples: {number(accuracy)} of {preflight.samples:,} has a standard error of {number(error, 2)}"
    margin = None if found is None else found.accuracy_margin
    if margin is None:
        return f"{text}."
    return f"{text}; the margin is {'more' if margin > _SURELY_INSIDE * error else 'no more'} than that."


def _closeness(data: ReportData) -> str:
    if data.best is None or (spread := data.spread(data.best)) is None:
        return ""
    width = spread[1] - spread[0]
    sure = (data.best.accuracy_margin or 0.0) > _SURELY_INSIDE * width
    compared = "more than" if sure else "no more than"
    end = "" if sure else " Another seed may fall on the other side."
    return f"Margin: {compared} the {number(width, 2)} by which its accuracy moved from epoch to epoch.{end}"


def _failure(data: ReportData) -> str:
    if data.best is None:
        return ""
    failure = data.nearest_failure
    if failure is None:
        return "Nearest failure: none; nothing beyond it was tried and fell outside the budget."
    return (
        f"Nearest failure: {at_rate(failure.algorithm, failure.requested_rate)}, accuracy {number(failure.accuracy)}, "
        f"short by {number(abs(failure.accuracy_margin or 0.0), 2)}."
    )


def _speed(data: ReportData) -> str:
    sizes = data.sizes
    if sizes is None or not sizes.seconds_after:
        return ""
    times = f"{1000 * sizes.seconds_before:.3g} ms before, {1000 * sizes.seconds_after:.3g} ms after"
    kind = " (simulated: other kernels would be needed)" if data.best and data.best.simulated else ""
    return f"Latency: {times}, {sizes.seconds_before / sizes.seconds_after:.2g} times as fast in PyTorch{kind}."


def _cost(data: ReportData) -> str:
    epochs = sum(record.epochs for record in data.records)
    seconds = sum(record.seconds for record in data.records)
    return (
        f"Search: {counted(len(data.records), 'trial')}, {counted(epochs, 'epoch')} of training, {duration(seconds)} "
        f"of trials, chosen by {data.plan.tuner}."
    )


def _after_nothing(data: ReportData) -> list[str]:
    settings = data.plan.settings
    rates = [record.requested_rate for record in data.records if record.requested_rate is not None]
    tips = [f"Give fine-tuning more epochs: patience_epochs is {settings.patience_epochs}."]
    if disagreements(data.records, data.verdicts):
        return [_SAME_EACH_TIME, *tips]
    if data.diagnosis:
        return [*data.diagnosis, *tips]
    if rates:
        tips.insert(0, f"Start lower, or allow lower rates: the lowest that was tried is {number(min(rates))}.")
    tips.append("Widen the budget: it may ask for more than fine-tuning can give back.")
    return tips


def _after_success(data: ReportData) -> list[str]:
    best, settings = data.best, data.plan.settings
    assert best is not None
    tips = [_SAME_EACH_TIME] if disagreements(data.records, data.verdicts) else []
    tips += data.diagnosis
    if (data.holdout_margin or 0.0) < 0:
        tips.append("Use more validation data, or a tighter budget: the hold-out data does not confirm the result.")
    if data.nearest_failure is None and best.requested_rate is not None:
        tips.append(
            f"Search higher: nothing failed up to {number(best.requested_rate)}; maximal_compression_rate is "
            f"{number(settings.maximal_compression_rate)}, and the search space may end below it."
        )
    elif best.requested_rate is not None:
        tips.append(
            f"Take smaller steps: minimal_compression_rate_step is {number(settings.minimal_compression_rate_step)}."
        )
    tips.append(f"Train longer at each rate: patience_epochs is {settings.patience_epochs}.")
    known = algorithms().get(best.algorithm)
    if known is not None and known.kind == "pruner":
        tips.append(f"Quantize what is left: {best.algorithm}+qat stores int8 weights, about a quarter of the bytes.")
    return tips
