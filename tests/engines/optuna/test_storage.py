"""A storage that goes away for a while, and one that stays away."""

import logging
import sqlite3
import threading
import time

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage

from autocompress.engines.optuna.sampler import AdaptiveCompressionSampler
from autocompress.engines.optuna.storage import STORAGE_FILE, address, default_storage, found_study, opened, retrying
from autocompress.errors import ConfigError, StoreError
from autocompress.store import ExperimentDirectory
from autocompress.testing import cliff
from tests.e2e.support import free_port
from tests.engines.optuna.test_sampler import expected_rates, objective, rates


class Away(InMemoryStorage):
    """Every other call fails."""

    calls = 0

    def _fails(self):
        self.calls += 1
        return self.calls % 2

    def get_all_trials(self, *arguments, **keywords):
        if self._fails():
            raise ConnectionError("the server is restarting")
        return super().get_all_trials(*arguments, **keywords)

    def set_trial_state_values(self, *arguments, **keywords):
        if self._fails():
            raise optuna.exceptions.StorageInternalError("the connection is lost")
        return super().set_trial_state_values(*arguments, **keywords)


@pytest.mark.slow
def test_a_search_goes_on_when_the_storage_is_back(caplog):
    with caplog.at_level(logging.WARNING):
        study = optuna.create_study(
            storage=retrying(Away()), direction="maximize", sampler=AdaptiveCompressionSampler()
        )
        study.optimize(objective(cliff(0.62)))
    assert rates(study) == expected_rates(cliff(0.62))
    assert "does not answer; trying again" in caplog.text


def test_a_database_that_is_locked_for_a_while(tmp_path):
    path = tmp_path / "study.db"
    url = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 0.1}})
    study = optuna.create_study(storage=retrying(url), direction="maximize", sampler=AdaptiveCompressionSampler())
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    released = []

    def release():
        time.sleep(2)
        released.append(time.monotonic())
        other.rollback()
        other.close()

    thread = threading.Thread(target=release)
    thread.start()
    study.optimize(objective(cliff(0.62)))
    ended = time.monotonic()
    thread.join()
    assert rates(study) == expected_rates(cliff(0.62))
    assert ended > released[0], "it must have waited for the lock"


def test_one_that_stays_away_is_told():
    class Gone(InMemoryStorage):
        def get_all_trials(self, *arguments, **keywords):
            raise ConnectionError("no route to host")

    with pytest.raises(StoreError, match=r"has not answered for \d+ s: no route to host"):
        optuna.create_study(storage=retrying(Gone(), 0.5)).get_trials()


def test_other_errors_pass():
    with pytest.raises(KeyError):
        retrying(InMemoryStorage()).get_study_id_from_name("nowhere")


def test_a_journal_by_its_file(tmp_path):
    storage = opened(f"journal:///{tmp_path}/study.journal")
    assert isinstance(storage, JournalStorage)
    study = optuna.create_study(storage=storage, study_name="one")
    study.set_user_attr("known", True)
    again = optuna.load_study(storage=opened(f"journal:///{tmp_path}/study.journal"), study_name="one")
    assert again.user_attrs == {"known": True}


def test_an_object_is_taken_as_it_is():
    storage = optuna.storages.InMemoryStorage()
    assert opened(storage) is storage
    assert address(storage) is None


@pytest.mark.parametrize(
    ("storage", "rule"),
    [
        (
            "study.db",
            "a storage must be an address such as sqlite:///study.db or postgresql://host/database; got 'study",
        ),
        ("nosuch://me:secret@host/db", "the storage nosuch://me:\\*\\*\\*@host/db is of no known kind"),
        ("oracle://host/db", "the storage oracle://host/db needs a package that is not installed"),
    ],
)
def test_what_is_no_storage_is_told(storage, rule):
    with pytest.raises(ConfigError, match=rule):
        opened(storage)


def test_a_server_that_is_not_there_is_told_without_its_password():
    storage = f"postgresql+psycopg://me:secret@127.0.0.1:{free_port()}/db"
    with pytest.raises(
        StoreError, match=r"the storage postgresql\+psycopg://me:\*\*\*@127.* cannot be opened"
    ) as caught:
        opened(storage)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["plain", "a?b", "100%25", "a#b", "a b", "{SCHEMA_VERSION}", "ä&b=c", "a@b:c[1]"])
def test_the_file_in_a_directory_of_any_name(name, tmp_path):
    """Also by its address alone, as optuna-dashboard opens it."""
    store = ExperimentDirectory(tmp_path / name)
    store.path.mkdir()
    made = optuna.create_study(storage=opened(default_storage(store)), study_name="here")
    made.ask()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (store.path / STORAGE_FILE).is_file()
    assert len(found_study(default_storage(store), "here").trials) == 1
    assert len(optuna.load_study(storage=default_storage(store), study_name="here").trials) == 1
    assert address(default_storage(store)) == default_storage(store)


@pytest.mark.parametrize(
    "address", ["journal:///{}/none/study.journal", "sqlite:///{}/none/study.db", "sqlite:///{}/\0.db"]
)
def test_a_file_that_cannot_be_opened(tmp_path, address):
    with pytest.raises(StoreError, match="cannot be opened: "):
        opened(address.format(tmp_path))


def test_one_that_cannot_be_written_is_not_waited_for(tmp_path):
    optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="one")
    storage = retrying(opened(f"sqlite:///file:{tmp_path}/study.db?mode=ro&uri=true"))
    with pytest.raises(StoreError, match=r"^the study's storage must be one that can be written: .*readonly"):
        optuna.create_study(storage=storage, study_name="two")
