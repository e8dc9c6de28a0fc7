"""The evaluations of a preflight: of the uncompressed model, and of one without its output layer."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from autocompress.errors import AutoCompressError, ModuleError, first_line
from autocompress.trial.preflight.damaging import damage, innermost_layers, widest
from autocompress.trial.preflight.judging import Judge
from autocompress.trial.preflight.watching import Enough, Watch
from autocompress.trial.spec import seed_everything

QUICK, MODERATE = 0.4, 1.0
"""Seconds: that evaluations of interchanged outputs may take; of an evaluation up to which a third one is done."""

_QUICK_FAILURE = 5.0
"""Seconds up to which an evaluation that failed while it was watched is done once more without that."""

_MOST_REPEATS = 5
_MOST_SHIFTS = 6
_TINY = 1e-6


@dataclass
class Evaluated:
    """What the evaluations came to.

    Attributes:
        accuracies: of the uncompressed model.
        seconds: of the first evaluation.
        zeroed: accuracy with the output layer zeroed; None where it was not evaluated.
        shuffled: accuracies with the outputs interchanged in several ways; empty where they were not evaluated.
        samples: how many went through the model in one evaluation; 0 where it was not called.
        warnings: what to look at.
    """

    accuracies: list[float]
    seconds: float
    zeroed: float | None = None
    shuffled: list[float] = field(default_factory=list)
    samples: int = 0
    warnings: list[str] = field(default_factory=list)


class Evaluations:
    """Evaluates a model in a few ways, in at most the time of two evaluations and two seconds.

    Evaluations of up to `MODERATE` seconds are done at least three times, twice of the same and once of a model without
    its output layer; as many more as take `QUICK` seconds. Of a longer one the second is of the damaged model if the
    first batches of another evaluation, which is broken off, give the same outputs; else it is of the same model, to
    tell the noise.

    Args:
        evaluate: model -> accuracy, checked; raises ModuleError.
        original: the uncompressed model; copies of it are evaluated.
        outputs: names of its output layers.
        judge: decides.
    """

    def __init__(
        self,
        evaluate: Callable[[nn.Module], float],
        original: nn.Module,
        outputs: Callable[[], Sequence[str]],
        judge: Judge,
    ) -> None:
        self._evaluate, self._original, self._judge = evaluate, original, judge
        self._outputs = outputs
        self._seed = 0

    def run(self) -> Evaluated:
        """Evaluate and judge.

        Raises:
            ModuleError: the evaluations cannot guide a search.
        """
        found, watch = self._first()
        self._judge.require_accuracy(found.accuracies[0])
        unusual = self._judge.require_meant(found.accuracies[0])
        found.warnings += [] if unusual is None else [unusual]
        if found.seconds <= MODERATE:
            self._repeat(found)
            self._damage(found)
        else:
            self._in_place_of_each_other(found, watch)
        return found

    def _in_place_of_each_other(self, found: Evaluated, watch: Watch | None) -> None:
        """Of a long evaluation the second is either of the same or of the damaged model."""
        takes = f"an evaluation takes {found.seconds:.1f} s"
        if watch is not None and self._begins_alike(watch):
            found.warnings.append(f"{takes}: another one was only begun, and its first batches give the same")
            self._damage(found)
        else:
            found.warnings.append(f"{takes}: the direction of {self._judge.names.evaluator} was not checked")
            self._repeat(found)

    def _repeat(self, found: Evaluated) -> None:
        most = min(_MOST_REPEATS, int(QUICK / max(found.seconds, _TINY)))
        found.accuracies += [self._once(copy.deepcopy(self._original)) for _ in range(max(1, most))]
        noise = self._judge.require_repeatable(found.accuracies)
        if noise is not None:
            found.warnings.append(noise)

    def _damage(self, found: Evaluated) -> None:
        names = self._outputs()
        found.zeroed = self._damaged(0, names)
        if found.zeroed in found.accuracies:  # the evaluator may not look at the outputs, but at an embedding
            names = innermost_layers(self._original)
            found.zeroed = self._damaged(0, names)
        shifts = min(_MOST_SHIFTS, max(1, widest(self._original, names) - 1), int(QUICK / max(found.seconds, _TINY)))
        shuffled = [self._damaged(shift, names) for shift in range(1, shifts + 1)]
        found.shuffled = [each for each in shuffled if each is not None]
        if found.zeroed is None:
            found.warnings.append(
                f"{self._judge.names.evaluator} gives no number for a model whose output layer is zeroed, so its "
                "direction was not checked"
            )
        self._judge.require_response(found.accuracies, found.zeroed, found.shuffled, found.samples)

    def _damaged(self, shift: int, names: Sequence[str]) -> float | None:
        model = copy.deepcopy(self._original)
        damage(model, names, shift)
        try:
            return self._once(model)
        except ModuleError:  # it may well fail on nonsense: that says nothing
            return None

    def _once(self, model: nn.Module) -> float:
        self._seed += 1
        seed_everything(self._seed)
        return self._evaluate(model.eval())

    def _first(self) -> tuple[Evaluated, Watch | None]:
        """The first evaluation, and who watched it.

        An evaluator that scripts or exports the model may stumble over hooks. It is not watched then, so that nothing
        is known of its batches; nor is it later.
        """
        started, watch, watched = time.monotonic(), Watch(self._judge.names.evaluator), True
        try:
            found, model = self._timed(watch)
        except ModuleError:
            if time.monotonic() - started > _QUICK_FAILURE:
                raise
            watched = False
        if not watched:
            found, model = self._timed(None)
            watch = Watch(self._judge.names.evaluator)
        watch.compare(model, self._original)
        found.samples, found.warnings = watch.samples, watch.warnings
        return found, watch if watched else None

    def _timed(self, watch: Watch | None) -> tuple[Evaluated, nn.Module]:
        """An evaluation, and what is left of the model."""
        model = copy.deepcopy(self._original)
        seed_everything(0)
        started = time.monotonic()
        with contextlib.nullcontext() if watch is None else watch.over(model):
            accuracy = self._evaluate(model.eval())
        return Evaluated([accuracy], time.monotonic() - started), model

    def _begins_alike(self, first: Watch) -> bool:
        """Whether the first batches of another evaluation, broken off, give what those of the first one gave."""
        if first.until_called is None or first.until_called > MODERATE / 2:
            return False
        model, again = copy.deepcopy(self._original), Watch(self._judge.names.evaluator, most_seconds=MODERATE / 2)
        try:
            with again.over(model):
                self._once(model)
        except Enough:
            pass
        return again.begins_like(first)


def named_evaluator(rule: str, evaluate: Callable[[nn.Module], float]) -> Callable[[nn.Module], float]:
    """The same, whose errors name the evaluator.

    Args:
        rule: what it must do, its name included.
        evaluate: model -> accuracy.

    Raises:
        ModuleError: it raises whatever it likes.
    """

    def evaluated(model: nn.Module) -> float:
        try:
            return evaluate(model)
        except AutoCompressError:
            raise
        except Exception as error:
            raise ModuleError(f"{rule}; it raised {first_line(error)}") from error

    return evaluated
