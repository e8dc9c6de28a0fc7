"""The one place where compression algorithms are registered by name."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from autocompress.arguments import Argument
from autocompress.errors import ConfigError, unknown_name

Kind = Literal["pruner", "quantizer", "mix"]
"""A pruner has a sparsity, and so an adaptive compression rate; a quantizer has none; a mix is one of each."""

MIX = "+"
"""Joins the names of a mix: `l2+qat`."""


@dataclass(frozen=True)
class Algorithm:
    """A compression algorithm that a search space can name.

    Attributes:
        name: the name users write, as in NNI's auto-compress and in NNCF.
        kind: pruner, quantizer or mix.
        compressor: `package.module:Class` of its compressor; empty for a mix.
        arguments: what it can be told (`parameter::<name>` in a search space, `add_config(**kwargs)`).
        needs: hooks of the user's module that it cannot do without; of each group, one.
        parts: of a mix: the pruner, the quantizer.
    """

    name: str
    kind: Kind
    compressor: str = ""
    arguments: tuple[Argument, ...] = ()
    needs: tuple[tuple[str, ...], ...] = ()
    parts: tuple[Algorithm, ...] = ()

    @property
    def stages(self) -> tuple[Algorithm, ...]:
        """The algorithms that are applied one after the other: the parts of a mix, else this one."""
        return self.parts or (self,)


_FILTERS = "autocompress.compression.pruning.filters:FilterPruner"
_WEIGHTS = "autocompress.compression.pruning.sparsity:LevelPruner"
_FAKE = "autocompress.compression.quantization.fake_quantizers:FakeQuantizer"
_TRAINER = ("sparsifying_trainer", "post_compress_finetuning_trainer")
_TRAINING = (_TRAINER, ("optimizer_factory",), ("criterion",))
_INPUTS = (("calibration_data", *_TRAINER),)

_SCOPES = (Argument("ignored_scopes", ()), Argument("target_scopes", ()), Argument("validate_scopes", True))
_WIDTHS = (
    *_SCOPES,
    Argument("rate_of", "filters", options=("filters", "parameters", "macs")),
    Argument("round_to", 1, minimum=1),
)
_MODE = Argument("mode", "normal", options=("normal", "global"))
_FILTER_MODE = Argument("mode", "normal", options=("normal", "global", "dependency_aware"))
"""NNI's `dependency_aware` is what `normal` does here: layers that share channels lose the same ones."""
_EPOCHS = Argument("training_epochs", 1)
_BATCHES = Argument("training_batches", 20, minimum=1)
_ACTIVATION = Argument("activation", "auto", options=("auto", "relu", "relu6", "gelu"))
"""`auto`: the non-linearity that really follows in the model."""
_NNCF_SPARSITY = (
    Argument("weight_importance", "normed_abs", options=("abs", "normed_abs")),
    Argument("sparsity_level_setting_mode", "global", options=("global", "local")),
)
_NNCF_FILTERS = (
    Argument("filter_importance", "L2", options=("L1", "L2", "geometric_median")),
    Argument("all_weights", False),
    Argument("prune_first_conv", False),
    Argument("prune_downsample_convs", False),
)

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("level", "pruner", _WEIGHTS, (*_SCOPES, _MODE)),
        Algorithm("magnitude_sparsity", "pruner", _WEIGHTS, (*_SCOPES, *_NNCF_SPARSITY)),
        Algorithm("l1", "pruner", _FILTERS, (*_WIDTHS, _FILTER_MODE)),
        Algorithm("l2", "pruner", _FILTERS, (*_WIDTHS, _FILTER_MODE)),
        Algorithm("fpgm", "pruner", _FILTERS, (*_WIDTHS, _FILTER_MODE)),
        Algorithm("filter_pruning", "pruner", _FILTERS, (*_WIDTHS, *_NNCF_FILTERS)),
        Algorithm("slim", "pruner", _FILTERS, (*_WIDTHS, _FILTER_MODE, _EPOCHS, Argument("scale", 1e-4)), _TRAINING),
        Algorithm("taylorfo", "pruner", _FILTERS, (*_WIDTHS, _FILTER_MODE, _BATCHES), _TRAINING),
        Algorithm("apoz", "pruner", _FILTERS, (*_WIDTHS, _FILTER_MODE, _BATCHES, _ACTIVATION), _INPUTS),
        Algorithm("mean_activation", "pruner", _FILTERS, (*_WIDTHS, _FILTER_MODE, _BATCHES, _ACTIVATION), _INPUTS),
        Algorithm("naive", "quantizer", _FAKE, _SCOPES),
        Algorithm("qat", "quantizer", "autocompress.compression.quantization.qat:QatQuantizer", _SCOPES, _INPUTS),
        Algorithm("dorefa", "quantizer", _FAKE, _SCOPES),
        Algorithm("bnn", "quantizer", _FAKE, _SCOPES),
    )
}


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name; `pruner+quantizer` for a mix.

    Raises:
        ConfigError: no algorithm has that name, or the parts of the mix do not go together.
    """
    if not isinstance(name, str):
        raise ConfigError(f"an algorithm must be named by a text; got {name!r}")
    if MIX in name:
        return _mix(name)
    if name not in ALGORITHMS:
        raise ConfigError(unknown_name("algorithm", name, ALGORITHMS))
    return ALGORITHMS[name]


def _mix(name: str) -> Algorithm:
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
    arguments = {argument.name: argument for part in parts for argument in part.arguments}
    needs = dict.fromkeys(itertools.chain.from_iterable(part.needs for part in parts))
    return Algorithm(name, "mix", "", tuple(arguments.values()), tuple(needs), parts)
