"""Temporary model state (modes, gradients, output), copies, and tensors in nested inputs and outputs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import itertools
import linecache
import logging
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from autocompress.errors import ModuleError


@contextmanager
def suppress_output(*loggers: str) -> Iterator[None]:
    """Suppress warnings, standard output and error, and all but errors of these loggers inside the block."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


ParameterName = tuple[str, str]
"""A module's dotted name and the name of a parameter in it."""


def tied_parameters(model: nn.Module) -> list[list[ParameterName]]:
    """All places of each parameter that is shared."""
    places: dict[int, list[ParameterName]] = defaultdict(list)
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[id(parameter)].append((name, key))
    return [found for found in places.values() if len(found) > 1]


@contextmanager
def temporary_hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copy_model(model: nn.Module, memo: Mapping[int, Any] = MappingProxyType({})) -> nn.Module:
    """A deep copy; `memo` has what replaces objects, by their ids, as for copy.deepcopy.

    copy.deepcopy refuses tensors that autograd has made; `weight_norm`, `spectral_norm` and the masks of
    torch.nn.utils.prune leave such weights in their layers, made anew before each forward pass. Some layers keep what
    they computed from parameters, also in dictionaries, and recurrent ones their parametrized weights in a list.
    """
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in flatten_tensors([*vars(module).values(), getattr(module, "_flat_weights", None)])
        if not value.is_leaf
    }
    with torch.no_grad():  # else a scripted module's copy could not be trained: its parameters would be results
        copied: nn.Module = copy.deepcopy(model, {**computed, **memo})
    for own, new in zip(model.parameters(), copied.parameters(), strict=True):
        new.requires_grad_(own.requires_grad)
    return copied


def sharing_copy(model: nn.Module) -> nn.Module:
    """A deep copy whose parameters and buffers are the model's."""
    return copy_model(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule in eval mode inside the block; restore the modes after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def ordinary_attention() -> Iterator[None]:
    """Disable the fused kernels of PyTorch's attention and encoder layers in eval mode.

    They call no submodules, and FlopCounterMode does not count them.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def require_gradients(model: nn.Module) -> Iterator[None]:
    """Make every float parameter require gradients inside the block; restored by name, as it may be replaced."""
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags.get(name, True))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter require gradients inside the block; restored after it."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def _user_frames(error: BaseException) -> list[tuple[FrameType, int]]:
    """Frames of a traceback that are neither PyTorch's nor this package's, the innermost last, each with its line."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = traceback.walk_tb(error.__traceback__)
    return [(frame, line) for frame, line in frames if not frame.f_code.co_filename.startswith(own)]


def failing_operation(error: BaseException) -> str:
    """Where in the user's model an error was raised, as words behind "fails"; "" if nowhere in it."""
    frames = _user_frames(error)
    if not frames:
        return ""
    frame, line = frames[-1]
    name = frame.f_code.co_filename
    return f" at `{linecache.getline(name, line).strip()}` ({Path(name).name}, line {line})"


def failing_scopes(error: BaseException, model: nn.Module) -> list[str]:
    """The name of the innermost module of the user's in whose code an error was raised; empty: it is the model."""
    names = {id(module): name for name, module in model.named_modules()}
    found = [names.get(id(frame.f_locals.get("self")), "") for frame, _ in _user_frames(error)]
    return [name for name in found if name][-1:]


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer; the CPU if it has none."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in nested sequences, mappings and dataclasses to a device."""
    return map_tensors(value, lambda tensor: tensor.to(device))


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Apply a function to every tensor in nested sequences, mappings and dataclasses, whose types stay."""
    return (
        change(value) if isinstance(value, torch.Tensor) else map_items(value, lambda item: map_tensors(item, change))
    )


def map_items(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a function to the items of a sequence, values of a mapping or fields of a dataclass; its type stays."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    if isinstance(value, list | tuple):
        return type(value)(map(change, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # Hugging Face's outputs are mappings as well
        return _with_fields(value, {each.name: change(getattr(value, each.name)) for each in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        items = {key: change(item) for key, item in value.items()}
        return items if type(value) is dict or not isinstance(value, MutableMapping) else _with_items(value, items)
    return value


def _with_fields(record: Any, values: Mapping[str, Any]) -> Any:
    copied, frozen_fields = copy.copy(record), type(record).__dataclass_params__.frozen
    for name, value in values.items():
        object.__setattr__(copied, name, value) if frozen_fields else setattr(copied, name, value)
    return copied


def _with_items(mapping: MutableMapping[Any, Any], items: Mapping[Any, Any]) -> MutableMapping[Any, Any]:
    copied = copy.copy(mapping)
    copied.update(items)
    return copied


def positional_parameters(model: nn.Module) -> list[inspect.Parameter]:
    """The arguments of a model's forward that can be passed by position, `*arguments` excepted."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each for each in _parameters(model) if each.kind in kinds]


def takes_any_number(model: nn.Module) -> bool:
    """Whether a model's forward takes `*inputs`."""
    return any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in _parameters(model))


def positional_arguments(model: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[Any, ...]:
    """The positional arguments of a call of the model, with defaults for what it leaves out in between.

    Models are traced and run by position, whatever names their caller uses.

    Raises:
        ModuleError: forward takes an argument by keyword only, or does not take one, or needs another.
    """
    if not keywords:
        return tuple(arguments)
    parameters = positional_parameters(model)
    names = [each.name for each in parameters]
    only = [each.name for each in _parameters(model) if each.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = [name for name in keywords if name not in names]
    if unknown:
        also = f" and, by keyword only, {', '.join(only)}" if only else ""
        raise ModuleError(
            f"the forward of {type(model).__name__} must take every input by position, so that it can be traced; "
            f"{unknown[0]!r} is passed by keyword, and it takes {', '.join(names) or 'nothing'}{also}: name it among "
            "forward's arguments, before any *"
        )
    for each in parameters[len(arguments) :]:
        if each.name not in keywords and each.default is inspect.Parameter.empty:
            raise ModuleError(
                f"the forward of {type(model).__name__} needs {each.name!r}; given by name is {', '.join(keywords)}"
            )
    last = 1 + max(map(names.index, keywords))
    return *arguments, *(keywords.get(each.name, each.default) for each in parameters[len(arguments) : last])


def take_keywords_by_position(model: nn.Module) -> nn.Module:
    """The model, or one of the same parts whose forward takes by position, last, what it takes by keyword only.

    Its class is a subclass of the same name. A model that takes `*inputs` is left as it is.
    """
    names = [each.name for each in _parameters(model) if each.kind is inspect.Parameter.KEYWORD_ONLY]
    if not names or takes_any_number(model) or "forward" in vars(model):
        return model
    kind, count = type(model), len(positional_parameters(model))
    call: Callable[..., Any] = kind.forward

    @functools.wraps(call)
    def forward(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        only = dict(zip(names, arguments[count:], strict=False))
        return call(self, *arguments[:count], **only, **keywords)

    vars(forward)["__signature__"] = _by_position(inspect.signature(call))
    own = {
        "forward": forward,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    model = copy.copy(model)
    model.__class__ = type(kind.__name__, (kind,), own)
    return model


def _by_position(signature: inspect.Signature) -> inspect.Signature:
    """The signature with parameters instead of those by keyword only; behind one with a default each has one."""
    found, has_default = list[inspect.Parameter](), False
    for each in signature.parameters.values():
        has_default |= each.default is not inspect.Parameter.empty
        if each.kind is inspect.Parameter.KEYWORD_ONLY:
            default = None if has_default and each.default is inspect.Parameter.empty else each.default
            each = each.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        found.append(each)
    return signature.replace(parameters=found)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        described = model if hasattr(model, "__signature__") else model.forward
        return list(inspect.signature(described).parameters.values())
    except (TypeError, ValueError):  # a scripted model
        return []


def without_wrappers(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and `torch.compile`, none of which can be traced.

    A model of which a part is wrapped is copied: the one given is not changed.
    """
    model = _unwrapped(model)
    parts = list(model.modules())
    if not any(_wrapped(part) is not None or part._compiled_call_impl is not None for part in parts):
        return model
    plain = copy.deepcopy(model)
    for part in list(plain.modules()):
        if part._compiled_call_impl is not None:  # `Module.compile`
            part._compiled_call_impl = None
        for name, child in part._modules.items():
            if child is not None:
                part._modules[name] = _unwrapped(child)
    return plain


def _unwrapped(model: nn.Module) -> nn.Module:
    inner = _wrapped(model)
    return model if inner is None else _unwrapped(inner)


def _wrapped(model: nn.Module) -> nn.Module | None:
    if isinstance(model, DataParallel | DistributedDataParallel):
        return cast(nn.Module, model.module)
    return dict(model.named_children()).get("_orig_mod")  # of `torch.compile`, whose class is slow to import


def detach_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy every tensor in the inputs, without its graph."""
    return tuple(map_tensors(item, lambda tensor: tensor.detach().clone()) for item in inputs)


def flatten_tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested sequences, mappings and dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in flatten_tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in flatten_tensors(item)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [tensor for field in dataclasses.fields(value) for tensor in flatten_tensors(getattr(value, field.name))]
    return []


def forward_outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """All tensors of one forward pass in eval mode, without gradients."""
    with eval_mode(model), torch.no_grad():
        return flatten_tensors(model(*to_device(inputs, device_of(model))))


def output_shapes(model: nn.Module, example_inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """Shapes of all output tensors of one forward pass in eval mode."""
    return [tuple(tensor.shape) for tensor in forward_outputs(model, example_inputs)]


def hash_tensors(digest: Any, tensors: Iterable[tuple[str, Any]]) -> None:
    """Add named tensors to a hash of hashlib's: names, types, shapes and values."""
    for name, tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
