"""Differences of a compressed model from the uncompressed one, as a JSON object of shapes and attributes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX
from torch.nn.utils import parametrize

from autocompress.compression.model_state import sharing_copy
from autocompress.compression.pruning.attention import SplitAttention, split, why_not_split
from autocompress.compression.quantization.rounding import (
    QUANTIZERS,
    ActivationQuantizer,
    activation_quantizers,
    attach_described,
)
from autocompress.compression.quantization.stored_linear import (
    STORED_LINEAR,
    WEIGHT,
    StoredLinear,
    attach_stored,
    is_plain_linear,
)
from autocompress.compression.state_values import DTYPES, dtype_name
from autocompress.errors import StoreError, short
from autocompress.plain_json import (
    ANY_NAME,
    SHAPE,
    WHOLE,
    Rule,
    listing,
    mapping,
    record,
    word,
)

Structure = dict[str, dict[str, Any]]


def _quantizers(value: Any, where: str) -> Any:
    """Settings of the quantizers of activations, and how a weight is stored."""
    if type(value) is not dict or WEIGHT not in value:
        return QUANTIZERS(value, where)
    rest = {name: each for name, each in value.items() if name != WEIGHT}
    return {**QUANTIZERS(rest, where), WEIGHT: STORED_LINEAR(value[WEIGHT], f"{where}.{WEIGHT}")}


_DIFFERENCES: dict[str, Rule] = {
    "attributes": mapping(
        ANY_NAME, lambda value, where: (WHOLE if type(value) is int else listing(WHOLE, 32))(value, where)
    ),
    "tensors": mapping(ANY_NAME, record(shape=SHAPE, dtype=word(*DTYPES))),
    "quantizers": _quantizers,
}
_REPLACED = record(**_DIFFERENCES, replaced_by=word(SplitAttention.__name__))
_KEPT = record(**_DIFFERENCES)
STRUCTURE = mapping(
    lambda value, where: value if value == "" else ANY_NAME(value, where),
    lambda value, where: (_REPLACED if type(value) is dict and "replaced_by" in value else _KEPT)(value, where),
)
"""For each submodule that differs: `attributes` (name -> int or list of ints), `tensors` (name -> shape and dtype),
`quantizers` of activations (quant type -> settings), and of weights that are stored as codes; `replaced_by` where it is
of another class."""


def structure_of(model: nn.Module, original: nn.Module) -> Structure:
    """The differences of a finished compressed model from the uncompressed one.

    Raises:
        StoreError: they are more than shapes and attributes: other submodules, types, tensors or sharing.
    """
    replaced = _split_since(model, original)
    if replaced:
        original = sharing_copy(original)
        _split_described(original, replaced)
    originals = _submodules(original)
    structure: Structure = {name: {**_NO_DIFFERENCES, "replaced_by": SplitAttention.__name__} for name in replaced}
    for name, module in _submodules(model).items():
        if name not in originals or _kind(module) != _kind(originals[name]):
            raise StoreError(_mismatch(name, module, originals.get(name)))
        known = _attributes(originals[name])  # others were set by a forward pass
        attributes = _different({key: value for key, value in _attributes(module).items() if key in known}, known)
        tensors = _different(_tensors(module), _tensors(originals[name]))
        _require_storable(name, tensors, module, originals[name])
        quantizers = {kind: quantizer.to_dict() for kind, quantizer in activation_quantizers(module).items()}
        if isinstance(module, StoredLinear):
            quantizers[WEIGHT] = module.to_dict()
        if attributes or tensors or quantizers:
            found = {"attributes": attributes, "tensors": tensors, "quantizers": quantizers}
            structure[name] = {**structure.get(name, {}), **found}
    odd = sorted(_names(model) ^ _names(original))
    if odd:
        names = ", ".join(map(short, odd[:5]))
        raise StoreError(f"a compressed model must have the uncompressed model's tensors; these differ: {names}")
    unshared = sorted(min(names) for names in _shared(model) ^ _shared(original))
    if unshared:  # values would overwrite each other
        raise StoreError(
            "a compressed model must share the tensors that the uncompressed one shares; "
            f"{short(unshared[0])} is shared differently in one of them"
        )
    checked: Structure = STRUCTURE(structure, "the structure")
    return checked


def apply_structure(model: nn.Module, structure: Any) -> None:
    """Give the uncompressed model the shapes and attributes of the compressed one; values are loaded afterwards.

    Shared parameters stay shared. The structure is untrusted: only existing attributes, integers or tuples of them, are
    set, and only existing tensors change their shape, to no larger one; only an `nn.MultiheadAttention` is replaced.

    Raises:
        StoreError: the structure does not fit the model.
    """
    described: Structure = STRUCTURE(structure, "structure")
    attentions = [name for name, differences in described.items() if "replaced_by" in differences]
    _split_described(model, attentions)
    modules, replaced = _submodules(model), dict[int, tuple[torch.Tensor, torch.Tensor]]()
    done = dict[int, Any]()
    for name, differences in described.items():
        if name not in modules:
            raise StoreError(f"the checkpoint does not fit the model, which has no submodule {short(name)}")
        module = modules[name]
        known = done.setdefault(id(module), differences)
        if known is not differences:  # a shared module by another name
            if known != differences:
                raise StoreError(f"the checkpoint does not fit the model, where {short(name)} is a shared submodule")
            continue
        for key, value in differences["attributes"].items():
            _set_attribute(module, name, key, value)
        for key, description in differences["tensors"].items():
            _replace(module, f"{name}.{key}", key, description, replaced)
        quantizers = dict(differences["quantizers"])
        stored = quantizers.pop(WEIGHT, None)
        attach_described(module, quantizers)
        if stored is not None:
            attach_stored(module, stored)
    for name in attentions:
        if not cast(SplitAttention, modules[name]).is_sound:
            raise StoreError(f"the projections of {short(name)} must have the size of the same number of whole heads")


_NO_DIFFERENCES: dict[str, Any] = {"attributes": {}, "tensors": {}, "quantizers": {}}


def _split_since(model: nn.Module, original: nn.Module) -> list[str]:
    """Names of the attentions of the uncompressed model that were replaced by `SplitAttention`s."""
    originals = _submodules(original)
    return [
        name
        for name, module in _submodules(model).items()
        if isinstance(module, SplitAttention) and isinstance(originals.get(name), nn.MultiheadAttention)
    ]


def _split_described(model: nn.Module, names: Iterable[str]) -> None:
    """Split the attentions with these names, of which some may be the same; those that are split stay as they are."""
    modules = _submodules(model)
    for name in names:
        attention = modules.get(name)
        if isinstance(attention, nn.MultiheadAttention) and why_not_split(attention) is None:
            split(attention)
        elif not isinstance(attention, SplitAttention):
            raise StoreError(
                f"the checkpoint does not fit the model, which has no nn.MultiheadAttention {short(name)} to split"
            )


def load_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Load a state dict strictly: every tensor in its shape and type, which `load_state_dict` would convert.

    Raises:
        StoreError: the weights are not those of the model.
    """
    state = model.state_dict()
    odd = sorted(state.keys() ^ weights.keys())
    if odd:
        raise StoreError(f"the weights must be those of the model; these are not: {', '.join(map(short, odd[:5]))}")
    for name, value in state.items():
        found, is_extra = weights[name], name.rpartition(".")[2] == _EXTRA_STATE_KEY_SUFFIX  # of any shape
        if not isinstance(value, torch.Tensor) or is_extra:
            continue
        if not isinstance(found, torch.Tensor) or (found.shape, found.dtype) != (value.shape, value.dtype):
            raise StoreError(f"{short(name)} must be {value.dtype} of shape {tuple(value.shape)}")
    for module in model.modules():
        _give_memory(module)
    model.load_state_dict(weights, strict=True)


def _give_memory(module: nn.Module) -> None:
    """Replace expanded tensors, whose elements share memory, so that they can be written to."""
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is None or tensor.layout is not torch.strided:
            continue
        if any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
            tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)


def _set_attribute(module: nn.Module, name: str, key: str, value: int | list[int]) -> None:
    """Set an attribute that `structure_of` describes, to a value of the same kind."""
    new = tuple(value) if isinstance(value, list) else value
    old = _attributes(module).get(key)
    if old is None or isinstance(old, list) != isinstance(new, tuple):
        attribute = short(f"{name}.{key}")
        raise StoreError(f"the checkpoint does not fit the model, which has no integer attribute {attribute}")
    setattr(module, key, new)


def _replace(
    module: nn.Module,
    name: str,
    key: str,
    description: Mapping[str, Any],
    replaced: dict[int, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    old = {**module._parameters, **module._buffers}.get(key)
    if old is None or key in module._non_persistent_buffers_set:
        raise StoreError(f"the checkpoint does not fit the model, which stores no tensor {short(name)}")
    if math.prod(description["shape"]) > old.numel():
        raise StoreError(_larger(name))
    if id(old) not in replaced:
        replaced[id(old)] = (old, _blank(old, description))  # the old tensor keeps its id unique
    setattr(module, key, replaced[id(old)][1])


def _submodules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules except the quantizers of activations."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if not isinstance(module, ActivationQuantizer)}


def _names(model: nn.Module) -> set[str]:
    """Names in the state dict except those of the quantizers of activations and of scales."""
    named = model.named_modules(remove_duplicate=False)
    added = tuple(f"{name}." for name, module in named if isinstance(module, ActivationQuantizer))
    scales = {
        f"{name}.{key}"
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, StoredLinear)
        for key in module._buffers
    }
    return {name for name in model.state_dict() if not name.startswith(added)} - scales


def _require_storable(name: str, tensors: Mapping[str, Any], module: nn.Module, original: nn.Module) -> None:
    """Changed tensors must be in the state dict, and no larger than before."""
    before = _tensors(original)
    for key, description in tensors.items():
        if key in module._non_persistent_buffers_set:
            raise StoreError(f"a compressed model's tensors must be in its state dict; {name}.{key} is not")
        if key in before and math.prod(description["shape"]) > math.prod(before[key]["shape"]):
            raise StoreError(_larger(f"{name}.{key}"))


def _larger(name: str) -> str:
    return f"a compressed model's tensors must be no larger than the uncompressed one's; {short(name)} is"


def _mismatch(name: str, module: nn.Module, original: nn.Module | None) -> str:
    found = "has none there" if original is None else f"has a {type(original).__name__}"
    parametrized = original is not None and _kind(module)[1] != _kind(original)[1]
    remedy = f"finish the compression before saving{', and parametrize both or none' if parametrized else ''}"
    return (
        f"a compressed model must have the uncompressed model's submodules ({remedy}); "
        f"at {name!r} it has a {type(module).__name__}, the uncompressed one {found}"
    )


def _kind(module: nn.Module) -> tuple[type, bool]:
    """Its class before parametrization, and whether it is parametrized."""
    kind, parametrized = type(module), parametrize.is_parametrized(module)
    if is_plain_linear(module) or isinstance(module, StoredLinear):
        return nn.Linear, parametrized
    return kind.__bases__[0] if parametrized else kind, parametrized


def _shared(model: nn.Module) -> set[frozenset[str]]:
    """Sets of names that share a tensor."""
    names = dict[int, set[str]]()
    for prefix, module in _submodules(model).items():
        for key, tensor in (
            *module.named_parameters(prefix, False, False),
            *module.named_buffers(prefix, False, False),
        ):
            names.setdefault(id(tensor), set()).add(key)
    return {frozenset(each) for each in names.values() if len(each) > 1}


def _different(values: Mapping[str, Any], originals: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in originals or originals[key] != value}


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and key != "training"
        and (_is_int(value) or (isinstance(value, tuple) and all(map(_is_int, value))))
    }


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tensors(module: nn.Module) -> dict[str, Any]:
    buffers = () if isinstance(module, StoredLinear) else module.named_buffers("", False, False)
    own = (*module.named_parameters("", False, False), *buffers)
    return {key: {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype)} for key, tensor in own}


def _blank(old: torch.Tensor, description: Mapping[str, Any]) -> torch.Tensor:
    new = torch.zeros(description["shape"], dtype=DTYPES[description["dtype"]], device=old.device)
    learns = old.requires_grad and (new.is_floating_point() or new.is_complex())
    return nn.Parameter(new, requires_grad=learns) if isinstance(old, nn.Parameter) else new
