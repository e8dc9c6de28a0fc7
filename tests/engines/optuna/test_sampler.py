"""The rule as an Optuna sampler: Optuna's own suite, the sequence of rates, workers, storages, what users get wrong."""

import threading

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import TrialState

from autocompress.engines.optuna.convert import PROPOSAL, set_accuracy_margin
from autocompress.engines.optuna.sampler import AdaptiveCompressionPruner, AdaptiveCompressionSampler
from autocompress.errors import ConfigError
from autocompress.records import TrialRecord
from autocompress.search import AdaptiveSearch, RateAxis
from autocompress.settings import AccuracyAwareSettings
from autocompress.testing import cliff, flat, knee, never

SETTINGS = AccuracyAwareSettings()
AXIS = RateAxis(0.0, 0.95)
THRESHOLD = 0.8
CURVES = {"cliff": cliff(0.62), "knee": knee(0.8), "flat": flat(), "never": never()}


class TestOptunasSuite(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return AdaptiveCompressionSampler


def objective(curve):
    def measure(trial):
        rate = trial.suggest_float("compression_rate", 0, 0.95)
        set_accuracy_margin(trial, curve(rate, 9) - THRESHOLD)
        return rate

    return measure


def expected_rates(curve, settings=SETTINGS, axis=AXIS):
    """What the rule does by itself."""
    search, records = AdaptiveSearch("r", axis, settings.rule(axis)), []
    while (proposal := search.next(records)) is not None:
        rate = proposal.requested_rate
        feasible = curve(rate, 9) >= THRESHOLD
        records.append(TrialRecord(str(len(records)), "r", "completed", requested_rate=rate, feasible=feasible))
    return [record.requested_rate for record in records]


def rates(study):
    return [trial.params["compression_rate"] for trial in study.trials]


@pytest.mark.parametrize("name", CURVES)
def test_it_asks_for_what_the_rule_asks_for_and_stops(name):
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    study.optimize(objective(CURVES[name]), n_trials=50)
    assert rates(study) == expected_rates(CURVES[name])
    assert all(trial.state is TrialState.COMPLETE for trial in study.trials)


def test_the_best_trial_is_the_highest_rate_within_the_budget():
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    study.optimize(objective(cliff(0.62)))
    assert study.best_trial.value == max(rate for rate in rates(study) if rate <= 0.62)


@pytest.mark.parametrize("storage", ["memory", "sqlite", "journal"])
def test_another_worker_takes_over_after_each_trial(storage, tmp_path):
    def opened():
        if storage == "journal":
            backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
            return optuna.storages.JournalStorage(backend)
        return kept if storage == "memory" else f"sqlite:///{tmp_path}/study.db"

    kept = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=opened(), study_name="s", direction="maximize")
    wanted = expected_rates(knee(0.8))
    for _ in wanted:
        study = optuna.load_study(storage=opened(), study_name="s", sampler=AdaptiveCompressionSampler())
        study.optimize(objective(knee(0.8)), n_trials=1)
    assert rates(study) == wanted


def test_ask_and_tell():
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    for wanted in expected_rates(cliff(0.62)):
        trial = study.ask({"compression_rate": FloatDistribution(0, 0.95)})
        assert trial.params["compression_rate"] == wanted
        set_accuracy_margin(trial, cliff(0.62)(wanted, 9) - THRESHOLD)
        study.tell(trial, wanted)


def test_a_finished_search_repeats_its_best_rate():
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    study.optimize(objective(cliff(0.62)))
    trial = study.ask()
    assert trial.suggest_float("compression_rate", 0, 0.95) == study.best_value


def test_the_objective_knows_what_the_rule_says():
    def measure(trial):
        rate = trial.suggest_float("compression_rate", 0, 0.95)
        assert trial.user_attrs[PROPOSAL]["requested_rate"] == rate
        set_accuracy_margin(trial, 1.0)
        return rate

    optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler()).optimize(measure, n_trials=2)


def test_what_the_rule_says_is_on_the_trial():
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    study.optimize(objective(cliff(0.62)))
    said = [trial.user_attrs[PROPOSAL] for trial in study.trials]
    assert (said[0]["initial"], said[0]["start_from"], said[0]["epochs"]) == (True, None, 5)
    assert all(each["epochs"] == 3 and not each["initial"] for each in said[1:])
    for trial, each in zip(study.trials[1:], said[1:], strict=True):
        start = study.trials[int(each["start_from"])]
        assert start.params["compression_rate"] <= min(0.62, trial.params["compression_rate"])
    assert said[-1]["lr_factor"] < 1


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", CURVES)
def test_workers_at_the_same_time_are_given_what_may_come_next(name, workers):
    """All trials start before any of a round ends."""
    curve, study = CURVES[name], optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    wanted = expected_rates(curve)
    for _ in range(30):
        asked = []
        for _ in range(workers):
            trial = study.ask()
            asked.append((trial, trial.suggest_float("compression_rate", 0, 0.95)))
        for trial, rate in asked:
            set_accuracy_margin(trial, curve(rate, 9) - THRESHOLD)
            study.tell(trial, rate)
        if set(wanted) <= set(rates(study)):
            break
    assert set(wanted) <= set(rates(study)), (wanted, rates(study))
    rounds = len(study.trials) / workers
    assert rounds <= len(wanted)
    assert rounds < len(wanted) or name == "never", "workers must save rounds"


def test_threads():
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    study.optimize(objective(knee(0.8)), n_trials=60, n_jobs=3)
    assert set(expected_rates(knee(0.8))) <= set(rates(study))
    assert study.best_value == max(rate for rate in expected_rates(knee(0.8)) if knee(0.8)(rate, 9) >= THRESHOLD)
    assert threading.active_count() < 20


def test_a_rate_whose_trials_fail_is_tried_three_times():
    def fails_at_the_start(trial):
        rate = trial.suggest_float("compression_rate", 0, 0.95)
        if rate == 0.5:
            raise RuntimeError("no memory")
        set_accuracy_margin(trial, 1.0)
        return rate

    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    study.optimize(fails_at_the_start, n_trials=4, catch=RuntimeError)
    assert rates(study) == [0.5, 0.5, 0.5, 0.4]


def test_pruned_trials_are_infeasible():
    def pruned(trial):
        trial.suggest_float("compression_rate", 0, 0.95)
        raise optuna.TrialPruned

    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    study.optimize(pruned, n_trials=3)
    assert rates(study) == [0.5, 0.4, 0.3]


def test_constraints_func_as_before_optuna_5():
    def within(trial):
        return (THRESHOLD - cliff(0.62)(trial.params["compression_rate"], 9),)

    sampler = AdaptiveCompressionSampler(constraints_func=within)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("compression_rate", 0, 0.95))
    assert rates(study) == expected_rates(cliff(0.62))


def test_choices_and_steps():
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler(rate="sparsity"))

    def measure(trial):
        rate = trial.suggest_categorical("sparsity", [0, 0.3, 0.5, 0.7, 0.9])
        set_accuracy_margin(trial, cliff(0.62)(rate, 9) - THRESHOLD)
        return rate

    study.optimize(measure)
    assert study.best_value == 0.5
    assert {trial.params["sparsity"] for trial in study.trials} <= {0, 0.3, 0.5, 0.7, 0.9}
    stepped = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    trial = stepped.ask()
    assert trial.suggest_float("compression_rate", 0.1, 0.9, step=0.2) == pytest.approx(0.5)


def test_other_parameters_are_anothers():
    sampler = AdaptiveCompressionSampler(independent_sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=2))
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def measure(trial):
        lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        rate = trial.suggest_float("compression_rate", 0, 0.95)
        set_accuracy_margin(trial, knee(0.8)(rate, 9) - THRESHOLD)
        return rate - abs(lr - 1e-3)

    study.optimize(measure, n_trials=20)
    assert rates(study) == expected_rates(knee(0.8))
    assert len({trial.params["lr"] for trial in study.trials}) == len(study.trials)


def test_settings_are_the_rules():
    settings = SETTINGS.with_changes(
        {"initial_compression_rate": 0.3, "initial_compression_rate_step": 0.2, "maximal_compression_rate": 0.6}
    )
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler(settings=settings))
    study.optimize(objective(flat()))
    assert rates(study) == [0.3, 0.5, 0.6]


def test_trials_without_a_constraint_are_told():
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    with pytest.raises(ConfigError, match=r"call autocompress\.set_accuracy_margin\(trial, accuracy - threshold\)"):
        study.optimize(lambda trial: trial.suggest_float("compression_rate", 0, 0.95), n_trials=1)


@pytest.mark.parametrize(
    ("suggest", "message"),
    [
        (lambda trial: trial.suggest_int("compression_rate", 0, 1), "must be suggested as a float or as a choice"),
        (lambda trial: trial.suggest_categorical("compression_rate", ["a", "b"]), "must be suggested as a float"),
        (lambda trial: trial.suggest_float("compression_rate", 1.5, 2.0), r"must have a value in \[0, 0\.95\]"),
        (
            lambda trial: trial.suggest_categorical("compression_rate", [0.96, 1]),
            r"must have a value in \[0, 0\.95\]",
        ),
    ],
)
def test_a_rate_that_is_none(suggest, message):
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler())
    with pytest.raises(ConfigError, match=message):
        study.optimize(suggest, n_trials=1)


def test_the_pruner_ends_trials_beyond_their_patience():
    seen = []

    def trains_too_long(trial):
        rate = trial.suggest_float("compression_rate", 0, 0.95)
        for epoch in range(1, 20):
            trial.report(0.5, epoch)
            if trial.should_prune():
                seen.append(epoch)
                raise optuna.TrialPruned
        return rate

    pruner = AdaptiveCompressionPruner()
    study = optuna.create_study(direction="maximize", sampler=AdaptiveCompressionSampler(), pruner=pruner)
    study.optimize(trains_too_long, n_trials=3)
    assert seen == [6, 4, 4]


def test_the_pruner_ends_trials_beyond_the_epochs_of_the_study():
    def trains(trial):
        for epoch in range(1, 6):
            trial.report(0.5, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.0

    study = optuna.create_study(pruner=AdaptiveCompressionPruner(7), sampler=optuna.samplers.RandomSampler())
    study.optimize(trains, n_trials=3)
    assert [trial.last_step for trial in study.trials] == [5, 3, 1]
