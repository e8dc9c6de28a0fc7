"""The evaluations of a preflight, monitored: of the uncompressed model, and of one without its output layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from autocompress.compression.model_state import copy_model, flatten_tensors
from autocompress.compression.module import raising
from autocompress.errors import ModuleError
from autocompress.evaluation import Evaluation
from autocompress.trial.preflight.hooks import equal_values
from autocompress.trial.preflight.judge import Judge, damage, innermost_layers, most_outputs
from autocompress.trial.spec import seed_everything

_REMEMBERED = 4
_EQUAL = 1e-6


class StopMonitoring(BaseException):
    """Leaves the evaluator; not an Exception, which the user's code might catch."""


class ForwardMonitor:
    """Monitors the forward passes of an evaluation.

    `most_seconds`: stop the evaluation after that time or a few batches; None: never.

    Attributes:
        samples: how many went through the model.
        sums: of inputs and outputs of the first batches.
        until_called: seconds until the model was called first; None: never.
        warnings: what to look at.
    """

    def __init__(self, evaluator: str, most_seconds: float | None = None) -> None:
        self._evaluator, self._most_seconds = evaluator, most_seconds
        self.samples, self.sums = 0, list[float]()
        self.until_called: float | None = None
        self.warnings: list[str] = []
        self._training: str | None = None
        self._random: list[tuple[str, nn.Module]] = []

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Watch the model inside the block."""
        self._started = time.monotonic()
        self._random = [(name, part) for name, part in model.named_modules() if _is_random(part)]
        with (
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ):
            yield

    def compare(self, model: nn.Module, original: nn.Module) -> None:
        """Check that the evaluation was in eval mode and left the model unchanged."""
        if self._training is not None:
            raise ModuleError(
                f"{self._evaluator} must evaluate in eval() mode; {self._training} is in training mode in its forward "
                "passes, which makes its numbers random: call model.eval() before them"
            )
        parameters, buffers = dict(original.named_parameters()), dict(original.named_buffers())
        now = dict(model.named_parameters())
        changed = [name for name, value in parameters.items() if name not in now or not equal_values(value, now[name])]
        if changed or len(now) != len(parameters):
            raise ModuleError(
                f"{self._evaluator} must not change the model; it changes {(changed or ['its parameters'])[0]!r}: "
                "evaluate under torch.no_grad(), and train or convert a copy only"
            )
        left = [
            name for name, value in model.named_buffers() if name in buffers and not equal_values(value, buffers[name])
        ]
        if left:
            self.warnings.append(f"{self._evaluator} changes the model's buffer {left[0]!r}")
        if model.training:
            self.warnings.append(
                f"{self._evaluator} leaves the model in training mode; it is put back into eval() mode"
            )

    def begins_like(self, other: ForwardMonitor) -> bool:
        """Whether the first batches of both had equal inputs and outputs."""
        pairs = list(zip(self.sums, other.sums, strict=False))
        return bool(pairs) and all(abs(a - b) <= _EQUAL * max(abs(a), abs(b), 1.0) for a, b in pairs)

    def _before(self, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        now = time.monotonic() - self._started
        if self.until_called is None:
            self.until_called = now
        if self._most_seconds is not None and (now > self._most_seconds or len(self.sums) >= 2 * _REMEMBERED):
            raise StopMonitoring
        given = [tensor for tensor in flatten_tensors((arguments, keywords)) if tensor.dim()]
        self.samples += given[0].shape[0] if given else 0
        if self._training is None:
            texts = (f"{name or 'the model'} ({type(part).__name__})" for name, part in self._random if part.training)
            self._training = next(texts, None)
        self._remember(given)

    def _after(self, _: nn.Module, __: Any, answer: Any) -> None:
        self._remember(flatten_tensors(answer))

    def _remember(self, given: Sequence[torch.Tensor]) -> None:
        if len(self.sums) < 2 * _REMEMBERED:
            self.sums.append(float(sum(tensor.detach().cpu().double().sum() for tensor in given)))  # MPS has no doubles


def _is_random(part: nn.Module) -> bool:
    """Whether a layer computes something else in training mode."""
    if isinstance(part, _DropoutNd):
        return part.p > 0
    if isinstance(part, nn.RNNBase | nn.MultiheadAttention):
        return float(part.dropout) > 0
    return isinstance(part, _BatchNorm)


QUICK, MODERATE = 0.4, 1.0
"""Seconds: that evaluations of interchanged outputs may take; of an evaluation up to which a third one is done."""

_QUICK_FAILURE = 5.0
"""Seconds up to which an evaluation that failed while it was watched is done once more without that."""

_MOST_REPEATS = 5
_MOST_SHIFTS = 6
_TINY = 1e-6


@dataclass
class EvaluationResult:
    """The result of the evaluations."""

    accuracies: list[float]  # of the uncompressed model
    first: Evaluation  # the first of them
    seconds: float  # of the first evaluation
    zeroed: float | None = None  # accuracy with the output layer zeroed; None where it was not evaluated
    # accuracies with the outputs interchanged in several ways; empty where they were not evaluated
    shuffled: list[float] = field(default_factory=list)
    samples: int = 0  # how many went through the model in one evaluation; 0 where it was not called
    warnings: list[str] = field(default_factory=list)  # what to look at


@dataclass
class Evaluations:
    """Evaluates a model in several ways, in at most the time of two evaluations and two seconds.

    Evaluations of up to `MODERATE` seconds are done at least three times, twice of the same and once of a model without
    its output layer; as many more as take `QUICK` seconds. Of a longer one the second is of the damaged model if the
    first batches of another evaluation, which is broken off, give the same outputs; else it is of the same model, to
    measure the noise.
    """

    evaluate: Callable[[nn.Module], Evaluation]  # checked; raises ModuleError
    original: nn.Module  # copies of it are evaluated
    outputs: Callable[[], Sequence[str]]  # names of its output layers
    judge: Judge
    _seed: int = 0

    def run(self) -> EvaluationResult:
        """Evaluate and judge; ModuleError where the evaluations cannot guide a search."""
        found, watch = self._first()
        self.judge.require_accuracy(found.accuracies[0])
        unusual = self.judge.require_plausible(found.accuracies[0])
        found.warnings += self.judge.sampling_warnings(found.first, found.samples) if unusual is None else [unusual]
        if found.seconds <= MODERATE:
            self._repeat(found)
            self._damage(found)
        else:
            self._in_place_of_each_other(found, watch)
        return found

    def _in_place_of_each_other(self, found: EvaluationResult, watch: ForwardMonitor | None) -> None:
        """The second of two long evaluations is either of the same or of the damaged model."""
        takes = f"an evaluation takes {found.seconds:.1f} s"
        if watch is not None and self._begins_alike(watch):
            found.warnings.append(f"{takes}: another one was only begun, and its first batches give the same")
            self._damage(found)
        else:
            found.warnings.append(f"{takes}: the direction of {self.judge.names.evaluator} was not checked")
            self._repeat(found)

    def _repeat(self, found: EvaluationResult) -> None:
        most = min(_MOST_REPEATS, int(QUICK / max(found.seconds, _TINY)))
        found.accuracies += [self._once(copy_model(self.original)) for _ in range(max(1, most))]
        noise = self.judge.require_repeatable(found.accuracies)
        if noise is not None:
            found.warnings.append(noise)

    def _damage(self, found: EvaluationResult) -> None:
        names = self.outputs()
        found.zeroed = self._damaged(0, names)
        if found.zeroed in found.accuracies:  # the evaluator may not look at the outputs, but at an embedding
            names = innermost_layers(self.original)
            found.zeroed = self._damaged(0, names)
        shifts = min(
            _MOST_SHIFTS, max(1, most_outputs(self.original, names) - 1), int(QUICK / max(found.seconds, _TINY))
        )
        shuffled = [self._damaged(shift, names) for shift in range(1, shifts + 1)]
        found.shuffled = [each for each in shuffled if each is not None]
        if found.zeroed is None:
            found.warnings.append(
                f"{self.judge.names.evaluator} gives no number for a model whose output layer is zeroed, so its "
                "direction was not checked"
            )
        self.judge.require_response(found.accuracies, found.zeroed, found.shuffled, found.samples)

    def _damaged(self, shift: int, names: Sequence[str]) -> float | None:
        model = copy_model(self.original)
        damage(model, names, shift)
        try:
            return self._once(model)
        except ModuleError:  # it may well fail on nonsense: that says nothing
            return None

    def _once(self, model: nn.Module) -> float:
        self._seed += 1
        seed_everything(self._seed)
        return self.evaluate(model.eval()).accuracy

    def _first(self) -> tuple[EvaluationResult, ForwardMonitor | None]:
        """The first evaluation and its monitor.

        An evaluator that scripts or exports the model may fail because of hooks. It is not monitored then, so that
        nothing is known of its batches.
        """
        started, watch, watched = time.monotonic(), ForwardMonitor(self.judge.names.evaluator), True
        try:
            found, model = self._timed(watch)
        except ModuleError:
            if time.monotonic() - started > _QUICK_FAILURE:
                raise
            watched = False
        if not watched:
            found, model = self._timed(None)
            watch = ForwardMonitor(self.judge.names.evaluator)
        watch.compare(model, self.original)
        found.samples, found.warnings = watch.samples, watch.warnings
        return found, watch if watched else None

    def _timed(self, watch: ForwardMonitor | None) -> tuple[EvaluationResult, nn.Module]:
        """An evaluation, and the model after it."""
        model = copy_model(self.original)
        seed_everything(0)
        started = time.monotonic()
        with contextlib.nullcontext() if watch is None else watch.over(model):
            first = self.evaluate(model.eval())
        return EvaluationResult([first.accuracy], first, time.monotonic() - started), model

    def _begins_alike(self, first: ForwardMonitor) -> bool:
        """Whether the first batches of another evaluation, broken off, give the same outputs as the first one's."""
        if first.until_called is None or first.until_called > MODERATE / 2:
            return False
        model, again = (
            copy_model(self.original),
            ForwardMonitor(self.judge.names.evaluator, most_seconds=MODERATE / 2),
        )
        try:
            with again.over(model):
                self._once(model)
        except StopMonitoring:
            pass
        return again.begins_like(first)


def named_evaluator(rule: str, evaluate: Callable[[nn.Module], Evaluation]) -> Callable[[nn.Module], Evaluation]:
    """The same function, whose errors state the rule, which names the evaluator."""

    def evaluated(model: nn.Module) -> Evaluation:
        with raising(rule):
            return evaluate(model)

    return evaluated
