"""The search rule, as pure functions of records."""

from autocompress.search.adaptive import (
    LOST_TRIALS_UNTIL_INFEASIBLE,
    AdaptiveSearch,
    RateAxis,
    SearchRule,
    SearchStep,
    SingleTrial,
    proposals,
)
from autocompress.search.objective import OBJECTIVES, best, nearest_accuracy, require_objective, score
from autocompress.search.step_halving import Position, StepHalving

__all__ = [
    "LOST_TRIALS_UNTIL_INFEASIBLE",
    "OBJECTIVES",
    "AdaptiveSearch",
    "Position",
    "RateAxis",
    "SearchRule",
    "SearchStep",
    "SingleTrial",
    "StepHalving",
    "best",
    "nearest_accuracy",
    "proposals",
    "require_objective",
    "score",
]
