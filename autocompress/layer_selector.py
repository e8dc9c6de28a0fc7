"""The layers that an entry of a config list selects, and what a rule does to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autocompress.errors import ConfigError, unknown_name

QUANT_TYPES = ("input", "output", "weight")
"""What a quantizer can quantize in a layer."""

ALL_LAYERS = "default"
"""The op type that stands for all layers that an algorithm supports."""


@dataclass(frozen=True)
class LayerSelector:
    """Layers of a model by type and by name, as NNI's config lists select them.

    Raises:
        ConfigError: neither op_types nor op_names, an unknown quant type, or a name that a search space cannot carry.
    """

    # class names such as 'Conv2d', or 'default' for all types that the algorithm supports; empty: any type
    op_types: tuple[str, ...] = ()
    op_names: tuple[str, ...] = ()  # exact dotted names of layers; empty: any name. Not both may be empty.
    # what a quantizer quantizes there: input, output, weight; None for a pruner
    quant_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require_names("op_types", self.op_types)
        require_names("op_names", self.op_names)
        require_names("quant_types", self.quant_types or ())
        for name in self.quant_types or ():
            if name not in QUANT_TYPES:
                raise ConfigError(unknown_name("quant type", name, QUANT_TYPES))
        if not self.op_types and not self.op_names:
            raise ConfigError("a config entry must have op_types or op_names; got neither")

    def key(self, variable: str) -> str:
        """The key of a variable of these layers in NNI's search spaces.

        It is `config_list::<op_types joined by :>::<op_names joined by :>::<variable>`, with `<quant_types joined by
        :>` before op_types for a quantizer.
        """
        require_names("variable", (variable,))
        lists = [self.op_types, self.op_names]
        if self.quant_types is not None:
            lists.insert(0, self.quant_types)
        return "::".join(["config_list", *(":".join(names) for names in lists), variable])

    def __str__(self) -> str:
        lists = {"op_types": self.op_types, "op_names": self.op_names, "quant_types": self.quant_types}
        return ", ".join(f"{name} {list(names)}" for name, names in lists.items() if names)


@dataclass(frozen=True)
class LayerRule(LayerSelector):
    """What is done to the layers that it selects."""

    rate: float | None = None  # in [0, 1); None for an exclude, and for quantizers without one
    exclude: bool = False  # whether the layers stay as they are
    quant: Mapping[str, Any] = field(default_factory=dict)  # the quantizer's variables: quant_bits, quant_scheme, ..


def require_names(what: str, names: tuple[str, ...]) -> None:
    """Check that NNI's format for keys can carry some names."""
    for name in names:
        if not name or ":" in name:
            raise ConfigError(f"a name in {what} must be a string without ':' that is not empty; got {name!r}")
    if len(set(names)) < len(names):
        raise ConfigError(f"{what} must not name anything twice; got {list(names)!r}")
