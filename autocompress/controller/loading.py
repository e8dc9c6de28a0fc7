"""Loading a state dict whose names may have the prefixes of wrappers."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autocompress.errors import StoreError
from autocompress.kinds import checked_arguments

_PREFIXES = ("module.", "nncf_module.", "_orig_mod.")
_PARAMETRIZED = re.compile(r"\bparametrizations\.(\w+)\.original$")
_SHOWN = 10
_logger = logging.getLogger("autocompress.controller")


@checked_arguments
def load_state(model: nn.Module, state_dict: Mapping[str, Any], is_resume: bool = False) -> int:
    """Load the tensors of a state dict by name; prefixes of DataParallel, NNCF and torch.compile do not count.

    A plain name such as `conv.weight` also matches the weight below a mask or a rounding.

    Args:
        model: changed in place.
        state_dict: name -> tensor.
        is_resume: everything must match; else what matches is loaded and the rest is told in a warning.

    Returns:
        how many tensors were loaded.

    Raises:
        StoreError: with `is_resume`, names or shapes do not match; nothing has been loaded then.
    """
    own = {_plain(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    given = {_plain(name): tensor for name, tensor in state_dict.items()}
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    wrong = _mismatches(own, given)
    if wrong and is_resume:
        raise StoreError(f"the state dict must match the model exactly: {'; '.join(wrong)}")
    if wrong:
        _logger.warning("the state dict does not match the model: %s", "; ".join(wrong))
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    return len(fitting)


def _plain(name: str) -> str:
    """Without prefixes; `conv.weight` also where it is `conv.parametrizations.weight.original`."""
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return _PARAMETRIZED.sub(r"\1", name)


def _mismatches(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    shapes = [
        f"{name} is {tuple(own[name].shape)} in the model and {tuple(tensor.shape)} in the state dict"
        for name, tensor in given.items()
        if name in own and own[name].shape != tensor.shape
    ]
    told = [
        _listed("only in the model", [name for name in own if name not in given]),
        _listed("only in the state dict", [name for name in given if name not in own]),
        *shapes,
    ]
    return [text for text in told if text]


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}" if names else ""
