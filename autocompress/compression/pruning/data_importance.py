"""Channel importance from data: activations (apoz, mean_activation) and the first-order loss (taylorfo)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from autocompress.compression.base import CompressionRequest
from autocompress.compression.layers import FILTER_TYPES, supported_layers
from autocompress.compression.model_state import copy_model, forward_outputs, temporary_hooks
from autocompress.compression.module import ModuleClass
from autocompress.compression.pruning.consumers import PoolingRecorder, ReadSite, by_position, input_norms, read_sites
from autocompress.compression.pruning.groups import ChannelSlice, Coupling
from autocompress.compression.pruning.pruner import Importance, PruningContext
from autocompress.compression.pruning.recurrent import unit_sources, unrolled
from autocompress.compression.trainer_hooks import input_batches, run_batches, run_epochs, run_inputs
from autocompress.errors import CompressionError, ConfigError, ModuleError
from autocompress.layer_selector import LayerRule


class Gate:
    """A factor of 1 for each channel of a coupling at all its readers; its gradient is accumulated sample by sample.

    Attributes:
        score: one per channel, the sum so far; None: no gradient was received.
    """

    def __init__(self, places: Sequence[ReadSite], model: nn.Module) -> None:
        self.score: torch.Tensor | None = None
        self._products: dict[int, torch.Tensor] = {}
        for site in places:
            site.watch(model, functools.partial(self._watch, site, model.get_submodule(site.name)))

    def accumulate(self) -> None:
        """Add the gradients of a finished forward and backward pass to the score."""
        for product in self._products.values():
            absolute = product.abs().sum(0)
            self.score = absolute if self.score is None else self.score + absolute
        self._products.clear()

    def _watch(self, site: ReadSite, layer: nn.Module, tensor: torch.Tensor) -> None:
        if tensor.requires_grad and torch.is_grad_enabled():
            hook = functools.partial(self._add_product, site, layer, tensor.detach())
            tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _add_product(self, site: ReadSite, layer: nn.Module, tensor: torch.Tensor, gradient: torch.Tensor) -> None:
        products = by_position(layer, tensor.float() * gradient.float()).sum(1)
        product = site.total(products.nan_to_num(0.0, 0.0, 0.0))  # overflow of a loss scaler
        samples = len(product)
        self._products[samples] = self._products[samples] + product if samples in self._products else product


def taylor(context: PruningContext) -> Importance:
    """First-order estimate of the loss without each channel: activation times gradient where the channel is read.

    Summed over all readers and over the positions of a sample, absolute, summed over samples. Not the sum over a filter
    of weight times gradient: that is zero wherever BatchNorm follows, as the loss does not depend on the filter's scale
    there. BatchNorm and dropout are in eval mode, as in the model that is evaluated.

    Sources: Molchanov et al. 2016, Pruning Convolutional Neural Networks for Resource Efficient Inference,
    arXiv:1611.06440; gates behind the norm: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning,
    arXiv:1906.10771; one gate for all readers of a channel: Liu et al. 2021, Group Fisher Pruning, arXiv:2108.00708.

    Returns:
        scores in the unit of the loss, comparable between couplings.

    Raises:
        CompressionError: no gradient reaches a coupling.
        ModuleError: the user's module lacks a hook.
    """
    request, couplings = context.request, context.couplings
    probe = unrolled(copy_model(context.model))
    gates = {
        coupling.places: Gate(read_sites(coupling, probe, context.behind, gated=True), probe) for coupling in couplings
    }

    def settle(*_: Any) -> None:
        for gate in gates.values():
            gate.accumulate()

    probe.register_forward_pre_hook(settle)
    probe.register_forward_pre_hook(_disable_batch_effects)
    run_batches(require_module(request), request.algorithm, probe, int(request.argument("training_batches")), settle)
    unreached = [coupling.members[0] for coupling in couplings if gates[coupling.places].score is None]
    if unreached:
        raise CompressionError(
            f"{request.algorithm} needs gradients where the outputs of the layers that it ranks are read; none arrives "
            f"from {', '.join(unreached)}; train them with gradients, exclude them, or take an algorithm that needs "
            "none, such as l2"
        )
    scores = {places: gate.score.cpu() for places, gate in gates.items() if gate.score is not None}
    return lambda coupling: scores[coupling.places]


def _disable_batch_effects(model: nn.Module, *_: Any) -> None:
    """In any training mode: batches must not normalize each other, nor dropout remove channels."""
    for module in model.modules():
        if isinstance(module, _BatchNorm | _DropoutNd):
            module.eval()


FUNCTIONS: dict[str, Any] = {"relu": functional.relu, "relu6": functional.relu6, "gelu": functional.gelu}
"""Functions of layers' outputs, by the value of the option `activation`."""


class RunningMean:
    """A running mean over all values of each channel."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None
        self._count = 0

    def add(self, values: torch.Tensor) -> None:
        """(..., channels)."""
        flat = values.flatten(0, -2).float()
        total = flat.sum(0).cpu().double()  # some devices have no double precision
        self._total = total if self._total is None else self._total + total
        self._count += len(flat)

    def mean(self, channels: int) -> torch.Tensor:
        """One value per channel; 0 without any data."""
        return torch.zeros(channels) if self._total is None else (self._total / self._count).float()


class ActivationStats:
    """Statistics of a coupling's channels at all their sites."""

    def __init__(self, places: Sequence[ReadSite], model: nn.Module) -> None:
        self._sites, self._model = places, model
        self._shares, self._squares = ([RunningMean() for _ in places] for _ in range(2))

    @property
    def nonzero(self) -> torch.Tensor:
        """Share in [0, 1] of each channel's values that are not zero; the mean over the sites."""
        shares = [site.mean(tally.mean(site.channels)) for site, tally in self._pairs(self._shares)]
        sites = [site.total(torch.ones(site.channels)) > 0 for site in self._sites]
        return torch.stack(shares).sum(0) / torch.stack(sites).sum(0).clamp_min(1)

    @property
    def has_zeros(self) -> bool:
        """Whether any value of any channel is zero."""
        return bool((self.nonzero < 1).any())

    @property
    def contribution(self) -> torch.Tensor:
        """Root mean square of each channel times the norm of the weights that read it, summed over the sites.

        Not the mean, since rare large values matter more than a constant: recalibrating BatchNorm partly compensates
        for that.
        """
        total = torch.zeros(self._sites[0].width)
        for site, tally in self._pairs(self._squares):
            sizes = tally.mean(site.channels).sqrt()
            total += site.total(sizes if site.output else sizes * input_norms(self._layer(site)).cpu())
        return total

    def watch(self, unpooled: PoolingRecorder) -> list[Any]:
        """Register hooks that collect the statistics; returns their handles."""
        return [
            site.watch(self._model, functools.partial(self._add, index, unpooled))
            for index, site in enumerate(self._sites)
        ]

    def _add(self, index: int, unpooled: PoolingRecorder, tensor: torch.Tensor) -> None:
        site = self._sites[index]
        self._squares[index].add(by_position(self._layer(site), tensor.detach()).float().square())
        origin = unpooled.origin(tensor)
        block = None if origin is tensor else site.block(origin.shape[1])
        if block is None:
            self._shares[index].add((by_position(self._layer(site), tensor.detach()) != 0).float())
        else:
            self._shares[index].add((origin.detach().movedim(1, -1) != 0).float().repeat_interleave(block, -1))

    def _pairs(self, tallies: Sequence[RunningMean]) -> list[tuple[ReadSite, RunningMean]]:
        return list(zip(self._sites, tallies, strict=True))

    def _layer(self, site: ReadSite) -> nn.Module:
        return self._model.get_submodule(site.name)


def collect_statistics(
    model: nn.Module, inputs: list[tuple[Any, ...]], behind: Mapping[str, str], couplings: Sequence[Coupling]
) -> dict[tuple[ChannelSlice, ...], ActivationStats]:
    """The statistics of each coupling on these inputs, by its places; the model is not changed."""
    model = unrolled(model)
    found = {coupling.places: ActivationStats(read_sites(coupling, model, behind), model) for coupling in couplings}
    unpooled = PoolingRecorder()
    handles = [handle for statistic in found.values() for handle in statistic.watch(unpooled)]
    handles.append(model.register_forward_pre_hook(lambda *_: unpooled.forget()))
    with temporary_hooks(handles), unpooled:
        run_inputs(model, inputs)
    return found


def activity_of_layers(
    model: nn.Module,
    inputs: list[tuple[Any, ...]],
    behind: Mapping[str, str],
    couplings: Sequence[Coupling],
    function: Callable[[torch.Tensor], torch.Tensor],
    zeros: bool,
) -> Importance:
    """Statistics of an activation function applied to each layer's output, or to the BatchNorm behind it.

    Args:
        model: not changed.
        inputs: of forward passes.
        behind: layer -> the module whose output is used.
        couplings: the scores of coupled layers are averaged.
        function: the activation.
        zeros: score the share of nonzero values instead of the mean.
    """
    model = unrolled(model)
    names = {place.name for coupling in couplings for place in coupling.places if place.is_output_of(behind)}
    sources = {name: unit_sources(model, behind[name]) for name in names}
    tallies = {source: RunningMean() for each in sources.values() for source in each}

    def see(name: str, module: nn.Module, _: Any, output: torch.Tensor) -> None:
        active = by_position(module, function(output.detach()))
        tallies[name].add((active != 0).float() if zeros else active)

    handles = [model.get_submodule(name).register_forward_hook(functools.partial(see, name)) for name in tallies]
    with temporary_hooks(handles):
        run_inputs(model, inputs)

    def means(name: str, channels: int) -> torch.Tensor:
        own = sources[name]
        return torch.cat([tallies[source].mean(channels // len(own)) for source in own])

    def score(coupling: Coupling) -> torch.Tensor:
        made = [place for place in coupling.places if place.name in names and place.is_output_of(behind)]
        total, count = torch.zeros(coupling.width), torch.zeros(coupling.width)
        for place in made:
            roots, indices = torch.tensor(place.roots), torch.tensor(place.indices)
            total.index_add_(0, roots, means(place.name, place.channels or coupling.width)[indices])
            count.index_add_(0, roots, torch.ones(len(indices)))
        return total / count.clamp_min(1)

    return score


_logger = logging.getLogger("autocompress.compression")


def require_scales(model: nn.Module) -> None:
    """Check that a model has BatchNorm layers with scales; CompressionError if not."""
    if not _scales(model):
        raise CompressionError("slim ranks filters by the scales of BatchNorm layers; the model has none")


def rules_of_filters(model: nn.Module, request: CompressionRequest) -> CompressionRequest:
    """The request with the layers whose outputs BatchNorm layers scale, in place of these.

    Raises:
        ConfigError: a rule selects BatchNorm layers, and all scale other values than the outputs of a layer.
    """
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)}
    types = {base.__name__ for norm in norms.values() for base in type(norm).__mro__} - {"Module", "object"}
    if not any(types & {*rule.op_types} or norms.keys() & {*rule.op_names} for rule in request.targets):
        return request
    scaled, rules = _scaled_layers(model, request, norms), list[LayerRule]()
    for rule in request.targets:
        chosen = [name for name, norm in norms.items() if _selects(rule, name, norm)]
        names = tuple(scaled[name] for name in chosen if name in scaled)
        if chosen and not names:
            raise ConfigError(f"op_types: slim prunes the layers before BatchNorm; before {', '.join(chosen)} is none")
        other = _without_norms(rule, tuple(t for t in rule.op_types if t not in types), rule.op_names, norms)
        rules += [each for each in (other, replace(rule, op_types=(), op_names=names) if names else None) if each]
    return replace(request, targets=tuple(rules))


def _selects(rule: LayerRule, name: str, norm: nn.Module) -> bool:
    """Whether a rule names a BatchNorm layer or its type."""
    kinds = {base.__name__ for base in type(norm).__mro__}
    return (name in rule.op_names or not rule.op_names) and (not rule.op_types or bool(kinds & {*rule.op_types}))


def _without_norms(
    rule: LayerRule, op_types: tuple[str, ...], op_names: tuple[str, ...], norms: Mapping[str, nn.Module]
) -> LayerRule | None:
    """The rule without BatchNorm layers; None if it selects nothing else."""
    names = tuple(name for name in op_names if name not in norms)
    if (rule.op_types and not op_types) or (rule.op_names and not names):
        return None
    return replace(rule, op_types=op_types, op_names=names)


def _scaled_layers(model: nn.Module, request: CompressionRequest, norms: Mapping[str, nn.Module]) -> dict[str, str]:
    """BatchNorm layer -> the layer whose output it is given."""
    made, found = dict[int, tuple[str, torch.Tensor]](), dict[str, str]()

    def note(name: str, _: nn.Module, __: Any, output: torch.Tensor) -> None:
        made[id(output)] = name, output  # keeps the output alive, and so its id unique

    def see(name: str, _: nn.Module, given: tuple[Any, ...]) -> None:
        if given and id(given[0]) in made:
            found[name] = made[id(given[0])][0]

    layers = supported_layers(model, FILTER_TYPES).items()
    handles = [layer.register_forward_hook(functools.partial(note, name)) for name, layer in layers]
    handles += [norm.register_forward_pre_hook(functools.partial(see, name)) for name, norm in norms.items()]
    with temporary_hooks(handles):
        forward_outputs(model, request.example_inputs)
    return found


def sparsify_scales(model: nn.Module, request: CompressionRequest) -> int:
    """Train in place with an L1 penalty on BatchNorm's scales; returns the number of epochs.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, arXiv:1708.06519.
    """
    require_scales(model)
    scales, strength = _scales(model), float(request.argument("scale"))
    epochs = int(request.argument("training_epochs"))

    def penalise() -> None:
        for scale in scales:
            if scale.grad is not None:
                scale.grad.add_(scale.detach().sign(), alpha=strength)

    run_epochs(require_module(request), request.algorithm, model, epochs, penalise)
    return epochs


def activity(context: PruningContext, *, zeros: bool) -> Importance:
    """Activation statistics of coupled channels: apoz (share of nonzero values) or mean_activation (magnitude).

    By default channels are measured where the next layers read them, after the actual non-linearity.

    apoz: the share of nonzero values, before pooling. It finds channels that are nearly always zero, in nets with ReLU
    and without BatchNorm. With BatchNorm before the non-linearity, the share of zeros correlates with the loss at 0 or
    below. A coupling without any zeros is ranked by mean_activation.

    mean_activation: root mean square times the norm of the weights that read the channel, summed over all readers. It
    ranks single channels of trained nets better than the mean absolute value does, weighted or not. Pruned and
    fine-tuned models are as accurate as with the weighted mean, and more accurate than with the plain one.

    Sources: Hu et al. 2016, Network Trimming, arXiv:1607.03250; Molchanov et al. 2016, Pruning Convolutional Neural
    Networks for Resource Efficient Inference, arXiv:1611.06440.

    Args:
        context: its argument `activation` may name a function to apply to the output of each layer, or of the BatchNorm
            behind it, instead.
        zeros: apoz instead of mean_activation.

    Raises:
        CompressionError: apoz finds no zeros at all.
    """
    model, request, behind, couplings = context.model, context.request, context.behind, context.couplings
    inputs = input_batches(require_module(request), request.algorithm, model, int(request.argument("training_batches")))
    function = str(request.argument("activation"))
    if function in FUNCTIONS:
        return activity_of_layers(model, inputs, behind, couplings, FUNCTIONS[function], zeros)
    statistics = collect_statistics(model, inputs, behind, couplings)
    if zeros:
        return _rank_by_zeros(statistics, couplings)
    return lambda coupling: statistics[coupling.places].contribution


def _rank_by_zeros(statistics: Mapping[Any, ActivationStats], couplings: Sequence[Coupling]) -> Importance:
    never = [coupling for coupling in couplings if not statistics[coupling.places].has_zeros]
    names = ", ".join(coupling.members[0] for coupling in never)
    if couplings and len(never) == len(couplings):
        raise CompressionError(
            f"apoz ranks filters by how often their activations are zero; behind {names} none is zero (as behind GELU, "
            "SiLU or tanh); take mean_activation or taylorfo, or count negative values: activation='relu'"
        )
    if never:
        _logger.warning("apoz finds no zeros behind %s; ranked by mean_activation", names)

    def score(coupling: Coupling) -> torch.Tensor:
        statistic = statistics[coupling.places]
        return statistic.nonzero if statistic.has_zeros else statistic.contribution

    return score


def _scales(model: nn.Module) -> list[nn.Parameter]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm.weight for norm in norms if norm.weight is not None]


def require_module(request: CompressionRequest) -> ModuleClass:
    """The user's module; ModuleError if the request has none."""
    if request.module is None:
        raise ModuleError(f"algorithm {request.algorithm!r} needs the user's module; the request has none")
    return request.module
