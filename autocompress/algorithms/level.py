"""level: the smallest weights are zeroed."""

from __future__ import annotations

from autocompress.compression.pruning.pruner import WeightPruner


class Level(WeightPruner):
    """Zeroes the smallest weights of each layer, or of all layers together (`allocation="global"`).

    Source: NNI's `LevelPruner`; Han et al. 2015, Learning both Weights and Connections, arXiv:1506.02626.
    """

    name = "level"


ALGORITHM = Level()
