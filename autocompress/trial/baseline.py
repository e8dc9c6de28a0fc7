"""The uncompressed model: as a trial at rate 0, of which nothing is run, and what trials are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from autocompress.budget import accuracy_margin
from autocompress.evaluation import Evaluation
from autocompress.records import Baseline
from autocompress.search.noise import AccuracyNoise
from autocompress.store import ExperimentDirectory

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


class MarginErrors:
    """Standard errors of the accuracy margins of one trial's evaluations.

    Where the evaluator returns one value for each sample they are paired with those of the uncompressed model. It is
    evaluated for that once, by the first trial in the experiment's directory, which keeps the values there: each
    machine of a search has such a directory, and nothing needs to be brought to it.

    Args:
        noise: what is known before any trial.
        directory: the experiment's.
        fingerprint: of the module.
        evaluate_uncompressed: evaluates the uncompressed model, and leaves random numbers as they are; None: it cannot
            be evaluated here.
        confidence: the probability with which a model must be within the budget, as far as its margin's error is known
            from pairs; 0.5: as its accuracy says.

    Attributes:
        latest: of the latest evaluation; None where nothing is known of it.
        required: the least margin of the latest evaluation with that confidence.
    """

    def __init__(
        self,
        noise: AccuracyNoise,
        directory: ExperimentDirectory,
        fingerprint: str,
        evaluate_uncompressed: Callable[[], Evaluation] | None,
        confidence: float = 0.5,
    ) -> None:
        self._noise, self._directory, self._fingerprint = noise, directory, fingerprint
        self._evaluate_uncompressed = evaluate_uncompressed
        self._values: Sequence[float] | None = None
        self._quantile = NormalDist().inv_cdf(confidence)
        self.latest: float | None = None
        self.required = 0.0

    def accuracy(self, evaluation: Evaluation) -> float:
        """The accuracy of an evaluation, whose error is then the latest."""
        uncompressed = None if evaluation.values is None else self._uncompressed()
        self.latest = self._noise.of_margin(evaluation, uncompressed)
        self.required = self._quantile * (self.latest or 0.0) if uncompressed else 0.0
        return evaluation.accuracy

    def _uncompressed(self) -> Sequence[float] | None:
        if self._values is None and self._evaluate_uncompressed is not None:
            self._values = self._directory.uncompressed_values(self._fingerprint)
            if self._values is None:
                self._values = self._evaluate_uncompressed().values or ()
                self._directory.write_uncompressed_values(self._fingerprint, self._values)
        return self._values
