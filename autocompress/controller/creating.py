"""From a model and a configuration to a model under compression and its controller."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.compress.base import layer_shapes
from autocompress.compress.measure import measure
from autocompress.compress.shipping.dot import dot
from autocompress.compress.shipping.structure import apply_structure
from autocompress.compress.state import output_shapes
from autocompress.config import KnowledgeDistillation
from autocompress.config.nncf import CompressionConfig
from autocompress.config.nncf.algorithms import Distillation, FilterPruning, MagnitudeSparsity, Quantization, RbSparsity
from autocompress.controller.controller import STATE_VERSION, CompressionController
from autocompress.controller.data import example_inputs
from autocompress.controller.learned import LearnedPart
from autocompress.controller.model import CompressedModel, Surveyed
from autocompress.controller.parts import LevelPart, PruningPart, SparsityPart
from autocompress.controller.requests import Requests
from autocompress.controller.schedules import schedule_of
from autocompress.errors import CompressionError, ConfigError, StoreError
from autocompress.kinds import checked_arguments
from autocompress.trial.distillation import Lesson


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
        compression_state: what `get_compression_state` gave, to go on from there; load the state dict afterwards.

    Returns:
        the controller, and the model.

    Raises:
        ConfigError: the configuration does not fit the model: a scope or a keyword matches nothing, no input_info.
        CompressionError: an algorithm cannot be applied to the model.
        StoreError: the compression state is of another version, or of another model or configuration.
    """
    inputs = example_inputs(config, model)
    shapes = _output_shapes(model, inputs)
    original = copy.deepcopy(model)
    surveyed = Surveyed(original, inputs, measure(original, inputs), shapes, config.data)
    compressed, lesson = _compressed(model, config, surveyed)
    controller = CompressionController(compressed, lesson, tuple(section.algorithm for section in config.compression))
    if compression_state is None:
        compressed.attach()
        controller.scheduler.begin()
    else:
        _restore(controller, compression_state)
    if config.log_dir is not None:
        _write_graphs(controller, Path(config.log_dir))
    return controller, model


def _compressed(
    model: nn.Module, config: CompressionConfig, surveyed: Surveyed
) -> tuple[CompressedModel, Lesson | None]:
    shapes = layer_shapes(surveyed.model)
    requests = Requests(config, surveyed.inputs, shapes, surveyed.size)
    parts: list[LevelPart] = []
    quantization = lesson = None
    for section in config.compression:
        if isinstance(section, FilterPruning):
            parts.append(PruningPart(requests.at_level(section), schedule_of(section), shapes, surveyed.model))
        elif isinstance(section, MagnitudeSparsity):
            parts.append(SparsityPart(section.algorithm, requests.at_level(section), schedule_of(section)))
        elif isinstance(section, RbSparsity):
            parts.append(LearnedPart(requests.at_level(section), schedule_of(section)))
        elif isinstance(section, Quantization):
            quantization = requests.quantization(section)
        elif isinstance(section, Distillation):
            settings = KnowledgeDistillation.from_dict(section.model_dump(include={"type", "scale", "temperature"}))
            lesson = Lesson(model, copy.deepcopy(surveyed.model), settings)
    return CompressedModel(model, surveyed, parts, quantization), lesson


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


def _output_shapes(model: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    try:
        return output_shapes(model, inputs)
    except Exception as error:
        shapes = ", ".join(str(list(item.shape)) for item in inputs if hasattr(item, "shape"))
        raise ConfigError(f"input_info must describe the model's inputs; it fails on {shapes}: {error}") from error


def _write_graphs(controller: CompressionController, directory: Path) -> None:
    graphs = {"original_graph": controller.uncompressed.model, "compressed_graph": controller.model}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, model in graphs.items():
            text = dot(copy.deepcopy(model), controller.uncompressed.inputs)
            (directory / f"{name}.dot").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"log_dir must be writable; {directory} is not: {error}") from error
    except CompressionError as error:
        raise CompressionError(f"the graphs in log_dir cannot be written: {error}") from error
