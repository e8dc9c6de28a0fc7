"""int4_weight_only: linear layers hold int4 weights."""

from __future__ import annotations

from autocompress.compression.quantization.quantizer import LinearLayerQuantizer
from autocompress.registry import Argument


class Int4WeightOnly(LinearLayerQuantizer):
    """Stores the weights of linear layers as int4 with a scale for each group in a row; needs a GPU with such kernels.

    Source: torchao's `Int4WeightOnlyConfig` with tinygemm's kernels.
    """

    name = "int4_weight_only"
    arguments = (
        *LinearLayerQuantizer.arguments,
        Argument("group_size", 128, options=(32, 64, 128, 256)),
    )
    bits = (4, 4)
    quant_types = ("weight",)
    default_bits = 4
    most_saved = 0.875


ALGORITHM = Int4WeightOnly()
