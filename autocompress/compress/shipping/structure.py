"""How a compressed model differs from the uncompressed one: a JSON object of shapes and plain attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autocompress.compress.quantizing.activations import (
    QUANTIZERS,
    ActivationQuantizer,
    activation_quantizers,
    attach_described,
)
from autocompress.compress.shipping.dtypes import DTYPES, name_of
from autocompress.compress.shipping.grammar import (
    ANY_NAME,
    SHAPE,
    integer,
    listing,
    mapping,
    record,
    text,
    word,
)
from autocompress.errors import StoreError, short

Structure = dict[str, dict[str, Any]]
_NUMBER = integer(-(1 << 63), (1 << 63) - 1)
STRUCTURE = mapping(
    text(r"[^\x00-\x1f\x7f]*", "a name without control characters", 1024),
    record(
        attributes=mapping(
            ANY_NAME, lambda value, where: (_NUMBER if type(value) is int else listing(_NUMBER, 32))(value, where)
        ),
        tensors=mapping(ANY_NAME, record(shape=SHAPE, dtype=word(*DTYPES))),
        quantizers=QUANTIZERS,
    ),
)
"""Per submodule that differs: `attributes` (name -> int or list of ints), `tensors` (name -> shape and dtype),
`quantizers` of activations (quant type -> settings)."""


def structure_of(model: nn.Module, original: nn.Module) -> Structure:
    """The differences of a finished compressed model against the uncompressed one.

    Raises:
        StoreError: shapes and attributes cannot tell them: other submodules, other kinds of modules, other tensors.
    """
    originals = _submodules(original)
    structure: Structure = {}
    for name, module in _submodules(model).items():
        if name not in originals or type(module) is not type(originals[name]):
            raise StoreError(_mismatch(name, type(module).__name__, originals.get(name)))
        known = _attributes(originals[name])  # what the original does not have, a forward pass has left there
        attributes = _different({key: value for key, value in _attributes(module).items() if key in known}, known)
        tensors = _different(_tensors(module), _tensors(originals[name]))
        _require_storable(name, tensors, module, originals[name])
        quantizers = {kind: quantizer.to_dict() for kind, quantizer in activation_quantizers(module).items()}
        if attributes or tensors or quantizers:
            structure[name] = {"attributes": attributes, "tensors": tensors, "quantizers": quantizers}
    odd = sorted(_names(model) ^ _names(original))
    if odd:
        raise StoreError(
            f"a compressed model must have the uncompressed model's tensors; these differ: {', '.join(odd)}"
        )
    checked: Structure = STRUCTURE(structure, "the structure")
    return checked


def apply_structure(model: nn.Module, structure: Any) -> None:
    """Give the uncompressed model the shapes and attributes of the compressed one; its values are then to be loaded.

    Shared parameters stay shared.

    Args:
        model: the uncompressed model.
        structure: from wherever. Only attributes that the model has, whole numbers or tuples of them, are set, and only
            tensors that it has get another shape, no larger than before.

    Raises:
        StoreError: the structure does not fit the model.
    """
    modules, replaced = _submodules(model), dict[int, tuple[torch.Tensor, torch.Tensor]]()
    for name, differences in STRUCTURE(structure, "structure").items():
        if name not in modules:
            raise StoreError(f"the checkpoint does not fit the model, which has no submodule {short(name)}")
        for key, value in differences["attributes"].items():
            _set_attribute(modules[name], name, key, value)
        for key, description in differences["tensors"].items():
            _replace(modules[name], f"{name}.{key}", key, description, replaced)
        attach_described(modules[name], differences["quantizers"])


def _set_attribute(module: nn.Module, name: str, key: str, value: int | list[int]) -> None:
    """Set an attribute that `structure_of` describes, to a value of the kind that it has."""
    new = tuple(value) if isinstance(value, list) else value
    old = _attributes(module).get(key)
    if old is None or isinstance(old, list) != isinstance(new, tuple):
        raise StoreError(f"the checkpoint does not fit the model, which has no such number {short(f'{name}.{key}')}")
    setattr(module, key, new)


def _replace(
    module: nn.Module,
    name: str,
    key: str,
    description: Mapping[str, Any],
    replaced: dict[int, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    old = {**module._parameters, **module._buffers}.get(key)
    if old is None:
        raise StoreError(f"the checkpoint does not fit the model, which has no tensor {short(name)}")
    if math.prod(description["shape"]) > old.numel():
        raise StoreError(_larger(name))
    if id(old) not in replaced:
        replaced[id(old)] = (old, _empty(old, description))  # the old one is kept alive: its id stays its own
    setattr(module, key, replaced[id(old)][1])


def _submodules(model: nn.Module) -> dict[str, nn.Module]:
    """All but the quantizers of activations."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if not isinstance(module, ActivationQuantizer)}


def _names(model: nn.Module) -> set[str]:
    """Names of the tensors in the state dict of everything but the quantizers of activations."""
    added = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, ActivationQuantizer))
    return {name for name in model.state_dict() if not name.startswith(added)}


def _require_storable(name: str, tensors: Mapping[str, Any], module: nn.Module, original: nn.Module) -> None:
    """Tensors that changed must be in the state dict, and no larger than they were."""
    before = _tensors(original)
    for key, description in tensors.items():
        if key in module._non_persistent_buffers_set:
            raise StoreError(f"a compressed model's tensors must be in its state dict; {name}.{key} is not")
        if key in before and math.prod(description["shape"]) > math.prod(before[key]["shape"]):
            raise StoreError(_larger(f"{name}.{key}"))


def _larger(name: str) -> str:
    return f"a compressed model's tensors must be no larger than the uncompressed one's; {short(name)} is"


def _mismatch(name: str, kind: str, original: nn.Module | None) -> str:
    found = "has none there" if original is None else f"has a {type(original).__name__}"
    return (
        "a compressed model must have the uncompressed model's submodules (finish the compression before saving); at "
        f"{name!r} it has a {kind}, the uncompressed one {found}"
    )


def _different(values: Mapping[str, Any], originals: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in originals or originals[key] != value}


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and (_is_int(value) or _is_int_tuple(value))
    }


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_int_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_int(item) for item in value)


def _tensors(module: nn.Module) -> dict[str, Any]:
    own = (*module.named_parameters("", False, False), *module.named_buffers("", False, False))
    return {key: {"shape": list(tensor.shape), "dtype": name_of(tensor.dtype)} for key, tensor in own}


def _empty(old: torch.Tensor, description: Mapping[str, Any]) -> torch.Tensor:
    new = torch.empty(description["shape"], dtype=DTYPES[description["dtype"]], device=old.device)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
