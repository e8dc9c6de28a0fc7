"""From a model and a configuration to a compressed model with its controller; loading states."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.compression.base import plain_name
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model, device_of, output_shapes, to_device, without_wrappers
from autocompress.compression.module import batch_inputs
from autocompress.errors import CompressionError, ConfigError, StoreError
from autocompress.formats.export import to_graphviz
from autocompress.formats.structure import apply_structure
from autocompress.nncf.algorithms import LevelPart, PruningPart, SparsityPart
from autocompress.nncf.compressed_model import CompressedModel
from autocompress.nncf.config import CompressionConfig, InputInfo
from autocompress.nncf.controller import STATE_VERSION, CompressionController
from autocompress.nncf.rb_sparsity import LearnedPart
from autocompress.nncf.schedules import schedule_of
from autocompress.nncf.sections import Distillation, FilterPruning, MagnitudeSparsity, Quantization, RbSparsity
from autocompress.nncf.translation import Requests
from autocompress.trial.distillation import DistillationHook

_FILLERS = {"random": torch.rand, "ones": torch.ones, "zeros": torch.zeros}


@checked_arguments
def register_default_init_args(
    config: CompressionConfig,
    train_loader: Iterable[Any],
    criterion: Any = None,  # noqa: ARG001 - NNCF's users pass it
    **_: Any,
) -> CompressionConfig:
    """Register training data, as NNCF's function of that name does.

    Ranges of activations are taken from the first `num_init_samples` samples. With quantization, or where rates are
    validated before training, BatchNorm's statistics are first estimated on 512 samples.

    Args:
        config: not changed.
        train_loader: can be iterated over repeatedly; of a batch that is a sequence the first item is the model's
            input.
        criterion: not used.

    Returns:
        the configuration with the data.

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
        return tuple(to_device(item, device_of(model)) for item in filled)
    for batch in config.data if config.data is not None else ():
        inputs = batch_inputs(model, batch)
        first = tuple(item[:1] if isinstance(item, torch.Tensor) and item.dim() else item for item in inputs)
        return cast(tuple[Any, ...], to_device(first, device_of(model)))
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


@checked_arguments
def create_compressed_model(
    model: nn.Module,
    config: CompressionConfig,
    compression_state: Mapping[str, Any] | None = None,
) -> tuple[CompressionController, nn.Module]:
    """Put the algorithms of a configuration on a model.

    `original_graph.dot` and `compressed_graph.dot` are written to the configuration's `log_dir`, where it has one.

    Args:
        model: trained; it is changed, and stays the same object.
        config: which algorithms, with which options.
        compression_state: of `get_compression_state`, to continue from; load the state dict afterwards.

    Returns:
        the controller, and the model.

    Raises:
        ConfigError: the configuration does not fit the model: a scope or a keyword matches nothing, no input_info; or
            the model is in a wrapper such as DataParallel.
        CompressionError: an algorithm cannot be applied to the model.
        StoreError: the compression state is of another version, or of another model or configuration.
    """
    if without_wrappers(model) is not model:
        raise ConfigError(
            "model must be the net itself; DataParallel or torch.compile is around it or a part of it: give the net, "
            "and wrap the model that is returned"
        )
    reference = _reference(model, config)
    compressed, lesson = _compressed(model, config, reference)
    controller = CompressionController(compressed, lesson, tuple(section.algorithm for section in config.compression))
    if compression_state is None:
        compressed.attach()
        controller.scheduler.begin()
    else:
        _restore(controller, compression_state)
    if config.log_dir is not None:
        _write_graphs(controller, Path(config.log_dir))
    return controller, model


def _reference(model: nn.Module, config: CompressionConfig) -> ReferenceModel:
    inputs = example_inputs(config, model)
    try:
        output_shapes(model, inputs)
    except Exception as error:
        shapes = ", ".join(str(list(item.shape)) for item in inputs if hasattr(item, "shape"))
        raise ConfigError(f"input_info must describe the model's inputs; it fails on {shapes}: {error}") from error
    return ReferenceModel.measured(copy_model(model), inputs, config.data)


def _compressed(
    model: nn.Module, config: CompressionConfig, reference: ReferenceModel
) -> tuple[CompressedModel, DistillationHook | None]:
    requests = Requests(config, reference)
    parts: list[LevelPart] = []
    quantization = lesson = None
    for section in config.compression:
        if isinstance(section, FilterPruning):
            parts.append(PruningPart(requests.at_level(section), schedule_of(section), reference))
        elif isinstance(section, MagnitudeSparsity):
            parts.append(SparsityPart(section.algorithm, requests.at_level(section), schedule_of(section)))
        elif isinstance(section, RbSparsity):
            parts.append(LearnedPart(requests.at_level(section), schedule_of(section)))
        elif isinstance(section, Quantization):
            quantization = requests.quantization(section)
        elif isinstance(section, Distillation):
            lesson = DistillationHook(model, copy_model(reference.original), section)
    return CompressedModel(model, reference, parts, quantization), lesson


def _restore(controller: CompressionController, state: Mapping[str, Any]) -> None:
    if state.get("schema_version") != STATE_VERSION:
        raise StoreError(
            f"compression_state: schema_version must be {STATE_VERSION}; got {state.get('schema_version')!r}"
        )
    apply_structure(controller.model, state["structure"])
    try:
        controller.load_compression_state(state)
    except KeyError as error:
        raise StoreError(f"compression_state is of another configuration: it has no {error}") from error


def _write_graphs(controller: CompressionController, directory: Path) -> None:
    graphs = {"original_graph": controller.uncompressed.original, "compressed_graph": controller.model}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, model in graphs.items():
            text = to_graphviz(copy_model(model), controller.uncompressed.inputs)
            (directory / f"{name}.dot").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"log_dir must be writable; {directory} is not: {error}") from error
    except CompressionError as error:
        raise CompressionError(f"the graphs in log_dir cannot be written: {error}") from error


_PREFIXES = ("module.", "nncf_module.", "_orig_mod.")
_LISTED = 10
_logger = logging.getLogger("autocompress.nncf")


@checked_arguments
def load_state(model: nn.Module, state_dict: Mapping[str, Any], is_resume: bool = False) -> int:
    """Load the tensors of a state dict by name; prefixes of DataParallel, NNCF and torch.compile do not count.

    A plain name such as `conv.weight` also matches the weight below a mask or a rounding.

    Args:
        model: changed in place.
        state_dict: name -> tensor.
        is_resume: everything must match; else what matches is loaded, with a warning about the rest.

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
    return plain_name(name)


def _mismatches(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    shapes = [
        f"{name} is {tuple(own[name].shape)} in the model and {tuple(tensor.shape)} in the state dict"
        for name, tensor in given.items()
        if name in own and own[name].shape != tensor.shape
    ]
    found = [
        _listed("only in the model", [name for name in own if name not in given]),
        _listed("only in the state dict", [name for name in given if name not in own]),
        *shapes,
    ]
    return [text for text in found if text]


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{what}: {', '.join(names[:_LISTED])}{more}" if names else ""
