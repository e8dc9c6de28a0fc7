"""Monitor a model's forward passes while it is evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from autocompress.compression.model_state import flatten_tensors
from autocompress.errors import ModuleError
from autocompress.trial.preflight.hooks import equal_values

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
