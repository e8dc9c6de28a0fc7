"""naive: weights are rounded to the nearest of evenly spaced values."""

from __future__ import annotations

from autocompress.compression.quantization.quantizer import Quantizer


class Naive(Quantizer):
    """Rounds weights to 2 to 8 bits, per tensor or per channel; activations are not rounded.

    Source: NNI's `NaiveQuantizer`.
    """

    name = "naive"
    quant_types = ("weight",)
    per_channel = True


ALGORITHM = Naive()
