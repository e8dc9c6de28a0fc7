"""NNCF-style configurations: what is read, and what is refused."""

import json

import pytest

from autocompress.errors import ConfigError
from autocompress.nncf import CompressionConfig
from autocompress.nncf.sections import FilterPruning, MagnitudeSparsity, Quantization

PRUNING = {"algorithm": "filter_pruning", "pruning_init": 0.05, "params": {"pruning_target": 0.1}}
SPARSITY = {"algorithm": "magnitude_sparsity"}
ADAPTIVE = {"mode": "adaptive_compression_level", "params": {}}


def config(compression=None, training=ADAPTIVE, **top):
    given = {"compression": [PRUNING] if compression is None else compression, **top}
    return {**given, "accuracy_aware_training": training} if training is not None else given


def test_the_example_of_the_documents(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("""
    {
        "input_infos": {"sample_size": [1, 2, 224, 224]}, // a comment
        "accuracy_aware_training": {
            "mode": "adaptive_compression_level",
            "params": {
                "maximal_relative_accuracy_degradation": 1.0, // Optional
                "initial_training_phase_epochs": 100,
                "patience_epochs": 30,
            }
        },
        "compression": [
            {
                "algorithm": "filter_pruning",
                "pruning_init": 0.05,
                "params": {
                    "schedule": "exponential",
                    "pruning_target": 0.1,
                    "pruning_steps": 50,
                    "weight_importance": "geometric_median"
                }
            }
        ]
    }""")
    read = CompressionConfig.from_json(path)
    (pruning,) = read.compression
    assert isinstance(pruning, FilterPruning)
    assert (pruning.pruning_init, pruning.params.target, pruning.params.pruning_steps) == (0.05, 0.1, 50)
    assert (pruning.params.importance, pruning.params.schedule) == ("geometric_median", "exponential")
    assert read.input_info[0].sample_size == (1, 2, 224, 224)
    params = read.accuracy_aware_training.params
    assert (params.initial_training_phase_epochs, params.patience_epochs) == (100, 30)
    assert (params.minimal_compression_rate_step, params.initial_compression_rate_step) == (0.025, 0.1)
    assert (params.compression_rate_step_reduction_factor, params.lr_reduction_factor) == (0.5, 0.5)
    assert (params.maximal_total_epochs, params.validate_every_n_epochs) == (10_000, 1)


def test_the_older_form_is_the_same():
    old = {**PRUNING, "accuracy_aware_training": {
        "maximal_accuracy_degradation": 2.0, "compression_rate_step": 0.2, "step_reduction_factor": 0.25,
        "patience_epochs": 30,
    }}  # fmt: skip
    now = {"mode": "adaptive_compression_level", "params": {
        "maximal_relative_accuracy_degradation": 2.0, "initial_compression_rate_step": 0.2,
        "compression_rate_step_reduction_factor": 0.25, "patience_epochs": 30,
    }}  # fmt: skip
    assert CompressionConfig.from_dict(config([old], None)) == CompressionConfig.from_dict(config([PRUNING], now))


def test_what_the_documents_call_optional_is_optional():
    read = CompressionConfig.from_dict({"compression": {"algorithm": "magnitude_sparsity"}})
    (sparsity,) = read.compression
    assert isinstance(sparsity, MagnitudeSparsity)
    assert (sparsity.sparsity_init, sparsity.params.sparsity_target) == (0.0, 0.5)
    assert (sparsity.params.weight_importance, sparsity.params.schedule) == ("normed_abs", "polynomial")
    assert read.accuracy_aware_training is None
    neither = CompressionConfig.from_dict(config(training={"mode": "adaptive_compression_level"}))
    assert neither.accuracy_aware_training.params.maximal_relative_accuracy_degradation == 1.0


def test_several_algorithms_and_scopes():
    read = CompressionConfig.from_dict(
        config([
            {**PRUNING, "ignored_scopes": "{re}.*head"},
            {"algorithm": "quantization", "preset": "mixed", "weights": {"bits": 8, "per_channel": True}},
            {"algorithm": "knowledge_distillation", "type": "softmax", "temperature": 4},
        ], ignored_scopes=["stem"])
    )  # fmt: skip
    pruning, quantization, teacher = read.compression
    assert pruning.ignored_scopes == ("{re}.*head",)
    assert read.ignored_scopes == ("stem",)
    assert isinstance(quantization, Quantization)
    assert (quantization.weights.per_channel, quantization.activations.bits) == (True, 8)
    assert teacher.temperature == 4.0


def test_early_exit():
    training = {
        "mode": "early_exit",
        "params": {"maximal_absolute_accuracy_degradation": 0.5, "maximal_total_epochs": 9},
    }
    read = CompressionConfig.from_dict(config([{"algorithm": "quantization"}], training)).accuracy_aware_training
    assert (read.params.maximal_absolute_accuracy_degradation, read.params.maximal_total_epochs) == (0.5, 9)
    assert read.params.maximal_relative_accuracy_degradation is None


def params(**given):
    return config(training={"mode": "adaptive_compression_level", "params": given})


def pruning(**given):
    return config([{"algorithm": "filter_pruning", "params": given}])


def sparsity(**given):
    return config([{"algorithm": "magnitude_sparsity", "params": given}])


AAT = "accuracy_aware_training"
ONE_RATE = (
    "in adaptive mode compression must have one of filter_pruning and magnitude_sparsity, whose rate the search moves, "
    "and no other pruning or sparsity"
)
WRONG = {
    "negative step": (
        params(initial_compression_rate_step=-0.1),
        f"{AAT}.params.initial_compression_rate_step must be a finite number > 0; got -0.1",
    ),
    "minimal step 0": (
        params(minimal_compression_rate_step=0),
        f"{AAT}.params.minimal_compression_rate_step must be a finite number > 0; got 0",
    ),
    "minimal step above the initial one": (
        params(minimal_compression_rate_step=0.2),
        f"{AAT}.params.minimal_compression_rate_step must be <= initial_compression_rate_step (0.1); got 0.2",
    ),
    "reduction factor": (
        params(compression_rate_step_reduction_factor=1.0),
        f"{AAT}.params.compression_rate_step_reduction_factor must be a number in (0, 1); got 1.0",
    ),
    "pruning target": (
        pruning(pruning_target=1.5),
        "compression[0].params.pruning_target must be a number in [0, 1), or null; got 1.5",
    ),
    "sparsity target": (
        sparsity(sparsity_target=1),
        "compression[0].params.sparsity_target must be a number in [0, 1); got 1",
    ),
    "activations by channel": (
        config([{**PRUNING}, {"algorithm": "quantization", "activations": {"per_channel": True}}]),
        "compression[1].activations.per_channel must be false: activations have one range; got true",
    ),
    "unknown top-level key": (config(logdir="x"), "the configuration: unknown key 'logdir'; did you mean 'log_dir'"),
    "unknown key below": (
        pruning(prunning_target=0.5),
        "compression[0].params: unknown key 'prunning_target'; did you mean 'pruning_target'",
    ),
    "unknown key of training": (
        params(patience=3),
        f"{AAT}.params: unknown key 'patience'; did you mean 'patience_epochs'",
    ),
    "both degradations": (
        params(maximal_relative_accuracy_degradation=1.0, maximal_absolute_accuracy_degradation=0.1),
        "maximal_absolute_accuracy_degradation must be set; got both (1.0 and 0.1)",
    ),
    "unknown algorithm": (
        config([{"algorithm": "filter_prunning"}]),
        "compression[0].algorithm: unknown algorithm 'filter_prunning'; did you mean 'filter_pruning'",
    ),
    "no algorithm": (config([{}]), "compression[0].algorithm must be given: filter_pruning, knowledge_distillation"),
    "no compression": ({"log_dir": "x"}, "compression must be given: an object with algorithm, or a list of them"),
    "an empty list": (config([]), "compression must have at least one algorithm; got []"),
    "algorithm twice": (
        config([PRUNING, PRUNING]),
        "compression[1].algorithm must be another one; 'filter_pruning' is given twice",
    ),
    "pruning and sparsity": (
        config([PRUNING, SPARSITY]),
        f"{ONE_RATE}; got filter_pruning, magnitude_sparsity",
    ),
    "pruning and learned sparsity": (
        config([PRUNING, {"algorithm": "rb_sparsity"}]),
        "and no other pruning or sparsity; got filter_pruning, rb_sparsity",
    ),
    "quantization alone": (
        config([{"algorithm": "quantization"}]),
        f"{ONE_RATE}; got quantization",
    ),
    "text for a number": (
        params(patience_epochs="3"),
        f"{AAT}.params.patience_epochs must be a whole number >= 1; got '3'",
    ),
    "boolean for a number": (
        params(initial_compression_rate_step=True),
        f"{AAT}.params.initial_compression_rate_step must be a finite number > 0; got True",
    ),
    "boolean for a count": (
        params(patience_epochs=True),
        f"{AAT}.params.patience_epochs must be a whole number >= 1; got True",
    ),
    "number for a boolean": (pruning(all_weights=1), "compression[0].params.all_weights must be true or false; got 1"),
    "another choice": (
        pruning(schedule="linear"),
        "compression[0].params.schedule must be 'exponential', 'exponential_with_bias' or 'baseline'; got 'linear'",
    ),
    "multistep levels": (
        sparsity(schedule="multistep", multistep_steps=[5, 10], multistep_sparsity_levels=[0.1, 0.5]),
        "params.multistep_sparsity_levels must have 3 levels, one more than multistep_steps; got [0.1, 0.5]",
    ),
    "multistep steps": (
        sparsity(schedule="multistep", multistep_steps=[10, 5], multistep_sparsity_levels=[0.1, 0.5, 0.6]),
        "params.multistep_steps must rise; got [10, 5]",
    ),
    "both pruning targets": (
        pruning(pruning_target=0.3, pruning_flops_target=0.4),
        "params must have one of pruning_target and pruning_flops_target; got both (0.3, 0.4)",
    ),
    "both importances": (
        pruning(filter_importance="L1", weight_importance="L2"),
        "params must have filter_importance once; weight_importance is the older name of it",
    ),
    "no sample size": (config(input_info={}), "input_info.sample_size must be given: a list of whole numbers >= 1"),
    "sample size": (
        config(input_info=[{"sample_size": [1, 0]}]),
        "input_info[0].sample_size[1] must be a list of whole numbers >= 1; got 0",
    ),
    "two names of the inputs": (config(input_info=[], input_infos=[]), "input_info must be given once"),
    "no mode": (
        config(training={"params": {}}),
        f"{AAT}.mode must be given: 'adaptive_compression_level' or 'early_exit'",
    ),
    "another mode": (
        config(training={"mode": "adaptive"}),
        f"{AAT}.mode must be 'adaptive_compression_level' or 'early_exit'; got 'adaptive'",
    ),
    "training twice": (
        config([{**PRUNING, AAT: {}}]),
        f"{AAT} must be given once; it is at the top level and inside an algorithm",
    ),
    "both names of a parameter": (
        config([{**PRUNING, AAT: {"compression_rate_step": 0.1, "initial_compression_rate_step": 0.1}}], None),
        f"compression[0].{AAT} must have initial_compression_rate_step once",
    ),
    "not an object": (config("filter_pruning"), "compression must be an object; got 'filter_pruning'"),
    "bits": (
        config([PRUNING, {"algorithm": "quantization", "weights": {"bits": 16}}]),
        "compression[1].weights.bits must be a whole number from 1 to 8; got 16",
    ),
    "no type of distillation": (
        config([PRUNING, {"algorithm": "knowledge_distillation"}]),
        "compression[1].type must be given: 'softmax' or 'mse'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_path(name, tmp_path):
    given, told = WRONG[name]
    with pytest.raises(ConfigError) as refused:
        CompressionConfig.from_dict(given)
    assert told in str(refused.value)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=r"configuration file .*config.json: "):
        CompressionConfig.from_json(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"compression": ', "must be JSON with comments"),
        ('{"log_dir": "a", "log_dir": "b"}', "must be JSON with comments"),
        ("[]", "the configuration must be an object; got []"),
    ],
)
def test_files_that_cannot_be_read(text, told, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json") as refused:
        CompressionConfig.from_json(path)
    assert told in str(refused.value)
    with pytest.raises(ConfigError, match="must be readable"):
        CompressionConfig.from_json(tmp_path / "nowhere.json")


def test_null_is_as_good_as_nothing():
    given = {
        "accuracy_aware_training": {
            "mode": "adaptive_compression_level",
            "params": {"maximal_relative_accuracy_degradation": None, "maximal_absolute_accuracy_degradation": 0.5},
        },
        "compression": {
            "algorithm": "filter_pruning",
            "params": {"pruning_flops_target": None, "pruning_target": 0.4, "filter_importance": None},
        },
    }
    config = CompressionConfig.from_dict(given)
    assert config.accuracy_aware_training.params.maximal_relative_accuracy_degradation is None
    assert config.compression[0].params.target == 0.4
    assert CompressionConfig.from_dict(config.model_dump(mode="json")) == config
