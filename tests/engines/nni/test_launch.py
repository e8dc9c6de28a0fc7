"""What is read of an experiment before NNI's manager starts."""

import base64
import os
import pickle
import sqlite3

import pytest

from autocompress.engines.nni.launch import exists_in_nni
from autocompress.engines.nni.lifecycle import load_config
from autocompress.errors import StoreError
from autocompress.plan import ExperimentPlan, NniEngine
from autocompress.store import ExperimentDirectory
from tests.written import plan


class Exploit:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def data_base(folder, *rows):
    path = folder / "abc" / "db" / "nni.sqlite"
    path.parent.mkdir(parents=True)
    base = sqlite3.connect(path)
    base.execute("create table ExperimentProfile (id text, params text, revision integer)")
    base.executemany("insert into ExperimentProfile values (?, ?, 0)", rows)
    base.commit()
    base.close()


def test_whether_nni_knows_an_experiment(tmp_path):
    assert not exists_in_nni("abc", tmp_path)
    assert not (tmp_path / "abc").exists(), "nothing is made by asking"
    data_base(tmp_path, ("abc", "{}"))
    assert exists_in_nni("abc", tmp_path)
    assert not exists_in_nni("other", tmp_path)


def test_what_the_data_base_holds_is_not_unpickled(tmp_path):
    """NNI's own reader runs it."""
    code = base64.b64encode(pickle.dumps(Exploit(tmp_path / "proof"))).decode()
    data_base(tmp_path, ("abc", f'{{"__nni_type__": "bytes:{code}"}}'))
    assert exists_in_nni("abc", tmp_path)
    assert not (tmp_path / "proof").exists()


def test_a_data_base_that_is_none(tmp_path):
    (tmp_path / "abc" / "db").mkdir(parents=True)
    (tmp_path / "abc" / "db" / "nni.sqlite").write_text("no data base")
    assert not exists_in_nni("abc", tmp_path)


def test_nnis_files_are_in_the_directory_wherever_it_is_now(tmp_path):
    store = ExperimentDirectory(tmp_path)
    config = {"trainingService": {"platform": "local"}, "experimentWorkingDirectory": "/etc"}
    found, read = load_config(plan(engine=NniEngine("abc", config)), store)
    assert (found, read.experiment_working_directory) == ("abc", str(tmp_path / "nni"))


@pytest.mark.parametrize(
    ("engine", "rule"),
    [
        ({"name": "optuna", "study": "s"}, "the experiment must be of the engine 'nni'; it is of 'optuna'"),
        ({"name": "nni", "id": "abc"}, "missing 1 required positional argument: 'config'"),
        ({"name": "nni", "id": "../../x", "config": {}}, "NNI's id must be of letters and digits; got '../../x'"),
        ({"name": "nni", "id": 3, "config": {}}, "id must be a string; got 3"),
        ({"name": "nni", "id": "abc", "config": {"no such": 1}}, "NNI does not accept the configuration"),
    ],
)
def test_plans_that_are_damaged(tmp_path, engine, rule):
    with pytest.raises(StoreError, match=rule):
        load_config(ExperimentPlan.from_dict({**plan().to_dict(), "engine": engine}), ExperimentDirectory(tmp_path))
