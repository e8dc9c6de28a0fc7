"""The base class of quantizers; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from autocompress.compression.pruning.pruner import SCOPES
from autocompress.registry import Algorithm, Argument

if TYPE_CHECKING:
    from torch import nn

    from autocompress.compression.base import Compressor
    from autocompress.compression.quantization.fake_quantizers import Precision
    from autocompress.compression.quantization.rounding import WeightRounding


class Quantizer(Algorithm):
    """Rounds weights and activations to few bits. A subclass has a name, and may have another `rounding`.

    Attributes:
        bits: lowest and highest number of bits.
        quant_types: what it can quantize.
        skips_first_and_last: whether the first and the last layer are quantized only if a rule names them.
        per_channel: whether each filter may have its own scale.
        default_bits: bits in the default search space.
        default_quant_types: quant types in the default search space.
        most_saved: share of the weights' bits that it saves where it quantizes all layers, for algorithms that can
            leave some in floating point: their entries may have a `sparsity`, up to this. None: it has no rate.
    """

    kind = "quantizer"
    arguments: ClassVar[tuple[Argument, ...]] = SCOPES
    bits: ClassVar[tuple[int, int]] = (2, 8)
    quant_types: ClassVar[tuple[str, ...]] = ("input", "output", "weight")
    skips_first_and_last: ClassVar[bool] = False
    per_channel: ClassVar[bool] = False
    default_bits: ClassVar[int] = 8
    default_quant_types: ClassVar[tuple[str, ...]] = ("weight",)
    most_saved: ClassVar[float | None] = None

    def compressor(self) -> Compressor:
        """The compressor that inserts quantizers."""
        from autocompress.compression.quantization.fake_quantizers import FakeQuantizer

        return FakeQuantizer()

    def default_entry(self) -> dict[str, Any]:
        """The default search space: all layers with the default bits."""
        quant_types = list(self.default_quant_types)
        return {"quant_types": quant_types, "quant_bits": self.default_bits, "op_types": ["default"]}

    def rounding(self, precision: Precision, layer: nn.Module) -> WeightRounding:
        """How the weight of a layer is rounded: to the nearest of evenly spaced values."""
        from autocompress.compression.quantization.fake_quantizers import nearest

        return nearest(precision, layer)


class LinearLayerQuantizer(Quantizer):
    """Changes `nn.Linear`s one by one, and leaves in floating point those that it harms most where there is a rate."""

    per_channel = True

    def compressor(self) -> Compressor:
        """The compressor of linear layers."""
        from autocompress.compression.quantization.linear_quantizer import LinearQuantizer

        return LinearQuantizer()
