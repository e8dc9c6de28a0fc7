"""semi_structured: two of every four weights in a row of a linear layer are zero."""

from __future__ import annotations

from autocompress.compression.quantization.quantizer import LinearLayerQuantizer


class SemiStructured(LinearLayerQuantizer):
    """Zeroes the two smallest of every four weights, for sparse tensor cores; without these it is simulated by masks.

    It stands where a quantizer does: alone, or last in a mix. Its rate, where it is given one, is the share of zeros.

    Source: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, arXiv:2104.08378; torch.sparse.
    """

    name = "semi_structured"
    bits = (32, 32)
    quant_types = ("weight",)
    default_bits = 32
    most_saved = 0.5


ALGORITHM = SemiStructured()
