"""qat: quantization-aware training of a real int8 model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import NEEDS_INPUTS
from autocompress.compression.quantization.quantizer import Quantizer

if TYPE_CHECKING:
    from autocompress.compression.base import Compressor


class Qat(Quantizer):
    """Trains with rounded weights and activations, for an int8 model if there are kernels, else simulated.

    Sources: Jacob et al. 2018, arXiv:1712.05877; torchao's PT2E quantization for x86.
    """

    name = "qat"
    needs = NEEDS_INPUTS
    per_channel = True
    default_quant_types = ("weight", "output")

    def compressor(self) -> Compressor:
        """The compressor that makes int8 models."""
        from autocompress.compression.quantization.qat import QatQuantizer

        return QatQuantizer()


ALGORITHM = Qat()
