"""Switching an exported graph between training and evaluation.

torch.export writes down what operators do in one of both modes; torchao's own switch forgets the probabilities of
dropout and the constants of BatchNorm, and knows no other operator.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def switch(graph: fx.GraphModule, *, training: bool) -> None:
    """Make the graph compute what the model does in one of its modes.

    Args:
        graph: changed; of aten operators, exported in training mode.
        training: dropout drops and BatchNorm normalizes by the batch; else neither.
    """
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        if _IN_TRAINING not in node.meta:
            _remember(node)
        if _IN_TRAINING in node.meta:
            _switch(node, training)
    graph.recompile()


def _remember(node: fx.Node) -> None:
    place = FLAGS_AND_PROBABILITIES.get(str(node.target))
    if str(node.target) in MEANS:
        node.meta[_IN_TRAINING] = node.target
    elif place is not None and len(node.args) > place and not always_by_batch(node.target, node.args):
        node.meta[_IN_TRAINING] = node.args[place]


def always_by_batch(target: Any, arguments: Sequence[Any]) -> bool:
    """Whether a call normalizes without running statistics, which is the same in both modes."""
    return str(target).endswith("_norm.default") and arguments[_RUNNING_MEAN] is None


def _switch(node: fx.Node, training: bool) -> None:
    before = node.meta[_IN_TRAINING]
    if str(before) in MEANS:
        node.target = before if training else MEANS[str(before)]
    else:
        node.update_arg(FLAGS_AND_PROBABILITIES[str(node.target)], before if training else type(before)(0))
