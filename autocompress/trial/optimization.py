"""Optimizer, learning rates, and averaged weights of fine-tuning."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from autocompress.compression.base import plain_name
from autocompress.compression.model_state import copy_model, without_wrappers
from autocompress.compression.module import ModuleClass
from autocompress.compression.trainer_hooks import new_optimizer
from autocompress.errors import ConfigError, ModuleError
from autocompress.evaluation import describe
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
    optimizer = new_optimizer(factory, model)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * lr_factor
    return optimizer


@dataclass(frozen=True)
class RemadeOptimizer:
    """Makes for any model the optimizer that a script has for the uncompressed one: its class, defaults and groups.

    Attributes:
        kind: its class.
        defaults: arguments of that.
        groups: options of each, with the names of its parameters.
        known: names of all parameters of the uncompressed model, some of which may be in no group.
    """

    kind: type[Optimizer]
    defaults: dict[str, Any]
    groups: tuple[tuple[frozenset[str], dict[str, Any]], ...]
    known: frozenset[str]

    @classmethod
    def of(cls, optimizer: Optimizer, model: nn.Module) -> RemadeOptimizer:
        """What to make anew.

        Raises:
            ConfigError: the optimizer is of another model, or its learning rate is 0.
        """
        inner = without_wrappers(model).named_parameters()
        names = {id(own): name for own, (name, _) in zip(model.parameters(), inner, strict=True)}
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        foreign = sum(id(parameter) not in names for parameter in held)
        if foreign:
            raise ConfigError(
                f"optimizer must be of the model that is given; {foreign} of its {len(held)} parameters are of another "
                "one: make it of model.parameters(), or give a function of the parameters"
            )
        if all(float(group.get("lr", 1.0)) == 0 for group in optimizer.param_groups):
            raise ConfigError(
                "optimizer must have a learning rate > 0 to fine-tune with; it is 0, as at the end of a schedule: give "
                "a function of the parameters, as in optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01)"
            )
        groups = tuple(
            (
                frozenset(names[id(parameter)] for parameter in group["params"]),
                {key: copy.deepcopy(group[key]) for key in optimizer.defaults if key in group},
            )
            for group in optimizer.param_groups
        )
        taken = inspect.signature(type(optimizer)).parameters
        defaults = {key: value for key, value in optimizer.defaults.items() if key in taken}
        return cls(type(optimizer), defaults, groups, frozenset(names.values()))

    def __call__(self, model: nn.Module) -> Optimizer:
        """The optimizer of a model; parameters that the uncompressed one has not are in the first group."""
        parameters = [(self._original(name), parameter) for name, parameter in model.named_parameters()]
        made = []
        for place, (names, options) in enumerate(self.groups):
            own = [each for name, each in parameters if name in names or (place == 0 and name not in self.known)]
            if own:
                made.append({**copy.deepcopy(options), "params": own})
        return self.kind(made, **self.defaults)

    def _original(self, name: str) -> str:
        """Of a parameter in the uncompressed model, if there: it may be parametrized now, or below a wrapper."""
        plain = inner = plain_name(name)
        while inner not in self.known and "." in inner:
            inner = inner.partition(".")[2]
        return inner if inner in self.known else plain


def optimizer_factory(given: Any, model: nn.Module) -> Callable[..., Optimizer]:
    """The hook `optimizer_factory` of what a script has.

    Args:
        given: a function of the parameters or of `model`, a class, a pair of a class and its arguments, or an optimizer
            of the uncompressed model.
        model: the uncompressed model.

    Raises:
        ConfigError: it is none of these, or does not make an optimizer of the model's parameters.
    """
    if isinstance(given, Optimizer):
        return RemadeOptimizer.of(given, model)
    made = _with_arguments(given)
    if made is None or isinstance(given, nn.Module):
        raise ConfigError(
            "optimizer must be an optimizer of the model, a function that makes one of its parameters, or a class and "
            f"its arguments, as (torch.optim.SGD, {{'lr': 0.01}}); got {describe(given)}"
        )
    return made


def scheduler_factory(given: Any) -> Callable[..., LRScheduler]:
    """The hook `lr_scheduler_factory` of a function of the optimizer, or of a class and its arguments.

    Raises:
        ConfigError: it is neither, such as a scheduler, which is of another optimizer.
    """
    made = _with_arguments(given)
    if made is None or isinstance(given, LRScheduler | ReduceLROnPlateau):
        raise ConfigError(
            "scheduler must be a function that makes one of the optimizer, or a class and its arguments, as each "
            f"compressed model has an optimizer of its own; got {describe(given)}"
        )
    return made


def _with_arguments(given: Any) -> Callable[..., Any] | None:
    if isinstance(given, tuple) and len(given) == 2 and callable(given[0]) and isinstance(given[1], Mapping):
        return functools.partial(given[0], **given[1])
    return given if callable(given) else None


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
