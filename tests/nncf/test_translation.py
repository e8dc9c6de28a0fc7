"""What an experiment searches where a configuration describes it."""

import pytest
import torch

from autocompress.errors import ConfigError
from autocompress.nncf import CompressionConfig
from autocompress.nncf.translation import first_samples, search_space_of, settings_of
from autocompress.search_space import SearchSpace

TRAINING = {"mode": "adaptive_compression_level", "params": {"patience_epochs": 7, "lr_reduction_factor": 0.25}}
PRUNING = {"algorithm": "filter_pruning", "params": {"pruning_target": 0.3, "filter_importance": "geometric_median"}}
QUANTIZATION = {"algorithm": "quantization"}


def config(*compression, training=TRAINING, **top):
    return CompressionConfig.from_dict({"compression": list(compression), "accuracy_aware_training": training, **top})


def only(space):
    (algorithm,) = space["algorithm_name"]["_value"]
    return algorithm


def test_filter_pruning():
    read = config(PRUNING, ignored_scopes=["stem"])
    space = only(search_space_of(read))
    assert space["_name"] == "filter_pruning"
    assert space["config_list::default::::sparsity"] == {"_type": "uniform", "_value": [0.0, 0.95]}
    assert space["parameter::filter_importance"] == {"_type": "choice", "_value": ["geometric_median"]}
    SearchSpace.parse(search_space_of(read))
    settings = settings_of(read)
    assert (settings.patience_epochs, settings.lr_reduction_factor) == (7, 0.25)
    assert settings.initial_compression_rate == 0.3
    assert settings.maximal_relative_accuracy_degradation == 1.0


def test_a_mix_with_a_teacher():
    read = config(PRUNING, QUANTIZATION, {"algorithm": "knowledge_distillation", "type": "mse", "scale": 2})
    space = only(search_space_of(read))
    assert space["_name"] == "filter_pruning+qat"
    assert any(key.endswith("::quant_bits") for key in space)
    teacher = settings_of(read).knowledge_distillation
    assert (teacher.type, teacher.scale) == ("mse", 2.0)


def test_magnitude_sparsity_begins_where_its_schedule_ends():
    levels = {"schedule": "multistep", "multistep_steps": [2, 4], "multistep_sparsity_levels": [0.1, 0.2, 0.6]}
    read = config({"algorithm": "magnitude_sparsity", "params": {**levels, "weight_importance": "abs"}})
    assert settings_of(read).initial_compression_rate == 0.6
    space = only(search_space_of(read))
    assert space["parameter::weight_importance"]["_value"] == ["abs"]


def test_an_absolute_degradation():
    training = {"mode": "adaptive_compression_level", "params": {"maximal_absolute_accuracy_degradation": 0.02}}
    settings = settings_of(config(PRUNING, training=training))
    assert settings.maximal_absolute_accuracy_degradation == 0.02
    assert settings.maximal_relative_accuracy_degradation is None


def test_multiply_accumulates_instead_of_filters():
    read = config({"algorithm": "filter_pruning", "params": {"pruning_flops_target": 0.4}})
    assert only(search_space_of(read))["parameter::rate_of"]["_value"] == ["macs"]
    assert settings_of(read).initial_compression_rate == 0.4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            config(PRUNING, training={"mode": "early_exit"}),
            "accuracy_aware_training.mode must be 'adaptive_compression_",
        ),
        (config(PRUNING, training=None), "accuracy_aware_training must be given"),
        (config(PRUNING, {**QUANTIZATION, "ignored_scopes": ["head"]}), "must have the same ignored_scopes"),
        (config(PRUNING, {**QUANTIZATION, "weights": {"mode": "asymmetric"}}), "must be 'symmetric' in an experiment"),
    ],
)
def test_what_an_experiment_cannot_do(given, told):
    with pytest.raises(ConfigError, match=told):
        search_space_of(given)


BATCHES = [(torch.full((4, 2), float(index)), torch.zeros(4)) for index in range(3)]


@pytest.mark.parametrize(("samples", "sizes"), [(0, []), (3, [3]), (4, [4]), (6, [4, 2]), (100, [4, 4, 4])])
def test_the_first_samples_of_the_data(samples, sizes):
    found = list(first_samples(BATCHES, samples))
    assert [len(batch) for batch in found] == sizes
    assert all(bool((batch == index).all()) for index, batch in enumerate(found))


def test_what_is_no_tensor_counts_as_one_sample():
    assert list(first_samples([({"ids": 1},), ({"ids": 2},), ({"ids": 3},)], 2)) == [{"ids": 1}, {"ids": 2}]
