"""Masks on a model's parameters that can be set anew: what was masked may come back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compress.pruning.sparsity import Mask


class Masks:
    """One algorithm's masks on a model.

    Args:
        model: has no masks of this algorithm yet.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._steps: dict[str, Mask] = {}

    def put(self, names: Iterable[str]) -> None:
        """Put masks that mask nothing on parameters that have none."""
        for name in names:
            if name not in self._steps:
                layer, _, key = name.rpartition(".")
                module = self._model.get_submodule(layer)
                weight = cast(torch.Tensor, getattr(module, key))
                self._steps[name] = Mask(torch.zeros_like(weight, dtype=torch.bool))
                # Nothing to check: shape and type stay.
                parametrize.register_parametrization(module, key, self._steps[name], unsafe=True)

    def set(self, pruned: Mapping[str, torch.Tensor]) -> None:
        """Mask exactly this: parameter -> True where it is zero."""
        self.put(name for name, mask in pruned.items() if bool(mask.any()))
        for name, step in self._steps.items():
            if name in pruned:
                step.pruned.copy_(pruned[name])
            else:
                step.pruned.zero_()
