"""Linear layers that hold int8 or int4 weights, or two zeros in every four, and the kernels of devices for them.

A converted layer keeps its name and its bias. Its codes and scales are plain tensors of the state dict, as in torchao's
`Int8Tensor` and tinygemm's int4 layout, so that checkpoints need no subclasses of tensors.

Sources: torchao's Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig and Int4WeightOnlyConfig; Dettmers et al.
2022, LLM.int8(), arXiv:2208.07339, for scales of rows; Mishra et al. 2021, Accelerating Sparse Deep Neural Networks,
arXiv:2104.08378, for two of four.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.model_state import suppress_output
from autocompress.compression.quantization.rounding import straight_through
from autocompress.compression.state_values import DTYPES, dtype_name
from autocompress.errors import CompressionError, StoreError
from autocompress.plain_json import integer, record, word

WEIGHT = "weight"
_LEVELS = 127
_INT4_MIDDLE, _INT4_LEVELS = 8, 15
_GROUPS = (256, 128, 64, 32)
"""Weights of a row that share a scale in int4 layers: the sizes that tinygemm has."""
_ROWS_OF_CUDA = 17
"""`torch._int_mm` needs more than 16 rows on CUDA."""
_SPARSE_TILE = 64


class StoredLinear(nn.Linear):
    """A finished linear layer whose weight is held in another format. It cannot be trained.

    Attributes:
        KIND: its name in checkpoints, that of its algorithm.
        SAVED: share of a weight's bits that it saves, of two of four the share of zeros.
        GROUPED: whether weights in a row have scales by groups.
        ROUNDS_INPUTS: whether it rounds its inputs, too.
        UNIT: of which the number of inputs must be a multiple.
        PACKED: weights in an element of the tensor that holds them.
    """

    KIND: ClassVar[str]
    SAVED: ClassVar[float]
    GROUPED: ClassVar[bool] = False
    ROUNDS_INPUTS: ClassVar[bool] = False
    UNIT: ClassVar[int] = 1
    PACKED: ClassVar[int] = 1

    group_size: int
    float_type: torch.dtype

    @classmethod
    def encode(cls, weight: torch.Tensor, group_size: int) -> dict[str, torch.Tensor]:  # noqa: ARG003
        """The tensors that hold a weight, by the names they have in the layer; by default the weight as it is."""
        return {WEIGHT: weight}

    @classmethod
    def decode(cls, tensors: Mapping[str, torch.Tensor], group_size: int) -> torch.Tensor:  # noqa: ARG003
        """The weight that tensors hold, in floating point."""
        return tensors[WEIGHT]

    @classmethod
    def rounded(cls, weight: torch.Tensor, group_size: int) -> torch.Tensor:
        """What the layer makes of a weight, with the weight's gradient."""
        held = cls.encode(weight.detach(), group_size)
        return straight_through(weight, cls.decode(held, group_size).to(weight.dtype))

    @classmethod
    def blank(cls, shape: torch.Size, group_size: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:  # noqa: ARG003
        """Tensors of the shapes that the layer has beside its weight, of that shape."""
        return {}

    def values(self) -> torch.Tensor:
        """The weight in floating point."""
        return self.decode({WEIGHT: self.weight, **dict(self.named_buffers(recurse=False))}, self.group_size)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's outputs, by its weight in floating point."""
        return functional.linear(input, self.values().to(input.dtype), self.bias)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to make the layer again."""
        return {"kind": self.KIND, "group_size": self.group_size, "dtype": dtype_name(self.float_type)}


class Int8WeightLinear(StoredLinear):
    """Int8 weights with a scale for each row, made floating point in each pass: a quarter of the memory."""

    KIND, SAVED = "int8_weight_only", 0.75

    @classmethod
    def encode(cls, weight: torch.Tensor, group_size: int) -> dict[str, torch.Tensor]:  # noqa: ARG003
        """Codes from -127 to 127, so that zero stays zero, and a scale for each row."""
        codes, scale = _by_rows(weight)
        return {WEIGHT: codes, "weight_scale": scale}

    @classmethod
    def decode(cls, tensors: Mapping[str, torch.Tensor], group_size: int) -> torch.Tensor:  # noqa: ARG003
        """Codes times scales; in exported graphs by the operator that becomes ONNX's DequantizeLinear."""
        codes, scale = tensors[WEIGHT], tensors["weight_scale"]
        if _is_exporting() and scale.dtype is torch.float32:
            return _exported_decoding(codes, scale)
        return codes.to(scale.dtype) * scale

    @classmethod
    def blank(cls, shape: torch.Size, group_size: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:  # noqa: ARG003
        """The scales."""
        return {"weight_scale": torch.zeros(shape[0], 1, dtype=dtype)}


class Int8DynamicLinear(Int8WeightLinear):
    """Int8 weights, and inputs rounded to int8 with a scale for each row when they come: integer products."""

    KIND, ROUNDS_INPUTS = "int8_dynamic", True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's outputs, by products of integers."""
        codes, scale = _by_rows(input.reshape(-1, input.shape[-1]))
        sums = _integer_products(codes, self.weight)
        scale_of_weight = cast(torch.Tensor, self.weight_scale)
        outputs = sums.to(torch.float32) * scale.float() * scale_of_weight.float().view(1, -1)
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.to(input.dtype).reshape(*input.shape[:-1], self.weight.shape[0])


class Int4WeightLinear(StoredLinear):
    """Two int4 weights in a byte, with a scale and a zero point for each group in a row.

    On NVIDIA GPUs tinygemm's kernel computes in bfloat16; elsewhere the weight is made floating point in each pass.
    """

    KIND, SAVED, GROUPED, UNIT, PACKED = "int4_weight_only", 0.875, True, 32, 2

    @classmethod
    def encode(cls, weight: torch.Tensor, group_size: int) -> dict[str, torch.Tensor]:
        """Codes from 0 to 15, zero among the levels; the even places of a row are the low half of a byte."""
        groups = weight.reshape(weight.shape[0], -1, group_size)
        low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
        scale = ((high - low) / _INT4_LEVELS).clamp_min(torch.finfo(weight.dtype).tiny)
        zero = (-low / scale).round().clamp(0, _INT4_LEVELS)
        codes = (groups / scale.unsqueeze(-1)).round() + zero.unsqueeze(-1)
        whole = codes.clamp(0, _INT4_LEVELS).to(torch.uint8).flatten(1)
        packed = (whole[:, ::2] | whole[:, 1::2] << 4).view(torch.int8)  # T5 reads the type of its weights
        return {WEIGHT: packed, "weight_scale": scale, "weight_zero": zero.to(torch.int8)}

    @classmethod
    def decode(cls, tensors: Mapping[str, torch.Tensor], group_size: int) -> torch.Tensor:
        """Codes less their zero points, times scales."""
        scale, zero = tensors["weight_scale"], tensors["weight_zero"]
        codes = _unpacked(tensors[WEIGHT]).reshape(*scale.shape, group_size)
        return ((codes - zero.unsqueeze(-1)).to(scale.dtype) * scale.unsqueeze(-1)).flatten(1)

    @classmethod
    def blank(cls, shape: torch.Size, group_size: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Scales and zero points."""
        groups = 2 * shape[1] // group_size
        return {
            "weight_scale": torch.zeros(shape[0], groups, dtype=dtype),
            "weight_zero": torch.zeros(shape[0], groups, dtype=torch.int8),
        }

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's outputs."""
        if not input.is_cuda or _is_exporting():
            return super().forward(input)
        outputs = self._by_kernel(input.reshape(-1, input.shape[-1]).to(torch.bfloat16)).to(input.dtype)
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.reshape(*input.shape[:-1], self.weight.shape[0])

    def _by_kernel(self, rows: torch.Tensor) -> torch.Tensor:
        packed, scales = self._for_kernel()
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm(rows, packed, self.group_size, scales)
        return product

    def _for_kernel(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The weight in tinygemm's layout, made when it is first needed and again after a move."""
        kept: tuple[torch.Tensor, torch.Tensor] | None = self.__dict__.get("_kept")
        if kept is None or kept[0].device != self.weight.device:
            codes = _unpacked(self.weight).to(torch.uint8)
            tiles = 8 if codes.shape[1] % 128 == 0 else 2
            packed = torch.ops.aten._convert_weight_to_int4pack(codes[:, ::2] << 4 | codes[:, 1::2], tiles)
            scale, zero = cast(torch.Tensor, self.weight_scale), cast(torch.Tensor, self.weight_zero)
            kept = packed, tinygemm_scales(scale, zero).to(torch.bfloat16)
            self.__dict__["_kept"] = kept
        return kept


class SemiStructuredLinear(StoredLinear):
    """A weight with two zeros in every four, which NVIDIA's sparse tensor cores multiply by torch.sparse's kernels.

    Devices without these kernels have plain layers with such weights.
    """

    KIND, SAVED, UNIT = "semi_structured", 0.5, 4

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's outputs; by dense kernels on devices without others, and for sizes that these do not take."""
        tiled = all(size % _SPARSE_TILE == 0 for size in self.weight.shape)
        if not input.is_cuda or not tiled or _is_exporting():
            return functional.linear(input, self.weight, self.bias)
        return functional.linear(input, self._compressed(), self.bias)

    def _compressed(self) -> torch.Tensor:
        kept: tuple[torch.Tensor, torch.Tensor] | None = self.__dict__.get("_kept")
        if kept is None or kept[0] is not self.weight:
            kept = self.weight, torch.sparse.to_sparse_semi_structured(self.weight.detach())
            self.__dict__["_kept"] = kept
        return kept[1]


KINDS: dict[str, type[StoredLinear]] = {
    kind.KIND: kind for kind in (Int8WeightLinear, Int8DynamicLinear, Int4WeightLinear, SemiStructuredLinear)
}
STORED_LINEAR = record(kind=word(*KINDS), group_size=integer(0, max(_GROUPS)), dtype=word(*DTYPES))
"""Grammar of `StoredLinear.to_dict()`."""


def tinygemm_scales(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Scales and zero points of int4 weights as tinygemm takes them: a weight is (code - 8) * scale + zero."""
    pairs = torch.stack([scale, (_INT4_MIDDLE - zero).to(scale.dtype) * scale], -1)
    return pairs.transpose(0, 1).contiguous()


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Where the two smallest of every four weights in a row are; of equal ones the first."""
    order = weight.detach().abs().reshape(weight.shape[0], -1, 4).argsort(dim=-1, stable=True).argsort(-1)
    return (order < 2).flatten(1)


def is_two_of_four(weight: torch.Tensor) -> bool:
    """Whether at least two of every four weights in a row are zero."""
    return weight.shape[1] % 4 == 0 and bool(((weight == 0).reshape(weight.shape[0], -1, 4).sum(-1) >= 2).all())


def _is_exporting() -> bool:
    return bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())  # absent in torch 2.6


def _by_rows(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Int8 codes of the rows of a matrix, and their scales."""
    scale = (values.abs().amax(1, keepdim=True) / _LEVELS).clamp_min(torch.finfo(values.dtype).tiny)
    return (values / scale).round().clamp(-_LEVELS, _LEVELS).to(torch.int8), scale


def rounded_rows(values: torch.Tensor) -> torch.Tensor:
    """What `Int8DynamicLinear` makes of its inputs, with their gradient."""
    codes, scale = _by_rows(values.detach().reshape(-1, values.shape[-1]))
    return straight_through(values, (codes.to(scale.dtype) * scale).reshape(values.shape))


def _integer_products(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The exact products of int8 matrices, rows @ weight.T."""
    if not rows.is_cuda:
        return torch._int_mm(rows, weight.t())
    if weight.shape[0] % 8 or weight.shape[1] % 8:  # cuBLAS takes no other sizes; float64 is exact
        return (rows.double() @ weight.t().double()).to(torch.int32)
    missing = max(0, _ROWS_OF_CUDA - rows.shape[0])
    return torch._int_mm(functional.pad(rows, (0, 0, 0, missing)), weight.t())[: rows.shape[0]]


def _exported_decoding(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    with suppress_output("torchao", "torch.utils._pytree"):
        import torchao.quantization.pt2e  # noqa: F401 - registers the operator
    zeros = torch.zeros(codes.shape[0], dtype=torch.int8)
    found: torch.Tensor = torch.ops.quantized_decomposed.dequantize_per_channel(
        codes, scale.flatten(), zeros, 0, -_LEVELS, _LEVELS, torch.int8
    )
    return found


def _unpacked(packed: torch.Tensor) -> torch.Tensor:
    """The codes of int4 weights, as int32; by operators that ONNX has for signed numbers."""
    bytes_ = packed.to(torch.int32)
    low = bytes_ & _INT4_LEVELS
    return torch.stack([low, (bytes_ - low) // (_INT4_LEVELS + 1) & _INT4_LEVELS], -1).flatten(1)


def group_size_of(weight: torch.Tensor, kind: type[StoredLinear], most: int) -> int | None:
    """The size of the groups of a weight's rows, 0 where rows have none; None: rows cannot be divided so."""
    if not kind.GROUPED:
        return None if weight.shape[1] % kind.UNIT else 0
    return next((size for size in _GROUPS if size <= most and weight.shape[1] % size == 0), None)


def convert(layer: nn.Linear, kind: type[StoredLinear], weight: torch.Tensor, group_size: int) -> None:
    """Make a plain linear layer, in place, one that holds a weight in another format."""
    tensors = kind.encode(weight.detach(), group_size)
    held = tensors.pop(WEIGHT)
    layer.weight = nn.Parameter(held, requires_grad=False)
    _become(layer, kind, group_size, weight.dtype, tensors)


def restore(model: nn.Module) -> nn.Module:
    """Make stored layers, in place, plain ones with the same weights."""
    for layer in stored_layers(model).values():
        values = layer.values().detach().clone()
        for name in list(layer._buffers):
            delattr(layer, name)
        for name in ("group_size", "float_type", "_kept"):
            layer.__dict__.pop(name, None)
        layer.__class__ = nn.Linear  # type: ignore[assignment]
        layer.weight = nn.Parameter(values)
    return model


def stored_layers(model: nn.Module) -> dict[str, StoredLinear]:
    """The stored layers of a finished model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, StoredLinear)}


def parameter_values(model: nn.Module) -> Iterator[torch.Tensor]:
    """A model's parameters; weights of stored layers as they are computed with."""
    stored = {id(layer.weight): layer for layer in model.modules() if isinstance(layer, StoredLinear)}
    for parameter in model.parameters():
        yield stored[id(parameter)].values() if id(parameter) in stored else parameter


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether it computes what `nn.Linear` does and nothing else."""
    kind = type(layer)
    return issubclass(kind, nn.Linear) and kind.forward is nn.Linear.forward


def attach_stored(layer: nn.Module, described: Any) -> None:
    """Make a layer the stored one that `to_dict` described, which is checked; its tensors are loaded afterwards.

    Raises:
        StoreError: the description is damaged, or the layer cannot become one.
    """
    about = STORED_LINEAR(described, "a stored weight")
    kind, size, dtype = KINDS[about["kind"]], about["group_size"], DTYPES[about["dtype"]]
    grouped = size in _GROUPS and int(getattr(layer, "in_features", 1)) % size == 0 if kind.GROUPED else size == 0
    if not is_plain_linear(layer) or not grouped or not dtype.is_floating_point:
        raise StoreError(f"the checkpoint does not fit the model, whose {type(layer).__name__} cannot hold {kind.KIND}")
    linear = cast(nn.Linear, layer)
    _become(linear, kind, size, dtype, kind.blank(linear.weight.shape, size, dtype))


def _become(
    layer: nn.Linear, kind: type[StoredLinear], group_size: int, dtype: torch.dtype, tensors: Mapping[str, torch.Tensor]
) -> None:
    layer.__class__ = kind
    layer.__dict__.update(group_size=group_size, float_type=dtype)
    for name, tensor in tensors.items():
        layer.register_buffer(name, tensor.to(layer.weight.device))


def require_kernel(kind: type[StoredLinear], device: torch.device) -> None:
    """Check that a device computes with int4 weights, by a small product.

    Raises:
        CompressionError: it does not.
    """
    if kind is not Int4WeightLinear:
        return
    reason = "it is no NVIDIA GPU" if device.type != "cuda" else _failure(kind, device)
    if reason is not None:
        raise CompressionError(
            f"{kind.KIND} needs a device with int4 kernels, and {device} has none ({reason}): take int8_weight_only, "
            "or return the model on an NVIDIA GPU from model()"
        )


def has_sparse_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch.sparse multiplies two-of-four matrices of that type on a device."""
    return device.type == "cuda" and _failure(SemiStructuredLinear, device, dtype) is None


_TOLERANCE = 2e-2


@torch.no_grad()
def _failure(kind: type[StoredLinear], device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why a small layer on a device does not compute what its weight says; None: it does."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 128, generator=generator)
    weight.view(-1, 4)[:, ::2] = 0 if kind is SemiStructuredLinear else 1
    rows = torch.randn(64, 128, generator=generator).to(device, dtype)
    layer = nn.Linear(128, 128, bias=False).to(device, dtype)
    convert(layer, kind, weight.to(device, dtype), 32 if kind.GROUPED else 0)
    try:
        wanted = rows @ cast(StoredLinear, layer).values().to(dtype).t()
        apart = float((layer(rows) - wanted).abs().max() / wanted.abs().max())
    except Exception as error:  # noqa: BLE001 - kernels fail in many ways where they are not supported
        return str(error).partition("\n")[0][:200]
    return None if apart <= _TOLERANCE else f"its products differ by {apart:.2g}"
