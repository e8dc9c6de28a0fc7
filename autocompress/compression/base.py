"""The interface of compressors: request, compression, parametrizations; and compressions applied in turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize, prune

from autocompress.compression.layers import PRUNED_TYPES, Scopes, TransposedLinear, supported_layers
from autocompress.compression.model_state import device_of, eval_mode, to_device
from autocompress.compression.module import ModuleClass, batch_inputs
from autocompress.compression.pruning.attention import BIASES, PROJECTIONS, splittable_attentions
from autocompress.layer_selector import LayerRule
from autocompress.records import Measurement, Sensitivity
from autocompress.registry import algorithm


@dataclass(frozen=True)
class LayerShape:
    """Size of one layer of the uncompressed model.

    Attributes:
        width: number of filters: output channels of a convolution, output features of a linear layer, hidden units of a
            recurrent layer in all its layers and directions.
        groups: groups of a convolution, 1 for a linear layer.
    """

    width: int
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution with one filter per channel."""
        return self.groups == self.width and self.width > 1


def layer_shapes(model: nn.Module) -> dict[str, LayerShape]:
    """Sizes of all layers whose filters can be removed, by dotted name.

    The projections of an `nn.MultiheadAttention` count as layers, as they are while filters are removed.
    """
    shapes = {name: layer_shape(layer) for name, layer in supported_layers(model, PRUNED_TYPES).items()}
    for name, attention in splittable_attentions(model).items():
        biases = BIASES if attention.bias_k is not None else ()
        prefix, shape = f"{name}." if name else "", LayerShape(attention.embed_dim)
        shapes |= {f"{prefix}{part}": shape for part in (*PROJECTIONS, *biases, "out_proj")}
    return shapes


def layer_shape(layer: nn.Module) -> LayerShape:
    """Size of one convolution, linear or recurrent layer."""
    if isinstance(layer, nn.Linear):
        return LayerShape(layer.out_features)
    if isinstance(layer, nn.RNNBase):
        return LayerShape(layer.hidden_size * layer.num_layers * (1 + layer.bidirectional))
    if isinstance(layer, TransposedLinear):
        return LayerShape(layer.weight.shape[1])
    return LayerShape(int(layer.out_channels), int(layer.groups))  # type: ignore[arg-type]


@dataclass(frozen=True)
class CompressionRequest:
    """How to compress a model.

    Attributes:
        algorithm: its registered name.
        targets: rules that select layers and their rates.
        example_inputs: positional arguments of one forward pass.
        original: sizes of the uncompressed model's layers (`layer_shapes`), to which rates refer; None: the model given
            is the uncompressed one.
        arguments: the algorithm's own arguments (`parameter::<name>` of a search space), checked, without defaults.
        module: the user's module, for algorithms that need its trainers or calibration data.
        uncompressed: size of the uncompressed model, for rates that count parameters or MACs; None: as for `original`.
        sensitivity: of the uncompressed model's layers; None: it is measured where the allocation needs it.
    """

    algorithm: str
    targets: tuple[LayerRule, ...]
    example_inputs: tuple[Any, ...]
    original: Mapping[str, LayerShape] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    module: ModuleClass | None = None
    uncompressed: Measurement | None = None
    sensitivity: Sensitivity | None = None

    def argument(self, name: str) -> Any:
        """The argument that was given, else its default."""
        defaults = {argument.name: argument.default for argument in algorithm(self.algorithm).arguments}
        return self.arguments.get(name, defaults[name])

    @property
    def scopes(self) -> Scopes:
        """The parts of the model that may be compressed."""
        return Scopes.of(self.arguments)


class Compression(Protocol):
    """A model under compression: to be fine-tuned, measured and finished."""

    @property
    def simulated(self) -> bool:
        """Whether the finished model computes in floating point what other kernels would compute in fewer bits."""

    @property
    def converts(self) -> bool:
        """Whether `finish` changes the computation, so that the accuracy must be measured again."""

    @property
    def epochs(self) -> int:
        """Epochs of training that compression itself took."""

    @property
    def model(self) -> nn.Module:
        """The model to fine-tune and evaluate; it may be another object than the one that was given."""

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """The compression rate in [0, 1) measured on a model: in training, finished, or loaded from a checkpoint.

        Args:
            model: the compressed model or a copy of it.
            whole_model: measure over all layers the algorithm supports instead of the targeted ones.
        """

    def finish(self, model: nn.Module) -> nn.Module:
        """Convert the model, in place, to a plain one with the same outputs; later training does not keep its rate."""


def left_alone(compression: Compression) -> dict[str, str]:
    """Layers that a rule selects and a pruner does not cut, each with the reason."""
    return dict(getattr(compression, "left_alone", {}))


class Compressor(Protocol):
    """A family of compression algorithms."""

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check a request without compressing the model, which is not changed.

        Raises:
            ConfigError: the request breaks a rule.
            CompressionError: the algorithm cannot be applied to the model.
        """

    def compress(self, model: nn.Module, request: CompressionRequest) -> Compression:
        """Compress a model in place; use the returned compression's `model` afterwards.

        Raises:
            ConfigError: the request breaks a rule.
            CompressionError: the algorithm cannot be applied to the model, or would change nothing at a rate > 0; the
                model is then in an undefined state.
            ModuleError: the user's module lacks a hook that the algorithm needs.
        """


def compressor(name: str) -> Compressor:
    """The compressor of an algorithm, imported on first use; a mix has none (ConfigError)."""
    return algorithm(name).compressor()


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> bool:
    """Re-estimate the running statistics of all BatchNorm layers as the plain average over batches of model inputs.

    Everything else is in eval mode; modes and momenta are restored. Without batches the statistics stay as they are.

    Returns:
        whether the model has BatchNorm layers; without them no batch is drawn.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return False
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model), torch.no_grad():
        try:
            _average_statistics(model, norms, batches)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return True


def _average_statistics(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any]) -> None:
    device = device_of(model)
    for index, batch in enumerate(batches):
        if index == 0:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
        model(*to_device(batch_inputs(model, batch), device))


@dataclass
class AppliedAlgorithms:
    """The algorithms on a model.

    Attributes:
        compressions: of each algorithm, in the order they were applied.
    """

    compressions: list[Compression] = field(default_factory=list)

    def apply(self, model: nn.Module, request: CompressionRequest, batches: Iterable[Any] | None = None) -> nn.Module:
        """Apply one more algorithm.

        Args:
            model: changed; not to be used afterwards.
            request: of the algorithm.
            batches: data on which BatchNorm's statistics are estimated again; None: they stay.

        Returns:
            the model to fine-tune.

        Raises:
            AutoCompressError: the algorithm cannot be applied; see `Compressor.compress`.
        """
        compression = compressor(request.algorithm).compress(model, request)
        self.compressions.append(compression)
        if batches is not None:
            recalibrate(compression.model, batches)
        return compression.model

    def finish(self, model: nn.Module) -> nn.Module:
        """Make the model, or a copy of it, a plain model that computes the same; the model given is changed."""
        for compression in reversed(self.compressions):
            model = compression.finish(model)
        return model

    @property
    def simulated(self) -> bool:
        """Whether the finished model computes in floating point what other kernels would in fewer bits."""
        return any(each.simulated for each in self.compressions)

    @property
    def converts(self) -> bool:
        """Whether finishing changes what the model computes."""
        return any(each.converts for each in self.compressions)

    @property
    def left_alone(self) -> dict[str, str]:
        """Layers that keep their filters although a rule selects them, each with the reason."""
        return {name: why for each in self.compressions for name, why in left_alone(each).items()}

    @property
    def coverage(self) -> str:
        """What share of the parameters can lose filters; empty: no algorithm removes any."""
        return next(filter(None, (getattr(each, "coverage", "") for each in self.compressions)), "")


WEIGHT = "weight"


class WeightTransform(nn.Module):
    """Base class of the parametrizations that compress a weight during training."""


def transforms(module: nn.Module, name: str = WEIGHT) -> list[nn.Module]:
    """All parametrizations of a parameter, in the order they are applied."""
    if not parametrize.is_parametrized(module, name):
        return []
    return list(cast(Any, module.parametrizations)[name])


def computed_by(module: nn.Module, name: str = WEIGHT) -> str | None:
    """What of the user's computes a parameter from others, such as weight_norm or a mask; None: nothing does."""
    foreign = [type(step).__name__ for step in transforms(module, name) if not isinstance(step, WeightTransform)]
    if foreign:
        return " and ".join(each.removeprefix("_") for each in foreign)
    if not isinstance(vars(module).get(name), torch.Tensor):
        return None
    for hook in module._forward_pre_hooks.values():  # of before parametrizations
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
            return "a mask of torch.nn.utils.prune"
        if getattr(hook, "name", None) == name:
            return type(hook).__name__
    return "its own code"


def computed_parameters(module: nn.Module) -> dict[str, str]:
    """Names of a module's parameters that the user's code computes from others, each with what does."""
    made = list(cast(Any, module.parametrizations)) if parametrize.is_parametrized(module) else []
    made += [
        key
        for key, value in vars(module).items()
        if isinstance(value, torch.Tensor) and {f"{key}_orig", f"{key}_g"} & module._parameters.keys()
    ]
    return {name: how for name in made if (how := computed_by(module, name)) is not None}


_PARAMETRIZED = re.compile(r"\bparametrizations\.(\w+)\.original$")


def plain_name(name: str) -> str:
    """The name of a parameter without its parametrization: `conv.weight` of `conv.parametrizations.weight.original`."""
    return _PARAMETRIZED.sub(r"\1", name)


def fold_parametrizations(model: nn.Module) -> nn.Module:
    """Replace weights by their parametrized values and remove our parametrizations: same outputs, names and order."""
    found = list(_transformed_parameters(model))
    with torch.no_grad():  # all values first, as shared weights must not be transformed twice
        values = [cast(torch.Tensor, getattr(module, name)).detach().clone() for module, name in found]
    for (module, name), value in zip(found, values, strict=True):
        with torch.no_grad():
            _remove_parametrization(module, name).copy_(value)
    return model


def strip_parametrizations(model: nn.Module) -> nn.Module:
    """Remove our parametrizations and keep the original weights below them: same names and order."""
    for module, name in list(_transformed_parameters(model)):
        _remove_parametrization(module, name)
    return model


def _transformed_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each module and the name of a parameter that has one of our parametrizations."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name in list(cast(Any, module.parametrizations)):
                if any(isinstance(step, WeightTransform) for step in transforms(module, name)):
                    yield module, name


def _remove_parametrization(module: nn.Module, name: str) -> nn.Parameter:
    """Like parametrize.remove_parametrizations, which would also remove them from all deep copies of the module."""
    lists = cast(Any, module.parametrizations)
    parameter: nn.Parameter = lists[name].original
    del lists[name]
    kind = type(module)
    if len(lists):
        kept = {key: value for key, value in vars(kind).items() if key not in (name, "__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, kind.__bases__, kept)
    else:
        del module.parametrizations
        module.__class__ = kind.__bases__[0]
    module.register_parameter(name, parameter)
    module._parameters = dict(sorted(module._parameters.items(), key=lambda item: item[0] != WEIGHT))
    return parameter
