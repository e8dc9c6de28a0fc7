"""Giving a model another one's shapes and values while it stays the same object.

A user's code holds on to the model: its optimizers, closures and hooks must see every change.
"""

from __future__ import annotations

from torch import nn

from autocompress.compress.quantizing.activations import activation_quantizers, detach, hook


def become(model: nn.Module, source: nn.Module) -> None:
    """Make a model what another one is, submodule by submodule; the other one must not be used afterwards.

    Hooks stay those of the model; only quantizers of activations are taken over.

    Args:
        model: changed; whatever of ours is on it is gone.
        source: a model of the same submodules with plain weights.
    """
    detach(model)
    hooks = {key: value for key, value in vars(model).items() if key.endswith("hooks") or "_hooks_" in key}
    children = model._modules
    model.__class__ = source.__class__
    vars(model).update({**vars(source), **hooks})
    for key in vars(model).keys() - vars(source).keys():
        del vars(model)[key]
    kept: dict[str, nn.Module | None] = {}
    for name, child in source._modules.items():
        old = children.get(name)
        kept[name] = child if old is None or child is None else old
        if old is not None and child is not None and old is not child:
            become(old, child)
    model._modules = kept
    if activation_quantizers(model):
        hook(model)


def renew(model: nn.Module) -> None:
    """Give a model new parameters of the same values: gradients, hooks and optimizers stay with the old ones."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                known[old] = known.get(old, nn.Parameter(old.data, old.requires_grad))
                module._parameters[name] = known[old]
