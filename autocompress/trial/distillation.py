"""Knowledge distillation: the uncompressed model teaches the compressed one, whatever trainer the user wrote.

Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531; the options are NNCF's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.model_state import flatten_tensors, to_device
from autocompress.compression.module import Criterion
from autocompress.errors import ModuleError
from autocompress.settings import KnowledgeDistillation


class DistillingCriterion:
    """The user's criterion, plus the distance of the student's latest outputs from the teacher's.

    Everything else that is asked of it is the user's criterion's.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, criterion: Criterion, distance: Callable[[], torch.Tensor | None]) -> None:
        self._criterion = criterion
        self._distance = distance
        self.calls = 0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The loss to train with, given what the user's criterion takes."""
        self.calls += 1
        loss, distance = self._criterion(*arguments, **keywords), self._distance()
        return loss if distance is None else loss + distance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._criterion, name)


class Lesson:
    """What a student answered last in training mode, and what its teacher answers to the same.

    The teacher sees what the student sees, in eval mode and without gradients.

    Args:
        student: is listened to until `end`.
        teacher: the uncompressed model.
        settings: the kind of loss, its scale and temperature.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, settings: KnowledgeDistillation) -> None:
        self._student, self._teacher, self._settings = student, teacher.eval(), settings
        self._latest: tuple[Any, Any] | None = None
        self._handle = student.register_forward_hook(self._watch, with_kwargs=True)

    def distance(self) -> torch.Tensor | None:
        """The distillation loss of the latest answer, once; None where there is no new one."""
        if self._latest is None:
            return None
        answers, self._latest = self._latest, None
        return loss(*answers, self._settings)

    def end(self) -> None:
        """Listen no longer."""
        self._handle.remove()

    def __deepcopy__(self, _: dict[int, Any]) -> Lesson:
        """A copy of the student is still taught by the same teacher."""
        return self

    @staticmethod
    def forget(copied: nn.Module) -> None:
        """Do not listen to a copy of a student."""
        for key, known in list(copied._forward_hooks.items()):
            if isinstance(getattr(known, "__self__", None), Lesson):
                del copied._forward_hooks[key]

    def _watch(self, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], answer: Any) -> None:
        if self._student.training and torch.is_grad_enabled():
            self._latest = (answer, _taught(self._teacher, arguments, keywords))


@contextmanager
def distilling(
    student: nn.Module, teacher: nn.Module, criterion: Criterion, settings: KnowledgeDistillation
) -> Iterator[DistillingCriterion]:
    """A criterion that adds the distillation loss, while the student is trained inside the block.

    Raises:
        ModuleError: training ended without the criterion having been called: there was nothing to add the loss to.
    """
    lesson = Lesson(student, teacher, settings)
    wrapped = DistillingCriterion(criterion, lesson.distance)
    try:
        yield wrapped
    finally:
        lesson.end()
    if not wrapped.calls:
        raise ModuleError("knowledge distillation adds its loss to the criterion, which the trainer never called")


def loss(student: Any, teacher: Any, settings: KnowledgeDistillation) -> torch.Tensor:
    """The distillation loss, summed over all floating-point outputs of more than one dimension.

    `softmax`: Kullback-Leibler divergence of the teacher's softmax from the student's at the temperature, times the
    temperature squared, mean over the batch; classes are dimension 1. `mse`: mean squared error.

    Args:
        student: the student's outputs: a tensor, or tensors in sequences, mappings or dataclasses.
        teacher: the teacher's, of the same shapes.
        settings: the kind of loss, its scale and temperature.
    """
    pairs = zip(flatten_tensors(student), flatten_tensors(teacher), strict=True)
    terms = [_distance(mine, its, settings) for mine, its in pairs if mine.is_floating_point() and mine.dim() > 1]
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
