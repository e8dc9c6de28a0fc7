"""Operators of exported graphs: the list that checkpoints allow, and the switch between training and eval mode.

torch.export writes down what operators do in one mode; torchao's own switch loses the probabilities of dropout and the
constants of BatchNorm, and supports no other operator.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

FLAGS_AND_PROBABILITIES = {
    "aten.alpha_dropout.default": 2,
    "aten.alpha_dropout_.default": 2,
    "aten.batch_norm.default": 5,
    "aten.dropout.default": 2,
    "aten.dropout_.default": 2,
    "aten.feature_alpha_dropout.default": 2,
    "aten.feature_alpha_dropout_.default": 2,
    "aten.feature_dropout.default": 2,
    "aten.feature_dropout_.default": 2,
    "aten.gru.input": 6,
    "aten.instance_norm.default": 5,
    "aten.lstm.input": 6,
    "aten.rnn_relu.input": 6,
    "aten.rnn_tanh.input": 6,
    "aten.rrelu.default": 3,
    "aten.rrelu_.default": 3,
    "aten.scaled_dot_product_attention.default": 4,
}
"""Operator -> place of the argument that is false, or 0.0, in eval mode."""

MEANS = {
    "aten.bernoulli.p": torch.ops.aten.full_like.default,
    "aten.bernoulli_.float": torch.ops.aten.fill_.Scalar,
}
"""Random operator -> what its mean is: with that, layers which drop whole branches are what they are in eval mode."""

_RUNNING_MEAN = 3
_IN_TRAINING = "in_training"


def set_mode(graph: fx.GraphModule, *, training: bool) -> None:
    """Set the mode of a graph of aten operators, exported in training mode: dropout and BatchNorm statistics."""
    for node in graph.graph.nodes:
        name, place = str(node.target), FLAGS_AND_PROBABILITIES.get(str(node.target))
        if node.op != "call_function":
            continue
        if name in MEANS:
            node.meta.setdefault(_IN_TRAINING, node.target)
        elif place is not None and len(node.args) > place and not uses_batch_statistics(node.target, node.args):
            node.meta.setdefault(_IN_TRAINING, node.args[place])
        before = node.meta.get(_IN_TRAINING)
        if str(before) in MEANS:
            node.target = before if training else MEANS[str(before)]
        elif before is not None:
            node.update_arg(place, before if training else type(before)(0))
    graph.recompile()


def uses_batch_statistics(target: Any, arguments: Sequence[Any]) -> bool:
    """Whether a call normalizes without running statistics, which is the same in both modes."""
    return str(target).endswith("_norm.default") and arguments[_RUNNING_MEAN] is None


_ELEMENTWISE = """
__and__ __or__ __xor__
abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan
atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp
clamp_max clamp_min clip conj conj_physical copysign cos cosh deg2rad digamma div divide elu eq erf erfc erfinv exp
exp2 expm1 fill fix float_power floor floor_divide fmax fmin fmod frac ge gelu greater greater_equal gt hardshrink
hardsigmoid hardswish hardtanh heaviside hypot i0 imag isclose isfinite isinf isnan isneginf isposinf ldexp le
leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not
logical_or logical_xor logit lt maximum minimum mish mul multiply nan_to_num ne neg negative not_equal polar positive
pow prelu rad2deg real reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc
sinh softplus softshrink special_entr special_erf special_erfc special_expit special_expm1 special_log1p special_logit
special_round special_sinc special_xlogy sqrt square sub subtract tan tanh threshold true_divide trunc where xlogy
zero
"""
_REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort bucketize cosine_similarity count_nonzero cummax cummin cumprod cumsum
dist kthvalue linalg_norm linalg_vector_norm log_softmax logcumsumexp logsumexp max mean median min mode msort nanmean
nansum norm prod quantile searchsorted softmax sort special_log_softmax special_softmax std std_mean sum sum_to_size
topk var var_mean
"""
_SHAPES = """
adjoint alias atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cat
channel_shuffle chunk clone column_stack complex concat concatenate constant_pad_nd contiguous copy detach diag
diag_embed diagflat diagonal dsplit dstack expand expand_as flatten flip fliplr flipud gather hsplit hstack index
index_add index_copy index_fill index_put index_select lift_fresh lift_fresh_copy masked_fill masked_scatter
masked_select meshgrid moveaxis movedim mH mT narrow native_channel_shuffle nonzero numpy_T one_hot pad permute
pixel_shuffle pixel_unshuffle ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll rot90 row_stack scatter scatter_add
scatter_reduce select select_scatter slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t take
take_along_dim tensor_split tile to _to_copy transpose tril triu type_as unbind unflatten unfold unsafe_chunk
unsafe_split unsafe_split_with_sizes unsqueeze view view_as view_as_complex view_as_real vsplit vstack
"""
_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d affine_grid_generator alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear col2im
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution dropout embedding embedding_bag
feature_alpha_dropout feature_dropout glu grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell im2col
instance_norm layer_norm linear lstm lstm_cell max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
max_pool3d max_pool3d_with_indices max_unpool2d max_unpool3d native_group_norm native_layer_norm pairwise_distance
rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell rrelu scaled_dot_product_attention upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d
"""
_PRODUCTS = """
addbmm addmm addmv addr baddbmm bmm cdist chain_matmul cross dot einsum fft_fft fft_fft2 fft_fftn fft_fftshift
fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
fft_rfftn inner kron linalg_cross linalg_matmul linalg_multi_dot linalg_vecdot matmul mm mv outer tensordot vdot
"""
_LOSSES = """
binary_cross_entropy binary_cross_entropy_with_logits cross_entropy_loss huber_loss kl_div l1_loss mse_loss nll_loss
nll_loss2d nll_loss_nd smooth_l1_loss soft_margin_loss
"""
_MAKERS = """
arange eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like
"""
_CHECKS = """
item sym_constrain_range sym_constrain_range_for_size sym_numel sym_size _assert_scalar _assert_tensor_metadata
"""
_PURE = frozenset("".join((_ELEMENTWISE, _REDUCTIONS, _SHAPES, _LAYERS, _PRODUCTS, _LOSSES, _MAKERS, _CHECKS)).split())
_IN_PLACE = frozenset(f"{name}_" for name in _PURE if not name.startswith("_")) | {"copy_"}
_QUANTIZING = frozenset(
    f"{way}_{per}"
    for way in ("quantize", "dequantize")
    for per in ("per_tensor", "per_channel", "per_channel_group", "per_token")
)
_KNOWN = {"aten": _PURE | _IN_PLACE, "quantized_decomposed": _QUANTIZING}
_BUILTINS = {
    name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg")
}

_FILLED = {
    "aten.empty.memory_format": torch.ops.aten.zeros.default,
    "aten.empty_like.default": torch.ops.aten.zeros_like.default,
    "aten.new_empty.default": torch.ops.aten.new_zeros.default,
}
"""Operators that give memory as it is -> what is written in their place."""
_SCALES = ("scales", "scales_d", "scales_h", "scales_w", "scale_factors")
_LARGEST_SCALE = 1 << 16
"""Of resized images. torch computes places in memory with scales, and does not look where these come to lie."""

_NUMBERS = (fx.Node, int, float)
"""What Python's own operators may be given: texts and lists can be multiplied."""
_CONSTANTS = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": torch.device,
}
_PLAIN: dict[str, tuple[type, ...]] = {
    "Tensor": (int, float),
    "int": (int,),
    "float": (int, float),
    "number": (int, float),
    "bool": (bool, int),
    "str": (str,),
    "t": (int, float, str),
}
"""Kinds of arguments in schemas -> what may be given."""


def operator_name(target: Any) -> str | None:
    """The name of an operator in the list; None if it is not in it."""
    target = _FILLED.get(str(target), target)
    if isinstance(target, torch._ops.OpOverload):
        return str(target) if _is_known(str(target)) and not _writes_to_argument(target) else None
    return next((name for name, function in _BUILTINS.items() if target is function), None)


def without_uninitialized(target: Any, keywords: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The operator and keywords to write for a node: none returns uninitialized memory."""
    other = _FILLED.get(str(target))
    if other is None:
        return target, keywords
    known = {argument.name for argument in other._schema.arguments}
    return other, {name: value for name, value in keywords.items() if name in known}


def named_operator(name: str) -> Any | None:
    """The operator of a name; None if it is not in the list, or does not exist in this version of torch."""
    if name in _BUILTINS:
        return _BUILTINS[name]
    if not _is_known(name):
        return None
    namespace, packet, overload = name.split(".")
    found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
    return found if isinstance(found, torch._ops.OpOverload) and not _writes_to_argument(found) else None


def accepts(target: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether an operator accepts arguments of these kinds; some crash with others."""
    if not isinstance(target, torch._ops.OpOverload):
        return not keywords and len(arguments) in (1, 2) and all(isinstance(each, _NUMBERS) for each in arguments)
    schema = target._schema.arguments
    kinds = {argument.name: str(argument.real_type) for argument in schema}
    placed = [argument.name for argument in schema if not argument.kwarg_only]
    given = dict(zip(placed, arguments, strict=False)) | dict(keywords)
    if len(given) != len(arguments) + len(keywords) or not given.keys() <= kinds.keys():
        return False
    return all(_fits(kinds[name], value) and _scales(name, kinds[name], value) for name, value in given.items())


def _fits(kind: str, value: Any) -> bool:
    """Whether an argument is of a schema's kind. A node's result is checked by torch when it computes."""
    optional = kind.startswith("Optional[")
    kind = kind.removeprefix("Optional[").removesuffix("]") if optional else kind
    if value is None:
        return optional
    if kind in _CONSTANTS:
        return isinstance(value, _CONSTANTS[kind])  # torch would accept any number
    if isinstance(value, fx.Node):
        return True
    if kind.startswith("List["):
        inner = kind.removeprefix("List[").removesuffix("]")
        return all(_fits(inner, each) for each in value) if isinstance(value, list | tuple) else _fits(inner, value)
    return isinstance(value, _PLAIN.get(kind, ()))


def _scales(name: str, kind: str, value: Any) -> bool:
    """Whether the argument is not a scale of a resized image, or an allowed one."""
    if name not in _SCALES or "float" not in kind or value is None:
        return True
    given = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(each, int | float) and 1 / _LARGEST_SCALE <= each <= _LARGEST_SCALE for each in given)


def is_random(target: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers or updates statistics, as layers do in training mode."""
    place = FLAGS_AND_PROBABILITIES.get(str(target))
    if place is None:
        return False
    name = target._schema.arguments[place].name
    given = arguments[place] if len(arguments) > place else keywords.get(name, False)
    return given not in (False, 0.0) and not uses_batch_statistics(target, arguments)


def unknown_operators(graph: fx.Graph) -> list[str]:
    """Operators of a training graph that an int8 graph must not have."""
    called = {node.target for node in graph.nodes if node.op == "call_function"}
    return sorted(str(target) for target in called if operator_name(target) is None and str(target) not in MEANS)


def _is_known(name: str) -> bool:
    namespace, _, rest = name.partition(".")
    packet, _, overload = rest.partition(".")
    return overload.isidentifier() and not overload.startswith("_") and packet in _KNOWN.get(namespace, ())


def _writes_to_argument(target: torch._ops.OpOverload) -> bool:
    """Whether it writes its result into a given tensor."""
    return any(argument.is_out for argument in target._schema.arguments)
