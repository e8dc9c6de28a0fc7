"""int8_dynamic: linear layers multiply int8 weights and activations that are quantized when they come."""

from __future__ import annotations

from autocompress.compression.quantization.quantizer import LinearLayerQuantizer


class Int8Dynamic(LinearLayerQuantizer):
    """Stores the weights of linear layers as int8, and rounds each row of their inputs to int8 at run time.

    Source: torchao's `Int8DynamicActivationInt8WeightConfig`.
    """

    name = "int8_dynamic"
    bits = (8, 8)
    quant_types = ("weight", "input")
    default_quant_types = ("weight", "input")
    most_saved = 0.75


ALGORITHM = Int8Dynamic()
