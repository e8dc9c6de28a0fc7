"""The evaluations of a preflight: of the uncompressed model, and of one without its output layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from autocompress.compress.copying import copied
from autocompress.compress.hooks import first_line
from autocompress.compress.state import tensors
from autocompress.errors import AutoCompressError, ModuleError
from autocompress.trial.preflight.damaging import damage, widest
from autocompress.trial.preflight.hooks import same
from autocompress.trial.preflight.judging import Judge
from autocompress.trial.seeds import seed_everything

QUICK, MODERATE = 0.4, 1.0
"""Seconds: that evaluations of interchanged outputs may take; of an evaluation up to which a third one is done."""

_MOST_REPEATS = 5
_MOST_SHIFTS = 6
_TINY = 1e-6
_REMEMBERED = 4
_EQUAL = 1e-6


class _Enough(BaseException):
    """Leaves the evaluator; no `except Exception` of a user may swallow it."""


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
        watch = _Watch(self._judge.names.evaluator)
        found = Evaluated([], 0.0)
        started = time.monotonic()
        found.accuracies.append(self._watched(watch))
        found.seconds, found.samples = time.monotonic() - started, watch.samples
        found.warnings += watch.warnings
        self._judge.require_accuracy(found.accuracies[0])
        unusual = self._judge.require_meant(found.accuracies[0])
        found.warnings += [] if unusual is None else [unusual]
        if found.seconds <= MODERATE:
            self._repeat(found)
            self._damage(found)
        else:
            self._in_place_of_each_other(found, watch)
        return found

    def _in_place_of_each_other(self, found: Evaluated, watch: _Watch) -> None:
        """Of a long evaluation the second is either of the same or of the damaged model."""
        takes = f"an evaluation takes {found.seconds:.1f} s"
        if self._begins_alike(watch):
            found.warnings.append(f"{takes}: another one was only begun, and its first batches give the same")
            self._damage(found)
        else:
            found.warnings.append(f"{takes}: the direction of {self._judge.names.evaluator} was not checked")
            self._repeat(found)

    def _repeat(self, found: Evaluated) -> None:
        most = min(_MOST_REPEATS, int(QUICK / max(found.seconds, _TINY)))
        found.accuracies += [self._once(copied(self._original)) for _ in range(max(1, most))]
        noise = self._judge.require_repeatable(found.accuracies)
        if noise is not None:
            found.warnings.append(noise)

    def _damage(self, found: Evaluated) -> None:
        names = self._outputs()
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
        model = copied(self._original)
        damage(model, names, shift)
        try:
            return self._once(model)
        except ModuleError:  # it may well fail on nonsense: that says nothing
            return None

    def _once(self, model: nn.Module) -> float:
        self._seed += 1
        seed_everything(self._seed)
        return self._evaluate(model.eval())

    def _watched(self, watch: _Watch) -> float:
        model = copied(self._original)
        seed_everything(0)
        try:
            with watch.over(model):
                accuracy = self._evaluate(model.eval())
        except ModuleError:  # one that scripts or exports the model may stumble over hooks
            model = copied(self._original)
            accuracy = self._evaluate(model.eval())
        watch.compare(model, self._original)
        return accuracy

    def _begins_alike(self, first: _Watch) -> bool:
        """Whether the first batches of another evaluation, broken off, give what those of the first one gave."""
        if first.until_called is None or first.until_called > MODERATE / 2:
            return False
        model, again = copied(self._original), _Watch(self._judge.names.evaluator, most_seconds=MODERATE / 2)
        try:
            with again.over(model):
                self._once(model)
        except _Enough:
            pass
        return bool(again.sums) and all(
            abs(a - b) <= _EQUAL * max(abs(a), abs(b), 1.0) for a, b in zip(again.sums, first.sums, strict=False)
        )


class _Watch:
    """Looks on while a model is evaluated.

    Args:
        evaluator: its name, for messages.
        most_seconds: leave it when it takes longer than that, or a few batches have been seen; None: let it go on.

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

    def over(self, model: nn.Module) -> _Watching:
        """Watch the model inside the block."""
        self._started = time.monotonic()
        return _Watching(
            model.register_forward_pre_hook(self._before, with_kwargs=True), model.register_forward_hook(self._after)
        )

    def compare(self, model: nn.Module, original: nn.Module) -> None:
        """Check what the evaluator left.

        Raises:
            ModuleError: it evaluated in training mode, or changed the model.
        """
        if self._training is not None:
            raise ModuleError(
                f"{self._evaluator} must evaluate in eval() mode; {self._training} is in training mode in its forward "
                "passes, which makes its numbers random: call model.eval() before them"
            )
        parameters, buffers = dict(original.named_parameters()), dict(original.named_buffers())
        now = dict(model.named_parameters())
        changed = [name for name, value in parameters.items() if name not in now or not same(value, now[name])]
        if changed or len(now) != len(parameters):
            raise ModuleError(
                f"{self._evaluator} must not change the model; it changes {(changed or ['its parameters'])[0]!r}: "
                "evaluate under torch.no_grad(), and train or convert a copy only"
            )
        left = [name for name, value in model.named_buffers() if name in buffers and not same(value, buffers[name])]
        if left:
            self.warnings.append(f"{self._evaluator} changes the model's buffer {left[0]!r}")
        if model.training:
            self.warnings.append(
                f"{self._evaluator} leaves the model in training mode; it is put back into eval() mode"
            )

    def _before(self, model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        now = time.monotonic() - self._started
        if self.until_called is None:
            self.until_called = now
        if self._most_seconds is not None and (now > self._most_seconds or len(self.sums) >= 2 * _REMEMBERED):
            raise _Enough
        given = [tensor for tensor in tensors((arguments, keywords)) if tensor.dim()]
        self.samples += given[0].shape[0] if given else 0
        if self._training is None:
            self._training = next((_told(name, part) for name, part in model.named_modules() if _is_random(part)), None)
        self._remember(given)

    def _after(self, _: nn.Module, __: Any, answer: Any) -> None:
        self._remember(tensors(answer))

    def _remember(self, given: Sequence[torch.Tensor]) -> None:
        if len(self.sums) < 2 * _REMEMBERED:
            self.sums.append(float(sum(tensor.detach().double().sum() for tensor in given)))


class _Watching:
    """Removes hooks at the end of a block."""

    def __init__(self, *handles: Any) -> None:
        self._handles = handles

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _is_random(part: nn.Module) -> bool:
    """Whether a layer answers differently in training mode, and is in it."""
    if not part.training:
        return False
    if isinstance(part, _DropoutNd):
        return part.p > 0
    if isinstance(part, nn.RNNBase | nn.MultiheadAttention):
        return float(part.dropout) > 0
    return isinstance(part, _BatchNorm)


def _told(name: str, part: nn.Module) -> str:
    return f"{name or 'the model'} ({type(part).__name__})"


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
            raise ModuleError(f"{rule}; it raised {type(error).__name__}: {first_line(error)}") from error

    return evaluated
