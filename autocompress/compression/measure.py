"""Measures of a model's size and speed, and the uncompressed model that they are relative to."""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import IO, Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress.compression.base import CompressionRequest, LayerShape, layer_shape, layer_shapes
from autocompress.compression.layers import PRUNED_TYPES
from autocompress.compression.model_state import (
    device_of,
    eval_mode,
    failing_operation,
    failing_scopes,
    frozen,
    ordinary_attention,
    output_shapes,
    temporary_hooks,
    to_device,
)
from autocompress.compression.module import ModuleClass, example_inputs, fresh_model
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.quantization.stored_linear import parameter_values
from autocompress.compression.weight_storage import encode
from autocompress.errors import CompressionError, first_line
from autocompress.layer_selector import LayerRule
from autocompress.records import LayerSize, Measurement, Sensitivity


def measure(model: nn.Module, example_inputs: tuple[Any, ...]) -> Measurement:
    """Size of a finished model, with masks folded."""
    return Measurement(
        parameters=parameters(model),
        nonzero_parameters=nonzero_parameters(model),
        macs=macs(model, example_inputs),
        bytes=weights_bytes(model),
    )


def parameters(model: nn.Module) -> int:
    """Number of parameter values, zeros included; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in _parameters(model))


def nonzero_parameters(model: nn.Module) -> int:
    """Number of parameter values that are not zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in _parameters(model))


def _parameters(model: nn.Module) -> Iterator[torch.Tensor]:
    return model.weights() if isinstance(model, Int8Model) else parameter_values(model)


def macs(model: nn.Module, example_inputs: tuple[Any, ...]) -> int:
    """Multiply-accumulates of one forward pass in eval mode on dense kernels: convolutions and matrix products."""
    return int(_counted_flops(model, example_inputs).get_total_flops()) // 2


def _counted_flops(model: nn.Module, example_inputs: tuple[Any, ...]) -> FlopCounterMode:
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._int_mm: _product_flops})
    # Without gradients a view of a learned parameter still requires one, which the counter's hooks on modules refuse.
    with eval_mode(model), frozen(model), torch.no_grad(), ordinary_attention(), counter:
        model(*to_device(example_inputs, device_of(model)))
    return counter


def _product_flops(rows: tuple[int, int], columns: tuple[int, int], *_: Any, **__: Any) -> int:
    """Of a product of integer matrices, which FlopCounterMode does not know, by their shapes."""
    return 2 * rows[0] * rows[1] * columns[1]


def weights_bytes(model: nn.Module) -> int:
    """Size in bytes of a checkpoint's weights file, in which zeros and few bits are stored compactly."""
    counter = _ByteCounter()
    torch.save(encode(model.state_dict())[0], cast(IO[bytes], counter))
    return counter.total


class _ByteCounter(io.RawIOBase):
    """A file that only counts bytes, to avoid a second copy of the weights in memory."""

    total = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.total += size
        return size


WARM_UP, RUNS = 3, 15


@dataclass(frozen=True)
class Latency:
    """Median seconds of one forward pass of a model and of the model it is compared with."""

    seconds: float
    original_seconds: float


def measure_latency(
    model: nn.Module, original: nn.Module, example_inputs: tuple[Any, ...], *, warm_up: int = WARM_UP, runs: int = RUNS
) -> Latency:
    """Time both models alternately, in eval mode and without gradients, each on its own device.

    Args:
        model: the compressed model.
        original: the uncompressed one.
        example_inputs: positional arguments of one forward pass.
        warm_up: untimed passes of each.
        runs: timed passes of each; their medians are taken.
    """
    times: tuple[list[float], list[float]] = ([], [])
    models = (model, original)
    inputs = [to_device(example_inputs, device_of(each)) for each in models]
    with eval_mode(model), eval_mode(original), torch.no_grad():
        for run in range(warm_up + runs):
            for each, arguments, found in zip(models, inputs, times, strict=True):
                seconds = _seconds(each, arguments)
                if run >= warm_up:
                    found.append(seconds)
    return Latency(statistics.median(times[0]), statistics.median(times[1]))


def _seconds(model: nn.Module, arguments: tuple[Any, ...]) -> float:
    started = time.perf_counter()
    model(*arguments)
    if device_of(model).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def layer_sizes(
    model: nn.Module, example_inputs: tuple[Any, ...], original: Sequence[LayerSize] = ()
) -> list[LayerSize]:
    """Size of each layer that has parameters of its own, in the model's order.

    Multiply-accumulates are those of one forward pass of the example inputs on dense kernels; the time is the median of
    several passes, including submodules.

    Args:
        model: compressed or not; the layers of an int8 graph have no times.
        example_inputs: of one forward pass.
        original: layers of the uncompressed model, by whose order those of an int8 graph are named that have no bias.
    """
    inputs = to_device(example_inputs, device_of(model))
    if isinstance(model, Int8Model):
        return model.layer_sizes(inputs, original)
    layers = {name: layer for name, layer in model.named_modules() if name and list(layer.parameters(recurse=False))}
    counts = _counted_flops(model, inputs).get_flop_counts().items()
    macs = {place.partition(".")[2]: sum(operations.values()) // 2 for place, operations in counts}
    with eval_mode(model), torch.no_grad():
        seconds = _layer_seconds(model, layers, inputs)
    seen: set[int] = set()
    return [
        LayerSize(
            name,
            type(layer).__name__,
            _nonzero(layer, seen),
            macs.get(name, 0),
            seconds.get(name),
            layer_shape(layer).width if isinstance(layer, PRUNED_TYPES) else None,
        )
        for name, layer in layers.items()
    ]


def _nonzero(layer: nn.Module, seen: set[int]) -> int:
    new = [parameter for parameter in layer.parameters(recurse=False) if id(parameter) not in seen]
    seen.update(id(parameter) for parameter in new)  # shared parameters belong to the first layer
    return sum(int(torch.count_nonzero(parameter)) for parameter in new)


def _layer_seconds(model: nn.Module, layers: dict[str, nn.Module], inputs: tuple[Any, ...]) -> dict[str, float]:
    started, times = dict[str, float](), dict[str, list[float]]()
    wait: Callable[[], None] = torch.cuda.synchronize if device_of(model).type == "cuda" else lambda: None

    def begin(name: str, *_: Any) -> None:
        wait()
        started[name] = time.perf_counter()

    def end(name: str, *_: Any) -> None:
        wait()
        times.setdefault(name, []).append(time.perf_counter() - started[name])

    handles = [layer.register_forward_pre_hook(partial(begin, name)) for name, layer in layers.items()]
    handles += [layer.register_forward_hook(partial(end, name)) for name, layer in layers.items()]
    with temporary_hooks(handles):
        for run in range(WARM_UP + RUNS):
            if run == WARM_UP:
                times.clear()
            model(*inputs)
    return {name: statistics.median(found) for name, found in times.items()}


class RemovedShares:
    """The shares that are gone of a model with a size `before` and one `after`, as `Measurement.removed_in`."""

    before: Measurement
    after: Measurement

    @property
    def parameters_removed(self) -> float:
        """Share of the uncompressed model's parameters that are gone or zero."""
        return float(self.before.removed_in(self.after)["parameters_removed"])

    @property
    def macs_removed(self) -> float:
        """Share of the uncompressed model's multiply-accumulates that dense kernels no longer do."""
        return float(self.before.removed_in(self.after)["macs_removed"])

    @property
    def size_removed(self) -> float:
        """Share of the bytes of the uncompressed model's weights file."""
        return float(self.before.removed_in(self.after)["size_removed"])


@dataclass(frozen=True)
class ReferenceModel:
    """The uncompressed model.

    Attributes:
        original: the model; not changed.
        inputs: positional arguments of one forward pass.
        shapes: sizes of its layers.
        size: its size.
        data: batches of training data, which can be iterated over repeatedly; None where none are known.
        sensitivities: of its layers, by algorithms; those that are missing are measured where an allocation needs them.
    """

    original: nn.Module
    inputs: tuple[Any, ...]
    shapes: Mapping[str, LayerShape]
    size: Measurement
    data: Any = None
    sensitivities: tuple[Sensitivity, ...] = ()

    @classmethod
    def of(cls, module: ModuleClass) -> ReferenceModel:
        """The model of a user's module.

        Raises:
            ModuleError: a hook returns something unusable.
        """
        return cls.measured(fresh_model(module), example_inputs(module))

    @classmethod
    def measured(cls, original: nn.Module, inputs: tuple[Any, ...], data: Any = None) -> ReferenceModel:
        """Measure a model."""
        return cls(original, inputs, layer_shapes(original), measure(original, inputs), data)

    @cached_property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs of one forward pass."""
        return output_shapes(self.original, self.inputs)

    def request(
        self,
        algorithm: str,
        targets: tuple[LayerRule, ...],
        arguments: Mapping[str, Any],
        module: ModuleClass | None = None,
    ) -> CompressionRequest:
        """The request of an algorithm on this model, or on one that was compressed before."""
        return CompressionRequest(
            algorithm=algorithm,
            targets=targets,
            example_inputs=self.inputs,
            original=self.shapes,
            arguments=arguments,
            module=module,
            uncompressed=self.size,
            sensitivity=self._sensitivity(algorithm, arguments),
        )

    def _sensitivity(self, algorithm: str, arguments: Mapping[str, Any]) -> Sensitivity | None:
        """The sensitivity by an algorithm's ranking: with these arguments, else with the others that were measured."""
        own = [each for each in self.sensitivities if each.algorithm == algorithm]
        same = [each for each in own if all(arguments.get(name) == value for name, value in each.arguments.items())]
        return next(iter(same or own), None)

    def require_shapes(self, model: nn.Module) -> None:
        """Check that a compressed model has outputs of the same shapes.

        Raises:
            CompressionError: its forward pass fails, or they are others.
        """
        try:
            found = output_shapes(model, self.inputs)
        except Exception as error:
            changed = [name for name, shape in layer_shapes(model).items() if shape != self.shapes.get(name)]
            scopes = json.dumps(failing_scopes(error, model) or changed)
            raise CompressionError(
                f"the model must run without the removed filters; its forward pass fails{failing_operation(error)}: "
                f"{first_line(error)}; exclude its layers: ignored_scopes={scopes}"
            ) from error
        if found != self.output_shapes:
            raise CompressionError(f"the output's shape must not change; {self.output_shapes} became {found}")
