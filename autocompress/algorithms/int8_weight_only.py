"""int8_weight_only: linear layers hold int8 weights."""

from __future__ import annotations

from autocompress.compression.quantization.quantizer import LinearLayerQuantizer


class Int8WeightOnly(LinearLayerQuantizer):
    """Stores the weights of linear layers as int8 with a scale for each row, and computes in floating point.

    Source: torchao's `Int8WeightOnlyConfig`.
    """

    name = "int8_weight_only"
    bits = (8, 8)
    quant_types = ("weight",)
    most_saved = 0.75


ALGORITHM = Int8WeightOnly()
