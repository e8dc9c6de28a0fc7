"""What applies to a model, before any search."""

import dataclasses
import re
import sys
from functools import partial

import pytest
import torch

from autocompress import check_module, load_compressed, run_trial
from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import ConfigError, ModuleError
from autocompress.registry import algorithms
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, default_space
from autocompress.testing.zoo import ZOO, NoNormCnn, PlainCnn
from autocompress.trial.check import AlgorithmCheck
from autocompress.trial.child import check_in_child
from tests import curve_modules
from tests.compression.structures import (
    COMPUTED,
    STRUCTURES,
    AuxiliaryOutput,
    ComputedWeight,
    TwoInputs,
    ViewOfParameter,
)
from tests.hard_modules import HardNets, values


def checks(module, *algorithms):
    """By name."""
    return {each.algorithm: each for each in check_module(module, default_space(algorithms).wire)}


def without_seconds(check):
    return dataclasses.replace(check, reductions=tuple(dataclasses.replace(r, seconds=0.0) for r in check.reductions))


class BrokenTrainer(PlainCnn):
    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        def train(model, optimizer, criterion, epoch):
            raise RuntimeError("the trainer is broken")

        return train


class KnowsOneName(PlainCnn):
    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        return {"l2": super().sparsifying_trainer("l2")}[compress_algorithm_name]


class NoHooks(PlainCnn):
    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        return None

    @classmethod
    def criterion(cls):
        return None

    @classmethod
    def calibration_data(cls):
        return None


class NotAModel(PlainCnn):
    @classmethod
    def model(cls):
        return "resnet18"


def test_shares_are_those_of_the_model():
    check = checks(curve_modules.Knee, "l2")["l2"]
    low, high = check.reductions
    assert (check.applies, check.reason, check.fine_tunes) == (True, None, True)
    assert (low.requested_rate, high.requested_rate) == (0.3, 0.9)
    assert (low.achieved_rate, high.achieved_rate) == (0.3, 0.9)
    per_feature, parameters = 4 + 1 + 2, 400 * 7 + 2
    assert low.parameters_removed == pytest.approx(120 * per_feature / parameters)
    assert high.parameters_removed == pytest.approx(360 * per_feature / parameters)
    assert (low.macs_removed, high.macs_removed) == (pytest.approx(0.3), pytest.approx(0.9))
    assert 0 < low.size_removed < high.size_removed < 1
    assert 0 < low.seconds < 60


def test_kinds_are_told_apart():
    found = checks(PlainCnn, "level", "naive", "l1+dorefa")
    assert all(check.applies for check in found.values()), found
    assert [reduction.macs_removed for reduction in found["level"].reductions] == [0, 0]
    assert [reduction.requested_rate for reduction in found["naive"].reductions] == [None]
    assert len(found["l1+dorefa"].reductions) == 2
    assert {name: check.simulated for name, check in found.items()} == {
        "level": False,
        "naive": True,
        "l1+dorefa": True,
    }


def test_what_does_not_apply_says_why_and_the_others_go_on():
    found = checks(NoNormCnn, "slim", "l2")
    assert not found["slim"].applies
    assert found["slim"].reason == "slim ranks filters by the scales of BatchNorm layers; the model has none"
    assert found["slim"].reductions == ()
    assert found["l2"].applies


def test_rates_are_those_the_search_space_allows():
    generator = AutoCompressionSearchSpaceGenerator()
    rates = {"_type": "uniform", "_value": [0.5, 0.7]}
    generator.add_config("level", [{"sparsity": rates, "op_types": ["default"]}])
    (check,) = check_module(PlainCnn, generator.dumps())
    assert [reduction.requested_rate for reduction in check.reductions] == [0.5, 0.7]


def test_missing_hooks_are_named():
    found = checks(NoHooks, "slim", "qat", "l2+qat", "l2")
    trainer = "sparsifying_trainer() or post_compress_finetuning_trainer()"
    assert found["slim"].missing_hooks == (trainer, "criterion()")
    assert found["slim"].reason == f"needs {trainer}, criterion()"
    assert found["qat"].missing_hooks == found["l2+qat"].missing_hooks == (f"calibration_data() or {trainer}",)
    assert (found["l2"].applies, found["l2"].fine_tunes, found["l2"].missing_hooks) == (True, False, ())


def test_a_trainer_without_an_optimizer():
    check = checks(curve_modules.NoOptimizer, "l2")["l2"]
    assert not check.applies
    assert check.reason.startswith("NoOptimizer has a trainer for 'l2' but no optimizer"), check.reason


def test_what_a_hook_raises_is_the_answer_of_its_algorithm_only():
    found = checks(BrokenTrainer, "taylorfo", "l2", "slim")
    assert "the trainer is broken" in found["taylorfo"].reason
    assert found["l2"].applies
    assert found["slim"].applies, f"nothing is trained; {found['slim'].reason}"
    found = checks(KnowsOneName, "l1", "l2")
    assert (found["l1"].applies, found["l1"].reason) == (False, "KeyError: 'l1'")
    assert found["l2"].applies


@pytest.mark.parametrize("algorithm", ["l2", "slim", "taylorfo", "apoz", "naive"])
def test_it_finds_the_same_each_time_and_leaves_the_model(algorithm):
    before = PlainCnn.model().state_dict()
    first, second = (without_seconds(checks(PlainCnn, algorithm)[algorithm]) for _ in range(2))
    assert first == second
    after = PlainCnn.model().state_dict()
    assert all((after[name] == tensor).all() for name, tensor in before.items())


def test_a_shared_model_is_not_changed():
    model = PlainCnn.model()

    class Shared(PlainCnn):
        @classmethod
        def model(cls):
            return model

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(check.applies for check in checks(Shared, "l2", "level", "taylorfo", "dorefa").values())
    after = model.state_dict()
    assert {name: tensor.shape for name, tensor in after.items()} == {n: t.shape for n, t in before.items()}
    assert all((after[name] == tensor).all() for name, tensor in before.items())


def test_without_a_search_space_every_algorithm_is_tried():
    found = check_module(ZOO["regression"])
    assert [check.algorithm for check in found] == list(algorithms())
    refused = {check.algorithm: check.reason for check in found if not check.applies}
    # neither BatchNorm nor, behind tanh, any zero; and the CPU has no int4 kernels
    assert list(refused) == ["slim", "apoz", "int4_weight_only"], refused


def test_a_bad_module_and_a_bad_search_space_raise():
    with pytest.raises(ModuleError, match="resnet18"):
        check_module(NotAModel)
    with pytest.raises(ConfigError, match="unknown algorithm 'l3'"):
        check_module(PlainCnn, {"algorithm_name": {"_type": "choice", "_value": [{"_name": "l3"}]}})


@pytest.mark.slow
def test_the_child_finds_the_same_and_reports_each_when_it_is_known(capfd):
    space = default_space(["l2", "slim"]).wire
    there, _ = check_in_child(ModuleReference.of(curve_modules.Knee).to_dict(), space)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("l2: ", "slim: "))]
    assert [re.sub(r"[0-9.]+ s", "N s", line) for line in lines] == [
        "l2: applies (tried for N s)",
        "slim: does not apply: needs criterion() (tried for N s)",
    ]
    here = check_module(curve_modules.Knee, space)
    assert [without_seconds(AlgorithmCheck.from_dict(check)) for check in there] == [*map(without_seconds, here)]


NETS = {
    **{name: STRUCTURES[name] for name in ("split_and_concat", "fused_attention")},
    **{how: partial(ComputedWeight, COMPUTED[how][0]) for how in ("weight_norm", "spectral_norm_hook", "mask")},
    "auxiliary_output": AuxiliaryOutput,
    "two_inputs": TwoInputs,
    "view_of_parameter": ViewOfParameter,
}
REFUSED = re.compile(
    "slim ranks filters by the scales of BatchNorm|apoz ranks filters by how often|filter pruning must remove something"
    "|(qat|ptq) needs plain parameters; the weight of first|(qat|ptq) trains and evaluates one graph"
    r"|a rule must select at least one layer; .* the model has none that can be compressed \(.*; supported: Linear\)"
    "|int4_weight_only needs a device with int4 kernels|(int8_dynamic|int8_weight_only|semi_structured) must quantize "
    "|(dorefa|bnn) leaves the first and the last layer as they are"
)
"""What an algorithm may say of a net to which it does not apply."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_no_net_stops_an_algorithm_with_an_error_that_is_not_ours(name, tmp_path, monkeypatch):
    hooks = {
        "names": (name,),
        "model": classmethod(lambda _: built(name)),
        "evaluator": classmethod(lambda cls: lambda model: float(bool(values(model.eval()(*cls.inputs()))))),
        "inputs": classmethod(lambda _: inputs(name)),
        "example_inputs": classmethod(lambda cls: cls.inputs()),
        "calibration_data": classmethod(lambda cls: [cls.inputs()]),
        "post_compress_finetuning_trainer": classmethod(lambda cls, _: partial(trained, cls.inputs())),
        "optimizer_factory": classmethod(lambda _: partial(torch.optim.SGD, lr=1e-3)),
    }
    module = type("Net", (HardNets,), {**hooks, "__module__": __name__})
    monkeypatch.setattr(sys.modules[__name__], "Net", module, raising=False)
    for check in check_module(module):
        assert check.applies or REFUSED.match(check.reason), f"{check.algorithm}: {check.reason}"
        record = run_trial(module, trial_of(check.algorithm), threshold=0.0, directory=tmp_path / check.algorithm)
        assert (record.state == "completed") is check.applies, f"{check.algorithm}: {record.error}"
        if check.applies:
            finished = load_compressed(tmp_path / check.algorithm / record.checkpoint, module.model())
            assert values(finished.eval()(*module.inputs()))


def built(name):
    torch.manual_seed(0)
    return NETS[name]()


def inputs(name):
    shape = getattr(NETS[name], "func", NETS[name]).shape
    return tuple(torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)) for _ in range(1 + ("two" in name)))


def trained(batch, model, optimizer, criterion, epoch):
    optimizer.zero_grad()
    criterion(model.train()(*batch)).backward()
    optimizer.step()


def trial_of(algorithm):
    space = default_space([algorithm]).algorithm(algorithm)
    rate = None if space.axis() is None else 0.5
    return {**space.parameters(rate), "search": {"requested_rate": rate or 0.0, "epochs": 1}}
