"""NNCF-style configurations: what is read, and what is refused."""

import pytest

from autocompress.errors import ConfigError
from autocompress.nncf import CompressionConfig
from autocompress.nncf.sections import FilterPruning, MagnitudeSparsity, Quantization

PRUNING = {"algorithm": "filter_pruning", "pruning_init": 0.05, "params": {"pruning_target": 0.1}}
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
