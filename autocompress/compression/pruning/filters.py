"""Filter pruning. Filters are physically removed, so that training afterwards is faster.

Sources: importances in `autocompress.algorithms`; coupled layers by DepGraph, Fang et al. 2023 arXiv:2301.12900;
`filter_pruning` and its options are NNCF's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from autocompress.compression.base import CompressionRequest, LayerShape, layer_shapes
from autocompress.compression.layers import PRUNED_TYPES, layer_rates, require_one_rate
from autocompress.compression.model_state import eval_mode, require_gradients, sharing_copy
from autocompress.compression.pruning.attention import joined_attention, split_attention
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.groups import removals
from autocompress.compression.pruning.pruner import pruner_of
from autocompress.compression.pruning.pruning_plan import ModelShare, PruningPlan
from autocompress.errors import CompressionError
from autocompress.layer_selector import ALL_LAYERS


@dataclass(frozen=True)
class FilterCompression:
    """A model without some of its filters; `finish` has nothing to do.

    Attributes:
        model: the smaller model, the object that was given.
        targets: the selected layers, without output layers and those that keep the residual width.
        layers: all layers whose filters could be removed, without these.
        original: sizes of the uncompressed model's layers.
        changed: layers with fewer filters than in the uncompressed model.
        share: measures a rate of parameters or MACs; None: the rate counts filters.
        left_alone: selected layer -> why it keeps its filters.
        epochs: epochs of training before the ranking.
        coverage: what share of the parameters can lose filters, and what the others belong to, in one sentence.
    """

    model: nn.Module
    targets: tuple[str, ...]
    layers: tuple[str, ...]
    original: Mapping[str, LayerShape]
    changed: tuple[str, ...]
    share: ModelShare | None = None
    left_alone: Mapping[str, str] = field(default_factory=dict)
    epochs: int = 0
    coverage: str = ""
    simulated: bool = False
    converts: bool = False

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of the uncompressed model's filters, parameters or MACs that were removed."""
        if self.share is not None:
            return self.share.removed(model)
        return removed_share(model, self.original, self.layers if whole_model else self.targets)

    def finish(self, model: nn.Module) -> nn.Module:
        """The model as it is."""
        return model


class FilterCompressor:
    """Removes the least important filters of each layer.

    Output layers keep their filters, as do layers coupled with one that may not lose any: an output layer, a layer that
    no rule selects, a registered module, or one with a shared parameter. Coupled layers with different rates get the
    smallest.
    """

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules and the arguments against the model."""
        model = sharing_copy(model)
        split_attention(model)
        request = pruner_of(request).translate(model, request)
        rates = layer_rates(model, request.targets, PRUNED_TYPES, request.scopes)
        common = [f"rate_of {request.argument('rate_of')!r}"] if request.argument("rate_of") != "filters" else []
        pruner = pruner_of(request)
        allocation = pruner.allocation(request)
        if allocation != "uniform":
            common.append("one global ranking" if allocation == "global" else f"allocation {allocation!r}")
        if common:
            require_one_rate(rates, " with ".join(common))
        pruner.check(model, request)

    def compress(self, model: nn.Module, request: CompressionRequest) -> FilterCompression:
        """Remove filters so that each layer has its rate relative to the uncompressed model; never adds any.

        Raises:
            ConfigError: rules or arguments that do not fit the model or each other.
            CompressionError: nothing would change at a rate > 0; a share of parameters or MACs cannot be reached; the
                model cannot be traced, or fails without its filters.
            ModuleError: the user's module lacks a hook that the algorithm needs.
        """
        self.check(model, request)
        left_alone = split_selected(model, request)
        request = pruner_of(request).translate(model, request)
        original = layer_shapes(model) if request.original is None else request.original
        share = ModelShare.requested(model, request)
        epochs = pruner_of(request).prepare(model, request)
        sizes = {id(module): own_parameters(module) for module in model.modules()}
        with eval_mode(model), require_gradients(model):
            plan = PruningPlan.of(model, request, Channels.of(model, request, original))
            plan, changed = remove_filters(plan, share)
        layers = tuple(name for name in original if name not in plan.channels.outputs | plan.channels.residual)
        left_alone |= plan.left_alone
        coverage = described_coverage(plan, sizes)
        joined_attention(model)
        return FilterCompression(model, plan.targets, layers, original, changed, share, left_alone, epochs, coverage)


def split_selected(model: nn.Module, request: CompressionRequest) -> dict[str, str]:
    """Split the attentions of a model in place, so that heads can be removed.

    Returns:
        those that a rule for all layers selects and that cannot be split, each with the reason.
    """
    left_alone = split_attention(model, request.example_inputs)
    everything = any(ALL_LAYERS in rule.op_types and not (rule.op_names or rule.exclude) for rule in request.targets)
    return {name: left_alone[name] for name in request.scopes.allowed(model, left_alone) if everything}


def own_parameters(module: nn.Module) -> dict[str, int]:
    """Numbers of values in the parameters of a module without its submodules, by name."""
    return {name: parameter.numel() for name, parameter in module.named_parameters(recurse=False)}


def described_coverage(plan: PruningPlan, sizes: Mapping[int, Mapping[str, int]]) -> str:
    """What share of the parameters is in layers that can lose filters or inputs, and what the others belong to.

    Args:
        plan: what can be removed.
        sizes: of the parameters of each module, by its id, before anything was removed.
    """
    places = {place.name for coupling in plan.couplings for place in coupling.places}
    found, seen = Counter[str](), set[int]()
    for name, module in plan.model.named_modules():
        for key, size in sizes.get(id(module), {}).items():
            parameter = getattr(module, key)
            if id(parameter) not in seen:
                seen.add(id(parameter))
                is_free = name in places or f"{name}.{key}".lstrip(".") in places
                found["" if is_free else _why_covered_not(plan, name, module)] += size
    total, free = sum(found.values()), found.pop("", 0)
    others = [f"{what} {size / total:.0%}" for what, size in found.most_common() if size >= total / 200]
    start = f"{free / total if total else 0:.0%} of the parameters can lose filters"
    return f"{start}; not: {', '.join(others)}" if others else start


def _why_covered_not(plan: PruningPlan, name: str, module: nn.Module) -> str:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embeddings"
    if name in plan.channels.outputs:
        return "output layers"
    if name in plan.channels.residual:
        return "layers that write to the residual stream"
    if name in plan.left_alone:
        return "other layers left alone"
    return "layers that no rule selects" if isinstance(module, PRUNED_TYPES) else "norms and other parameters"


def remove_filters(plan: PruningPlan, share: ModelShare | None) -> tuple[PruningPlan, tuple[str, ...]]:
    """Remove filters from the plan's model, except those whose removal changes what it computes.

    Returns:
        the plan without the excluded layers, and the layers with fewer filters than in the uncompressed model.

    Raises:
        CompressionError: nothing has changed at a rate > 0.
    """
    verifier = CutVerifier(plan.model, plan.request.example_inputs)
    plan, chosen = plan.verified(share, verifier)
    verifier.remove(removals(chosen))
    original, left = plan.channels.original, layer_shapes(plan.model)
    changed = tuple(name for name, shape in original.items() if left[name].width < shape.width)
    if not any(name in changed for name in plan.targets) and max(plan.rates.values()) > 0:
        raise CompressionError(_why_nothing(plan))
    return plan, changed


def removed_share(model: nn.Module, original: Mapping[str, LayerShape], layers: Iterable[str]) -> float:
    """Share in [0, 1) of the filters of these layers that were removed."""
    names = list(layers)
    total = sum(original[name].width for name in names)
    widths = layer_shapes(model)
    left = sum(widths[name].width for name in names)
    return (total - left) / total if total else 0.0


def _why_nothing(plan: PruningPlan) -> str:
    rate = max(plan.rates.values())
    start = f"filter pruning must remove something at a rate > 0; at rate {rate:g} nothing can be removed: "
    if not plan.targets:
        return f"{start}every selected layer makes the model's output ({', '.join(plan.rates)})"
    reasons = "; ".join(dict.fromkeys(plan.left_alone.values()))
    if not plan.couplings and plan.left_alone.keys() - plan.channels.obstacles.keys():
        return start + reasons
    if not plan.couplings:
        return (
            f"{start}every selected layer ({', '.join(plan.targets)}) shares filters with the model's output, its "
            f"input, or a layer that may not lose any{reasons and f'; {reasons}'}"
        )
    if plan.left_alone:
        start += reasons + "; "
    free = [(name, plan.channels.original[name].width) for coupling in plan.couplings for name in coupling.members]
    widths = ", ".join(f"{name}: {width}" for name, width in free)
    others = "other " if plan.left_alone else ""
    return f"{start}the {others}layers are too narrow for that rate (filters: {widths})"
