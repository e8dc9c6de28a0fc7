"""How far compression has come."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


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
