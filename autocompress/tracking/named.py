"""Trackers by name, as the command line takes them: `tensorboard=runs`, `mlflow=file:mlruns`, `wandb=project`."""

from __future__ import annotations

from collections.abc import Callable

from autocompress.errors import ConfigError, unknown_name
from autocompress.tracking.callback import Callback


def _tensorboard(directory: str) -> Callback:
    from autocompress.tracking.tensorboard import TensorBoardCallback

    return TensorBoardCallback(directory)


def _mlflow(tracking_uri: str) -> Callback:
    from autocompress.tracking.mlflow import MlflowCallback

    return MlflowCallback(tracking_uri)


def _wandb(project: str) -> Callback:
    from autocompress.tracking.wandb import WandbCallback

    return WandbCallback(project)


_KNOWN: dict[str, Callable[[str], Callback]] = {"mlflow": _mlflow, "tensorboard": _tensorboard, "wandb": _wandb}


def tracker(text: str) -> Callback:
    """The tracker that `<name>=<where>` names.

    Raises:
        ConfigError: there is none of that name, the place is missing, or it cannot be used.
    """
    name, separator, place = text.partition("=")
    if name not in _KNOWN:
        raise ConfigError(unknown_name("tracker", name, _KNOWN))
    if not separator or not place:
        raise ConfigError(f"a tracker must be given as NAME=WHERE, as in tensorboard=runs; got {text!r}")
    return _KNOWN[name](place)
