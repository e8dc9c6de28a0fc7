"""dorefa: weights are transformed by tanh, then rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.quantization.quantizer import Quantizer

if TYPE_CHECKING:
    from torch import nn

    from autocompress.compression.quantization.fake_quantizers import Precision
    from autocompress.compression.quantization.rounding import WeightRounding


class DoReFa(Quantizer):
    """Rounds weights after a tanh, and activations, to 1 to 8 bits.

    As in the paper, the first and the last layer are rounded only if a rule names them.

    Source: Zhou et al. 2016, DoReFa-Net, arXiv:1606.06160.
    """

    name = "dorefa"
    bits = (1, 8)
    skips_first_and_last = True
    default_bits = 4

    def rounding(self, precision: Precision, layer: nn.Module) -> WeightRounding:
        """Levels spaced evenly over tanh of the weights."""
        from autocompress.compression.quantization import rounding

        return rounding.dorefa


ALGORITHM = DoReFa()
