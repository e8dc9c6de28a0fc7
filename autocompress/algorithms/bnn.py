"""bnn: weights and activations are one of two values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.quantization.quantizer import Quantizer

if TYPE_CHECKING:
    from torch import nn

    from autocompress.compression.quantization.fake_quantizers import Precision
    from autocompress.compression.quantization.rounding import WeightRounding


class Bnn(Quantizer):
    """Rounds weights and activations to 1 bit.

    As in the paper, the first and the last layer are rounded only if a rule names them.

    Source: Courbariaux et al. 2016, Binarized Neural Networks, arXiv:1602.02830.
    """

    name = "bnn"
    bits = (1, 1)
    skips_first_and_last = True
    default_bits = 1

    def rounding(self, precision: Precision, layer: nn.Module) -> WeightRounding:
        """Sign times mean magnitude."""
        from autocompress.compression.quantization import rounding

        return rounding.binary


ALGORITHM = Bnn()
