"""Which experiments are of the same search, and what opening one mends."""

import dataclasses
import logging

import pytest

from autocompress.engines.start import (
    announce,
    duration,
    findings,
    length_of,
    open_experiment,
    require_same,
    require_same_search,
    time_text,
)
from autocompress.errors import StoreError
from autocompress.records import Preflight
from autocompress.search.adaptive import SearchLength
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from tests.written import plan

LOGGER = logging.getLogger("tests.opening")
SETTINGS = AccuracyAwareSettings(patience_epochs=7, maximal_absolute_accuracy_degradation=0.5)


def changed(**fields):
    return plan(**{"settings": SETTINGS, **fields})


def refused(wanted):
    with pytest.raises(StoreError, match=r"^the study must be of the same search; its ") as error:
        require_same_search("the study", changed(), wanted)
    return str(error.value)


def test_looking_first_or_not_is_the_same_search():
    for one, other in ((True, False), (False, True)):
        known, wanted = (changed(settings=SETTINGS.with_changes({"preflight": each})) for each in (one, other))
        require_same_search("the study", known, wanted)


def test_each_difference_is_named_with_both_values():
    told = refused(changed(settings=SETTINGS.with_changes({"seed": 1, "patience_epochs": 3})))
    assert "its settings is another one" in told
    assert "settings.seed is 0, not 1" in told
    assert "settings.patience_epochs is 7, not 3" in told
    assert "search_space" not in told
    assert (
        refused(changed(objective="macs")).count("objective is 'size', not 'macs'")
        + refused(changed(objective="macs")).count("objective is 'rate', not 'macs'")
        == 1
    )
    assert "its tuner is another one" in refused(changed(tuner="TPE"))
    assert "its search_space is another one" in refused(changed(search_space=default_space(["fpgm"]).wire))


def test_the_uncompressed_model_counts_where_both_have_it():
    known = changed()
    moved = dataclasses.replace(known.baseline, seconds=known.baseline.seconds + 1, fingerprint="another file")
    require_same_search("the study", known, dataclasses.replace(known, baseline=moved))
    require_same_search("the study", known, dataclasses.replace(known, baseline=None))
    worse = dataclasses.replace(known.baseline, accuracy=known.baseline.accuracy - 0.25)
    with pytest.raises(StoreError, match=r"its baseline is another one \(baseline.accuracy is "):
        require_same_search("the study", known, dataclasses.replace(known, baseline=worse))


def test_json_that_only_the_file_has_does_not_count():
    require_same("it", "comparison", {"trials": 3, "baseline": {}}, {"trials": 3})
    with pytest.raises(StoreError, match=r"^it must be of the same comparison; its trials is another one \(trials is "):
        require_same("it", "comparison", {"baseline": {}}, {"trials": 3})


def test_opening_mends_the_journal_and_warns_of_another_source(tmp_path, caplog):
    store = ExperimentDirectory(tmp_path / "experiment")
    store.create()
    store.write_settings(changed().to_dict())
    store.journal.append("event", number=1)
    with store.journal.path.open("a") as file:
        file.write('{"event": "cut o')
    with caplog.at_level(logging.WARNING, LOGGER.name):
        opened = open_experiment(store, changed(), fingerprint="another", logger=LOGGER)
    assert opened.to_dict() == changed().to_dict()
    assert "source has changed" in caplog.text
    assert store.journal.path.read_text().count("\n") == 1
    caplog.clear()
    open_experiment(store, fingerprint=changed().measured.fingerprint, logger=LOGGER)
    assert not caplog.text


def test_there_must_be_an_experiment(tmp_path):
    with pytest.raises(StoreError, match="holds no experiment"):
        open_experiment(ExperimentDirectory(tmp_path / "nowhere"), fingerprint=None, logger=LOGGER)
    assert not (tmp_path / "nowhere").exists()


FOUND = Preflight((0.9916, 0.9916), 0.0, 0.1, 0.03, step_seconds=0.02, epoch_seconds=4.0, loss=1.234)
LENGTH = SearchLength(trials=10, epochs=30, evaluations=40)


def test_findings():
    assert findings(FOUND) == [
        "evaluator: 0.9916, the same twice, 0.03 s",
        "direction: right (0.1 with the output layer zeroed)",
        "training step: 0.02 s, loss 1.23",
    ]


def test_findings_of_noise_and_of_nothing():
    noisy = dataclasses.replace(FOUND, accuracies=(0.9636, 0.9667), noise=0.0031, damaged=None, step_seconds=None)
    assert findings(noisy) == [
        "evaluator: 0.9636, 0.9667, a noise of 0.0031, 0.03 s",
        "direction: not checked",
        "training step: none, models are only evaluated",
    ]
    late = dataclasses.replace(FOUND, step_seconds=None, late=True)
    assert findings(late)[2] == "training step: not waited for, loss 1.23"
    once = dataclasses.replace(FOUND, accuracies=(0.9916,), noise=None)
    assert findings(once)[0] == "evaluator: 0.9916, 0.03 s"
    sampled = dataclasses.replace(once, sampling_error=0.0048)
    assert findings(sampled)[0] == "evaluator: 0.9916, 0.03 s, one value for each sample"


def test_how_long_a_search_takes():
    assert duration(FOUND, LENGTH) == "search: at most 2 min (10 trials, 30 epochs)"  # 30 * 4 s + 40 * .03 s
    unknown = dataclasses.replace(FOUND, epoch_seconds=None)
    told = "search: at most 10 trials, 30 epochs; evaluations take 1.2 s of it, a training step 0.02 s"
    assert duration(unknown, LENGTH) == told
    untrained = dataclasses.replace(FOUND, step_seconds=None)
    assert duration(untrained, LENGTH) == "search: at most 1.2 s of evaluation (10 trials)"
    late = dataclasses.replace(unknown, step_seconds=None, late=True)
    assert duration(late, LENGTH) == "search: at most 10 trials, 30 epochs; evaluations take 1.2 s of it"
    assert duration(dataclasses.replace(late, epoch_seconds=4.0), LENGTH) == duration(FOUND, LENGTH)
    assert duration(FOUND, None) == "search: as long as it is let"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0213, "0.021 s"), (9.04, "9 s"), (42.4, "42 s"), (720, "12 min"), (12_600, "3.5 h")]
)
def test_durations(seconds, text):
    assert time_text(seconds) == text


def test_a_builtin_tuner_takes_as_many_trials_as_it_is_let():
    other = dataclasses.replace(plan(), tuner="TPE")
    assert length_of(other) is None
    assert length_of(other, 4) == SearchLength(trials=4, epochs=4 * 3, evaluations=4 * 4)


def test_the_rule_takes_no_more_trials_than_it_is_let():
    whole, two = length_of(plan()), length_of(plan(), 2)
    settings = plan().settings
    assert whole.trials > 2
    assert two.trials == 2
    assert settings.most_epochs == settings.initial_training_phase_epochs + 3, "with a second chance"
    assert two.epochs == min(whole.epochs, 2 * settings.most_epochs)
    assert two.evaluations < whole.evaluations
    assert length_of(plan(), 1000) == whole


def test_what_is_logged(caplog):
    found = dataclasses.replace(FOUND, warnings=("look at this",))
    measured = plan().with_baseline(dataclasses.replace(plan().measured, preflight=found), {})
    with caplog.at_level(logging.INFO):
        announce(measured, logging.getLogger("some.engine"), LENGTH)
        announce(plan(), logging.getLogger("some.engine"), LENGTH)  # measured before there were preflights
    assert caplog.messages == [
        *(f"preflight: {line}" for line in (*findings(FOUND), duration(FOUND, LENGTH))),
        "look at this",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO"] * 4 + ["WARNING"]


def test_other_versions_are_said_and_nothing_else(tmp_path, caplog):
    store, versions = ExperimentDirectory(tmp_path / "experiment"), changed().versions
    fingerprint = changed().measured.fingerprint
    store.create()
    for known in (versions, {**versions, "torch": "1.13.1", "autocompress": "0.0.1", "torch-directml": "2"}):
        store.write_settings(changed(versions=known).to_dict())
        with caplog.at_level(logging.WARNING):
            open_experiment(store, fingerprint=fingerprint, logger=LOGGER)
    (said,) = caplog.messages
    torch, ours = versions["torch"], versions["autocompress"]
    differences = (
        f"autocompress was 0.0.1 and is {ours}; torch was 1.13.1 and is {torch}; torch-directml was 2 and is not"
    )
    assert f"since the experiment began ({differences} installed)" in said
