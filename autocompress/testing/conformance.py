"""Conformance suite of compression algorithms.

For your own model, in a test:

    from autocompress.testing.conformance import check_conformance

    @pytest.mark.parametrize("algorithm", ["l2", "qat", "l2+qat"])
    def test_it_can_be_compressed(algorithm):
        check_conformance(MyModule, algorithm)
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compression.base import WEIGHT, AppliedAlgorithms, Compression, recalibrate, transforms
from autocompress.compression.layers import FILTER_TYPES, RECURRENT_TYPES
from autocompress.compression.measure import ReferenceModel, measure
from autocompress.compression.model_state import copy_model, forward_outputs
from autocompress.compression.module import ModuleClass
from autocompress.compression.pruning.attention import split_attention
from autocompress.compression.pruning.filters import FilterCompression, FilterCompressor
from autocompress.compression.pruning.importance import by_filter
from autocompress.compression.pruning.recurrent import parameter, suffixes, zeroed_units
from autocompress.compression.pruning.sparsity import Mask
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.formats.export import export
from autocompress.records import Measurement
from autocompress.registry import algorithm as registered
from autocompress.search_space import default_space, read_parameters
from autocompress.trial.spec import seed_everything

_ZEROED_TOLERANCE = 1e-4
_NORMS = (nn.LayerNorm, nn.GroupNorm)
_COLUMNS = 64


def with_distinct_values(model: nn.Module) -> nn.Module:
    """A copy with distinct values in one-dimensional parameters and statistics, as trained ones have."""
    model, generator = copy_model(model), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point() and tensor.numel() > 1:
                values = torch.linspace(0.5, 1.5, tensor.numel())[torch.randperm(tensor.numel(), generator=generator)]
                tensor.copy_(values - 1 if name.endswith(("bias", "running_mean")) else values)
    return model


def check_zeroed(original: nn.Module, smaller: nn.Module, inputs: tuple[object, ...]) -> None:
    """Compare a pruned model with the uncompressed one in which every removed filter is zero.

    Which filters were removed is read from the remaining weights. Non-linearities must map zero to zero; LayerNorm and
    GroupNorm, whose statistics change with the number of channels, are skipped in both models.

    Args:
        original: the model that was compressed, `with_distinct_values`.
        smaller: pruned from it, not trained.
        inputs: positional arguments of one forward pass.

    Raises:
        AssertionError: the outputs differ.
    """
    zeroed, smaller = copy_model(original), copy_model(smaller)
    for model in (zeroed, smaller):
        split_attention(model)
    left = dict(smaller.named_modules())
    for name, module in zeroed.named_modules():
        if isinstance(module, FILTER_TYPES):
            _zero_filters(module, cast(nn.Module, left[name]))
        elif isinstance(module, RECURRENT_TYPES):
            for key, value in list(zeroed_units(module, _lost_units(module, cast(nn.RNNBase, left[name])))):
                setattr(module, key, value)
        elif isinstance(module, (*_NORMS, _BatchNorm)) and module.weight is not None:
            _zero_channels(module, cast(nn.Module, left[name]))
    _leave_out_norms(zeroed)
    _leave_out_norms(smaller)
    for before, after in zip(forward_outputs(zeroed, inputs), forward_outputs(smaller, inputs), strict=True):
        assert before.shape == after.shape, f"the outputs' shapes must stay; {before.shape} became {after.shape}"
        difference, scale = float((before - after).abs().max()), float(before.abs().max())
        assert difference <= _ZEROED_TOLERANCE * scale, (
            f"a smaller model must compute what the whole one does whose lost filters are zero; outputs differ by "
            f"{difference / scale:.2g} of their scale"
        )


@torch.no_grad()
def _zero_filters(layer: nn.Module, left: nn.Module) -> None:
    weight = cast(torch.Tensor, layer.weight)
    if cast(torch.Tensor, left.weight).shape == weight.shape:
        return
    rows, fewer = by_filter(layer, weight), by_filter(left, cast(torch.Tensor, left.weight))
    gone = _lost(rows, fewer)
    places = by_filter(layer, torch.arange(weight.numel()).view(weight.shape))[gone].flatten()
    weight.view(-1)[places] = 0
    if layer.bias is not None:
        cast(torch.Tensor, layer.bias)[gone] = 0


@torch.no_grad()
def _zero_channels(norm: nn.Module, left: nn.Module) -> None:
    weight, bias = cast(torch.Tensor, norm.weight), cast(torch.Tensor, norm.bias)
    if weight.dim() == 1:
        gone = ~torch.isin(weight, cast(torch.Tensor, left.weight))
        weight[gone] = 0
        bias[gone] = 0


def _lost(rows: torch.Tensor, fewer: torch.Tensor) -> torch.Tensor:
    """Which rows are missing in the other matrix, which may have fewer columns: by the row each value is found in."""
    values, order = rows.flatten().sort()
    some = fewer[:, torch.linspace(0, fewer.shape[1] - 1, min(_COLUMNS, fewer.shape[1])).long()]
    found = order[torch.searchsorted(values, some).clamp_max(values.numel() - 1)] // rows.shape[1]
    lost = torch.ones(rows.shape[0], dtype=torch.bool)
    kept = found.mode(dim=1).values
    assert len(set(kept.tolist())) == len(kept), "each filter that is left must be one of those that were there"
    lost[kept] = False
    return lost


def _lost_units(layer: nn.RNNBase, left: nn.RNNBase) -> list[int]:
    """Which hidden units are missing in the other layer, by the recurrent weights of the first gate."""
    found = []
    for cell, suffix in enumerate(suffixes(layer)):
        rows, fewer = (parameter(each, "weight_hh", suffix).detach()[: each.hidden_size] for each in (layer, left))
        found += [cell * layer.hidden_size + int(unit) for unit in _lost(rows, fewer).nonzero()]
    return found


def _leave_out_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _NORMS):
            setattr(module, "forward", _affine(module))  # noqa: B010 - mypy lets no method be replaced


def _affine(norm: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A normalization layer's forward without the normalization."""
    weight, bias = cast(torch.Tensor, norm.weight), cast(torch.Tensor, norm.bias)

    def forward(x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (x.dim() - 2)) if isinstance(norm, nn.GroupNorm) else weight.shape
        return x * weight.view(shape) + bias.view(shape)

    return forward


RATES = (0.3, 0.6)
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Compressed:
    """A model that an algorithm has compressed, without fine-tuning.

    Attributes:
        compressions: of the algorithm's stages: one, of a mix two.
        rate: requested; None for a quantizer.
        achieved: measured rate.
        size: of the finished model.
        finished: the model.
        seconds: duration of the compressors.
    """

    compressions: tuple[Compression, ...]
    rate: float | None
    achieved: float
    size: Measurement
    finished: nn.Module
    seconds: float


def check_conformance(
    module: ModuleClass, algorithm: str, rates: Sequence[float] = RATES, exported: set[str] | None = None
) -> None:
    """Compress the module's model at several rates and check the requirements on every algorithm.

    Output shapes do not change. The achieved rate is near the requested one, never beyond it, and rises with it, as do
    the removed parameters and MACs. The output layer keeps its shape. A model without filters computes what the whole
    one computes with these filters at zero. Gradients reach every parameter and a training step keeps the rate. The
    same seed gives the same model. A checkpoint gives the same outputs bit for bit and the same rate. An export
    computes the same (ONNX if it is installed, else torch.export).

    Args:
        module: with a trainer and calibration data.
        algorithm: name of the algorithm, or of a mix.
        rates: ascending; not used for a quantizer.
        exported: layouts of pruned models whose export is known to be right, to which this one's is added: a graph does
            not depend on which filters or weights were removed, only on how many filters. None: each export is checked.

    Raises:
        AssertionError: a requirement is violated.
        AutoCompressError: the algorithm cannot be applied to the model.
    """
    reference_model = ReferenceModel.of(module)
    requested = list(rates) if _is_adaptive(algorithm) else [None]
    found = [compress(module, algorithm, rate, reference_model) for rate in requested]
    _check_rates(found, reference_model)
    for each in found:
        check_outputs(each.finished, reference_model)
        _check_head(each.finished, reference_model.original)
    last = found[-1]
    if isinstance(last.compressions[0], FilterCompression):
        check_cut(module, registered(algorithm).stages[0].name, rates[-1], reference_model)
    check_reload(last, reference_model)
    layout = _layout(module, algorithm, last.finished)
    if exported is None or layout not in exported:
        _check_export(last.finished, reference_model)
    if exported is not None and layout is not None:
        exported.add(layout)
    _check_training(module, algorithm, last)
    _check_seed(last, compress(module, algorithm, last.rate, reference_model), reference_model)


def compress(module: ModuleClass, algorithm: str, rate: float | None, reference_model: ReferenceModel) -> Compressed:
    """The module's model, compressed and not trained, all layers at one rate.

    Raises:
        AutoCompressError: the algorithm cannot be applied.
    """
    seed_everything(0)
    space = default_space([algorithm]).algorithm(algorithm)
    model, applied, achieved, seconds = copy_model(reference_model.original), AppliedAlgorithms(), 0.0, 0.0
    for part in read_parameters(space.parameters(rate)).stages:
        started = time.perf_counter()
        model = applied.apply(model, reference_model.request(part.name, part.rules, part.arguments, module))
        seconds += time.perf_counter() - started
        if part.kind == "pruner":  # as a trial does
            recalibrate(model, module.calibration_data() or ())
        achieved = applied.compressions[0].achieved_rate(model) if len(applied.compressions) == 1 else achieved
    finished = applied.finish(copy_model(model))
    compressions = tuple(applied.compressions)
    return Compressed(compressions, rate, achieved, measure(finished, reference_model.inputs), finished, seconds)


def check_cut(
    module: ModuleClass, algorithm: str, rate: float, reference_model: ReferenceModel | None = None, **arguments: Any
) -> FilterCompression:
    """Remove filters and compare the smaller model with the whole one with these filters at zero.

    Args:
        module: the model's.
        algorithm: name of a filter pruner.
        rate: to prune at.
        reference_model: of the module, where they are known.
        arguments: the algorithm's.

    Returns:
        the compression; layers that cannot be pruned are in `left_alone`.

    Raises:
        AssertionError: the smaller model computes something else.
        CompressionError: nothing can be removed.
    """
    seed_everything(0)
    reference_model = reference_model or ReferenceModel.of(module)
    original = with_distinct_values(reference_model.original)
    (choice,) = read_parameters(default_space([algorithm]).algorithm(algorithm).parameters(rate)).stages
    if algorithm == "slim":  # training would change the weights that identify filters
        arguments["training_epochs"] = 0
    choice = dataclasses.replace(choice, arguments={**choice.arguments, **arguments})
    request = reference_model.request(choice.name, choice.rules, choice.arguments, module)
    compression = FilterCompressor().compress(copy_model(original), request)
    check_zeroed(original, compression.model, reference_model.inputs)
    return compression


def _is_adaptive(algorithm: str) -> bool:
    return registered(algorithm).kind != "quantizer"


def _check_rates(found: Sequence[Compressed], reference_model: ReferenceModel) -> None:
    for each in found:
        assert 0 < each.achieved < 1, f"the achieved rate must be in (0, 1); got {each.achieved} at {each.rate}"
        if each.rate is not None:
            beyond = f"the achieved rate must not go beyond the requested {each.rate}; got {each.achieved}"
            assert each.achieved <= each.rate + _TOLERANCE, beyond
        assert each.size.macs <= reference_model.size.macs, "a compressed model must not compute more"
    for low, high in itertools.pairwise(found):
        assert low.achieved < high.achieved, f"the achieved rate must rise; {low.achieved} became {high.achieved}"
        for name in ("nonzero_parameters", "macs", "bytes"):
            sizes = getattr(low.size, name), getattr(high.size, name)
            assert sizes[0] >= sizes[1], f"{name} must not rise with the rate; {sizes[0]} became {sizes[1]}"


def check_outputs(finished: nn.Module, reference_model: ReferenceModel) -> None:
    """Check that a finished model has finite outputs of the uncompressed one's shapes; AssertionError if not."""
    before, after = (forward_outputs(model, reference_model.inputs) for model in (reference_model.original, finished))
    shapes = [[tuple(tensor.shape) for tensor in each] for each in (before, after)]
    assert shapes[0] == shapes[1], f"the outputs' shapes must stay; {shapes[0]} became {shapes[1]}"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in after), "outputs must be finite"


def _check_head(finished: nn.Module, original: nn.Module) -> None:
    """The last layer keeps its width; an int8 model has no layers, its outputs have been checked."""
    layers = [name for name, layer in original.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    modules = dict(finished.named_modules())
    if layers[-1] in modules:
        width = modules[layers[-1]].weight.shape[0], original.get_submodule(layers[-1]).weight.shape[0]  # type: ignore[index]
        assert width[0] == width[1], f"the output layer must keep its width; {width[1]} became {width[0]}"


def check_reload(compressed: Compressed, reference_model: ReferenceModel) -> None:
    """Check that a checkpoint gives the same outputs bit for bit and the same rate; AssertionError if not."""
    finished = compressed.finished
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(finished, Path(folder, "checkpoint"), reference_model.original)
        loaded = load_compressed(Path(folder, "checkpoint"), reference_model.original)
    pairs = zip(
        forward_outputs(finished, reference_model.inputs), forward_outputs(loaded, reference_model.inputs), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs), "a checkpoint must give the same outputs bit for bit"
    state = loaded.state_dict()
    odd = [name for name, tensor in finished.state_dict().items() if not torch.equal(tensor, state[name])]
    assert not odd, f"a checkpoint must give the same tensors; these differ: {odd}"
    compression = compressed.compressions[-1]
    rates = compression.achieved_rate(compression.model), compression.achieved_rate(loaded)
    assert math.isclose(*rates, abs_tol=1e-9), f"a checkpoint must have the rate {rates[0]}; it has {rates[1]}"


def _layout(module: ModuleClass, algorithm: str, finished: nn.Module) -> str | None:
    """What a pruned model's graph depends on; None for quantizers, whose graphs also depend on what they do."""
    if any(stage.kind != "pruner" for stage in registered(algorithm).stages):
        return None
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in finished.state_dict().items()}
    return f"{module.__module__}.{module.__qualname__} {finished} {shapes}"


def _check_export(finished: nn.Module, reference_model: ReferenceModel) -> None:
    suffix = ".onnx" if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript") else ".pt2"
    with tempfile.TemporaryDirectory() as folder:
        report = export(finished, Path(folder, f"model{suffix}"), reference_model.inputs)
    assert report.max_difference is not None
    assert report.max_difference <= (report.tolerance or 0.0), f"an export must compute the same; {report}"


def _check_training(module: ModuleClass, algorithm: str, compressed: Compressed) -> None:
    model, name = compressed.compressions[-1].model, registered(algorithm).stages[-1].name
    trainer, optimizer = module.sparsifying_trainer(name), module.optimizer_factory()
    assert trainer is not None, f"{module.__name__} must have a sparsifying_trainer"
    assert optimizer is not None, f"{module.__name__} must have an optimizer_factory"
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    trainer(model.train(), optimizer(model.parameters()), module.criterion() or (lambda *_: None), 0)
    without = [key for key, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not without, f"gradients must reach every parameter; they do not reach {without}"
    moved_ones = [key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])]
    assert moved_ones, "training must move the weights"
    if _is_adaptive(algorithm):
        masks = _masks(model) if len(compressed.compressions) > 1 else None
        after = AppliedAlgorithms([*compressed.compressions]).finish(copy_model(model.eval()))
        _check_held(compressed.finished, after, masks)


def _masks(model: nn.Module) -> dict[str, torch.Tensor]:
    """Where the pruner of a mix holds weights at zero: rounding makes others zero, which training may move."""
    return {
        f"{name}.{WEIGHT}": step.pruned
        for name, module in model.named_modules()
        for step in transforms(module)
        if isinstance(step, Mask)
    }


def _check_held(before: nn.Module, after: nn.Module, masks: Mapping[str, torch.Tensor] | None) -> None:
    """Values removed by a pruner stay removed during training."""
    for gone, still in _zeros(before, after, masks):
        assert still == gone, f"training must leave what was removed; of {gone} values that were gone, {still} are"


def _zeros(before: nn.Module, after: nn.Module, masks: Mapping[str, torch.Tensor] | None) -> Iterator[tuple[int, int]]:
    """For each weight of two finished models: how many values were zero before, and how many of them are after."""
    trained = after.state_dict()
    for name, tensor in before.state_dict().items():
        if name.endswith("weight") and tensor.dim() > 1:
            assert trained[name].shape == tensor.shape, f"training must leave the shape of {name}"
            zeros = tensor == 0 if masks is None else masks.get(name, torch.zeros_like(tensor, dtype=torch.bool))
            yield int(zeros.sum()), int((trained[name][zeros] == 0).sum())


def _check_seed(first: Compressed, second: Compressed, reference_model: ReferenceModel) -> None:
    assert first.achieved == second.achieved, f"a seed must give one rate; {first.achieved} and {second.achieved}"
    pairs = zip(
        forward_outputs(first.finished, reference_model.inputs),
        forward_outputs(second.finished, reference_model.inputs),
        strict=True,
    )
    assert all(torch.equal(*pair) for pair in pairs), "the same seed must give the same model"
