"""What `CompressionStudy` does with the sampler, the settings and the name that it is given; nothing is trained."""

import dataclasses

import optuna
import pytest

from autocompress import AccuracyBudget, AdaptiveCompressionSampler, CompressionStudy
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.errors import ConfigError, StoreError
from autocompress.plan import ExperimentPlan
from autocompress.records import Baseline, Measurement
from autocompress.settings import AccuracyAwareSettings
from tests import curve_modules
from tests.e2e.launch import search_space

MODULE = curve_modules.Flat
BASELINE = Baseline(0.9, None, True, Measurement(100, 100, 1000, 400), ModuleReference.of(MODULE).fingerprint(), 0.0)


@pytest.fixture
def study(tmp_path):
    def study(**options):
        given = {"directory": tmp_path / "study", "baseline": BASELINE, **options}
        return CompressionStudy(MODULE, search_space("l2"), **given)

    return study


def settings(**changes):
    return AccuracyAwareSettings.from_dict(changes)


def planned(study):
    _ = study.study
    return ExperimentPlan.read(study.store)


def test_the_settings_of_the_sampler_are_those_of_the_study(study):
    wanted = settings(initial_compression_rate=0.3, patience_epochs=7, maximal_compression_rate=0.4, seed=5)
    made = study(sampler=AdaptiveCompressionSampler(settings=wanted))
    plan = planned(made)
    assert made.settings == plan.settings == wanted
    assert plan.tuner == "AdaptiveCompression"
    (proposal,) = plan.proposals([])
    assert (proposal.requested_rate, proposal.seed) == (0.3, 5)
    assert made.study.sampler.open(made.study.trials) == [proposal], "that is what Optuna's trials are given"


def test_equal_settings_may_be_given_twice(study):
    wanted = settings(patience_epochs=7)
    assert (
        study(settings=wanted, sampler=AdaptiveCompressionSampler(settings=settings(patience_epochs=7))).settings
        == wanted
    )
    assert study(settings=wanted, sampler=AdaptiveCompressionSampler()).settings == wanted
    assert study(sampler=AdaptiveCompressionSampler()).settings == AccuracyAwareSettings()


@pytest.mark.parametrize(
    ("mine", "others", "named"),
    [
        ({}, {"patience_epochs": 7}, r"patience_epochs \(3 and 7\)$"),
        ({"seed": 1}, {"seed": 2, "warm_start": False}, r"warm_start \(True and False\), seed \(1 and 2\)$"),
        ({"preflight": False}, {}, r"preflight \(False and True\)$"),
        (
            {},
            {"maximal_relative_accuracy_degradation": 3.0},
            r"maximal_relative_accuracy_degradation \(1.0 and 3.0\)$",
        ),
    ],
)
def test_settings_that_differ_are_refused_by_their_names(study, mine, others, named):
    with pytest.raises(ConfigError, match=f"must be the same; they differ in {named}"):
        study(settings=settings(**mine), sampler=AdaptiveCompressionSampler(settings=settings(**others)))


def test_a_budget_replaces_that_of_both(study):
    loose = settings(maximal_relative_accuracy_degradation=3.0, patience_epochs=7)
    budget = AccuracyBudget(maximal_absolute_accuracy_degradation=0.2)
    for given in ({}, {"settings": settings(patience_epochs=7)}):
        made = study(budget=budget, sampler=AdaptiveCompressionSampler(settings=loose), **given)
        assert made.settings == settings(maximal_absolute_accuracy_degradation=0.2, patience_epochs=7)


class Mine(AdaptiveCompressionSampler):
    """A user's own rule."""


@pytest.mark.parametrize(
    ("sampler", "named"),
    [
        (AdaptiveCompressionSampler("rate"), "got rate: use this sampler in a study of optuna.create_study"),
        (
            AdaptiveCompressionSampler(
                independent_sampler=optuna.samplers.TPESampler(), constraints_func=lambda trial: (0,)
            ),
            "got independent_sampler, constraints_func",
        ),
        (Mine(settings=settings(seed=3)), "got the subclass Mine"),
        (
            optuna.samplers.PartialFixedSampler({"width": 3}, AdaptiveCompressionSampler()),
            "not inside of another one; got a PartialFixedSampler",
        ),
    ],
)
def test_what_the_study_would_not_use_is_refused(study, sampler, named):
    with pytest.raises(ConfigError, match=named):
        study(sampler=sampler)


def test_another_sampler_is_used_as_it_is(study):
    sampler = optuna.samplers.TPESampler(n_startup_trials=3, seed=8)
    made = study(sampler=sampler)
    assert planned(made).tuner == "TPESampler"
    assert made.study.sampler is sampler


def test_a_study_of_another_sampler_is_refused(study):
    planned(study())
    with pytest.raises(StoreError, match=r"its tuner is another one .tuner is 'AdaptiveCompression', not 'TPESampler'"):
        _ = study(sampler=optuna.samplers.TPESampler()).study


def test_options_of_a_sampler_object_are_not_invented_when_it_is_gone_on_with(study, tmp_path):
    planned(study(sampler=optuna.samplers.TPESampler(n_startup_trials=3)))
    opened = CompressionStudy.open(tmp_path / "study")
    assert opened.result.records == [], "it can be read"
    with pytest.raises(
        ConfigError, match=r"study of a TPESampler object, .* CompressionStudy.open\(..., sampler=...\)"
    ):
        opened.optimize(n_trials=1)
    again = optuna.samplers.TPESampler(n_startup_trials=3)
    assert CompressionStudy.open(tmp_path / "study", sampler=again).study.sampler is again
    with pytest.raises(StoreError, match="its tuner is another one"):
        _ = CompressionStudy.open(tmp_path / "study", sampler=optuna.samplers.RandomSampler()).study


def test_a_sampler_by_name_is_made_again(tmp_path):
    request = SearchRequest(
        ModuleReference.of(MODULE),
        search_space("l2"),
        tmp_path / "study",
        settings=settings(seed=4),
        tuner="TPE",
        baseline=BASELINE,
    )
    begun = engine_named("optuna").create(request).study
    plan = planned(begun)
    assert (plan.tuner, plan.tuner_arguments) == ("TPESampler", {"seed": 4})
    opened = CompressionStudy.open(tmp_path / "study")
    assert isinstance(opened.study.sampler, optuna.samplers.TPESampler)
    assert not opened._needs_sampler


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_study_of_other_code_is_left_as_it_is(study, tmp_path, direction):
    storage = f"sqlite:///{tmp_path}/others.db"
    theirs = optuna.create_study(study_name="Flat", storage=storage, direction=direction)
    if direction == "maximize":
        theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(StoreError, match=r"the study 'Flat' must be one of autocompress.*give another study_name"):
        _ = study(storage=storage).study
    assert not optuna.load_study(study_name="Flat", storage=storage).user_attrs
    assert study(storage=storage, study_name="mine").study.study_name == "mine"


def test_a_study_that_was_made_empty_is_used(study, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(study_name="Flat", storage=storage, direction="maximize")
    assert planned(study(storage=storage)).measured == dataclasses.replace(BASELINE)
