"""The records in an experiment's files: frozen, with a schema version."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from autocompress.errors import StoreError, short, short_text
from autocompress.typed_fields import AT_LEAST_0, DIRECTORY_NAME, INNER_PATH, from_fields

SCHEMA_VERSION = 1

State = Literal["completed", "stopped", "failed", "lost"]
"""completed: ran to its end; stopped: interrupted, last state saved; failed: raised, see `error`; lost: killed."""

Purpose = Literal["rate", "learning_rate", "beyond", "final"]
"""What a trial is for: it decides its rate; tries a learning rate in short; looks beyond a rate that was nearly within
the budget; trains the best model to the end of the schedule."""

Key = Annotated[str, DIRECTORY_NAME]
"""Of a trial, whose directory has its name."""

_Count = Annotated[int, AT_LEAST_0]
_Record = TypeVar("_Record", bound="Record")


class Record:
    """Base of all records: converts to and from a JSON object, checking the types of the fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready object with all fields and the schema version."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls: type[_Record], data: Mapping[str, Any]) -> _Record:
        """The record that `to_dict` wrote.

        Raises:
            StoreError: no object, another schema version, a missing field, one this version does not know, or one of
                another type.
        """
        if not isinstance(data, Mapping):
            raise StoreError(f"{cls.__name__} must be an object; got {short(data)}")
        fields = dict(data)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise StoreError(f"{cls.__name__}: schema_version must be {SCHEMA_VERSION}; got {short(version)}")
        return from_fields(cls, fields)


@dataclass(frozen=True)
class Measurement(Record):
    """Size of a model.

    Attributes:
        parameters: number of parameter values the model stores, zeros included.
        nonzero_parameters: number of parameter values that are not zero.
        macs: multiply-accumulate operations of one forward pass of the example inputs on dense kernels.
        bytes: size of the weights file on disk, uncompressed.
    """

    parameters: _Count
    nonzero_parameters: _Count
    macs: _Count
    bytes: _Count

    def removed_in(self, after: Measurement) -> dict[str, Any]:
        """Shares of this model that are gone in another one: parameters that are not zero, MACs and bytes.

        The names are those of `TrialRecord`; each is in [0, 1], or below 0 where the other one is larger.
        """
        return {
            "parameters_removed": _removed(self.nonzero_parameters, after.nonzero_parameters),
            "macs_removed": _removed(self.macs, after.macs),
            "size_removed": _removed(self.bytes, after.bytes),
        }


def _removed(before: int, after: int) -> float:
    return 1 - after / before if before else 0.0


@dataclass(frozen=True)
class LayerSize(Record):
    """Size of one layer.

    Attributes:
        name: dotted, in the model.
        kind: its class.
        parameters: number of its own parameter values that are not zero.
        macs: multiply-accumulates of one forward pass of the example inputs on dense kernels.
        seconds: median time in one forward pass; None where the layer is not called as a module.
        width: number of filters; None for layers without any, and in int8 graphs.
    """

    name: str
    kind: str
    parameters: _Count
    macs: _Count
    seconds: float | None
    width: _Count | None = None


@dataclass(frozen=True)
class ModelSizes(Record):
    """The uncompressed model and a compressed one, layer by layer.

    Attributes:
        before: layers of the uncompressed model, in its order.
        after: layers of the compressed one; those of an int8 graph without times.
        seconds_before: median time of one forward pass of the uncompressed model.
        seconds_after: of the compressed one, measured in turns with it.
    """

    before: tuple[LayerSize, ...]
    after: tuple[LayerSize, ...]
    seconds_before: float
    seconds_after: float


@dataclass(frozen=True)
class Preflight(Record):
    """The checks of the user's hooks before the search.

    Attributes:
        accuracies: of the uncompressed model, each evaluation; in the evaluator's unit.
        noise: the largest difference between them; 0: the same number each time; None: not known.
        damaged: accuracy of a model whose output layer is zeroed; None where it was not evaluated.
        evaluation_seconds: of one evaluation.
        step_seconds: of one training step, from the trainer's call; None where nothing is trained, or `late`.
        epoch_seconds: of an epoch, from the length of the user's DataLoader; None: not known.
        loss: of that step; None where the criterion was not called.
        samples: that one evaluation passed through the model, by the first dimension of its inputs; None: not known.
        sampling_error: standard error of the first accuracy by its samples' values; None where the evaluator returns
            the accuracy alone.
        late: whether the trainer was left before it had stepped, as it gathers the gradients of many batches.
        seconds: that the preflight took in all.
        warnings: what to look at although the search may begin, a sentence each.
    """

    accuracies: tuple[float, ...]
    noise: float | None
    damaged: float | None
    evaluation_seconds: float
    step_seconds: float | None = None
    epoch_seconds: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    late: bool = False
    samples: _Count | None = None
    sampling_error: float | None = None


PROBE_BATCHES = 4
"""Batches of inputs on which sensitivities are measured by default."""
PROBE_WIDTHS = 6
"""Widths at which each coupling is measured by default, beside its full one."""


@dataclass(frozen=True)
class CouplingSensitivity(Record):
    """How far a model's outputs move where one coupling alone is narrower.

    Attributes:
        layers: that lose filters together, the root first.
        width: filters of the root in the uncompressed model.
        kept: shares of them that were kept, falling from 1.
        damage: at each share; never falls where fewer are kept; 0 at the first.
    """

    layers: tuple[str, ...]
    width: _Count
    kept: tuple[float, ...]
    damage: tuple[float, ...]

    def at(self, share: float) -> float:
        """The damage where a share of the filters is kept; never less where it is a smaller one.

        Between measured widths its square root is interpolated linearly: outputs move in proportion to what is removed,
        and the damage is a square of that.
        """
        points = list(zip(self.kept, self.damage, strict=True))
        for (wide, low), (narrow, high) in itertools.pairwise(points):
            if share >= narrow:
                part = max(0.0, wide - share) / (wide - narrow)
                return (math.sqrt(low) + part * (math.sqrt(high) - math.sqrt(low))) ** 2
        return points[-1][1]


@dataclass(frozen=True)
class Sensitivity(Record):
    """The sensitivity of each coupling of the uncompressed model, by one algorithm's ranking of filters.

    Attributes:
        key: hash of the model, the inputs and everything else that determines it.
        algorithm: whose ranking chose the filters.
        arguments: of the algorithm that decide its ranking.
        samples: of the inputs that the outputs were compared on.
        seconds: how long measuring it took.
        couplings: the sensitivities; damage is comparable between them.
    """

    key: str
    algorithm: str
    arguments: dict[str, Any]
    samples: _Count
    seconds: float
    couplings: tuple[CouplingSensitivity, ...]

    def of(self, layer: str) -> CouplingSensitivity | None:
        """The coupling in which a layer loses filters; None where it was not measured."""
        return next((each for each in self.couplings if layer in each.layers), None)


@dataclass(frozen=True)
class Baseline(Record):
    """The uncompressed model, measured once before the search.

    Attributes:
        accuracy: of the uncompressed model on validation data, in the evaluator's unit.
        holdout_accuracy: the same from the module's hold-out evaluator, None without one.
        higher_is_better: direction of the metric.
        measurement: its size.
        fingerprint: hash of the module's source text.
        seconds: how long the measuring took.
        preflight: the checks of the user's hooks; None where they were not made.
        accuracy_error: standard error of the accuracy, in the evaluator's unit; None: not known.
        sensitivities: of its layers, for each algorithm whose allocation needs them.
    """

    accuracy: float
    holdout_accuracy: float | None
    higher_is_better: bool
    measurement: Measurement
    fingerprint: str
    seconds: float
    preflight: Preflight | None = None
    accuracy_error: float | None = None
    sensitivities: tuple[Sensitivity, ...] = ()

    @property
    def probe(self) -> str | None:
        """Hash of the sensitivities, which trials depend on; None without any."""
        if not self.sensitivities:
            return None
        found = [
            [each.algorithm, each.arguments, [dataclasses.astuple(c) for c in each.couplings]]
            for each in self.sensitivities
        ]
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def noise(self) -> float | None:
        """By how much evaluations of the uncompressed model differ, in the evaluator's unit; None: not known."""
        return None if self.preflight is None else self.preflight.noise

    @property
    def paired(self) -> bool:
        """Whether the preflight saw one value for each sample, so that trials are compared with this model by them."""
        return self.preflight is not None and self.preflight.sampling_error is not None


@dataclass(frozen=True)
class Proposal(Record):
    """The next trial by the search rule.

    Attributes:
        algorithm: name of the algorithm.
        requested_rate: rate in [0, 1), or position in [0, 1] where several sparsities move together;
            None for an algorithm without an adaptive rate.
        step: step of the search when it made this proposal, in rates.
        direction: +1 upwards, -1 downwards, 0 for the first proposal.
        lr_factor: factor on the learning rates of fine-tuning.
        start_from: key of the trial whose checkpoint it starts from; None for the pretrained model.
        seed: seed of the trial.
        epochs: the most epochs of fine-tuning.
        initial: whether this is the initial training phase, which evaluates before the first epoch.
        purpose: what the trial is for.
        steps_per_epoch: optimizer steps of an epoch of earlier trials; None: not known.
        second_chance_epochs: for which it is trained on where it ends outside the budget within the noise.
    """

    algorithm: str
    requested_rate: float | None
    step: float
    direction: int
    lr_factor: float
    start_from: Key | None
    seed: int
    epochs: _Count
    initial: bool
    purpose: Purpose = "rate"
    steps_per_epoch: _Count | None = None
    second_chance_epochs: _Count = 0

    @property
    def most_epochs(self) -> int:
        """The most epochs of fine-tuning, of each algorithm of a mix."""
        return self.epochs + self.second_chance_epochs


@dataclass(frozen=True)
class TrialRecord(Record):
    """The result of one trial.

    Attributes:
        key: hash of everything that determines the result.
        algorithm: name of the algorithm.
        state: how the trial ended.
        parameters: the JSON object the trial was given.
        requested_rate: by the search, in [0, 1); None for an algorithm without a rate.
        accuracy: of the model in the checkpoint, in the evaluator's unit; None if it was never evaluated.
        accuracy_margin: how far that accuracy is inside the threshold; >= 0 is feasible.
        accuracy_error: standard error of that margin, in the evaluator's unit; None: not known. Paired with the
            uncompressed model where the evaluator returns one value for each sample.
        required_margin: the least margin that is within the budget with the confidence that the settings require.
        feasible: whether the model is within the budget.
        score: the number that tuners maximise: the objective's reduction if feasible, else minus the relative
            shortfall.
        achieved_rate: what was achieved, measured on the model, in [0, 1).
        parameters_removed: share of the uncompressed model's parameters that are gone or zero.
        macs_removed: share of the uncompressed model's multiply-accumulates that dense kernels no longer do.
        size_removed: share of the uncompressed weights file that is saved on disk.
        bytes: size of the weights file.
        simulated: whether the model computes in floating point what only other kernels would compute in fewer bits.
        simulated_accuracy: what fine-tuning reached with simulated rounding, where the model in the checkpoint is a
            real int8 one; None otherwise.
        latency: median seconds of one forward pass of the example inputs; None where it is not the objective.
        latency_removed: share of the uncompressed model's latency that is saved, negative where it is slower; measured
            in turns with it; None where it is not the objective.
        epochs: epochs of training done, those of a sparsifying trainer included.
        lr_factor: factor on the learning rates.
        fine_tuning_schedule: how they went on; `lr_scheduler_factory`: as the module's own; None: nothing was trained.
        steps_per_epoch: optimizer steps of an epoch; None: not known.
        second_chance_epochs: those of the epochs that came after a first cycle had ended just outside the budget.
        seed: seed of the trial.
        start_from: key of the trial it started from; None for the pretrained model.
        seconds: wall time of the trial, its process' start not counted.
        checkpoint: the checkpoint's directory relative to the experiment's; None without one.
        error: why it failed, at most 2,000 printable characters of it (`traceback.txt` has all); None otherwise.
        left_alone: layer -> a sentence why it keeps its filters, although a rule selects it.
    """

    key: Key
    algorithm: str
    state: State
    parameters: dict[str, Any] = field(default_factory=dict)
    requested_rate: float | None = None
    accuracy: float | None = None
    accuracy_margin: float | None = None
    accuracy_error: float | None = None
    required_margin: float = 0.0
    feasible: bool = False
    score: float | None = None
    achieved_rate: float | None = None
    parameters_removed: float | None = None
    macs_removed: float | None = None
    size_removed: float | None = None
    bytes: _Count | None = None
    simulated: bool = False
    simulated_accuracy: float | None = None
    latency: float | None = None
    latency_removed: float | None = None
    epochs: _Count = 0
    lr_factor: float = 1.0
    fine_tuning_schedule: str | None = None
    steps_per_epoch: _Count | None = None
    second_chance_epochs: _Count = 0
    seed: int = 0
    start_from: Key | None = None
    seconds: float = 0.0
    checkpoint: Annotated[str, INNER_PATH] | None = None
    error: str | None = None
    left_alone: dict[str, str] = field(default_factory=dict)

    @property
    def purpose(self) -> Purpose:
        """What the trial was for."""
        search = self.parameters.get("search")
        purpose: Purpose = search.get("purpose", "rate") if isinstance(search, Mapping) else "rate"
        return purpose

    def __post_init__(self) -> None:
        if self.error is not None:
            object.__setattr__(self, "error", short_text(self.error))
