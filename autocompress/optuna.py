"""Optuna's interface: searches as studies; the adaptive search as a sampler and a pruner of a study of your own."""

from autocompress.engines.optuna.convert import set_accuracy_margin
from autocompress.engines.optuna.sampler import AdaptiveCompressionPruner, AdaptiveCompressionSampler
from autocompress.engines.optuna.study import CompressionStudy

__all__ = ["AdaptiveCompressionPruner", "AdaptiveCompressionSampler", "CompressionStudy", "set_accuracy_margin"]
