"""Optimizer, learning rates, and averaged weights of fine-tuning."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass
from autocompress.errors import ModuleError
from autocompress.setting_fields import read
from autocompress.settings import KnowledgeDistillation

OWN_SCHEDULE = "lr_scheduler_factory"
"""Stands where records name the schedule, where the module has one of its own."""

EMA_DECAY = 0.98
"""Of the averaged weights, for each step: they remember about the last 50 steps."""


@dataclass(frozen=True)
class Optimization:
    """How a trial is trained beyond its trainer, as its parameters say.

    Attributes:
        lr_factor: on the learning rates.
        schedule: `constant`, `linear` or `cosine`.
        steps_per_epoch: optimizer steps of an epoch of earlier trials; None: not known.
        averaging: of the last epoch's weights: `ema`, `swa` or None.
        distillation: how the uncompressed model teaches; None: it does not.
    """

    lr_factor: float = 1.0
    schedule: str = "constant"
    steps_per_epoch: int | None = None
    averaging: str | None = None
    distillation: KnowledgeDistillation | None = None

    @classmethod
    def of(cls, search: Mapping[str, Any]) -> Optimization:
        """From what a search adds to a trial's parameters."""
        taught = search["knowledge_distillation"]
        return cls(
            lr_factor=float(search.get("lr_factor", 1.0)),
            schedule=search["fine_tuning_schedule"],
            steps_per_epoch=search.get("steps_per_epoch"),
            averaging=search["weight_averaging"],
            distillation=None if taught is None else read(KnowledgeDistillation, taught, "knowledge_distillation"),
        )


def schedule_factor(schedule: str, progress: float) -> float:
    """The factor on the learning rates after the share `progress` of all steps, in [0, 1].

    `linear` and `cosine` go from 1 to 0; see Loshchilov and Hutter 2017, SGDR, arXiv:1608.03983, for `cosine`.
    """
    done = min(max(progress, 0.0), 1.0)
    if schedule == "linear":
        return 1 - done
    return (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else 1.0


@dataclass
class ScheduledSteps:
    """Multiplies the learning rates of an optimizer in each step, whatever they are then.

    Attributes:
        schedule: `constant`, `linear` or `cosine`.
        epochs: after which the rates are zero.
        steps_per_epoch: optimizer steps of an epoch; None until one has ended: its rates are those of its middle.
        epoch: that is being trained, from 0.
    """

    schedule: str
    epochs: int
    steps_per_epoch: int | None = None
    epoch: int = 0
    _steps: int = 0

    def attach(self, optimizer: Optimizer) -> None:
        """Act on every step of the optimizer from now on."""
        rates: list[Any] = []

        def before(*_: Any) -> None:
            factor = schedule_factor(self.schedule, self._progress())
            rates[:] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor

        def after(*_: Any) -> None:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            self._steps += 1

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def end_epoch(self) -> None:
        """Note that an epoch has ended."""
        self.steps_per_epoch = self._steps or self.steps_per_epoch
        self.epoch, self._steps = self.epoch + 1, 0

    def _progress(self) -> float:
        inside = 0.5 if self.steps_per_epoch is None else min(self._steps / self.steps_per_epoch, 1.0)
        return (self.epoch + inside) / self.epochs


def make_optimizer(module: ModuleClass, algorithm: str, model: nn.Module, lr_factor: float) -> Optimizer:
    """The module's optimizer of a model's parameters, its learning rates multiplied by a factor.

    Raises:
        ModuleError: the module has none.
    """
    factory = module.optimizer_factory()
    if factory is None:
        raise ModuleError(missing_optimizer(module, algorithm))
    optimizer = factory(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * lr_factor
    return optimizer


def missing_optimizer(module: ModuleClass, algorithm: str) -> str:
    """Message for a module that has a trainer and no optimizer."""
    return (
        f"{module.__name__} has a trainer for {algorithm!r} but no optimizer: optimizer_factory() must return a "
        "function of model.parameters(); got None"
    )


def make_scheduler(module: ModuleClass, optimizer: Any, epochs: int) -> Any:
    """The module's own scheduler, stepped after each epoch; None where it has none.

    Args:
        module: its factory takes the optimizer, or the optimizer and the epochs, by a name with `epoch` in it.
        optimizer: to schedule.
        epochs: the most that are trained.
    """
    make: Callable[..., Any] | None = module.lr_scheduler_factory()
    if make is None:
        return None
    return make(optimizer, epochs) if _takes_epochs(make) else make(optimizer)


def _takes_epochs(make: Callable[..., Any]) -> bool:
    try:
        taken = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return False
    required = [each.name for each in taken if each.default is each.empty and each.kind in (0, 1)]
    return len(required) > 1 and "epoch" in required[1]


def averaged(model: nn.Module, how: str) -> AveragedModel:
    """A copy of the model that averages its parameters, once they are given to it.

    Sources: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima, arXiv:1803.05407, for `swa`; `ema` is the
    exponential moving average, as Polyak and Juditsky 1992 average.
    """
    copied = copy_model(model)  # computed weights, which deepcopy refuses, are plain there
    if how == "swa":
        return AveragedModel(copied)
    return AveragedModel(copied, avg_fn=lambda mean, value, _: EMA_DECAY * mean + (1 - EMA_DECAY) * value)


@torch.no_grad()
def take_parameters(model: nn.Module, other: nn.Module) -> None:
    """Give the model the values of another one's parameters; buffers stay."""
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        mine.copy_(its)
