"""The generator of search spaces, as in NNI 2.10's auto-compress."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.errors import ConfigError, unknown_name
from autocompress.layer_selector import LayerSelector
from autocompress.plain_json import parse, plain
from autocompress.registry import Algorithm, algorithm
from autocompress.search_space.space import (
    ALGORITHM_KEY,
    SELECTORS,
    AlgorithmSpace,
    SearchSpace,
    argument_key,
    require_argument,
    require_entries,
    variables_of,
)
from autocompress.search_space.values import wrap


class AutoCompressionSearchSpaceGenerator:
    """Builds a search space from config lists, one algorithm after the other."""

    def __init__(self) -> None:
        self._algorithms: list[dict[str, Any]] = []

    def add_config(self, name: str, config_list: Sequence[Mapping[str, Any]], **algorithm_kwargs: Any) -> None:
        """Add an algorithm.

        Args:
            name: of the algorithm; `pruner+quantizer` for a mix.
            config_list: its entries. Each selects layers by `op_types` and `op_names` (a quantizer also has
                `quant_types`) and has `sparsity` in [0, 1) (a quantizer: `quant_bits`, ...) or `exclude`. In a mix such
                as "l2+qat" the entries with `quant_types` are the quantizer's. A value is a constant or
                `{"_type": ..., "_value": [...]}`. The list is copied, never changed. The `sparsity` of a quantizer that
                has one is the share of the weights' bits to save: other layers stay in floating point.
            **algorithm_kwargs: arguments of the algorithm, constants or `{"_type": ..., "_value": [...]}`.

        Raises:
            ConfigError: naming the algorithm and the key, the rule that is broken, and the value.
        """
        known = algorithm(name)
        if any(added["_name"] == name for added in self._algorithms):
            raise ConfigError(f"a search space must have each algorithm once; got {name!r} a second time")
        try:
            wire = {"_name": name, **_entries(known, config_list), **_arguments(known, algorithm_kwargs)}
        except ConfigError as error:
            raise ConfigError(f"algorithm {name!r}: {error}") from error
        AlgorithmSpace.parse(wire)
        self._algorithms.append(wire)

    def dumps(self) -> dict[str, Any]:
        """The search space in NNI 2.10's format, JSON-ready: a new copy each time.

        Raises:
            ConfigError: no algorithm has been added.
        """
        if not self._algorithms:
            raise ConfigError("a search space must have at least one algorithm (add_config); got none")
        return {ALGORITHM_KEY: {"_type": "choice", "_value": copy.deepcopy(self._algorithms)}}

    def dump(self, path: str | os.PathLike[str]) -> None:
        """Write the search space to a JSON file.

        Raises:
            ConfigError: there is none, or the file cannot be written.
        """
        text = json.dumps(self.dumps(), indent=2)
        try:
            Path(path).write_text(f"{text}\n", encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"the search space cannot be written to {os.fspath(path)!r}: {error}") from error

    @classmethod
    def loads(cls, search_space: Mapping[str, Any]) -> AutoCompressionSearchSpaceGenerator:
        """The generator that dumps this search space.

        Raises:
            ConfigError: naming the algorithm and the key, the rule that is broken, and the value.
        """
        generator = cls()
        generator._algorithms = SearchSpace.parse(search_space).wire[ALGORITHM_KEY]["_value"]
        return generator


def _entries(known: Algorithm, config_list: Any) -> dict[str, Any]:
    if not isinstance(config_list, list | tuple):
        raise ConfigError(f"config_list must be a list of entries; got {config_list!r}")
    parsed = [_entry(known, f"config_list[{index}]", entry) for index, entry in enumerate(config_list)]
    # Before keys are formed: two entries for the same layers would become one.
    require_entries(known, ((layers, list(variables)) for layers, variables in parsed))
    return {layers.key(name): wrap(value) for layers, variables in parsed for name, value in variables.items()}


def _entry(known: Algorithm, where: str, entry: Any) -> tuple[LayerSelector, dict[str, Any]]:
    """The layers of an entry and its variables."""
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} must be an object with op_types and op_names; got {entry!r}")
    kind = known.kind if known.kind != "mix" else "quantizer" if "quant_types" in entry else "pruner"
    variables = variables_of(known, kind)
    names = (*SELECTORS[kind], *variables)
    for name in entry:
        if name not in names:
            raise ConfigError(f"{where}: {unknown_name('key', str(name), names)}")
    copied: dict[str, Any] = plain(where, entry)
    quant_types = _names(where, "quant_types", copied) if kind == "quantizer" else None
    op_types, op_names = _names(where, "op_types", copied), _names(where, "op_names", copied)
    if not copied:
        raise ConfigError(f"{where} must have one of {', '.join(variables)}; got none")
    try:
        return LayerSelector(op_types, op_names, quant_types), copied
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _names(where: str, key: str, entry: dict[str, Any]) -> tuple[str, ...]:
    names = entry.pop(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}: {key} must be a list of strings; got {names!r}")
    return tuple(names)


def _arguments(known: Algorithm, arguments: dict[str, Any]) -> dict[str, Any]:
    for name in arguments:
        require_argument(known, name)
    return {argument_key(name): wrap(plain(argument_key(name), value)) for name, value in arguments.items()}


def default_space(names: Iterable[str], rates: Mapping[str, tuple[float, float]] | None = None) -> SearchSpace:
    """All layers at rates from 0 to 0.95; weights in 8 bits, of `dorefa` in 4, of `bnn` in 1, of `qat` activations too.

    Args:
        names: of the algorithms.
        rates: the lowest and the highest rate of algorithms, by name, instead.

    Raises:
        ConfigError: no algorithm has such a name, or a range breaks a rule.
    """
    generator = AutoCompressionSearchSpaceGenerator()
    for name in names:
        entries = [part.default_entry() for part in algorithm(name).stages]
        if rates and name in rates:
            entries[0]["sparsity"] = {"_type": "uniform", "_value": list(rates[name])}
        generator.add_config(name, entries)
    return SearchSpace.parse(generator.dumps())


SearchSpaceSource = str | os.PathLike[str] | Mapping[str, Any] | AutoCompressionSearchSpaceGenerator | SearchSpace


def load_search_space(source: SearchSpaceSource) -> SearchSpace:
    """The search space of a JSON file, of a JSON object, or of a generator.

    Raises:
        ConfigError: the file cannot be read, is not JSON, or the search space breaks a rule; naming the file.
    """
    if isinstance(source, SearchSpace):
        return source
    if isinstance(source, AutoCompressionSearchSpaceGenerator):
        return SearchSpace.parse(source.dumps())
    if not isinstance(source, str | os.PathLike):
        return SearchSpace.parse(source)
    path = Path(source)
    try:
        return SearchSpace.parse(parse(path.read_bytes(), unique_keys=True))
    except OSError as error:
        raise ConfigError(f"search space file must be readable; got {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"search space file {path} must be UTF-8 text: {error}") from error
    except ValueError as error:
        raise ConfigError(f"search space file {path} must be JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"search space file {path}: {error}") from error
