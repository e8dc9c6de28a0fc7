"""A model under compression as it was at a moment."""

from __future__ import annotations

import threading

from torch import nn

from autocompress.compress.copying import copied
from autocompress.compress.folding import bare, fold
from autocompress.compress.quantizing.activations import detach


class Snapshot:
    """What a model was, made of one copy when it is asked for, by whatever thread has time for it.

    Args:
        twin: a copy of the model with all that was on it; not changed.
        rate: the compression rate that it had reached.
        finished: the finished model, where it has been made already.
    """

    def __init__(self, twin: nn.Module, rate: float, finished: nn.Module | None = None) -> None:
        self._twin, self.rate, self._finished = twin, rate, finished
        self._plain: nn.Module | None = None
        self._lock = threading.Lock()

    @property
    def finished(self) -> nn.Module:
        """Without anything of ours on it: zeros and rounded values written."""
        with self._lock:
            if self._finished is None:
                self._finished = fold(copied(self._twin))
            return self._finished

    @property
    def plain(self) -> nn.Module:
        """With the weights below masks and rounding."""
        with self._lock:
            if self._plain is None:
                self._plain = laid_bare(copied(self._twin))
            return self._plain


def laid_bare(model: nn.Module) -> nn.Module:
    """Take all of ours off a model, without a trace in its weights."""
    for module in bare(model).modules():
        detach(module)
    return model
