"""Comparison of a model with its pruned version."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autocompress.compression.model_state import device_of, failing_operation, flatten_tensors, temporary_hooks
from autocompress.compression.pruning.channel_tracing import channels_in_place
from autocompress.compression.pruning.channelwise_mode import CallRecord, NeutralNormalization
from autocompress.compression.pruning.dependency_graph import TracingEffort
from autocompress.compression.pruning.groups import Coupling, Removal, removals, remove, remove_with_copy
from autocompress.compression.pruning.reference_models import (
    ONE_SAMPLE,
    cast_inputs,
    fixed_seeds,
    reference_copy,
    remaining_channels,
    variations,
    varied_inputs,
    vocabulary_size,
    zero_channels,
)
from autocompress.errors import CompressionError, first_line

OUTPUTS = "the model's outputs"

_Values = list[tuple[str, torch.Tensor]]
"""Outputs of layers in one forward pass, in order, then those of the model."""


@dataclass(frozen=True)
class Mismatch:
    """A difference between the pruned model and the reference, in which the same channels are zero.

    Attributes:
        where: the first layer whose outputs differ, or the model's outputs.
        difference: the largest difference, relative to the largest value; inf: other shapes.
        error: why the pruned model fails; None: it runs.
        training: whether it occurs in training mode only.
        in_place: whether every remaining channel is at the right place; None: unknown.
    """

    where: str
    difference: float = 0.0
    error: str | None = None
    training: bool = False
    in_place: bool | None = None

    def sentence(self, layer: str) -> str:
        """The reason why that layer keeps its filters."""
        mode = " in training mode" if self.training else ""
        if self.error is not None:
            return f"{layer}: without some of its filters the model fails{mode} ({self.error}); it keeps its filters"
        many = f"outputs differ by {self.difference:.2g} of their scale"
        how = many if self.difference < float("inf") else "outputs have another shape"
        if self.in_place:
            what = (
                f"what is computed from its channels before {self.where} depends on all of them, as a mean or a norm "
                "does, or on their number"
            )
        else:
            or_depend = "" if self.in_place is False else " or depend on each other"
            what = f"its channels are mixed or reordered{or_depend} on the way to {self.where}"
        return f"{layer}: {what}{mode} ({how}); it keeps its filters"


@dataclass(frozen=True)
class PrunedRun:
    """A forward pass of the pruned model; `model` is None if pruning failed, `calls` if they were not recorded."""

    model: nn.Module | None
    values: _Values
    calls: CallRecord | None = None
    error: str | None = None


@dataclass(frozen=True)
class Reference:
    """A copy of the uncompressed model, its inputs, and the tolerance of its precision."""

    base: nn.Module
    inputs: tuple[Any, ...]
    tolerance: float

    def reference_values(self, removed: Sequence[Removal], watched: list[str], *, training: bool = False) -> _Values:
        """Outputs of the watched layers and the model, with the removed channels at zero."""
        with zero_channels(self.base, removed):
            return _values(self.base, self.inputs, watched, training=training)

    def run_pruned(
        self,
        removed: Sequence[Removal],
        watched: list[str],
        smaller: nn.Module | None = None,
        *,
        noted: bool = False,
        training: bool = False,
    ) -> PrunedRun:
        """Run the pruned model (`smaller`, or a new one); record watched outputs, and its calls if `noted`."""
        try:
            smaller = smaller or self.pruned_copy(removed)
            calls = CallRecord(smaller, self.inputs) if noted else None
            return PrunedRun(smaller, _values(smaller, self.inputs, watched, calls, training=training), calls)
        except Exception as error:  # noqa: BLE001 - raised by the user's model
            return PrunedRun(smaller, [], error=f"{first_line(error)}{failing_operation(error)}")

    def pruned_copy(self, removed: Sequence[Removal]) -> nn.Module:
        """A copy without these channels."""
        smaller = reference_copy(self.base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            remove(smaller, removed)
        return smaller

    def first_mismatch(self, removed: Sequence[Removal], expected: _Values, found: _Values) -> Mismatch | None:
        """The first difference between the outputs of the two models; None if there is none."""
        gone = {removal.name: removal.channels for removal in removed if not removal.on_inputs}
        for (where, wide), (name, narrow) in zip(expected, found, strict=False):
            if where == name and where != OUTPUTS:
                wide = remaining_channels(wide, self.base.get_submodule(where), gone, where)
            difference = _difference(wide, narrow) if where == name else float("inf")
            if difference > self.tolerance:
                return Mismatch(where, difference)
        return None if len(expected) == len(found) else Mismatch(OUTPUTS, float("inf"))


def _values(
    model: nn.Module,
    inputs: tuple[Any, ...],
    watched: Iterable[str],
    calls: CallRecord | None = None,
    *,
    training: bool = False,
) -> _Values:
    seen: _Values = []

    def watcher(name: str) -> Any:
        return lambda _, __, output: seen.extend((name, tensor) for tensor in flatten_tensors(output)[:1])

    handles = [model.get_submodule(name).register_forward_hook(watcher(name)) for name in watched]
    model.train(training)
    with temporary_hooks(handles), torch.no_grad(), fixed_seeds(device_of(model)), NeutralNormalization(calls):
        answer = model(*inputs)
    if calls is not None:
        calls.record_result(answer)
    return seen + [(OUTPUTS, tensor) for tensor in flatten_tensors(answer)]


def _difference(wide: torch.Tensor, narrow: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if wide.shape != narrow.shape or wide.dtype != narrow.dtype:
        return float("inf")
    if not wide.numel():
        return 0.0
    if not wide.dtype.is_floating_point and not wide.dtype.is_complex:
        return 0.0 if torch.equal(wide, narrow) else 1.0
    difference, scale = float((wide - narrow).abs().max()), float(wide.abs().max())
    if difference == 0:
        return 0.0
    if math.isfinite(difference) and math.isfinite(scale):
        return difference / scale if scale else 1.0
    finite = wide.isfinite()
    if bool(finite.all()) or not torch.equal(finite, narrow.isfinite()):
        return float("inf")
    return _difference(wide[finite], narrow[finite])


_SINGLE_TOLERANCE, _DOUBLE_TOLERANCE = 1e-4, 1e-6
"""Largest rounding difference, relative to the largest value, in single and in double precision."""

_Chosen = list[tuple[Coupling, list[int]]]
_Compare = Callable[[list[Removal]], Mismatch | None]


class CutVerifier:
    """Compares a model with the one that results from removing channels.

    Inputs vary; dropout, ReLU and normalizations over channels are neutralized; constant parameters get different
    values. Then every output must be equal, to rounding: those of the model and those of all layers that read removed
    channels. What double precision can tell from single precision is checked again in double precision. The model is
    not changed.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._model, self._inputs, self._numbers = model, inputs, vocabulary_size(model)
        self._variations = variations(inputs)
        self._varied = ONE_SAMPLE
        self._separates: bool | None = None  # whether one sample is sufficient; None: unknown
        self._trains: bool | None = None  # whether training mode differs; None: unknown
        self._double: Reference | None = None
        self._single = self._reference(_comparison_dtype(model))
        self._agreed: tuple[list[Removal], nn.Module | None] = [], None

    def mismatch(self, removed: Sequence[Removal]) -> Mismatch | None:
        """The difference between the pruned model and the one with these channels at zero; None if there is none.

        Raises:
            CompressionError: the unpruned model does not run with the inputs.
        """
        found = self._compare(self._single, removed) if removed else None
        if found is None or found.error is not None or found.difference == float("inf"):
            return found
        return self._in_double_precision(removed, found)

    def remove(self, removed: Sequence[Removal]) -> None:
        """Remove these channels from the model, reusing the pruned copy if it was the last one compared."""
        compared, smaller = self._agreed
        if smaller is None or compared != list(removed):
            remove(self._model, removed)
        else:
            remove_with_copy(self._model, removed, self._single.base, smaller)
        self._agreed = [], None

    def find_faulty(
        self, chosen: Sequence[tuple[Coupling, list[int]]], effort: TracingEffort | None = None
    ) -> dict[str, str]:
        """Root layers of the couplings that cannot be pruned with the others, each with the reason.

        Also those that have not been compared when the effort, if given, is spent.
        """
        faulty: dict[str, str] = {}
        candidates = list(chosen)
        while (found := self.mismatch(removals(candidates))) is not None:
            compare = self.mismatch if found.error is None else partial(self._fails, training=found.training)
            left = self._accepted([], candidates, compare, faulty, effort)
            if len(left) == len(candidates):  # not reproducible
                faulty |= {coupling.members[0]: found.sentence(coupling.members[0]) for coupling, _ in left}
                break
            candidates = left
        return faulty

    def _accepted(
        self,
        accepted: _Chosen,
        more: _Chosen,
        compare: _Compare,
        faulty: dict[str, str],
        effort: TracingEffort | None,
    ) -> _Chosen:
        """The accepted couplings and as many of the others as possible, found by bisection."""
        if effort is not None and effort.is_spent:
            names = [coupling.members[0] for coupling, _ in more]
            faulty |= {name: f"{name}: {effort.reason}; it keeps its filters" for name in names}
            return accepted
        found = compare(removals([*accepted, *more])) if more else None
        if found is None:
            return [*accepted, *more]
        if len(more) == 1:
            faulty[more[0][0].members[0]] = self._reason(found, *more[0])
            return accepted
        half = len(more) // 2
        accepted = self._accepted(accepted, more[:half], compare, faulty, effort)
        return self._accepted(accepted, more[half:], compare, faulty, effort)

    def _reason(self, found: Mismatch, coupling: Coupling, channels: list[int]) -> str:
        """Why these channels must stay; a difference of values is traced to the channels' places."""
        if found.error is None and found.difference < float("inf"):
            removed = removals([(coupling, channels)])
            try:
                smaller = self._single.pruned_copy(removed)
                same = channels_in_place(self._single.base, smaller, self._single.inputs, coupling.members, removed)
                found = replace(found, in_place=same)
            except Exception:  # noqa: BLE001 - the model does not accept NaN
                return found.sentence(coupling.members[0])
        return found.sentence(coupling.members[0])

    def _fails(self, removed: Sequence[Removal], *, training: bool) -> Mismatch | None:
        """Whether the pruned model fails to run, which is cheaper than comparing outputs."""
        error = self._single.run_pruned(removed, [], training=training).error
        return None if error is None else Mismatch(OUTPUTS, error=error, training=training)

    def _in_double_precision(self, removed: Sequence[Removal], found: Mismatch) -> Mismatch | None:
        """The comparison in double precision, if the model runs in it."""
        try:
            self._double = self._double or self._reference(torch.float64)
            return self._compare(self._double, removed)
        except Exception:  # noqa: BLE001 - not all models and devices support it
            return found

    def _reference(self, dtype: torch.dtype | None) -> Reference:
        base = reference_copy(self._model, dtype, varied=self._varied.values)
        inputs = varied_inputs(self._inputs, self._varied, self._numbers)
        doubled = any(tensor.dtype == torch.float64 for tensor in base.parameters())
        return Reference(base, cast_inputs(inputs, base, dtype), _DOUBLE_TOLERANCE if doubled else _SINGLE_TOLERANCE)

    def _compare(self, reference: Reference, removed: Sequence[Removal]) -> Mismatch | None:
        watched = list(dict.fromkeys(removal.name for removal in removed if removal.on_inputs))
        narrow = reference.run_pruned(removed, watched, noted=self._trains is None)
        if self._separates is None:
            self._separates = narrow.calls is not None and narrow.calls.keeps_separate
            if not self._separates:
                return self._retry_less_varied(removed)
        try:
            values = reference.reference_values(removed, watched)
            unusable = any(bool(value.isnan().any()) for _, value in values)
        except Exception as error:
            if not self._varied.values or reference is self._double:
                raise CompressionError(f"the model must run with its example inputs; it fails: {error}") from error
            unusable = True
        if unusable and self._varied.values:  # the model does not accept such inputs or parameters
            return self._retry_less_varied(removed)
        if narrow.error is not None:
            return Mismatch(OUTPUTS, error=narrow.error)
        found = reference.first_mismatch(removed, values, narrow.values) or self._in_training(
            reference, narrow, removed, watched
        )
        if found is None and reference is self._single:
            self._agreed = list(removed), narrow.model
        return found

    def _retry_less_varied(self, removed: Sequence[Removal]) -> Mismatch | None:
        """Compare again with less varied inputs, on fresh copies, as a failed run may leave state behind."""
        self._varied, self._double = next(self._variations), None
        self._single = self._reference(_comparison_dtype(self._model))
        return self._compare(self._single, removed)

    def _in_training(
        self, reference: Reference, narrow: PrunedRun, removed: Sequence[Removal], watched: list[str]
    ) -> Mismatch | None:
        """The difference in code that runs in training mode only, such as auxiliary heads."""
        if self._trains is False:
            return None
        training = reference.run_pruned(removed, watched, narrow.model, noted=self._trains is None, training=True)
        if narrow.calls is not None and training.calls is not None and training.calls.same_as(narrow.calls):
            self._trains = False
            return None
        try:
            values = reference.reference_values(removed, watched, training=True)
        except Exception:  # noqa: BLE001 - the model may not train with such inputs
            self._trains = False
            return None
        self._trains = True
        if training.error is not None:
            return Mismatch(OUTPUTS, error=training.error, training=True)
        found = reference.first_mismatch(removed, values, training.values)
        return None if found is None else replace(found, training=True)


def _comparison_dtype(model: nn.Module) -> torch.dtype | None:
    """Single precision for models in half precision; None: unchanged."""
    types = {parameter.dtype for parameter in model.parameters()}
    return torch.float32 if types & {torch.float16, torch.bfloat16} else None
