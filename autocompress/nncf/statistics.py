"""How far compression has come."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from autocompress.records import Measurement


class CompressionStage(Enum):
    """NNCF's three stages of a model under compression."""

    UNCOMPRESSED = 0
    PARTIALLY_COMPRESSED = 1
    FULLY_COMPRESSED = 2


def stage_of_level(level: float, target: float) -> CompressionStage:
    """Of an algorithm whose level goes up to a target."""
    if level <= 0:
        return CompressionStage.UNCOMPRESSED
    full = level >= target - 1e-9
    return CompressionStage.FULLY_COMPRESSED if full else CompressionStage.PARTIALLY_COMPRESSED


def combined(stages: Iterable[CompressionStage]) -> CompressionStage:
    """Of several algorithms together: the one that all are in, else partly compressed."""
    found = set(stages)
    if len(found) > 1:
        return CompressionStage.PARTIALLY_COMPRESSED
    return found.pop() if found else CompressionStage.FULLY_COMPRESSED


@dataclass(frozen=True)
class CompressionStatistics:
    """A model under compression beside the uncompressed one.

    Attributes:
        algorithms: their names.
        stage: how far it has come.
        requested_rate: the level in force in [0, 1); None where no algorithm has one.
        achieved_rate: what is achieved, measured: of filters removed, of weights zeroed, or of bits saved.
        before: size of the uncompressed model.
        after: size of the compressed model when stripped.
        left_alone: layer -> a sentence why it keeps its filters, although an algorithm selects it.
    """

    algorithms: tuple[str, ...]
    stage: CompressionStage
    requested_rate: float | None
    achieved_rate: float
    before: Measurement
    after: Measurement
    left_alone: dict[str, str] = field(default_factory=dict)

    @property
    def parameters_removed(self) -> float:
        """Share of the uncompressed model's parameters that are gone or zero."""
        return float(self.before.removed_in(self.after)["parameters_removed"])

    @property
    def macs_removed(self) -> float:
        """Share of the uncompressed model's multiply-accumulates that dense kernels no longer do."""
        return float(self.before.removed_in(self.after)["macs_removed"])

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {
            **plain,
            "algorithms": list(self.algorithms),
            "stage": self.stage.name,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "parameters_removed": self.parameters_removed,
            "macs_removed": self.macs_removed,
        }

    def to_str(self) -> str:
        """A few lines of text."""
        rate = "" if self.requested_rate is None else f", requested {self.requested_rate:g}"
        achieved = f", achieved {self.achieved_rate:.4g}"
        before, after = self.before, self.after
        return "\n".join(
            [
                f"{' + '.join(self.algorithms)}: {self.stage.name}{rate}{achieved}",
                f"parameters           {before.parameters:,} -> {after.parameters:,} "
                f"({after.nonzero_parameters:,} not zero, {self.parameters_removed:.1%} removed)",
                f"multiply-accumulates {before.macs:,} -> {after.macs:,} ({self.macs_removed:.1%} removed)",
                f"bytes                {before.bytes:,} -> {after.bytes:,}",
                *(f"left alone           {why}" for why in dict.fromkeys(self.left_alone.values())),
            ]
        )

    def __str__(self) -> str:
        return self.to_str()
