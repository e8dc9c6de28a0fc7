"""The uncompressed model as a trial: nothing is run, its measurements are the result at rate 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocompress.budget import accuracy_margin
from autocompress.records import Baseline

UNCOMPRESSED = "uncompressed"
"""Stands where other trials name their algorithm."""


def uncompressed_parameters() -> dict[str, Any]:
    """The parameters of the baseline trial."""
    return {"algorithm_name": {"_name": UNCOMPRESSED}, "search": {"requested_rate": 0.0}}


def is_uncompressed(parameters: Mapping[str, Any]) -> bool:
    """Whether these are the parameters of the baseline trial."""
    chosen = parameters.get("algorithm_name")
    return isinstance(chosen, Mapping) and chosen.get("_name") == UNCOMPRESSED


def uncompressed_result(baseline: Baseline, threshold: float) -> dict[str, Any]:
    """The final result of the baseline trial, with the fields that other trials report."""
    higher = baseline.higher_is_better
    return {
        "default": 0.0,
        "accuracy": baseline.accuracy,
        "accuracy_margin": accuracy_margin(baseline.accuracy, threshold, higher_is_better=higher),
        "feasible": 1,
        "requested_rate": 0.0,
        "achieved_rate": 0.0,
        "parameters_removed": 0.0,
        "macs_removed": 0.0,
        "bytes": baseline.measurement.bytes,
        "simulated": 0,
        "epochs": 0,
        "algorithm": UNCOMPRESSED,
    }
