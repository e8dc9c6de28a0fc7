"""The interface that users implement, NNI 2.10's auto-compress module with more hooks; and checked calls of it."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autocompress.compression.model_state import (
    copy_model,
    detach_inputs,
    flatten_tensors,
    forward_outputs,
    map_items,
    positional_arguments,
    positional_parameters,
    take_keywords_by_position,
    takes_any_number,
    without_wrappers,
)
from autocompress.errors import AutoCompressError, ModuleError, first_line, short
from autocompress.evaluation import Evaluation, EvaluatorAnswer, describe, read_evaluation

Evaluator = Callable[[nn.Module], EvaluatorAnswer]
"""Returns the accuracy of a model, or a 1-D tensor, array or list of one value for each sample, whose mean it is."""

Criterion = Callable[..., Any]
Trainer = Callable[[nn.Module, Optimizer, Criterion, int], None]
"""`trainer(model, optimizer, criterion, current_epoch)` trains one epoch."""


class AbstractAutoCompressionModule(ABC):
    """A trained model, how to evaluate it, and how to train it.

    Only `model` and `evaluator` are required. All hooks are classmethods and are called in the trial's process too.

    Attributes:
        higher_is_better: direction of what the evaluator returns.
    """

    higher_is_better: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def model(cls) -> nn.Module:
        """The pre-trained, uncompressed model. It may be one global object: it is copied, never changed."""

    @classmethod
    @abstractmethod
    def evaluator(cls) -> Evaluator:
        """A function that returns the accuracy of a model on validation data, a finite number in any unit.

        Or one number or bool for each sample, always in the same order, whose mean is the accuracy: a 1-D tensor, array
        or list. Trials are then compared with the uncompressed model sample by sample.
        """

    @classmethod
    def optimizer_factory(cls) -> Callable[[Iterable[Any]], Optimizer] | None:
        """A function of `model.parameters()`, or of an argument `model`, that makes an optimizer; for any training."""
        return None

    @classmethod
    def criterion(cls) -> Criterion | None:
        """The loss function that is passed to the trainers; required for any training."""
        return None

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name: str) -> Trainer | None:  # noqa: ARG003
        """A function that trains one epoch while an algorithm compresses."""
        return None

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name: str) -> Trainer | None:  # noqa: ARG003
        """A function that trains one epoch after compression; None: the compressed model is not fine-tuned."""
        return None

    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name: str) -> int | None:  # noqa: ARG003
        """Epochs of fine-tuning after compression under built-in tuners; None: the search's `patience_epochs`."""
        return None

    @classmethod
    def example_inputs(cls) -> Any | None:
        """A tensor, a tuple of the positional arguments, or a dictionary of the named arguments of one forward pass.

        None: taken from `calibration_data`, else from the evaluator.
        """
        return None

    @classmethod
    def calibration_data(cls) -> Iterable[Any] | None:
        """Batches of training inputs: each a tensor, a dictionary, or a sequence whose first item is one.

        A dictionary holds arguments of forward by name; what forward does not take, such as an index, is left out. A
        model with several inputs takes a dictionary, a sequence of them, or one whose first item is such a sequence:
        `{"left": left, "right": right}`, `(left, right)`, `((left, right), target)`.
        """
        return None

    @classmethod
    def sensitivity_loss(cls) -> Callable[[nn.Module], Any] | None:
        """A function that returns the loss of a model on some data, lower is better.

        By how much it rises, allocations of pruners measure how sensitive each layer is. None: by how far the outputs
        move on `calibration_data`, for which no labels are needed.
        """
        return None

    @classmethod
    def holdout_evaluator(cls) -> Evaluator | None:
        """An evaluator on data that the search does not use; reported with the accuracy of the result."""
        return None

    @classmethod
    def lr_scheduler_factory(cls) -> Callable[..., LRScheduler] | None:
        """A function that makes a learning-rate scheduler, which is stepped after each epoch.

        It takes the optimizer, or the optimizer and `epochs`, the number of epochs that the trial may train. It takes
        the place of the setting `fine_tuning_schedule`.
        """
        return None


ModuleClass = type[AbstractAutoCompressionModule]


def require_module_class(module: object) -> None:
    """Check that an object is a subclass of `AbstractAutoCompressionModule` whose hooks are classmethods.

    Raises:
        ModuleError: it is not.
    """
    if not isinstance(module, type):
        remedy = "autocompress.compress takes models and functions"
        raise ModuleError(f"a compression module must be a class; got {short(module)}: {remedy}")
    if not issubclass(module, AbstractAutoCompressionModule):
        raise ModuleError(
            f"a compression module must inherit AbstractAutoCompressionModule; {module.__name__} does not"
        )
    for name in HOOKS:
        _require_classmethod(module, name)


HOOKS = tuple(name for name, hook in vars(AbstractAutoCompressionModule).items() if isinstance(hook, classmethod))
"""Names of all hooks."""


def _require_classmethod(module: type, name: str) -> None:
    found = inspect.getattr_static(module, name)
    if isinstance(found, classmethod | staticmethod):
        return
    if not inspect.isfunction(found):
        raise ModuleError(f"{module.__name__}.{name} must be a classmethod; got {describe(found)}")
    raise ModuleError(
        f"{module.__name__}.{name} must be a classmethod; it is a method of instances, and none is made: write "
        f"@classmethod above it, and cls as its first argument"
    )


def call_hook(module: ModuleClass, name: str, *arguments: Any) -> Any:
    """The value of a hook; ModuleError, which names it, if it raises."""
    listed = ", ".join(map(repr, arguments))
    with raising(f"{module.__name__}.{name}() must return when it is called as {name}({listed})"):
        return getattr(module, name)(*arguments)


def hook_name(module: ModuleClass, hook: str) -> str:
    """How messages name a hook: `MyModule.evaluator()`, or the argument that was given in its place."""
    return getattr(module, "argument_names", {}).get(hook) or f"{module.__name__}.{hook}()"


def hook_must(module: ModuleClass, hook: str) -> str:
    """The beginning of a rule: `MyModule.evaluator() must return`, or, of an argument, `evaluate must be`."""
    name = hook_name(module, hook)
    return f"{name} must {'return' if name.endswith('()') else 'be'}"


@contextmanager
def raising(rule: str, hint: str = "") -> Iterator[None]:
    """Turn errors of the user's code in the block into ModuleErrors that state a rule, with a hint at their end."""
    try:
        yield
    except AutoCompressError:
        raise
    except Exception as error:
        raise ModuleError(f"{rule}; it raised {first_line(error)}{_path_hint(error)}{hint}") from error


def _path_hint(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        return ": name files by Path(__file__).parent, as trials run in other directories"
    return ""


def fresh_model(module: ModuleClass) -> nn.Module:
    """A copy of the module's uncompressed model, since `model()` may return one global object.

    It is without wrappers such as DataParallel and `torch.compile`.

    Raises:
        ModuleError: `model()` raises, or does not return a torch.nn.Module that can be copied.
    """
    must = hook_must(module, "model")
    with raising(f"{must} the trained model"):
        model = module.model()
    if not isinstance(model, nn.Module):
        raise ModuleError(f"{must} a torch.nn.Module; got {describe(model)}{_advice(model)}")
    with raising(f"{must} a model that copy.deepcopy can copy"):
        return take_keywords_by_position(copy_model(without_wrappers(model)))


def evaluate(evaluator: Callable[[nn.Module], Any] | Any, model: nn.Module) -> float:
    """The accuracy that an evaluator returns, checked, or the mean of its values for each sample.

    Raises:
        ModuleError: as `evaluate_samples`.
    """
    return evaluate_samples(evaluator, model).accuracy


def evaluate_samples(evaluator: Callable[[nn.Module], Any] | Any, model: nn.Module) -> Evaluation:
    """Run an evaluator and check its answer: the accuracy, and the values of the samples where it returns these.

    Raises:
        ModuleError: the evaluator cannot be called, or returns neither a finite number nor one for each sample.
    """
    require_evaluator(evaluator)
    return read_evaluation(evaluator(model))


def require_evaluator(evaluator: object) -> None:
    """Check that what `evaluator()` returned can be called; ModuleError if not."""
    if not callable(evaluator):
        raise ModuleError(f"evaluator() must return a function of the model; got {describe(evaluator)}")


def example_inputs(module: ModuleClass) -> tuple[Any, ...]:
    """The positional arguments of one forward pass of the module's model, detached.

    From the hook `example_inputs`; else the first batch of `calibration_data`; else the first inputs the evaluator
    passes to the model. Of the last two only the first sample is kept, if the model accepts it.

    Raises:
        ModuleError: none of them gives inputs that the model takes.
    """
    given = call_hook(module, "example_inputs")
    if given is not None:
        model = fresh_model(module)
        found = detach_inputs(argument_inputs(model, given, hook_name(module, "example_inputs")))
        require_accepted(module, "example_inputs", model, found)
        return found
    data = call_hook(module, "calibration_data")
    for batch in data if data is not None else ():
        model = fresh_model(module)
        found = detach_inputs(batch_inputs(model, batch))
        sample = _first_sample(model, found)
        if sample is found:
            require_accepted(module, "calibration_data", model, found)
        return sample
    return _from_evaluator(module)


_WANTED = {
    "example_inputs": "a tensor, or a tuple or dictionary of arguments, that model() runs on",
    "calibration_data": "batches that model() runs on, each a tensor, a tuple or dictionary of arguments, or a "
    "sequence whose first item is one of these",
}


def require_accepted(module: ModuleClass, hook: str, model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Check that the model runs on the inputs of a hook; ModuleError, which names the hook, if not."""
    names = [each.name for each in positional_parameters(model)] + ["*inputs"] * takes_any_number(model)
    try:
        forward_outputs(model, inputs)
    except Exception as error:
        raise ModuleError(
            f"{hook_must(module, hook)} {_WANTED[hook]}; its forward takes ({', '.join(names)}) and "
            f"raised {first_line(error)}"
        ) from error


def argument_inputs(model: nn.Module, given: Any, source: str) -> tuple[Any, ...]:
    """The positional arguments that a tensor, a sequence of them, or a dictionary of named ones stands for.

    Args:
        model: takes them.
        given: a dictionary that has none of forward's names is one argument.
        source: of them, for messages.

    Raises:
        ModuleError: a dictionary has a name that forward does not take, or lacks one that it needs.
    """
    if not isinstance(given, Mapping):
        return tuple(given) if isinstance(given, list | tuple) else (given,)
    names = [each.name for each in positional_parameters(model)]
    if names and not any(name in names for name in given):
        return (given,)
    try:
        return positional_arguments(model, (), given)
    except ModuleError as error:
        raise ModuleError(f"{source}: {error}") from error


def batch_input(batch: Any) -> Any:
    """The model's input in a batch of calibration data: the batch itself, or its first item."""
    return batch[0] if isinstance(batch, list | tuple) and batch else batch


def batch_inputs(model: nn.Module, batch: Any) -> tuple[Any, ...]:
    """The positional arguments of one forward pass in a batch of calibration data.

    For a model of one input that is `batch_input`; for one of several, as many items as it needs: those of the batch's
    first item, as in `((left, right), target)`, or of the batch itself, as in `(left, right, target)`. A dictionary
    holds arguments by name; entries that forward does not take are left out. Of a model that takes any number of
    inputs, `*inputs`, the first item holds all.

    Raises:
        ModuleError: a batch does not hold the inputs that the model needs.
    """
    first, parameters = batch_input(batch), positional_parameters(model)
    if isinstance(first, Mapping):
        known = {each.name: first[each.name] for each in parameters if each.name in first}
        return argument_inputs(model, known or first, "calibration_data()")
    names = [each.name for each in parameters if each.default is inspect.Parameter.empty]
    if not parameters and takes_any_number(model) and isinstance(first, list | tuple):
        return tuple(first)
    if len(names) < 2:
        return (first,)
    for items in (first, batch):
        if isinstance(items, list | tuple) and len(items) >= len(names):
            return tuple(items[: len(names)])
    inputs = ", ".join(names)
    raise ModuleError(
        f"calibration_data(): a batch must hold the {len(names)} inputs that the model's forward takes, as ({inputs}) "
        f"or (({inputs}), target); got {describe(batch)}"
    )


class _Captured(BaseException):
    """Leaves the evaluator after its first forward pass; a BaseException, so that user code does not catch it."""


def _from_evaluator(module: ModuleClass) -> tuple[Any, ...]:
    advice = f"define {hook_name(module, 'example_inputs')} (a tensor, or a tuple or dictionary of forward's arguments)"
    model, captured = fresh_model(module), []
    evaluator = call_hook(module, "evaluator")
    require_evaluator(evaluator)

    def capture(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        captured.append((arguments, keywords))
        raise _Captured

    try:
        with suppress(_Captured), model.register_forward_pre_hook(capture, with_kwargs=True):
            evaluator(model)
    except Exception as error:
        raise ModuleError(
            f"the evaluator failed before its first forward pass ({first_line(error)}): mend it, or {advice}"
        ) from error
    if not captured:
        raise ModuleError(f"the evaluator never called the model, so its inputs are unknown; {advice}")
    return _first_sample(model, detach_inputs(positional_arguments(model, *captured[0])))


def _first_sample(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """One sample instead of a batch: tracing is cheaper, and counts are per sample."""
    sizes = {tensor.shape[0] for tensor in flatten_tensors(inputs) if tensor.dim() > 0}
    if len(sizes) != 1 or sizes == {1}:
        return inputs
    sample = tuple(map(_first, inputs))
    with suppress(Exception):  # the model needs the whole batch
        forward_outputs(model, sample)
        return sample
    return inputs


def _first(value: Any) -> Any:
    """The first sample of a tensor, or of those in a dictionary or dataclass; a list may be one of samples."""
    if isinstance(value, torch.Tensor):
        return value[:1] if value.dim() else value
    return value if isinstance(value, list | tuple) else map_items(value, _first)


def _advice(value: Any) -> str:
    """What to do if something else than a model is returned."""
    if isinstance(value, Mapping):
        return ": build the net and load the state dict into it"
    if isinstance(value, type):
        return ": return an instance of the class"
    return ": build the net and load its weights" if isinstance(value, str | PathLike) else ""
