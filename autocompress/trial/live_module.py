"""A module made of what a script has at hand: a model, functions, an optimizer. No file defines it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from autocompress.compression.model_state import device_of, hash_tensors, without_wrappers
from autocompress.compression.module import AbstractAutoCompressionModule, ModuleClass, raising
from autocompress.compression.module_loading import LiveReference
from autocompress.errors import ConfigError
from autocompress.evaluation import describe, read_evaluation
from autocompress.trial.optimization import optimizer_factory, scheduler_factory

_LOADERS = ("loader", "dataloader", "data_loader", "data")
NAMES: dict[str, tuple[str, ...]] = {
    "model": ("model", "net", "network", "module"),
    "optimizer": ("optimizer", "optim", "opt"),
    "criterion": ("criterion", "loss_fn", "loss_func", "loss_function", "loss"),
    "epoch": ("epoch", "current_epoch", "epoch_index", "epoch_idx"),
    "train_loader": ("train_loader", "trainloader", "train_dataloader", "train_data_loader", "train_data"),
    "validation_loader": (
        *("validation_loader", "val_loader", "valid_loader", "test_loader", "valloader", "testloader"),
        *("val_dataloader", "test_dataloader", "eval_loader", "val_data", "test_data"),
    ),
    "device": ("device",),
}
"""What the functions of scripts are given, by the names of their arguments; the first one is the name of `compress`."""

_TRAINING = ("model", "optimizer", "criterion", "epoch", "train_loader", "validation_loader", "device")
_EVALUATION = ("model", "criterion", "validation_loader", "train_loader", "device")
_SEVERAL = 20
"""Batches of a training loader that stand for its data, as many as are taken of a trainer."""


@dataclass(frozen=True)
class NamedFunction:
    """A function of a script, whose arguments are found by their names.

    Attributes:
        name: in messages.
        function: the user's.
        taken: of each argument that it is given what that is, its own name, and whether it has only a position.
    """

    name: str
    function: Callable[..., Any]
    taken: tuple[tuple[str, str, bool], ...]

    def __call__(self, **values: Any) -> Any:
        """Call the function with those of the values that it takes."""
        positional = [values[role] for role, _, only in self.taken if only]
        return self.function(*positional, **{own: values[role] for role, own, only in self.taken if not only})

    @classmethod
    def training(cls, function: Callable[..., Any], given: Mapping[str, Any]) -> NamedFunction:
        """A function that trains one epoch.

        Args:
            function: the user's.
            given: criterion and loaders; None where there is none.

        Raises:
            ConfigError: it takes no model or no optimizer, or needs an argument that is not known or not given.
        """
        found = _roles("train_epoch", function, _TRAINING)
        if "optimizer" not in (role for role, _ in found):
            raise ConfigError(
                f"train_epoch must take the optimizer, by the name {_alternatives('optimizer')}, and train with it; it "
                f"takes ({', '.join(own.name for _, own in found)}), as an evaluation does"
            )
        return cls("train_epoch", function, _taken("train_epoch", found, given))

    @classmethod
    def evaluation(
        cls, function: Callable[..., Any], given: Mapping[str, Any], name: str = "evaluate"
    ) -> NamedFunction:
        """A function that measures a model; as `training`.

        Raises:
            ConfigError: it takes no model, or needs an argument that is not known or not given.
        """
        return cls(name, function, _taken(name, _roles(name, function, _EVALUATION), given))


def _roles(name: str, function: Any, roles: tuple[str, ...]) -> list[tuple[str, inspect.Parameter]]:
    """What each argument of a function is, of those that are known."""
    parameters = _parameters(name, function)
    known = {own: role for role in roles for own in NAMES[role]}
    known |= dict.fromkeys(_LOADERS, next(role for role in roles if role.endswith("_loader")))
    if not any(known.get(each.name) == "model" for each in parameters):
        first = next((each for each in parameters[:1] if _is_required(each)), None)
        if first is not None and not _is_for(first.name, _TRAINING):
            known[first.name] = "model"  # whatever its name
    for each in parameters:
        if each.name not in known and _is_required(each):
            raise ConfigError(_unknown(name, each.name, roles))
    found = [(known[each.name], each) for each in parameters if each.name in known]
    if "model" not in (role for role, _ in found):
        raise ConfigError(
            f"{name} must take the model, by the name {_alternatives('model')}; it takes "
            f"({', '.join(each.name for each in parameters)}), so that no compressed model could be given to it"
        )
    return found


def _taken(
    name: str, found: Iterable[tuple[str, inspect.Parameter]], given: Mapping[str, Any]
) -> tuple[tuple[str, str, bool], ...]:
    """Those of the arguments that there is something for."""
    missing = [(role, each) for role, each in found if role in given and given[role] is None]
    for role, each in missing:
        if _is_required(each):
            raise ConfigError(f"{role} must be given, as {name} takes {each.name!r}")
    return tuple(
        (role, each.name, each.kind is each.POSITIONAL_ONLY) for role, each in found if (role, each) not in missing
    )


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def _is_for(own: str, roles: Iterable[str]) -> bool:
    return own in _LOADERS or any(own in NAMES[role] for role in roles)


def _parameters(name: str, function: Any) -> list[inspect.Parameter]:
    if isinstance(function, type | nn.Module) or not callable(function):
        raise ConfigError(f"{name} must be a function; got {describe(function)}")
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be a function whose arguments have names; got {describe(function)}") from error
    return [each for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def _alternatives(role: str) -> str:
    *others, last = NAMES[role]
    return f"{', '.join(others)} or {last}" if others else last


def _unknown(name: str, own: str, roles: Iterable[str]) -> str:
    if _is_for(own, ("optimizer", "epoch")):
        return (
            f"{name} must evaluate the model and not train it; it takes {own!r}, as a training function does: are "
            f"train_epoch and {name} interchanged?"
        )
    known = ", ".join(" or ".join(NAMES[role][:2]) for role in roles)
    return (
        f"{name} must take arguments by names that are known; it needs {own!r} (known: {known}, {' or '.join(_LOADERS)}"
        "): name it so, or give its value by functools.partial or in a lambda"
    )


@dataclass(frozen=True)
class _FirstBatches:
    """The first batches of a loader, each time anew."""

    loader: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), _SEVERAL)


class LiveModule(AbstractAutoCompressionModule):
    """Base class of modules that are made of objects of this process.

    Attributes:
        reference: identifies it in place of a file.
        argument_names: of hooks, the arguments that were given in their places, as messages name them.
    """

    reference: ClassVar[LiveReference]
    argument_names: ClassVar[Mapping[str, str]]


_ARGUMENT_NAMES = {
    "model": "model",
    "evaluator": "evaluate",
    "holdout_evaluator": "holdout_evaluate",
    "post_compress_finetuning_trainer": "train_epoch",
    "sparsifying_trainer": "train_epoch",
    "optimizer_factory": "optimizer",
    "lr_scheduler_factory": "scheduler",
    "criterion": "criterion",
    "sensitivity_loss": "sensitivity_loss",
    "example_inputs": "example_inputs",
    "calibration_data": "calibration_data",
    "higher_is_better": "higher_is_better",
}


def live_module(
    model: nn.Module,
    *,
    evaluate: Callable[..., Any] | None = None,
    holdout_evaluate: Callable[..., Any] | None = None,
    sensitivity_loss: Callable[..., Any] | None = None,
    train_epoch: Callable[..., Any] | None = None,
    optimizer: Any = None,
    scheduler: Any = None,
    criterion: Any = None,
    train_loader: Iterable[Any] | None = None,
    validation_loader: Iterable[Any] | None = None,
    example_inputs: Any = None,
    calibration_data: Iterable[Any] | None = None,
    higher_is_better: bool = True,
) -> ModuleClass:
    """The module of a model and functions, whose arguments are those of `compress`.

    It is identified by the model's weights and the code of the functions: what their variables hold does not count.

    Raises:
        ConfigError: an argument is of another kind, or a function takes an argument that is not known or not given.
    """
    given = {"criterion": criterion, "train_loader": train_loader, "validation_loader": validation_loader}
    for name in ("train_loader", "validation_loader"):
        if isinstance(given[name], Iterator) or not (given[name] is None or isinstance(given[name], Iterable)):
            raise ConfigError(
                f"{name} must give its batches in every epoch, as a DataLoader does; got {describe(given[name])}"
            )
    hooks: dict[str, Any] = {"model": model, "criterion": criterion, "example_inputs": example_inputs}
    names = dict(_ARGUMENT_NAMES)
    for name, function in (("evaluate", evaluate), ("holdout_evaluate", holdout_evaluate)):
        if function is not None:
            hook = "evaluator" if name == "evaluate" else "holdout_evaluator"
            hooks[hook] = _evaluator(NamedFunction.evaluation(function, given, name), given)
    if sensitivity_loss is not None:
        hooks["sensitivity_loss"] = _measuring(
            NamedFunction.evaluation(sensitivity_loss, given, "sensitivity_loss"), given
        )
    if train_epoch is not None:
        hooks["post_compress_finetuning_trainer"] = _trainer(NamedFunction.training(train_epoch, given), given)
    if (train_epoch is None) != (optimizer is None):
        missing, there = ("optimizer", "train_epoch") if optimizer is None else ("train_epoch", "optimizer")
        raise ConfigError(f"{missing} must be given beside {there}: models are fine-tuned with both, or only evaluated")
    if optimizer is not None:
        hooks["optimizer_factory"] = optimizer_factory(optimizer, model)
    if scheduler is not None:
        hooks["lr_scheduler_factory"] = scheduler_factory(scheduler)
    if calibration_data is None and train_loader is not None:
        calibration_data, names["calibration_data"] = _FirstBatches(train_loader), "train_loader"
    hooks["calibration_data"] = calibration_data
    kind = type(without_wrappers(model)).__name__
    body: dict[str, Any] = {name: classmethod(_returning(value)) for name, value in hooks.items()}
    body |= {"higher_is_better": higher_is_better, "argument_names": names}
    made: type[LiveModule] = type(kind, (LiveModule,), body)
    digest = _hash_of_model(without_wrappers(model))
    others = [holdout_evaluate, sensitivity_loss, higher_is_better]
    code = [evaluate, train_epoch, optimizer, scheduler, criterion, *others]
    made.reference = LiveReference(made, kind, digest, _hash_of(digest, *map(_code, code)))
    return made


def _returning(value: Any) -> Callable[..., Any]:
    """A hook that returns a value."""
    return lambda *_: value


def _evaluator(function: NamedFunction, given: Mapping[str, Any]) -> Callable[[nn.Module], Any]:
    measure = _measuring(function, given)

    def evaluated(model: nn.Module) -> Any:
        answer = measure(model)
        read_evaluation(answer, function.name)
        return answer

    return evaluated


def _measuring(function: NamedFunction, given: Mapping[str, Any]) -> Callable[[nn.Module], Any]:
    def measured(model: nn.Module) -> Any:
        with raising(f"{function.name} must measure the model that it is given"):
            return function(model=model, device=device_of(model), **given)

    return measured


def _trainer(function: NamedFunction, given: Mapping[str, Any]) -> Callable[..., None]:
    def trained(model: nn.Module, optimizer: Optimizer, criterion: Any, epoch: int) -> None:
        values = {**given, "criterion": criterion, "epoch": epoch, "device": device_of(model)}
        with raising(f"{function.name} must train the model that it is given for one epoch"):
            function(model=model, optimizer=optimizer, **values)

    return trained


def _hash_of(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _hash_of_model(model: nn.Module) -> str:
    """Hash of the classes of its parts and of its weights."""
    kinds = (f"{name} {type(part).__qualname__}" for name, part in model.named_modules())
    digest = hashlib.sha256("\n".join(kinds).encode())
    hash_tensors(digest, model.state_dict().items())
    return digest.hexdigest()


def _code(given: Any) -> str:
    """What a function computes, the same in each process of one version of Python: its instructions, not its source.

    A function that was typed in has no source, and a lambda's is the whole statement around it.
    """
    if isinstance(given, functools.partial):
        return f"{_code(given.func)} {_plain(given.args)} {_plain(given.keywords)}"
    if isinstance(given, tuple):
        return " ".join(map(_code, given))
    if isinstance(given, Optimizer):
        options = [{key: group[key] for key in group if key != "params"} for group in given.param_groups]
        return f"{type(given).__qualname__} {_plain(options)}"
    inner = inspect.unwrap(given) if callable(given) else given
    code = getattr(inner, "__code__", None)
    if code is None and callable(inner) and not isinstance(inner, type | nn.Module):
        code = getattr(vars(type(inner)).get("__call__"), "__code__", None)
    if isinstance(code, CodeType):
        return _instructions(code)
    if isinstance(given, nn.Module):
        return f"{given!r} {_plain({name: value for name, value in vars(given).items() if name[0] != '_'})}"
    return getattr(given, "__qualname__", None) or _plain(given)


def _instructions(code: CodeType) -> str:
    constants = " ".join(_instructions(each) if isinstance(each, CodeType) else _plain(each) for each in code.co_consts)
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _plain(value: Any) -> str:
    """A value where it is the same text in each process; else its type."""
    if value is None or isinstance(value, str | bytes | int | float | complex):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_plain(key)}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_plain, value))) + "}"
    return type(value).__name__
