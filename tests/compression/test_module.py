from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.compression.module import (
    AbstractAutoCompressionModule,
    batch_inputs,
    evaluate,
    example_inputs,
    fresh_model,
)
from autocompress.errors import ModuleError

from .modules import Calibrated, Explicit, Minimal, NotAModel, TiedWords


def test_only_model_and_evaluator_must_be_written() -> None:
    assert AbstractAutoCompressionModule.__abstractmethods__ == {"model", "evaluator"}
    with pytest.raises(TypeError, match="abstract"):
        AbstractAutoCompressionModule()


def test_all_other_hooks_have_working_defaults() -> None:
    for hook in ("optimizer_factory", "criterion", "example_inputs", "calibration_data", "holdout_evaluator"):
        assert getattr(Minimal, hook)() is None
    assert Minimal.lr_scheduler_factory() is None
    assert Minimal.sparsifying_trainer("l1") is None
    assert Minimal.post_compress_finetuning_trainer("l1") is None
    assert Minimal.post_compress_finetuning_epochs("l1") is None
    assert Minimal.higher_is_better is True


def test_importing_it_is_light_and_makes_torchvision_importable() -> None:
    code = (
        "import autocompress.compression.module, sys\n"
        "assert 'torch_pruning' not in sys.modules and 'torchvision' not in sys.modules\n"
        "import torchvision\n"
        "print(sum(1 for _ in torchvision.models.resnet18().modules()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def with_evaluator(function: object) -> type[Minimal]:
    return type("Made", (Minimal,), {"evaluator": classmethod(lambda cls: function)})


class TestFreshModel:
    def test_the_users_model_is_never_changed(self) -> None:
        one, other = fresh_model(Minimal), fresh_model(Minimal)
        with torch.no_grad():
            one.head.bias += 1
        assert torch.equal(other.head.bias, Minimal.model().head.bias)
        assert not torch.equal(one.head.bias, other.head.bias)

    def test_something_else_than_a_model(self) -> None:
        with pytest.raises(
            ModuleError, match=r"NotAModel\.model\(\) must return a torch\.nn\.Module; got 'resnet18' \(str\)"
        ):
            fresh_model(NotAModel)


class TestEvaluate:
    @pytest.mark.parametrize(
        ("answer", "number"),
        [
            (1, 1.0),
            (0.25, 0.25),
            (-3.5, -3.5),
            (np.float32(0.5), 0.5),
            (np.int64(7), 7.0),
            (np.array(2.0), 2.0),
            (torch.tensor(0.75), 0.75),
            (torch.tensor(3), 3.0),
        ],
    )
    def test_numbers(self, answer: object, number: float) -> None:
        got = evaluate(lambda model: answer, nn.Identity())
        assert got == number
        assert type(got) is float

    @pytest.mark.parametrize(
        ("answer", "shown"),
        [
            (True, r"True \(bool\)"),
            (np.True_, r"(np\.)?True_? \(bool_?\)"),
            (torch.tensor(True), r"tensor\(True\) \(Tensor\)"),
            ("0.9", r"'0\.9' \(str\)"),
            (None, r"None \(NoneType\)"),
            (float("nan"), r"nan \(float\)"),
            (torch.tensor(float("inf")), r"tensor\(inf\)"),
            (-np.inf, r"-inf"),
            (torch.ones(2), r"tensor\(\[1\., 1\.\]\)"),
            ((0.9, 0.1), r"\(0\.9, 0\.1\) \(tuple\)"),
            (1 + 2j, r"\(1\+2j\) \(complex\)"),
            ("x" * 500, r"'x{76}\.\.\. \(str\)"),
        ],
    )
    def test_everything_else(self, answer: object, shown: str) -> None:
        with pytest.raises(ModuleError, match=f"evaluator must return a finite number; got {shown}"):
            evaluate(lambda model: answer, nn.Identity())

    def test_it_must_be_a_function(self) -> None:
        with pytest.raises(
            ModuleError, match=r"evaluator\(\) must return a function of the model; got 0\.93 \(float\)"
        ):
            evaluate(0.93, nn.Identity())

    def test_the_evaluators_own_errors_pass(self) -> None:
        with pytest.raises(ZeroDivisionError):
            evaluate(lambda model: 1 / 0, nn.Identity())


class TestExampleInputs:
    def test_from_the_hook(self) -> None:
        (inputs,) = example_inputs(Explicit)
        assert inputs.shape == (2, 3, 8, 8)
        assert not inputs.requires_grad

    def test_from_calibration_data_one_sample(self) -> None:
        (inputs,) = example_inputs(Calibrated)
        assert torch.equal(inputs, torch.full((1, 3, 8, 8), 2.0))

    def test_from_the_evaluator_one_sample(self) -> None:
        (inputs,) = example_inputs(Minimal)
        assert torch.equal(inputs, torch.ones(1, 3, 8, 8))
        (words,) = example_inputs(TiedWords)
        assert words.tolist() == [[1, 2]]

    def test_the_evaluator_is_left_at_its_first_forward_pass(self) -> None:
        passed = []

        def evaluator(model: nn.Module) -> float:
            try:
                model(torch.ones(4, 3, 8, 8))
            except Exception:  # noqa: BLE001 - what some users write
                passed.append("swallowed")
            passed.append("went on")
            return 1.0

        example_inputs(with_evaluator(evaluator))
        assert passed == []

    def test_keyword_arguments_become_positional(self) -> None:
        (inputs,) = example_inputs(with_evaluator(lambda model: model(x=torch.ones(4, 3, 8, 8))))
        assert inputs.shape == (1, 3, 8, 8)

    def test_a_model_that_needs_the_whole_batch(self) -> None:
        class Pairs(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.view(2, -1)[1]

        module = type(
            "Pairing",
            (Minimal,),
            {
                "model": classmethod(lambda cls: Pairs()),
                "evaluator": classmethod(lambda cls: lambda model: model(torch.ones(4, 3))),
            },
        )
        assert example_inputs(module)[0].shape == (4, 3)

    @pytest.mark.parametrize(
        ("evaluator", "reason"),
        [
            (lambda model: 0.5, "the evaluator never called the model"),
            (lambda model: 1 / 0, "the evaluator failed before its first forward pass"),
            (0.5, "the evaluator failed before its first forward pass"),
        ],
    )
    def test_nothing_works(self, evaluator: object, reason: str) -> None:
        with pytest.raises(ModuleError, match=rf"{reason}.*; define Made\.example_inputs\(\)"):
            example_inputs(with_evaluator(evaluator))


class TestBatchInputs:
    pair = (torch.zeros(2, 3), torch.ones(2, 3))

    class Two(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return scale * (left - right)

    def test_a_model_of_one_input_takes_the_first_item(self) -> None:
        x, y = self.pair
        assert batch_inputs(nn.ReLU(), (x, y))[0] is x
        assert batch_inputs(nn.ReLU(), x)[0] is x
        assert len(batch_inputs(nn.ReLU(), (x, y))) == 1

    @pytest.mark.parametrize("rest", [(), (torch.zeros(2),)])
    def test_a_model_of_several_takes_them_all(self, rest: tuple[torch.Tensor, ...]) -> None:
        for batch in ((*self.pair, *rest), (self.pair, *rest), [list(self.pair), *rest]):
            found = batch_inputs(self.Two(), batch)
            assert len(found) == 2
            assert all(one is other for one, other in zip(found, self.pair, strict=True))

    def test_too_few_are_refused(self) -> None:
        message = (
            r"calibration_data\(\): a batch must hold the 2 inputs that the model's forward takes, as \(left, right\) "
            r"or \(\(left, right\), target\); got tensor"
        )
        with pytest.raises(ModuleError, match=message):
            batch_inputs(self.Two(), self.pair[0])
