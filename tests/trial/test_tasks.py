import dataclasses
from pathlib import Path

import pytest
import torch

from autocompress.compression.measure import ReferenceModel
from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import ConfigError, InfeasibleBudgetError, ModuleError, StoreError
from autocompress.result import CompressionResult
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, SearchSpace, load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.testing import CurveModule
from autocompress.testing.zoo import ZOO
from autocompress.trial.child import verify_in_child
from autocompress.trial.run import run_trial
from autocompress.trial.tasks import check_algorithm, measure_baseline, require_hooks, verify
from tests import curve_modules as modules
from tests.written import plan


def space(algorithm="l2", **layers):
    generator = AutoCompressionSearchSpaceGenerator()
    entry = {"sparsity": {"_type": "uniform", "_value": [0, 0.9]}, **(layers or {"op_names": ["hidden"]})}
    generator.add_config(algorithm, [entry])
    return SearchSpace.parse(generator.dumps())


class WithHoldout(CurveModule):
    @classmethod
    def holdout_evaluator(cls):
        return lambda model: 0.88


def test_the_baseline_is_measured():
    baseline = measure_baseline(WithHoldout, space())
    assert baseline.accuracy == pytest.approx(0.9)
    assert baseline.holdout_accuracy == 0.88
    assert baseline.measurement.parameters == 400 * 4 + 400 + 2 * 400 + 2
    assert baseline.measurement.macs == 400 * 4 + 2 * 400
    assert baseline.fingerprint == ModuleReference.of(WithHoldout).fingerprint()


SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.json"))


@pytest.mark.parametrize(
    # These need convolutions, BatchNorm, and an NVIDIA GPU.
    "path",
    [path for path in SHIPPED if path.stem not in ("per_layer", "slim", "int4_weight_only")],
    ids=lambda p: p.stem,
)
def test_the_shipped_search_spaces_are_for_models_with_one_of_their_types_too(path):
    module = ZOO["regression"]
    model = ReferenceModel.of(module)
    assert not any(isinstance(layer, torch.nn.Conv2d) for layer in model.original.modules())
    for entry in load_search_space(path).algorithms:
        if entry.name != "slim":  # it needs BatchNorm
            check_algorithm(module, entry, model)


def test_a_type_that_is_absent_beside_another_one_is_warned_of():
    warnings = measure_baseline(modules.Knee, space(op_types=["Conv2d", "Linear"])).preflight.warnings
    said = "the model has no layer of type 'Conv2d'; the entry for op_types ['Conv2d', 'Linear'] is for the others"
    assert said in warnings
    assert not measure_baseline(modules.Knee, space(op_types=["Linear"])).preflight.warnings


HOOKS = ("evaluator", "example_inputs", "calibration_data", "optimizer_factory", "holdout_evaluator")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("preflight", [True, False])
def test_a_file_that_a_hook_misses_is_said_to_be_that_hooks(hook, preflight):
    missing = type("Missing", (modules.Knee,), {hook: classmethod(lambda cls: Path("nowhere/data.csv").read_text())})
    settings = AccuracyAwareSettings.from_dict({"preflight": preflight})
    message = rf"Missing\.{hook}\(\) must return .*'nowhere/data\.csv': name files by Path\(__file__\)"
    with pytest.raises(ModuleError, match=message):
        measure_baseline(missing, space(), settings)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"op_types": ["Conv2d"]}, "the model has no layer of type 'Conv2d'"),
        ({"op_names": ["hiden"]}, "unknown layer 'hiden'; did you mean 'hidden'"),
    ],
)
def test_layers_that_the_model_does_not_have(layers, message):
    with pytest.raises(ConfigError, match=message):
        measure_baseline(modules.Knee, space(**layers))


def test_a_trainer_without_an_optimizer():
    with pytest.raises(
        ModuleError, match=r"NoOptimizer has a trainer for 'l2' but no optimizer: optimizer_factory\(\)"
    ):
        measure_baseline(modules.NoOptimizer, space())


def test_an_algorithm_that_needs_a_trainer():
    with pytest.raises(ModuleError, match=r"algorithm 'slim' needs criterion\(\); Knee returns None"):
        require_hooks(modules.Knee, "slim")
    with pytest.raises(ModuleError, match=r"algorithm 'slim' needs criterion\(\); Knee returns None"):
        require_hooks(modules.Knee, "slim+naive")


def test_knowledge_distillation_needs_a_criterion():
    with pytest.raises(ModuleError, match=r"knowledge distillation needs criterion\(\); Knee returns None"):
        measure_baseline(modules.Knee, space(), AccuracyAwareSettings(knowledge_distillation={"type": "mse"}))


def test_verify_loads_afresh(tmp_path):
    rule = "config_list::::hidden::sparsity"
    order = {"algorithm_name": {"_name": "l2", rule: 0.5}, "search": {"requested_rate": 0.5, "epochs": 1}}
    record = run_trial(modules.Cliff, order, threshold=0.8, directory=tmp_path)
    checkpoint = tmp_path / record.checkpoint
    assert verify(modules.Cliff, checkpoint, 0.8).feasible
    assert not verify(modules.Cliff, checkpoint, 0.95).feasible
    verdict = verify_in_child(ModuleReference.of(modules.Cliff).to_dict(), checkpoint, 0.8, tmp_path)
    assert (verdict.accuracy, verdict.feasible) == (record.accuracy, True)
    (checkpoint / "weights.pt").write_bytes(b"damaged")
    with pytest.raises(StoreError):
        verify(modules.Cliff, checkpoint, 0.8)


def test_an_evaluator_that_leaves_dropout_on_is_found_by_verification(tmp_path):
    """The trial was within the budget by luck; that is what is said, not an accuracy beyond the threshold alone."""
    module, unreachable = modules.LeavesDropoutOn, -1e9

    def tried(seed, threshold):
        order = {
            "algorithm_name": {"_name": "l2", "config_list::::hidden::sparsity": 0.5},
            "search": {"requested_rate": 0.5, "epochs": 0, "seed": seed},
        }
        return run_trial(module, order, threshold=threshold, directory=tmp_path)

    fresh = verify(module, tmp_path / tried(0, unreachable).checkpoint, unreachable).accuracy
    lucky = max((tried(seed, unreachable) for seed in range(8)), key=lambda record: record.accuracy)
    assert lucky.accuracy > fresh, "of eight draws one is better than this one"
    threshold = (lucky.accuracy + fresh) / 2
    record = tried(lucky.seed, threshold)
    assert (record.feasible, record.accuracy) == (True, lucky.accuracy)

    directory = ExperimentDirectory(tmp_path)
    baseline = dataclasses.replace(measure_baseline(module, space()), accuracy=1.0)
    settings = AccuracyAwareSettings(maximal_absolute_accuracy_degradation=1.0 - threshold)
    written = plan(module=ModuleReference.of(module).to_dict(), settings=settings, baseline=baseline)
    directory.write_settings(written.to_dict())
    Ledger(directory).add(record)
    with pytest.raises(InfeasibleBudgetError, match="leaves the model in training mode") as caught:
        CompressionResult(directory).verify()
    assert caught.value.best_accuracy == fresh
    assert caught.value.disproved == ((record, fresh),)
