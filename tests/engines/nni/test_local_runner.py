"""NNI's tuners without a manager: what is asked of them, and going on; whole searches are in `tests/compare`."""

import pytest

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.engines.nni.local_runner import ENGINE
from autocompress.errors import ConfigError
from autocompress.plan import BuiltinTunerPlan
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger
from tests import curve_modules
from tests.written import finish, plan


def request(directory, **changes):
    fields = {
        "module": ModuleReference.of(curve_modules.Cliff),
        "search_space": plan().search_space,
        "directory": directory,
        "settings": AccuracyAwareSettings(),
        "baseline": plan().measured,
    }
    return SearchRequest(**{**fields, **changes})


@pytest.fixture
def store(tmp_path):
    """A finished search of ours, without NNI's manager."""
    directory = ExperimentDirectory(tmp_path / "experiment")
    directory.create()
    directory.write_settings(plan(engine=BuiltinTunerPlan()).to_dict())
    finish(Ledger(directory))
    return directory


def test_it_is_the_engine_of_its_name():
    assert engine_named("nni-tuner") is ENGINE


def test_a_new_search_has_a_plan_and_writes_nothing_yet(tmp_path):
    search = ENGINE.create(request(tmp_path / "new"))
    assert search.plan.tuner == "AdaptiveCompression"
    assert search.plan.measured == plan().measured
    assert search.trials is None
    assert search.url is None, "it has not started"
    assert not (tmp_path / "new").exists()


def test_a_tuner_that_does_not_end_needs_a_number_of_trials(tmp_path):
    with pytest.raises(ConfigError, match="trials must be given, as TPE does not end by itself"):
        ENGINE.create(request(tmp_path / "new", tuner="TPE"))
    assert ENGINE.create(request(tmp_path / "new", tuner="TPE", trials=4)).trials == 4


def test_a_search_that_is_gone_on_with_may_have_so_many_more_trials(store):
    done = len(Ledger(store).records)
    assert done > 2
    assert ENGINE.open(store.path, trials=3).trials == done + 3
    assert ENGINE.open(store.path).trials is None
    assert ENGINE.open(store.path).result.best.requested_rate == max(
        record.requested_rate for record in Ledger(store).records if record.feasible
    )


def test_it_has_a_report_and_no_page(store):
    assert ENGINE.show(store.path) == f"autocompress report {store.path}"


def test_options_of_other_engines_are_refused(store):
    with pytest.raises(ConfigError, match="port is not for the engine 'nni-tuner'"):
        ENGINE.open(store.path, port=8080)
