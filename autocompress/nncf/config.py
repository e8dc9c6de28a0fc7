"""Rules between the sections of a configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import json5
from pydantic import Field, PrivateAttr

from autocompress.errors import ConfigError, unknown_name
from autocompress.nncf.sections import (
    ADAPTIVE,
    KINDS,
    SECTION,
    AccuracyAwareTraining,
    Compression,
    FilterPruning,
    MagnitudeSparsity,
    Quantization,
    RbSparsity,
    SparsityParams,
    read_old_training,
    read_training,
)
from autocompress.plain_json import require_plain
from autocompress.setting_fields import FROM_LIST, Flag, PositiveCount, Scopes, Section, Text, read


def check_algorithms(compression: Sequence[Compression], training: AccuracyAwareTraining | None) -> None:
    """Check that the algorithms go together, and with the mode of training.

    Raises:
        ConfigError: an algorithm is given twice, its options contradict each other, or there is not exactly one rate
            for the adaptive mode to move.
    """
    if not compression:
        raise ConfigError("compression must have at least one algorithm; got []")
    names = [section.algorithm for section in compression]
    for index, section in enumerate(compression):
        where = f"compression[{index}]" if len(compression) > 1 else "compression"
        if names.index(section.algorithm) != index:
            raise ConfigError(f"{where}.algorithm must be another one; {section.algorithm!r} is given twice")
        if isinstance(section, MagnitudeSparsity | RbSparsity):
            _check_multistep(section.params, f"{where}.params")
        if isinstance(section, FilterPruning):
            _check_targets(section, f"{where}.params")
        if isinstance(section, Quantization) and section.activations.per_channel:
            raise ConfigError(f"{where}.activations.per_channel must be false: activations have one range; got true")
    if training is not None and training.mode == "adaptive_compression_level":
        _check_adaptive(compression)


def _check_adaptive(compression: Sequence[Compression]) -> None:
    names = [section.algorithm for section in compression]
    rates = [section.algorithm for section in compression if isinstance(section, (*ADAPTIVE, RbSparsity))]
    if len(rates) != 1 or not any(isinstance(section, ADAPTIVE) for section in compression):
        raise ConfigError(
            "in adaptive mode compression must have one of filter_pruning and magnitude_sparsity, whose rate the "
            f"search moves, and no other pruning or sparsity; got {', '.join(names)}"
        )


def _check_multistep(params: SparsityParams, where: str) -> None:
    if params.schedule != "multistep":
        return
    steps, levels = params.multistep_steps, params.multistep_sparsity_levels or ()
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ConfigError(f"{where}.multistep_steps must rise; got {list(steps)!r}")
    if len(levels) != len(steps) + 1:
        raise ConfigError(
            f"{where}.multistep_sparsity_levels must have {len(steps) + 1} levels, one more than multistep_steps; "
            f"got {list(levels)!r}"
        )


def _check_targets(section: FilterPruning, where: str) -> None:
    params = section.params
    if params.pruning_target is not None and params.pruning_flops_target is not None:
        raise ConfigError(
            f"{where} must have one of pruning_target and pruning_flops_target; got both "
            f"({params.pruning_target!r}, {params.pruning_flops_target!r})"
        )
    if params.filter_importance is not None and params.weight_importance is not None:
        raise ConfigError(f"{where} must have filter_importance once; weight_importance is the older name of it")


class InputInfo(Section):
    """One of the model's inputs.

    Attributes:
        sample_size: its shape, the batch first.
        type: `float` or `long`.
        filler: what it is filled with: `random`, `ones` or `zeros`.
        keyword: name of the argument; None for a positional one.
    """

    sample_size: Annotated[
        tuple[PositiveCount, ...],
        FROM_LIST,
        Field(min_length=1, description="a list of whole numbers >= 1"),
    ]
    type: Annotated[str, Field(pattern="^(float|long)$", description="'float' or 'long'")] = "float"
    filler: Annotated[str, Field(pattern="^(random|ones|zeros)$", description="'random', 'ones' or 'zeros'")] = "random"
    keyword: Text | None = None


class _Shape(Section):
    """The top level, its sections not yet read."""

    input_info: Any = None
    input_infos: Any = None
    target_device: Text = "ANY"
    log_dir: Text | None = None
    ignored_scopes: Scopes = ()
    target_scopes: Scopes = ()
    validate_scopes: Flag = True
    compression: Any = None
    accuracy_aware_training: Any = None


class CompressionConfig(Section):
    """An NNCF-style configuration, checked.

    Attributes:
        input_info: the model's inputs; empty where the file names none.
        target_device: where the model is to run; kept, nothing depends on it.
        log_dir: where the loop writes what it does; None: nowhere.
        ignored_scopes: submodules that no algorithm touches.
        target_scopes: the only submodules that any algorithm touches; empty: all.
        validate_scopes: whether a scope that matches nothing is an error.
        compression: the algorithms.
        accuracy_aware_training: how the accuracy budget is kept; None where the file does not say.
    """

    input_info: tuple[InputInfo, ...] = ()
    target_device: Text = "ANY"
    log_dir: Text | None = None
    ignored_scopes: Scopes = ()
    target_scopes: Scopes = ()
    validate_scopes: Flag = True
    compression: tuple[Compression, ...]
    accuracy_aware_training: AccuracyAwareTraining | None = None
    _data: Any = PrivateAttr(default=None)

    @property
    def data(self) -> Any:
        """Batches of training data, which statistics and ranges are taken from; None: none were registered."""
        return self._data

    def with_data(self, data: Any) -> CompressionConfig:
        """The same configuration with training data."""
        other = self.model_copy()
        other._data = data
        return other

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> CompressionConfig:
        """The configuration in a file: JSON, comments and trailing commas allowed (JSON5).

        Raises:
            ConfigError: the file cannot be read, is not JSON5, or breaks a rule; naming the file.
        """
        file = Path(path)
        try:
            return cls.from_dict(json5.loads(file.read_text(encoding="utf-8"), allow_duplicate_keys=False))
        except OSError as error:
            raise ConfigError(f"configuration file must be readable; got {file}: {error.strerror}") from error
        except RecursionError:
            raise ConfigError(f"configuration file {file} must not be nested so deep") from None
        except ValueError as error:
            raise ConfigError(f"configuration file {file} must be JSON with comments: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"configuration file {file}: {error}") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CompressionConfig:
        """The configuration of a JSON object.

        Raises:
            ConfigError: a rule is broken: the key's path, what is allowed, the value.
        """
        try:
            require_plain(data)
        except ValueError as error:
            raise ConfigError(f"the configuration: {error}") from error
        shape = read(_Shape, data, "")
        compression, old = _algorithms(shape.compression)
        if old is not None and shape.accuracy_aware_training is not None:
            raise ConfigError(f"{SECTION} must be given once; it is at the top level and inside an algorithm")
        given = shape.accuracy_aware_training
        training = old if given is None else read_training(given)
        check_algorithms(compression, training)
        kept = {name: getattr(shape, name) for name in ("target_device", "log_dir", "ignored_scopes", "target_scopes")}
        return cls(
            input_info=_inputs(shape),
            compression=compression,
            accuracy_aware_training=training,
            validate_scopes=shape.validate_scopes,
            **kept,
        )


def _inputs(shape: _Shape) -> tuple[InputInfo, ...]:
    if shape.input_info is not None and shape.input_infos is not None:
        raise ConfigError("input_info must be given once; input_infos is another name of it")
    name = "input_info" if shape.input_infos is None else "input_infos"
    given = getattr(shape, name)
    if given is None:
        return ()
    if isinstance(given, list):
        return tuple(read(InputInfo, entry, f"{name}[{index}]") for index, entry in enumerate(given))
    return (read(InputInfo, given, name),)


def _algorithms(given: Any) -> tuple[tuple[Compression, ...], AccuracyAwareTraining | None]:
    """The algorithms, and the older form of the training section if one of them has it."""
    if given is None:
        raise ConfigError(f"compression must be given: an object with algorithm, or a list of them ({_known()})")
    entries = given if isinstance(given, list) else [given]
    found: list[Compression] = []
    old: AccuracyAwareTraining | None = None
    for index, entry in enumerate(entries):
        where = f"compression[{index}]" if isinstance(given, list) else "compression"
        section = dict(entry) if isinstance(entry, Mapping) else entry
        if isinstance(section, dict) and SECTION in section:
            if old is not None:
                raise ConfigError(f"{where}.{SECTION} must be given once; another algorithm has it too")
            old = read_old_training(section.pop(SECTION), f"{where}.{SECTION}")
        found.append(_algorithm(section, where))
    return tuple(found), old


def _algorithm(section: Any, where: str) -> Compression:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} must be an object; got {section!r}")
    name = section.get("algorithm")
    if name is None:
        raise ConfigError(f"{where}.algorithm must be given: {_known()}")
    if not isinstance(name, str) or name not in KINDS:
        raise ConfigError(f"{where}.algorithm: {unknown_name('algorithm', str(name), KINDS)}")
    return read(KINDS[name], section, where)


def _known() -> str:
    return ", ".join(sorted(KINDS))
