"""A model under compression as it was at a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from torch import nn

from autocompress.compress.folding import bare
from autocompress.compress.quantizing.activations import detach


class Capture:
    """What a model was, made when it is asked for, by whatever thread has time for it.

    Args:
        rate: the compression rate that it had reached.
        require: checks that the finished model, as its file at a path gave it back, has that rate and weights of few
            bits; raises StoreError.
        finish: makes the finished model.
        begin: makes what rates start from; None: they start from the finished model.
    """

    def __init__(
        self,
        rate: float,
        require: Callable[[nn.Module, Path], None],
        finish: Callable[[], nn.Module],
        begin: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.rate, self.require = rate, require
        self._finish: Callable[[], nn.Module] | None = finish
        self._begin = begin
        self._finished: nn.Module | None = None
        self._start: nn.Module | None = None
        self._lock = threading.RLock()

    @property
    def finished(self) -> nn.Module:
        """Without anything of ours on it: filters removed, zeros and rounded values written."""
        with self._lock:
            if self._finish is not None:
                self._finished, self._finish = self._finish(), None  # what it is made of is not needed any more
            assert self._finished is not None
            return self._finished

    @property
    def start(self) -> nn.Module:
        """What rates start from; to be copied, as a rate uses it up."""
        with self._lock:
            if self._begin is not None:
                self._start, self._begin = self._begin(), None
            return self.finished if self._start is None else self._start


def laid_bare(model: nn.Module) -> nn.Module:
    """Take all of ours off a model, without a trace in its weights."""
    for module in bare(model).modules():
        detach(module)
    return model
