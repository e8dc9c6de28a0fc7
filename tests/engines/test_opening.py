"""Which experiments are of the same search, and what opening one mends."""

import dataclasses
import logging

import pytest

from autocompress.engines.opening import open_experiment, require_same, require_same_search
from autocompress.errors import StoreError
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
