"""Settings and search spaces: data, checked before anything is trained."""

from autocompress.config.algorithm_space import AlgorithmSpace, LayerRule
from autocompress.config.choice import AlgorithmChoice, LayerChoice, read_parameters
from autocompress.config.defaults import default_space
from autocompress.config.files import SearchSpaceSource, load_search_space
from autocompress.config.generator import AutoCompressionSearchSpaceGenerator
from autocompress.config.keys import ArgumentKey, LayerKey, parse_key
from autocompress.config.settings import AccuracyAwareSettings, KnowledgeDistillation
from autocompress.config.space import SearchSpace
from autocompress.config.values import ValueGroup, ValueSpace

__all__ = [
    "AccuracyAwareSettings",
    "AlgorithmChoice",
    "AlgorithmSpace",
    "ArgumentKey",
    "AutoCompressionSearchSpaceGenerator",
    "KnowledgeDistillation",
    "LayerChoice",
    "LayerKey",
    "LayerRule",
    "SearchSpace",
    "SearchSpaceSource",
    "ValueGroup",
    "ValueSpace",
    "default_space",
    "load_search_space",
    "parse_key",
    "read_parameters",
]
