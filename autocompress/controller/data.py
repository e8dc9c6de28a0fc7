"""What a model is shown besides training: example inputs, and the data that statistics and ranges are taken from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autocompress.compress.hooks import batch_input
from autocompress.compress.state import device_of, moved
from autocompress.config.nncf import CompressionConfig
from autocompress.config.nncf.config import InputInfo
from autocompress.errors import ConfigError
from autocompress.kinds import checked_arguments

_FILLERS = {"random": torch.rand, "ones": torch.ones, "zeros": torch.zeros}


@checked_arguments
def register_default_init_args(
    config: CompressionConfig,
    train_loader: Iterable[Any],
    criterion: Any = None,  # noqa: ARG001 - NNCF's users pass it
    **_: Any,
) -> CompressionConfig:
    """The configuration with training data, as NNCF's function of that name gives it.

    Ranges of activations are taken from the first `num_init_samples` samples. With quantization, or where rates are
    validated before they are trained, BatchNorm's statistics are estimated anew on the first 512 before.

    Args:
        config: not changed.
        train_loader: can be iterated over again and again; of a batch that is a sequence the first item is the model's
            input.
        criterion: not needed by any algorithm here.

    Raises:
        ConfigError: an argument is of another kind.
    """
    return config.with_data(train_loader)


def example_inputs(config: CompressionConfig, model: nn.Module) -> tuple[Any, ...]:
    """Positional arguments of one forward pass: those that `input_info` describes, else the first registered batch.

    Raises:
        ConfigError: there is neither, or a keyword that the model's forward does not take.
    """
    if config.input_info:
        filled = (_filled(info) for info in _in_order(config.input_info, model))
        return tuple(moved(item, device_of(model)) for item in filled)
    for batch in config.data if config.data is not None else ():
        inputs = batch_input(batch)
        return (moved(inputs[:1] if isinstance(inputs, torch.Tensor) else inputs, device_of(model)),)
    raise ConfigError("input_info must be given: an object with sample_size, or a list of them")


def _in_order(infos: tuple[InputInfo, ...], model: nn.Module) -> list[InputInfo]:
    positional = [info for info in infos if info.keyword is None]
    named = {info.keyword: info for info in infos if info.keyword is not None}
    parameters = list(inspect.signature(model.forward).parameters)[len(positional) :]
    for name in list(named):
        if name not in parameters[: len(named)]:
            raise ConfigError(f"input_info.keyword must be one of forward's next arguments {parameters}; got {name!r}")
    return positional + [named[name] for name in parameters[: len(named)]]


def _filled(info: InputInfo) -> torch.Tensor:
    if info.type == "long":
        return torch.zeros(info.sample_size, dtype=torch.long)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _FILLERS[info.filler](info.sample_size)
