"""Compression algorithms by name: built-in ones, those of installed packages, and registered ones."""

from __future__ import annotations

import importlib
import inspect
import itertools
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from autocompress.errors import ConfigError, short, unknown_name

if TYPE_CHECKING:
    from autocompress.compression.base import Compressor

_logger = logging.getLogger("autocompress")

Kind = Literal["pruner", "quantizer", "mix"]
"""A pruner has a sparsity, and so an adaptive compression rate; a quantizer has none; a mix is one of each."""

MIX = "+"
"""Joins the names of a mix: `l2+qat`."""

ENTRY_POINTS = "autocompress.algorithms"
"""Group of the entry points by which installed packages add algorithms: each is a subclass of `Algorithm`."""

_OURS = (
    "level",
    "magnitude_sparsity",
    "l1",
    "l2",
    "fpgm",
    "filter_pruning",
    "slim",
    "taylorfo",
    "apoz",
    "mean_activation",
    "naive",
    "qat",
    "ptq",
    "int8_dynamic",
    "int8_weight_only",
    "int4_weight_only",
    "semi_structured",
    "dorefa",
    "bnn",
)
"""Each is a module of `autocompress.algorithms`, whose `ALGORITHM` it is."""


@dataclass(frozen=True)
class Argument:
    """An argument of an algorithm; its type is that of its default: int, float, bool, str, or a tuple of strings.

    Attributes:
        name: as users write it.
        default: its value where it is not given.
        options: all allowed values; empty: any value of the default's type.
        minimum: the lowest allowed number.
        below: what a number must be below.
        formerly: another name that it has in NNI 2.10's files, and each of that one's values with its own.
    """

    name: str
    default: Any
    options: tuple[Any, ...] = ()
    minimum: float = 0
    below: float = math.inf
    formerly: tuple[str, tuple[tuple[str, str], ...]] | None = None

    def check(self, value: Any) -> Any:
        """The value, if it is allowed; lists come back as tuples.

        Raises:
            ConfigError: it is not.
        """
        checked = self._converted(value)
        if not self._allows(checked):
            raise ConfigError(f"{self.name} must be {self.rule}; got {value!r}")
        return checked

    @property
    def rule(self) -> str:
        """The rule in words."""
        if self.options:
            return f"one of {', '.join(repr(option) for option in self.options)}"
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, int):
            return f"a whole number >= {self.minimum:g}"
        if isinstance(self.default, float):
            if math.isfinite(self.below):
                return f"a number in [{self.minimum:g}, {self.below:g})"
            return f"a finite number >= {self.minimum:g}"
        return "a list of strings" if isinstance(self.default, tuple) else "a string"

    def _converted(self, value: Any) -> Any:
        """A single string as a tuple, lists as tuples; 3.0, which quniform gives, as 3 for whole numbers."""
        if isinstance(self.default, tuple):
            return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
        whole = isinstance(self.default, int) and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value

    def _allows(self, value: Any) -> bool:
        if isinstance(self.default, tuple):
            return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        if isinstance(value, bool) != isinstance(self.default, bool):
            return False
        if self.options:
            return value in self.options
        if isinstance(self.default, bool | str):
            return isinstance(value, type(self.default))
        kinds = (int,) if isinstance(self.default, int) else (int, float)
        return isinstance(value, kinds) and math.isfinite(value) and self.minimum <= value < self.below


class Algorithm:
    """A compression algorithm that a search space can name.

    Derive from `FilterPruner`, `WeightPruner` or `Quantizer`. Import torch in the methods only: search spaces, the
    command line and reports read the attributes alone.

    Attributes:
        name: the name users write, as in NNI's auto-compress and in NNCF.
        kind: pruner, quantizer or mix.
        arguments: what it takes (`parameter::<name>` in a search space, `add_config(**kwargs)`).
        needs: hooks of the user's module that it cannot do without; of each group, one.
        trains: whether its models are fine-tuned where the module has a trainer.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Kind]
    arguments: ClassVar[tuple[Argument, ...]] = ()
    needs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    trains: ClassVar[bool] = True

    @property
    def parts(self) -> tuple[Algorithm, ...]:
        """The pruner and the quantizer of a mix; empty otherwise."""
        return ()

    def needs_with(self, arguments: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        """`needs`, and what the algorithm cannot do without with these arguments."""
        return self.needs

    @property
    def stages(self) -> tuple[Algorithm, ...]:
        """The algorithms that are applied one after the other: the parts of a mix, else this one."""
        return self.parts or (self,)

    def compressor(self) -> Compressor:
        """The object that compresses a model."""
        raise NotImplementedError(f"{type(self).__name__} must have a compressor: derive it from a kind of pruner")

    def default_entry(self) -> dict[str, Any]:
        """The config list's entry for all layers, where no search space is given."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<algorithm {self.name!r}>"


class Mix(Algorithm):
    """A pruner followed by a quantizer."""

    kind = "mix"

    def __init__(self, parts: tuple[Algorithm, ...]) -> None:
        self._parts = parts
        known = {argument.name: argument for part in parts for argument in part.arguments}
        needs = dict.fromkeys(itertools.chain.from_iterable(part.needs for part in parts))
        self.name = MIX.join(part.name for part in parts)  # type: ignore[misc]
        self.arguments, self.needs = tuple(known.values()), tuple(needs)  # type: ignore[misc]

    @property
    def parts(self) -> tuple[Algorithm, ...]:
        """The pruner and the quantizer."""
        return self._parts

    def compressor(self) -> Compressor:
        """Raises ConfigError: its parts have compressors."""
        raise ConfigError(f"a mix has no compressor of its own, its parts have; got {self.name!r}")


_KINDS = ("pruner", "quantizer")
_known: dict[str, Algorithm] = {}
_provided: set[str] = set()  # names of our own algorithms and of installed packages'
_loading = threading.RLock()
_is_complete = False


def register_algorithm(new: Algorithm) -> Algorithm:
    """Add an algorithm: search spaces, `check`, trials and reports of this process know it from now on.

    Trials are processes of their own: register it where the module's file is imported, so that they know it too, or let
    an installed package name its class as an entry point of the group `autocompress.algorithms`.

    Args:
        new: an instance of a subclass of `FilterPruner`, `WeightPruner` or `Quantizer`. A class of the same name in the
            same module replaces what it registered before, as when a notebook's cell is run again.

    Returns:
        the same.

    Raises:
        ConfigError: it is none, or its name is taken, empty, or cannot stand in a search space.
    """
    if not isinstance(new, Algorithm) or getattr(new, "kind", None) not in _KINDS:
        raise ConfigError(f"register_algorithm must be given an instance of a pruner or quantizer; got {short(new)}")
    if not new.name or not new.name.replace("_", "").isalnum():
        raise ConfigError(f"the name of an algorithm must be of letters, digits and _; got {short(new.name)}")
    with _loading:
        before = algorithms().get(new.name)
        if before is not None and (new.name in _provided or _place(before) != _place(new)):
            raise ConfigError(f"the name of an algorithm must be its own; {new.name!r} is taken by {before!r}")
        _known[new.name] = new
    return new


def _place(known: Algorithm) -> tuple[str, str]:
    """Class and file: a module's file may be imported under several names."""
    own = type(known)
    file = getattr(sys.modules.get(own.__module__), "__file__", None)
    methods = [each.__code__.co_filename for each in vars(own).values() if inspect.isfunction(each)]
    return own.__qualname__, str(Path(file or next(iter(methods), own.__module__)).resolve())


def algorithms() -> dict[str, Algorithm]:
    """All known algorithms by name, the built-in ones first."""
    global _is_complete
    with _loading:
        if not _is_complete:
            for name in _OURS:
                _known[name] = importlib.import_module(f"autocompress.algorithms.{name}").ALGORITHM
            _provided.update(_known)
            _is_complete = True
            _load_entry_points()
            _provided.update(_known)
        return dict(_known)


def _load_entry_points() -> None:
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            register_algorithm(entry.load()())
        except Exception as error:  # noqa: BLE001 - another package's fault must not stop all searches
            _logger.warning("the algorithm %r of the entry point %s cannot be used: %s", entry.name, entry, error)


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name; `pruner+quantizer` for a mix.

    Raises:
        ConfigError: no algorithm has that name, or the parts of the mix do not go together.
    """
    if not isinstance(name, str):
        raise ConfigError(f"the name of an algorithm must be a string; got {short(name)}")
    if MIX in name:
        return _mix(name)
    known = algorithms()
    if name not in known:
        raise ConfigError(unknown_name("algorithm", name, known))
    return known[name]


def load_if_unknown(names: Iterable[str], load: Callable[[], object]) -> None:
    """Import what may register an algorithm, where one of these names is not known yet.

    Args:
        names: of algorithms or mixes.
        load: imports it, such as the file of the user's module.
    """
    if not {part for name in names for part in name.split(MIX)} <= algorithms().keys():
        load()


def _mix(name: str) -> Mix:
    parts = tuple(algorithm(part) for part in name.split(MIX))
    kinds = [part.kind for part in parts]
    if kinds.count("pruner") > 1:
        adaptive = " and ".join(repr(part.name) for part in parts if part.kind == "pruner")
        raise ConfigError(
            f"a mix must have one algorithm with an adaptive compression rate; {name!r} has {adaptive}: one accuracy "
            "cannot tell which of two rates to move"
        )
    if kinds != ["pruner", "quantizer"]:
        raise ConfigError(f"a mix must be one pruner and then one quantizer, such as 'l2{MIX}qat'; got {name!r}")
    return Mix(parts)
