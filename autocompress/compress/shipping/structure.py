"""How a compressed model differs from the uncompressed one: a JSON object of shapes and plain attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from autocompress.compress.quantizing.activations import ActivationQuantizer, activation_quantizers, attach_described
from autocompress.errors import StoreError

Structure = dict[str, dict[str, Any]]
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
        attributes = _different(_attributes(module), _attributes(originals[name]))
        tensors = _different(_tensors(module), _tensors(originals[name]))
        quantizers = {kind: quantizer.to_dict() for kind, quantizer in activation_quantizers(module).items()}
        if attributes or tensors or quantizers:
            structure[name] = {"attributes": attributes, "tensors": tensors, "quantizers": quantizers}
    odd = sorted(_names(model) ^ _names(original))
    if odd:
        raise StoreError(
            f"a compressed model must have the uncompressed model's tensors; these differ: {', '.join(odd)}"
        )
    return structure


def apply_structure(model: nn.Module, structure: Mapping[str, Mapping[str, Any]]) -> None:
    """Give the uncompressed model the shapes and attributes of the compressed one; its values are then to be loaded.

    Shared parameters stay shared.

    Raises:
        StoreError: the structure does not fit the model.
    """
    modules, replaced = _submodules(model), {}
    for name, differences in structure.items():
        if name not in modules:
            raise StoreError(f"the checkpoint does not fit the model, which has no submodule {name!r}")
        for key, value in differences["attributes"].items():
            setattr(modules[name], key, tuple(value) if isinstance(value, list) else value)
        for key, description in differences["tensors"].items():
            old = getattr(modules[name], key, None)
            if not isinstance(old, torch.Tensor):
                raise StoreError(f"the checkpoint does not fit the model, which has no tensor {name}.{key}")
            if id(old) not in replaced:
                replaced[id(old)] = (old, _empty(old, description))  # the old one is kept alive: its id stays its own
            setattr(modules[name], key, replaced[id(old)][1])
        attach_described(modules[name], differences["quantizers"])


def _submodules(model: nn.Module) -> dict[str, nn.Module]:
    """All but the quantizers of activations."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if not isinstance(module, ActivationQuantizer)}


def _names(model: nn.Module) -> set[str]:
    """Names of the tensors in the state dict of everything but the quantizers of activations."""
    added = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, ActivationQuantizer))
    return {name for name in model.state_dict() if not name.startswith(added)}


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
    return {
        key: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")} for key, tensor in own
    }


def _empty(old: torch.Tensor, description: Mapping[str, Any]) -> torch.Tensor:
    dtype = cast(torch.dtype, getattr(torch, description["dtype"]))
    new = torch.empty(description["shape"], dtype=dtype, device=old.device)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
