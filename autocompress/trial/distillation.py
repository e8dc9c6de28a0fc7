"""Knowledge distillation: the uncompressed model teaches the compressed one, with any trainer.

Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531; the options are NNCF's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.model_state import flatten_tensors, to_device
from autocompress.compression.module import Criterion
from autocompress.errors import ModuleError
from autocompress.settings import KnowledgeDistillation

_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, functional.cross_entropy, functional.nll_loss)
_DISTANCES = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
    *(functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss),
)


def suitable(settings: KnowledgeDistillation, criterion: Any) -> KnowledgeDistillation | None:
    """The settings with the type that suits a criterion where theirs is `auto`; None: none does."""
    while isinstance(criterion, functools.partial):
        criterion = criterion.func
    if settings.type != "auto":
        return settings
    if _is_one(criterion, _CLASSES):
        return settings.model_copy(update={"type": "softmax"})
    return settings.model_copy(update={"type": "mse"}) if _is_one(criterion, _DISTANCES) else None


def _is_one(criterion: Any, known: Iterable[Any]) -> bool:
    return any(criterion is each or (isinstance(each, type) and isinstance(criterion, each)) for each in known)


class WrappedCriterion:
    """The user's criterion, whose loss passes through a function; its other attributes are the criterion's."""

    def __init__(self, criterion: Criterion, function: Callable[[Any], Any]) -> None:
        self._criterion, self._function = criterion, function
        self.calls = 0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The loss to train with."""
        self.calls += 1
        return self._function(self._criterion(*arguments, **keywords))

    def __getattr__(self, name: str) -> Any:
        if name == "_criterion" or name.startswith("__"):  # of one that is being copied, which has nothing yet
            raise AttributeError(name)
        return getattr(self._criterion, name)


class DistillationHook:
    """Forward hook that keeps a student's latest outputs in training mode, and its teacher's for the same inputs.

    The teacher is in eval mode and without gradients.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, settings: KnowledgeDistillation) -> None:
        self._student, self._teacher, self._settings = student, teacher.eval(), settings
        self._latest: tuple[Any, Any] | None = None
        self.teaches = False  # whether the latest forward pass was one of training
        self._handle = student.register_forward_hook(self._watch, with_kwargs=True)

    def distance(self, *, strict: bool = True) -> torch.Tensor | None:
        """The distillation loss of the latest outputs, once; None where there are no new ones. `strict`: see `loss`."""
        if self._latest is None:
            return None
        answers, self._latest = self._latest, None
        return loss(*answers, self._settings, strict=strict)

    def end(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def __deepcopy__(self, _: dict[int, Any]) -> DistillationHook:
        """Copies of the student share the hook."""
        return self

    @staticmethod
    def forget(copied: nn.Module) -> None:
        """Remove the hook from a copy of a student."""
        for key, known in list(copied._forward_hooks.items()):
            if isinstance(getattr(known, "__self__", None), DistillationHook):
                del copied._forward_hooks[key]

    def _watch(self, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], answer: Any) -> None:
        self.teaches = self._student.training and torch.is_grad_enabled()
        if self.teaches:
            self._latest = (answer, _taught(self._teacher, arguments, keywords))


@contextmanager
def distilling(
    student: nn.Module,
    teacher: nn.Module,
    criterion: Criterion,
    settings: KnowledgeDistillation,
    *,
    required: bool = True,
) -> Iterator[WrappedCriterion]:
    """A criterion that adds the distillation loss, while the student is trained inside the block.

    Args:
        student: the model that is trained.
        teacher: the uncompressed model.
        criterion: the user's.
        settings: of the distillation.
        required: whether it is an error where nothing can be added.

    Raises:
        ModuleError: training ended without the criterion having been called: there was nothing to add the loss to; or
            the outputs cannot be compared.
    """
    hook = DistillationHook(student, teacher, settings)

    def with_distance(loss: Any) -> Any:
        if not hook.teaches:
            return loss
        try:
            distance = hook.distance(strict=required)
        except ModuleError:
            if required:
                raise
            hook.teaches = False
            return loss
        scaled = settings.loss_scale * loss
        return scaled if distance is None else scaled + distance

    wrapped = WrappedCriterion(criterion, with_distance)
    try:
        yield wrapped
    finally:
        hook.end()
    if required and not wrapped.calls:
        raise ModuleError("knowledge distillation adds its loss to the criterion, which the trainer never called")


def loss(student: Any, teacher: Any, settings: KnowledgeDistillation, *, strict: bool = True) -> torch.Tensor:
    """The distillation loss, summed over all floating-point outputs of more than one dimension.

    `softmax`: Kullback-Leibler divergence of the teacher's softmax from the student's at the temperature, times the
    temperature squared, mean over the batch; classes are dimension 1. `mse`: mean squared error. Outputs may be tensors
    in sequences, mappings or dataclasses.

    Args:
        student: outputs of the model that is trained.
        teacher: those of the uncompressed model.
        settings: of the distillation.
        strict: whether outputs of three dimensions count, too, where the classes may be the last one.

    Raises:
        ModuleError: the outputs are not alike, or none of them counts.
    """
    mine, its = flatten_tensors(student), flatten_tensors(teacher)
    if [tensor.shape for tensor in mine] != [tensor.shape for tensor in its]:
        raise ModuleError("knowledge distillation needs a model whose outputs in training are like those in eval mode")
    pairs = [
        pair
        for pair in zip(mine, its, strict=True)
        if pair[0].is_floating_point() and pair[0].dim() > 1 and (strict or pair[0].dim() != 3)
    ]
    terms = [_distance(*pair, settings) for pair in pairs]
    if not terms:
        raise ModuleError("knowledge distillation needs a model whose outputs have a batch dimension and another one")
    return settings.scale * torch.stack(terms).sum()


def _distance(student: torch.Tensor, teacher: torch.Tensor, settings: KnowledgeDistillation) -> torch.Tensor:
    if settings.type == "mse":
        return functional.mse_loss(student, teacher)
    temperature = settings.temperature
    log_student = functional.log_softmax(student / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    positions = student.numel() // student.shape[1]
    return divergence / positions * temperature**2


@torch.no_grad()
def _taught(teacher: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    given = flatten_tensors((arguments, keywords))
    if given:
        teacher.to(given[0].device)
        arguments, keywords = to_device(arguments, given[0].device), to_device(keywords, given[0].device)
    return teacher(*arguments, **keywords)
