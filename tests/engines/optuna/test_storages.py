"""Storages by their addresses."""

import optuna
import pytest
from optuna.storages import JournalStorage

from autocompress.engines.optuna.storages import address, opened
from autocompress.errors import ConfigError, StoreError
from tests.e2e.support import free_port


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
