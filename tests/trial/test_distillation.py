from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.errors import ModuleError
from autocompress.settings import KnowledgeDistillation
from autocompress.trial.distillation import distilling, loss, suitable

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
SOFTMAX, MSE = KnowledgeDistillation(type="softmax"), KnowledgeDistillation(type="mse")


def nets():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 4))
    student = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    return student, teacher


def train(student, teacher, settings, criterion, steps=200):
    """A user's trainer, which knows nothing of a teacher."""
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    student.train()
    with distilling(student, teacher, criterion, settings) as told:
        for _ in range(steps):
            optimizer.zero_grad()
            told(student(X), torch.zeros(len(X), dtype=torch.long)).backward()
            optimizer.step()


def no_loss(outputs, targets):
    return outputs.sum() * 0


@pytest.mark.parametrize("settings", [SOFTMAX, MSE, KnowledgeDistillation(type="softmax", temperature=4.0, scale=2.0)])
def test_the_student_comes_to_say_what_the_teacher_says(settings):
    student, teacher = nets()
    with torch.no_grad():
        before = loss(student(X), teacher.eval()(X), settings)
    train(student, teacher, settings, no_loss)
    with torch.no_grad():
        after = loss(student.eval()(X), teacher.eval()(X), settings)
    assert after < before / 20, (before, after)


def test_the_teacher_stays_as_it_is_and_no_hook_is_left():
    student, teacher = nets()
    before = copy.deepcopy(teacher.state_dict())
    train(student, teacher, SOFTMAX, functional.cross_entropy, steps=3)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not student._forward_hooks


def test_the_softmax_loss_is_hintons():
    settings = KnowledgeDistillation(type="softmax", temperature=2.0, scale=3.0)
    student, teacher = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    p, q = functional.softmax(teacher / 2, 1), functional.softmax(student / 2, 1)
    assert loss(student, teacher, settings) == pytest.approx(3 * 4 * float((p * (p / q).log()).sum()), rel=1e-5)
    assert loss(teacher, teacher, settings) == pytest.approx(0, abs=1e-6)


def test_the_batch_and_the_positions_are_averaged():
    student, teacher = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    flat = [tensor.permute(0, 2, 3, 1).reshape(-1, 5) for tensor in (student, teacher)]
    assert loss(student, teacher, SOFTMAX) == pytest.approx(float(loss(*flat, SOFTMAX)), rel=1e-5)


def test_outputs_in_a_mapping_are_added_up():
    student, teacher = nets()
    a, b = student(X).detach(), teacher.eval()(X).detach()
    both = loss({"x": a, "count": torch.tensor([3]), "y": a}, {"x": b, "count": torch.tensor([3]), "y": b}, MSE)
    assert float(both) == pytest.approx(2 * float(loss(a, b, MSE)))
    with pytest.raises(ModuleError, match="needs a model whose outputs have a batch dimension"):
        loss(torch.tensor([1.0]), torch.tensor([2.0]), MSE)


def test_evaluating_between_steps_adds_nothing():
    student, teacher = nets()
    student.eval()
    target = torch.zeros(len(X), dtype=torch.long)
    with distilling(student, teacher, functional.cross_entropy, SOFTMAX) as told, torch.no_grad():
        assert told(student(X), target) == functional.cross_entropy(student(X), target)


def test_everything_else_is_the_users_criterion():
    student, teacher = nets()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.25)
    with distilling(student, teacher, criterion, SOFTMAX) as told:
        assert told.label_smoothing == 0.25
        told(student(X), torch.zeros(len(X), dtype=torch.long))


def test_a_trainer_that_has_its_own_loss_is_told():
    student, teacher = nets()
    with (
        pytest.raises(ModuleError, match="adds its loss to the criterion, which the trainer never called"),
        distilling(student, teacher, functional.cross_entropy, SOFTMAX),
    ):
        student(X).sum().backward()


AUTO = KnowledgeDistillation(type="auto", scale=0.5, temperature=2.0, loss_scale=0.5)


@pytest.mark.parametrize(
    ("criterion", "kind"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), "softmax"),
        (functools.partial(functional.cross_entropy, label_smoothing=0.1), "softmax"),
        (functional.nll_loss, "softmax"),
        (nn.MSELoss(), "mse"),
        (functional.smooth_l1_loss, "mse"),
        (nn.BCEWithLogitsLoss(), None),
        (no_loss, None),
        (None, None),
    ],
)
def test_the_type_may_follow_the_criterion(criterion, kind):
    chosen = suitable(AUTO, criterion)
    assert (chosen and chosen.type) == kind
    assert chosen is None or (chosen.scale, chosen.temperature, chosen.loss_scale) == (0.5, 2.0, 0.5)
    assert suitable(SOFTMAX, criterion) is SOFTMAX


def test_the_users_loss_is_scaled():
    student, teacher = nets()
    half = KnowledgeDistillation(type="softmax", scale=0.5, temperature=2.0, loss_scale=0.5)
    with distilling(student.train(), teacher, functional.cross_entropy, half) as taught:
        outputs, targets = student(X), torch.zeros(len(X), dtype=torch.long)
        whole = taught(outputs, targets)
    own = functional.cross_entropy(outputs, targets)
    assert whole.item() == pytest.approx((0.5 * own + loss(outputs, teacher(X), half)).item())


def test_every_call_of_the_criterion_is_scaled_and_the_distance_is_added_once():
    """As where two targets are mixed."""
    student, teacher = nets()
    half = KnowledgeDistillation(type="softmax", scale=0.5, temperature=2.0, loss_scale=0.5)
    with distilling(student.train(), teacher, functional.cross_entropy, half) as taught:
        outputs, targets = student(X), torch.zeros(len(X), dtype=torch.long)
        first, second = taught(outputs, targets), taught(outputs, targets)
        with torch.no_grad():
            student.eval()(X)
            evaluated = taught(outputs, targets)
    own = functional.cross_entropy(outputs, targets)
    assert second.item() == pytest.approx(0.5 * own.item())
    assert first.item() > second.item()
    assert evaluated.item() == pytest.approx(own.item()), "only training is taught"


class Heads(nn.Module):
    """Has an output more in training."""

    def __init__(self):
        super().__init__()
        self.own = nn.Linear(6, 4)

    def forward(self, x):
        outputs = self.own(x)
        return (outputs, outputs) if self.training else outputs


def test_outputs_that_are_others_in_training_cannot_be_compared():
    student, targets = Heads().train(), torch.zeros(len(X), dtype=torch.long)
    own = functional.cross_entropy(student(X)[0], targets)
    with distilling(student, Heads(), functional.cross_entropy, SOFTMAX, required=False) as taught:
        assert taught(student(X)[0], targets).item() == pytest.approx(own.item())
    with (
        pytest.raises(ModuleError, match="outputs in training are like those in eval mode"),
        distilling(student, Heads(), functional.cross_entropy, SOFTMAX) as taught,
    ):
        taught(student(X)[0], targets)


def test_of_three_dimensions_the_classes_may_be_the_last():
    tokens = torch.randn(2, 5, 7)
    assert loss(tokens, tokens, SOFTMAX).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ModuleError, match="needs a model whose outputs"):
        loss(tokens, tokens, SOFTMAX, strict=False)


def test_where_it_is_not_required_a_trainer_may_have_its_own_loss():
    student, teacher = nets()
    with distilling(student, teacher, functional.cross_entropy, SOFTMAX, required=False):
        pass
    flat = nn.Sequential(student, nn.Flatten(0))  # its outputs have one dimension
    with distilling(flat.train(), flat, lambda outputs: outputs.sum(), SOFTMAX, required=False) as taught:
        assert torch.equal(taught(outputs := flat(X)), outputs.sum())
