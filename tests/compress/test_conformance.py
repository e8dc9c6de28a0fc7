"""Every algorithm on every model of the zoo."""

from __future__ import annotations

import re

import pytest

from autocompress.algorithms import ALGORITHMS
from autocompress.errors import AutoCompressError, CompressionError
from autocompress.testing.conformance import RATES, check_conformance
from autocompress.testing.zoo import ZOO

NO_SCALES = (CompressionError, "slim ranks filters by the scales of BatchNorm layers; the model has none")
REFUSALS: dict[tuple[str, str], tuple[type[AutoCompressError], str]] = {
    ("slim", "cnn_no_norm"): NO_SCALES,
    ("slim", "transformer"): NO_SCALES,
    ("slim", "regression"): NO_SCALES,
    ("apoz", "regression"): (CompressionError, "apoz ranks filters by how often their activations are zero"),
    ("filter_pruning", "custom_layer"): (CompressionError, "shares filters with the model's output, its input, or"),
}
"""Where an algorithm cannot be applied, and how it says so."""


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "l2+qat", "level+qat", "level+dorefa"])
@pytest.mark.parametrize("model", ZOO)
def test_it_conforms(model: str, algorithm: str) -> None:
    if (algorithm, model) not in REFUSALS:
        check_conformance(ZOO[model], algorithm, RATES if algorithm in ALGORITHMS else RATES[-1:])
        return
    kind, message = REFUSALS[algorithm, model]
    with pytest.raises(kind, match=re.escape(message)):
        check_conformance(ZOO[model], algorithm)
