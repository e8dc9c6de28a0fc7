"""Check a module's hooks before anything is evaluated."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.compression.model_state import without_wrappers
from autocompress.compression.module import (
    HOOKS,
    AbstractAutoCompressionModule,
    ModuleClass,
    argument_inputs,
    batch_inputs,
    call_hook,
    hook_must,
    hook_name,
    raising,
    require_accepted,
    require_module_class,
)
from autocompress.errors import ModuleError
from autocompress.evaluation import describe
from autocompress.trial.spec import preserved_rng_state

_SIMILAR = 0.85


@dataclass(frozen=True)
class _Hook:
    """What a hook must return."""

    name: str  # of the method
    wanted: str  # what it returns, in words
    fits: Callable[[Any], bool] = callable  # whether an answer is that
    optional: bool = True  # whether None is an answer too
    per_algorithm: bool = False  # whether it is called with the algorithm's name


def _callable_except(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: callable(value) and not isinstance(value, kinds)


_is_function = _callable_except(type, nn.Module, Optimizer)
_is_factory = _callable_except(nn.Module, Optimizer)
_is_loss = _callable_except(type)


def _is_number_of_epochs(answer: Any) -> bool:
    return isinstance(answer, numbers.Integral) and not isinstance(answer, bool) and int(answer) >= 0


_TRAINER = "a function that trains one epoch when it is called with (model, optimizer, criterion, epoch)"

_HOOKS = (
    _Hook("evaluator", "a function of the model that returns its accuracy", _is_function, optional=False),
    _Hook("holdout_evaluator", "a function of the model that returns its accuracy", _is_function),
    _Hook("sensitivity_loss", "a function of the model that returns its loss", _is_function),
    _Hook("optimizer_factory", "a function that makes an optimizer of model.parameters()", _is_factory),
    _Hook("criterion", "a loss function, or an instance of a loss class such as CrossEntropyLoss()", _is_loss),
    _Hook("lr_scheduler_factory", "a function that makes a scheduler of the optimizer", _is_factory),
    _Hook("sparsifying_trainer", _TRAINER, _is_function, per_algorithm=True),
    _Hook("post_compress_finetuning_trainer", _TRAINER, _is_function, per_algorithm=True),
    _Hook("post_compress_finetuning_epochs", "a whole number >= 0 of epochs", _is_number_of_epochs, per_algorithm=True),
)


def require_hooks_return(module: ModuleClass, algorithms: Iterable[str]) -> None:
    """Check that hooks are classmethods, have known names, and return what they should."""
    require_module_class(module)
    _require_known_names(module)
    if not isinstance(module.higher_is_better, bool):
        raise ModuleError(
            f"{module.__name__}.higher_is_better must be True or False; got {describe(module.higher_is_better)}"
        )
    names = list(algorithms)
    for hook in _HOOKS:
        for arguments in [(name,) for name in names] if hook.per_algorithm else [()]:
            answer = call_hook(module, hook.name, *arguments)
            if not (hook.fits(answer) or (answer is None and hook.optional)):
                none = ", or None" if hook.optional else ""
                raise ModuleError(f"{hook_must(module, hook.name)} {hook.wanted}{none}; got {describe(answer)}")


def supported_algorithms(module: ModuleClass, algorithms: Iterable[str]) -> list[str]:
    """The algorithms for which no hook raises; all, if there is none."""
    names = list(algorithms)
    answered = [name for name in names if not any(_raises(module, hook, name) for hook in _HOOKS)]
    return answered or names


def _raises(module: ModuleClass, hook: _Hook, algorithm: str) -> bool:
    try:
        if hook.per_algorithm:
            call_hook(module, hook.name, algorithm)
    except ModuleError:
        return True
    return False


def require_inputs(module: ModuleClass, model: nn.Module) -> None:
    """Check that the model takes the inputs of `example_inputs` and `calibration_data`."""
    given = call_hook(module, "example_inputs")
    if given is not None:
        with preserved_rng_state():
            inputs = argument_inputs(model, given, hook_name(module, "example_inputs"))
            require_accepted(module, "example_inputs", model, inputs)
    data = call_hook(module, "calibration_data")
    if data is None:
        return
    with raising(f"{hook_must(module, 'calibration_data')} an iterable of batches, or None"):
        first = next((batch for batch in data), _NOTHING)
        again = call_hook(module, "calibration_data")
        used_up = again is data and isinstance(data, Iterator)
    if first is _NOTHING or used_up:
        why = "it is an iterator that can be run through once" if used_up else "it has none"
        raise ModuleError(
            f"{hook_name(module, 'calibration_data')} must have at least one batch each time; {why}: take a list or a "
            "DataLoader of inputs"
        )
    with preserved_rng_state():
        require_accepted(module, "calibration_data", model, batch_inputs(model, first))


def require_weights(module: ModuleClass, model: nn.Module) -> None:
    """Check that the model has parameters, and finite ones."""
    if not any(True for _ in model.parameters()):
        raise ModuleError(f"{hook_must(module, 'model')} a model with parameters; {type(model).__name__} has none")
    for name, tensor in model.named_parameters():
        if not bool(torch.isfinite(tensor).all()):
            raise ModuleError(f"{hook_name(module, 'model')} must have finite weights; {name} holds NaN or infinity")


def require_same_weights(module: ModuleClass, model: nn.Module) -> None:
    """Check that another call of `model()` gives the same weights as this copy of the first."""
    other, state = without_wrappers(call_hook(module, "model")).state_dict(), model.state_dict()
    changed = [name for name, value in state.items() if name not in other or not equal_values(value, other[name])]
    if changed:
        raise ModuleError(
            f"{hook_must(module, 'model')} the same trained weights each time, and trainers must change only "
            f"the model that they are given; another call gives another {changed[0]!r}: load the weights from a file"
        )


def equal_values(value: Any, other: Any) -> bool:
    """Whether two values of a state dict are equal, on any devices."""
    if not isinstance(value, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(value) is type(other)
    if value.shape != other.shape or value.dtype != other.dtype:
        return False
    if value.is_quantized or type(value) not in (torch.Tensor, nn.Parameter):
        return True
    return torch.equal(value.detach(), other.detach().to(value.device)) or _both_nan(value, other)


_NOTHING = object()


def _both_nan(value: torch.Tensor, other: torch.Tensor) -> bool:
    if not value.is_floating_point():
        return False
    return torch.allclose(value.detach(), other.detach().to(value.device), rtol=0, atol=0, equal_nan=True)


def _require_known_names(module: ModuleClass) -> None:
    """A hook whose name is misspelled would be ignored."""
    written: dict[str, Any] = {}
    for kind in reversed(module.__mro__):
        written |= {} if issubclass(AbstractAutoCompressionModule, kind) else vars(kind)
    for name, value in written.items():
        hooks = ("higher_is_better",) if isinstance(value, bool) else HOOKS
        method = inspect.isfunction(value) or isinstance(value, bool | classmethod | staticmethod)
        if name.startswith("_") or name in hooks or not method:
            continue
        near = difflib.get_close_matches(name, [hook for hook in hooks if hook not in written], n=1, cutoff=_SIMILAR)
        if near:
            raise ModuleError(
                f"{module.__name__}.{name} is no hook and would be passed over; did you mean {near[0]!r}?"
            )


def is_finite(value: Any) -> bool:
    """Whether a loss is a finite number; other types count as finite."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return bool(torch.isfinite(value.detach()).all())
    return not isinstance(value, float) or math.isfinite(value)
