from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from autocompress.budget import AccuracyBudget
from autocompress.errors import ConfigError
from autocompress.search import AdaptiveSearch, RateAxis, SingleTrial, StepHalving
from autocompress.search_space import SearchSpace
from autocompress.settings import NNCF, AccuracyAwareSettings, KnowledgeDistillation


def space(*algorithms):
    return SearchSpace.parse({"algorithm_name": {"_type": "choice", "_value": list(algorithms)}})


def l1(*values, kind="uniform"):
    return {"_name": "l1", "config_list::Conv2d::::sparsity": {"_type": kind, "_value": list(values)}}


EIGHT = {"weight": {"_type": "choice", "_value": [8]}}


def test_the_preset_nncf_has_its_defaults():
    assert AccuracyAwareSettings(preset="nncf").to_dict() == {
        "preset": "nncf",
        "fine_tuning_schedule": "constant",
        "learning_rate_factors": [1.0],
        "weight_averaging": None,
        "confidence": 0.5,
        "second_chance": False,
        "look_beyond": False,
        "final_training_epochs": 0,
        "pruning_steps": 1,
        "maximal_relative_accuracy_degradation": 1.0,
        "maximal_absolute_accuracy_degradation": None,
        "initial_training_phase_epochs": 5,
        "patience_epochs": 3,
        "minimal_compression_rate_step": 0.025,
        "initial_compression_rate_step": 0.1,
        "compression_rate_step_reduction_factor": 0.5,
        "lr_reduction_factor": 0.5,
        "maximal_total_epochs": 10000,
        "validate_every_n_epochs": 1,
        "validate_before_training": False,
        "minimal_compression_rate": 0.0,
        "maximal_compression_rate": 0.95,
        "initial_compression_rate": 0.5,
        "warm_start": True,
        "knowledge_distillation": None,
        "maximal_trial_seconds": None,
        "preflight": True,
        "probe_batches": 4,
        "probe_widths": 6,
        "seed": 0,
    }


def test_a_preset_stands_for_what_is_not_given():
    assert AccuracyAwareSettings(preset="nncf", second_chance=True).second_chance
    changed = AccuracyAwareSettings(seed=4).with_changes({"preset": "nncf"})
    assert changed == AccuracyAwareSettings(preset="nncf", seed=4)
    assert changed.with_changes({"preset": "default", "pruning_steps": 2}) == AccuracyAwareSettings(
        seed=4, pruning_steps=2
    )
    own = set(NNCF) - {name for name, value in NNCF.items() if getattr(AccuracyAwareSettings(), name) == value}
    assert {"fine_tuning_schedule", "knowledge_distillation", "validate_before_training"} <= own


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ({}, AccuracyBudget(1.0)),
        ({"maximal_absolute_accuracy_degradation": None}, AccuracyBudget(1.0)),
        ({"maximal_relative_accuracy_degradation": 2}, AccuracyBudget(2.0)),
        ({"maximal_absolute_accuracy_degradation": 0.5}, AccuracyBudget(None, 0.5)),
        (
            {"maximal_relative_accuracy_degradation": None, "maximal_absolute_accuracy_degradation": 0},
            AccuracyBudget(None, 0),
        ),
    ],
)
def test_budget(given, budget):
    assert AccuracyAwareSettings(**given).budget == budget


COUNT, POSITIVE, STEP = "a whole number >= 0", "a whole number >= 1", "a finite number > 0"
FACTOR, RATE, DEGRADATION = "a number in (0, 1)", "a number in [0, 1)", "a finite number >= 0, or null"
RULES = {
    "maximal_relative_accuracy_degradation": (DEGRADATION, [-1, "1", True, float("nan"), float("inf")]),
    "maximal_absolute_accuracy_degradation": (DEGRADATION, [-0.1, "1", False, float("nan"), [1]]),
    "initial_training_phase_epochs": (COUNT, [-1, "5", True, 2.5, None]),
    "patience_epochs": (POSITIVE, [0, "3", True, 3.0, None]),
    "maximal_total_epochs": (POSITIVE, [0, -5, "10", False, 1.5]),
    "validate_before_training": ("true or false", [0, 1, "true", None]),
    "validate_every_n_epochs": (POSITIVE, [0, "1", True, 0.5]),
    "minimal_compression_rate_step": (STEP, [0, -0.1, "0.1", True, float("inf")]),
    "initial_compression_rate_step": (STEP, [0, -0.1, "0.1", True, float("nan")]),
    "compression_rate_step_reduction_factor": (FACTOR, [0, 1, 1.5, "0.5", True]),
    "lr_reduction_factor": ("a number in (0, 1]", [0, 1.1, "0.5", True]),
    "preset": ("'default' or 'nncf'", ["NNCF", None, 1]),
    "fine_tuning_schedule": ("'constant', 'linear' or 'cosine'", ["step", None, True]),
    "learning_rate_factors": (
        "a list of different numbers in (0, 1], at least one",
        [[], [0.0], [1.5], [1.0, 1.0], ["1"], 1.0, None],
    ),
    "confidence": ("a number in [0.5, 1)", [0.4, 1, "0.8", True, None]),
    "weight_averaging": ("'ema', 'swa' or null", ["mean", True]),
    "second_chance": ("true or false", [0, "true", None]),
    "look_beyond": ("true or false", [1, "true", None]),
    "final_training_epochs": (COUNT, [-1, "5", True, 2.5, None]),
    "pruning_steps": (POSITIVE, [0, "3", True, 3.0, None]),
    "minimal_compression_rate": (RATE, [-0.1, 1, "0", False]),
    "maximal_compression_rate": (RATE, [-0.1, 1.0, "0.9", True]),
    "initial_compression_rate": (RATE, [-0.1, 1.0, "0.5", None]),
    "warm_start": ("true or false", [0, 1, "true", None]),
    "knowledge_distillation": ("an object with type, scale and temperature, or null", [True, "softmax", 1]),
    "maximal_trial_seconds": ("a finite number > 0, or null", [0, -1.0, "60", True, float("inf")]),
    "preflight": ("true or false", [0, 1, "false", None]),
    "probe_batches": (POSITIVE, [0, "3", True, 3.0, None]),
    "probe_widths": (POSITIVE, [0, "3", True, 3.0, None]),
    "seed": ("a whole number in [0, 2**32)", [-1, 2**32, "0", True, 1.5]),
}


def test_every_setting_has_its_errors_tested():
    assert set(RULES) == set(AccuracyAwareSettings.model_fields)


@pytest.mark.parametrize(
    ("key", "rule", "value"), [(key, rule, value) for key, (rule, bad) in RULES.items() for value in bad]
)
def test_a_bad_value_is_named_with_its_rule(key, rule, value):
    with pytest.raises(ConfigError) as caught:
        AccuracyAwareSettings(**{key: value})
    assert str(caught.value) == f"{key} must be {rule}; got {value!r}"
    assert isinstance(caught.value.__cause__, ValidationError)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"maximal_relative_accuracy_degradation": 1.0, "maximal_absolute_accuracy_degradation": 0.5},
            "exactly one of maximal_relative_accuracy_degradation (percent) and "
            "maximal_absolute_accuracy_degradation must be set; got both (1.0 and 0.5)",
        ),
        (
            {"maximal_relative_accuracy_degradation": None, "maximal_absolute_accuracy_degradation": None},
            "exactly one of maximal_relative_accuracy_degradation (percent) and "
            "maximal_absolute_accuracy_degradation must be set; neither is given",
        ),
        (
            {"minimal_compression_rate_step": 0.2},
            "minimal_compression_rate_step must be <= initial_compression_rate_step (0.1); got 0.2",
        ),
        (
            {"minimal_compression_rate": 0.9, "maximal_compression_rate": 0.8},
            "minimal_compression_rate must be <= maximal_compression_rate (0.8); got 0.9",
        ),
        ({"patience_epoch": 3}, "unknown setting 'patience_epoch'; did you mean 'patience_epochs'"),
        ({"nonsense": 3}, "(known: compression_rate_step_reduction_factor, confidence, final_training_epochs"),
    ],
)
def test_rules_between_settings(given, message):
    with pytest.raises(ConfigError) as caught:
        AccuracyAwareSettings(**given)
    assert message in str(caught.value)


def test_all_broken_rules_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        AccuracyAwareSettings.from_dict({"seed": -1, "patience_epochs": 0})
    assert str(caught.value) == (
        "patience_epochs must be a whole number >= 1; got 0; seed must be a whole number in [0, 2**32); got -1"
    )


def test_settings_must_be_an_object():
    with pytest.raises(ConfigError, match=r"settings must be an object; got \[1\]"):
        AccuracyAwareSettings.model_validate([1])


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        AccuracyAwareSettings().seed = 3


@pytest.mark.parametrize(
    "settings",
    [
        AccuracyAwareSettings(),
        AccuracyAwareSettings(maximal_absolute_accuracy_degradation=0.5, warm_start=False, seed=7),
        AccuracyAwareSettings(minimal_compression_rate=0.2, maximal_compression_rate=0.4),
    ],
)
def test_round_trip(settings):
    read = AccuracyAwareSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert read == settings
    assert AccuracyAwareSettings.model_validate(settings.model_dump()) == settings
    assert AccuracyAwareSettings.model_validate_json(settings.model_dump_json()) == settings


def test_with_budget():
    settings = AccuracyAwareSettings(seed=3)
    changed = settings.with_budget(AccuracyBudget(maximal_absolute_accuracy_degradation=0.5))
    assert changed.budget == AccuracyBudget(None, 0.5)
    assert changed.seed == 3
    assert changed.with_budget(AccuracyBudget(2.0)) == settings.with_budget(AccuracyBudget(2.0))
    assert settings.budget == AccuracyBudget(1.0)


def test_with_changes():
    settings = AccuracyAwareSettings(seed=3)
    assert settings.with_changes({}) == settings
    assert settings.with_changes({"maximal_absolute_accuracy_degradation": 0.5}).budget == AccuracyBudget(None, 0.5)
    assert settings.with_changes({"patience_epochs": 9}).patience_epochs == 9
    with pytest.raises(ConfigError, match="got both"):
        settings.with_changes(
            dict.fromkeys(("maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation"), 1.0)
        )
    with pytest.raises(ConfigError, match="neither is given"):
        settings.with_changes({"maximal_relative_accuracy_degradation": None})
    with pytest.raises(ConfigError, match="unknown setting 'sed'"):
        settings.with_changes({"sed": 3})


@pytest.mark.parametrize(("low", "high", "initial"), [(0.0, 0.95, 0.5), (0.6, 0.9, 0.6), (0.1, 0.4, 0.4)])
def test_rule_is_bounded_by_the_axis(low, high, initial):
    rule = AccuracyAwareSettings(lr_reduction_factor=0.7).rule(RateAxis(low, high))
    assert rule == StepHalving(initial, 0.1, 0.025, 0.5, 0.7, low, high)


def test_searches():
    settings = AccuracyAwareSettings(
        preset="nncf", seed=4, warm_start=False, maximal_total_epochs=50, initial_training_phase_epochs=2
    )
    constant = {"_name": "l2", "config_list::Conv2d::::sparsity": {"_type": "choice", "_value": [0.5]}}
    axis = RateAxis(0.01, 0.95)
    assert settings.searches(space(l1(0.01, 0.99), constant)) == (
        AdaptiveSearch("l1", axis, settings.rule(axis), 2, 3, 50, False, 4),
        SingleTrial("l2", 2, 4),
    )


@pytest.mark.parametrize(
    ("option", "zero"),
    [
        (l1(0.0, 0.9), True),
        (l1(0.1, 0.9), False),
        ({**l1(0.0, 0.9), "_name": "level"}, True),
        ({**l1(0.0, 0.9), "_name": "l1+qat", "config_list::weight::Conv2d::::quant_bits": EIGHT}, False),
        ({**l1(0.0, 0.9), "config_list::Linear::::sparsity": {"_type": "uniform", "_value": [0.0, 0.5]}}, True),
        ({**l1(0.0, 0.9), "config_list::Linear::::sparsity": {"_type": "uniform", "_value": [0.1, 0.5]}}, False),
    ],
)
def test_rate_0_needs_no_trial_where_it_is_the_uncompressed_model(option, zero):
    (search,) = AccuracyAwareSettings().searches(space(option))
    assert search.zero_is_uncompressed == zero
    (search,) = AccuracyAwareSettings(preset="nncf").searches(space(option))
    assert not search.zero_is_uncompressed


def test_search_over_allowed_rates_proposes_only_those():
    (search,) = AccuracyAwareSettings().searches(space(l1(0.2, 0.35, 0.8, kind="choice")))
    proposal = search.next([])
    assert proposal is not None
    assert proposal.requested_rate == 0.35


def test_parameters_use_the_bounds_of_the_search():
    two = {**l1(0.0, 0.99), "config_list::Linear::::sparsity": {"_type": "uniform", "_value": [0.0, 0.5]}}
    chosen = AccuracyAwareSettings(maximal_compression_rate=0.8).parameters(space(two), "l1", 1.0)["algorithm_name"]
    assert list(chosen.values()) == ["l1", 0.8, 0.5]


def test_a_range_outside_the_bounds_is_an_error():
    with pytest.raises(ConfigError, match=r"maximal_compression_rate 0.95; got \[0.96, 0.99\]"):
        AccuracyAwareSettings().searches(space(l1(0.96, 0.99)))


def test_knowledge_distillation():
    settings = AccuracyAwareSettings(knowledge_distillation={"type": "softmax", "temperature": 4.0})
    taught = {"type": "softmax", "scale": 1.0, "temperature": 4.0, "loss_scale": 1.0}
    assert settings.knowledge_distillation == KnowledgeDistillation(**taught)
    assert settings.to_dict()["knowledge_distillation"] == taught
    assert AccuracyAwareSettings.from_dict(settings.to_dict()) == settings
    assert settings.with_changes({"seed": 3}).knowledge_distillation == settings.knowledge_distillation
    assert settings.with_changes({"knowledge_distillation": None}).knowledge_distillation is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "kl"}, "knowledge_distillation.type must be 'softmax', 'mse' or 'auto'; got 'kl'"),
        ({"scale": 1.0}, "knowledge_distillation.type must be given: 'softmax', 'mse' or 'auto'"),
        ({"type": "mse", "scale": 0}, "knowledge_distillation.scale must be a finite number > 0; got 0"),
        ({"type": "mse", "temprature": 1}, "unknown setting 'temprature'; did you mean 'temperature'?"),
    ],
)
def test_bad_knowledge_distillation(given, message):
    with pytest.raises(ConfigError) as caught:
        AccuracyAwareSettings(knowledge_distillation=given)
    assert message in str(caught.value)


@pytest.mark.parametrize("lost", ["maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation"])
def test_a_record_without_its_budget_does_not_get_the_default_one(lost):
    record = AccuracyAwareSettings(maximal_relative_accuracy_degradation=0.1).to_dict()
    assert AccuracyAwareSettings.from_record(record).to_dict() == record
    del record["preflight"]
    assert AccuracyAwareSettings.from_record(record).preflight, "a setting that came later has its default"
    with pytest.raises(ConfigError, match=f"settings must have {lost}; they do not"):
        AccuracyAwareSettings.from_record({name: value for name, value in record.items() if name != lost})
