"""What torchao's fusion of convolutions with BatchNorm leaves out or does too slowly, put right.

It knows one momentum and one eps, those PyTorch has as defaults, and gives them to every BatchNorm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional

_EPS = 1e-5
_BATCH_NORM = "aten.batch_norm.default"
_MEAN_AT, _VARIANCE_AT, _MOMENTUM_AT, _EPS_AT = 3, 4, 6, 7


@dataclass(frozen=True)
class Constants:
    """Those of a BatchNorm.

    Attributes:
        momentum: of its running statistics; None: their plain mean.
        eps: added to the variance.
    """

    momentum: float | None
    eps: float


def constants_of(model: nn.Module) -> dict[str, Constants]:
    """Name of a BatchNorm's running mean -> its constants."""
    return {
        f"{name}.running_mean": Constants(module.momentum, module.eps)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def restore_constants(graph: fx.GraphModule, constants: Mapping[str, Constants]) -> None:
    """Give each BatchNorm its constants again, and its eps to the scale that its convolution's weight has meanwhile."""
    for norm, name in _norms(graph):
        found = constants.get(name)
        if found is None:
            continue
        if found.momentum is not None:
            norm.update_arg(_MOMENTUM_AT, found.momentum)
        _set_eps(norm, found.eps)
    graph.recompile()


@torch.no_grad()
def move_constants(graph: fx.GraphModule) -> None:
    """Before conversion, which knows one eps only: what a BatchNorm's is more goes into its variance."""
    moved = dict[str, float]()
    for norm, _ in _norms(graph):
        variance = cast(fx.Node, norm.args[_VARIANCE_AT])
        moved[str(variance.target)] = cast(float, norm.args[_EPS_AT]) - _EPS
        _set_eps(norm, _EPS)
    for name, difference in moved.items():  # once, also where several calls share it
        graph.get_buffer(name).add_(difference)
    graph.recompile()


@contextmanager
def fast_fusion() -> Iterator[None]:
    """Torchao looks for BatchNorm behind four kinds of convolutions, for seconds each; one kind has int8 kernels.

    The patterns it looks for are exported once.
    """
    from torchao.quantization.pt2e import qat_utils

    changes = {
        "_fuse_conv_bn_qat_helper": _for_one_kind,
        "_fold_conv_bn_qat_helper": _for_one_kind,
        "_get_aten_graph_module_for_pattern": _remembered,
    }
    before = {name: getattr(qat_utils, name) for name in changes}
    for name, change in changes.items():
        setattr(qat_utils, name, change(before[name]))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(qat_utils, name, function)


def _norms(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Calls of BatchNorm with running statistics, and the name of their running mean."""
    for node in graph.graph.nodes:
        if str(node.target) == _BATCH_NORM and node.args[_MEAN_AT] is not None:
            yield node, str(node.args[_MEAN_AT].target)


def _set_eps(norm: fx.Node, eps: float) -> None:
    before = norm.args[_EPS_AT]
    norm.update_arg(_EPS_AT, eps)
    for user in list(cast(fx.Node, norm.args[_VARIANCE_AT]).users):
        if str(user.target) == "aten.add.Tensor" and user.args[1] == before:
            user.update_arg(1, eps)


def _for_one_kind(helper: Callable[..., Any]) -> Callable[..., Any]:
    def helped(graph: fx.GraphModule, function: Any, *arguments: Any, **keywords: Any) -> Any:
        return helper(graph, function, *arguments, **keywords) if function is functional.conv2d else graph

    return helped


_patterns: dict[Any, fx.GraphModule] = {}


def _remembered(export: Callable[..., fx.GraphModule]) -> Callable[..., fx.GraphModule]:
    def exported(pattern: Any, example_inputs: Any, is_cuda: bool = False, **keywords: Any) -> fx.GraphModule:
        function = pattern.fn
        options = tuple(cell.cell_contents for cell in function.__closure__ or ())
        key = (function.__qualname__, options, tuple(each.shape for each in example_inputs), is_cuda, *keywords)
        if key not in _patterns:
            _patterns[key] = export(pattern, example_inputs, is_cuda, **keywords)
        return copy.deepcopy(_patterns[key])

    return exported
