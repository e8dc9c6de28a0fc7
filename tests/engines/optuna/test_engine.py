"""Searches on Optuna that are opened where they did not begin."""

import optuna

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import engine_named
from autocompress.engines.optuna.storage import PLAN
from autocompress.plan import OptunaPlan
from autocompress.registry import algorithms
from tests.written import plan

OWN = """\
from autocompress import register_algorithm
from autocompress.algorithms import FilterPruner
from autocompress.testing import CurveModule


class Widest(FilterPruner):
    name = "widest"

    def score(self, layer):
        return layer.weight.flatten(1).amax(1)


register_algorithm(Widest())


class Own(CurveModule):
    pass
"""


def test_a_worker_knows_what_the_module_s_file_registers(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    reference = ModuleReference.parse(f"{tmp_path / 'own.py'}:Own")
    space = {**plan().search_space}
    begun = plan(module=reference.to_dict(), engine=OptunaPlan("study")).to_dict()
    begun["search_space"] = {
        key: {**value, "_value": [{**option, "_name": "widest"} for option in value["_value"]]}
        for key, value in space.items()
    }
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(study_name="study", storage=storage, direction="maximize").set_user_attr(PLAN, begun)
    monkeypatch.setattr("autocompress.registry._known", dict(algorithms()))
    search = engine_named("optuna").open(
        tmp_path / "here", storage=storage, study="study", module=reference, alone=False
    )
    assert [space.name for space in search.study._wanted.space.algorithms] == ["widest"]
