"""Settings and search spaces: data, checked before anything is trained."""

from autocompress.search_space.generator import (
    AutoCompressionSearchSpaceGenerator,
    SearchSpaceSource,
    default_space,
    load_search_space,
)
from autocompress.search_space.space import AlgorithmSpace, LayerSpace, SearchSpace, argument_key, parse_key
from autocompress.search_space.trial_parameters import AlgorithmChoice, read_parameters, requested_rate
from autocompress.search_space.values import ValueGroup, ValueSpace

__all__ = [
    "AlgorithmChoice",
    "AlgorithmSpace",
    "AutoCompressionSearchSpaceGenerator",
    "LayerSpace",
    "SearchSpace",
    "SearchSpaceSource",
    "ValueGroup",
    "ValueSpace",
    "argument_key",
    "default_space",
    "load_search_space",
    "parse_key",
    "read_parameters",
    "requested_rate",
]
