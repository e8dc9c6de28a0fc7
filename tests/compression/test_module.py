from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.compression.model_state import without_wrappers
from autocompress.compression.module import (
    AbstractAutoCompressionModule,
    batch_inputs,
    evaluate,
    evaluate_samples,
    example_inputs,
    fresh_model,
    require_module_class,
)
from autocompress.errors import ModuleError
from autocompress.evaluation import Evaluation

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
            (torch.ones(1, 2), r"tensor\(\[\[1\., 1\.\]\]\)"),
            ((0.9, 0.1), r"\(0\.9, 0\.1\) \(tuple\)"),
            (1 + 2j, r"\(1\+2j\) \(complex\)"),
            ("x" * 500, r"'x{76}\.\.\. \(str\)"),
        ],
    )
    def test_everything_else(self, answer: object, shown: str) -> None:
        rule = r"evaluator\(\) must return a finite number, or a 1-D tensor, array or list of one for each sample"
        with pytest.raises(ModuleError, match=f"{rule}; got {shown}"):
            evaluate(lambda model: answer, nn.Identity())

    def test_one_value_for_each_sample(self) -> None:
        hits = torch.tensor([True, False, True, True])
        assert evaluate(lambda model: hits, nn.Identity()) == 0.75
        assert evaluate_samples(lambda model: hits, nn.Identity()) == Evaluation(0.75, (1.0, 0.0, 1.0, 1.0))

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
            (lambda model: 1 / 0, r"the evaluator failed before its first forward pass \(ZeroDivisionError.*: mend it"),
        ],
    )
    def test_nothing_works(self, evaluator: object, reason: str) -> None:
        with pytest.raises(ModuleError, match=rf"{reason}.* define Made\.example_inputs\(\)"):
            example_inputs(with_evaluator(evaluator))

    def test_an_evaluator_that_is_a_number(self) -> None:
        with pytest.raises(ModuleError, match=r"evaluator\(\) must return a function of the model; got 0\.5 \(float\)"):
            example_inputs(with_evaluator(0.5))


class Labelled(nn.Module):
    """Arguments as Hugging Face's models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(
        self,
        ids: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        kinds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        scale: float = 2.0,
    ) -> dict[str, torch.Tensor]:
        assert ids is not None
        scores = self.head(ids if mask is None else ids * mask) * scale
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(scores, labels)}
        return {**loss, "scores": scores}


class Two(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return scale * (left - right)


class AnyNumber(nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat(inputs, 1)


class ByKeyword(nn.Module):
    def forward(self, ids: torch.Tensor, *, mask: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return ids * mask * scale


class AnyNumberByKeyword(nn.Module):
    def forward(self, *inputs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x


class OfDictionaries(nn.Module):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["left"] + batch["right"]


IDS, LABELS = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])


def with_inputs(net: nn.Module, **hooks: object) -> type[Minimal]:
    """A module of a net with hooks that return these; an evaluator is the call itself."""
    evaluator = hooks.pop("evaluator", lambda model: 1.0)
    made = {name: classmethod(lambda cls, value=value: value) for name, value in hooks.items()}
    return type(
        "Made",
        (Minimal,),
        {"model": classmethod(lambda cls: net), "evaluator": classmethod(lambda cls: evaluator), **made},
    )


class TestNamedInputs:
    @pytest.mark.parametrize(
        "hooks",
        [
            {"evaluator": lambda model: model(ids=IDS, labels=LABELS)},
            {"evaluator": lambda model: model(IDS, labels=LABELS)},
            {"calibration_data": [{"labels": LABELS, "ids": IDS}]},
            {"calibration_data": [{"labels": LABELS, "ids": IDS, "index": 7}]},
            {"calibration_data": [({"labels": LABELS, "ids": IDS}, torch.zeros(4))]},
            {"example_inputs": {"labels": LABELS[:1], "ids": IDS[:1]}},
        ],
    )
    def test_arguments_left_out_in_between_have_their_defaults(self, hooks: dict[str, object]) -> None:
        ids, mask, kinds, labels = example_inputs(with_inputs(Labelled(), **hooks))
        assert torch.equal(ids, IDS[:1])
        assert (mask, kinds) == (None, None)
        assert torch.equal(labels, LABELS[:1])

    def test_what_is_taken_by_keyword_only_is_placed_behind_the_others(self) -> None:
        mask = torch.eye(4, 3)
        for hooks in (
            {"example_inputs": {"mask": mask[:1], "ids": IDS[:1]}},
            {"calibration_data": [{"ids": IDS, "mask": mask}]},
            {"evaluator": lambda model: model(IDS, mask=mask)},
        ):
            found = example_inputs(with_inputs(ByKeyword(), **hooks))
            assert [torch.equal(*pair) for pair in zip(found, (IDS[:1], mask[:1]), strict=True)] == [True, True]
        model = fresh_model(with_inputs(ByKeyword()))
        assert torch.equal(model(IDS, mask), IDS * mask * 2)
        assert torch.equal(model(IDS, mask=mask, scale=3.0), IDS * mask * 3)
        assert type(model).__name__ == "ByKeyword"

    def test_a_dictionary_may_be_the_argument_itself(self) -> None:
        batch = {"left": IDS, "right": IDS}
        for hooks in ({"calibration_data": [batch]}, {"evaluator": lambda model: model(batch)}):
            (found,) = example_inputs(with_inputs(OfDictionaries(), **hooks))
            assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"left": (1, 3), "right": (1, 3)}

    def test_any_number_of_inputs(self) -> None:
        for hooks in ({"calibration_data": [((IDS, IDS), LABELS)]}, {"evaluator": lambda model: model(IDS, IDS)}):
            found = example_inputs(with_inputs(AnyNumber(), **hooks))
            assert [tuple(each.shape) for each in found] == [(1, 3), (1, 3)]

    @pytest.mark.parametrize(
        ("net", "hooks", "message"),
        [
            (
                Labelled(),
                {"example_inputs": {"ids": IDS, "lables": LABELS}},
                r"Made\.example_inputs\(\): the forward of Labelled must .*'lables' is passed by keyword",
            ),
            (
                Two(),
                {"calibration_data": [{"left": IDS}]},
                r"calibration_data\(\): the forward of Two needs 'right'; given by name is left",
            ),
            (
                AnyNumberByKeyword(),
                {"evaluator": lambda model: model(x=IDS)},
                "take every input by position, .*'x' is passed .*it takes nothing and, by keyword only, x",
            ),
            (
                nn.Linear(3, 2),
                {"calibration_data": [{"pixels": IDS}]},
                r"Made\.calibration_data\(\) must return batches.* \(input\) and raised TypeError",
            ),
            (
                nn.Linear(3, 2),
                {"example_inputs": torch.ones(1, 4)},
                r"Made\.example_inputs\(\) must return a tensor.* takes \(input\) and raised RuntimeError",
            ),
        ],
    )
    def test_what_does_not_fit_names_the_hook(self, net: nn.Module, hooks: dict[str, object], message: str) -> None:
        with pytest.raises(ModuleError, match=message):
            example_inputs(with_inputs(net, **hooks))


@pytest.mark.parametrize("hook", ["model", "evaluator", "calibration_data"])
def test_a_forgotten_classmethod(hook: str) -> None:
    forgotten = type("Forgotten", (Minimal,), {hook: lambda cls: None})
    with pytest.raises(ModuleError, match=rf"Forgotten\.{hook} must be a classmethod; .*write @classmethod above it"):
        require_module_class(forgotten)


def test_wrappers_of_models_are_taken_away() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    inside = nn.Sequential(torch.compile(nn.Linear(3, 2)), nn.DataParallel(nn.Linear(2, 2)))
    for wrapped, names in (
        (nn.DataParallel(net), ["0.weight", "0.bias"]),
        (torch.compile(net), ["0.weight", "0.bias"]),
        (inside, ["0.weight", "0.bias", "1.weight", "1.bias"]),
    ):
        model = fresh_model(with_inputs(wrapped))
        assert list(model.state_dict()) == names
        assert model(IDS).shape == (4, 2)
    assert next(iter(inside.state_dict())) == "0._orig_mod.weight", "the user's own is not changed"


def test_models_without_wrappers_are_left_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    for model in (net, torch.jit.script(net), torch.fx.symbolic_trace(net)):
        assert without_wrappers(model) is model


class TestBatchInputs:
    pair = (torch.zeros(2, 3), torch.ones(2, 3))

    def test_a_model_of_one_input_takes_the_first_item(self) -> None:
        x, y = self.pair
        assert batch_inputs(nn.ReLU(), (x, y))[0] is x
        assert batch_inputs(nn.ReLU(), x)[0] is x
        assert len(batch_inputs(nn.ReLU(), (x, y))) == 1

    @pytest.mark.parametrize("rest", [(), (torch.zeros(2),)])
    def test_a_model_of_several_takes_them_all(self, rest: tuple[torch.Tensor, ...]) -> None:
        for batch in ((*self.pair, *rest), (self.pair, *rest), [list(self.pair), *rest]):
            found = batch_inputs(Two(), batch)
            assert len(found) == 2
            assert all(one is other for one, other in zip(found, self.pair, strict=True))

    def test_too_few_are_refused(self) -> None:
        message = (
            r"calibration_data\(\): a batch must hold the 2 inputs that the model's forward takes, as \(left, right\) "
            r"or \(\(left, right\), target\); got tensor"
        )
        with pytest.raises(ModuleError, match=message):
            batch_inputs(Two(), self.pair[0])
