"""The tuner, told what NNI tells it in the orders that NNI can tell it."""

import time

import pytest

from autocompress.engines.nni.builtin_tuners import BuiltinTuner, create_builtin_tuner, require_assessor, require_tuner
from autocompress.engines.nni.tuner import AdaptiveCompression, RunningTrials
from autocompress.errors import ConfigError, TrialError
from autocompress.records import TrialRecord
from autocompress.search import AdaptiveSearch, RateAxis, StepHalving
from autocompress.search_space import requested_rate
from autocompress.store import ExperimentDirectory, Ledger


def searches(*names):
    rule = StepHalving(initial_rate=0.5, initial_step=0.1, minimal_step=0.1)
    return [AdaptiveSearch(name, RateAxis(0, 0.95), rule) for name in names]


def parameters(proposal):
    search = {"requested_rate": proposal.requested_rate, "start_from": proposal.start_from}
    return {"algorithm_name": {"_name": proposal.algorithm}, "search": search}


class Nni:
    """NNI's side: ids, trials that were sent, and results that trials leave on disk."""

    def __init__(self, path, *names, edge=0.65):
        self.store = ExperimentDirectory(path)
        self.ledger = Ledger(self.store)
        self.finished = 0
        self.trials = RunningTrials(self.ledger, "f", 0.9, self.finish)
        self.tuner = AdaptiveCompression(searches(*names), parameters, self.trials)
        self.sent = {}
        self.edge = edge
        self.next_id = 0

    def finish(self):
        self.finished += 1

    def request(self, number):
        ids = list(range(self.next_id, self.next_id + number))
        self.next_id += number
        answer = self.tuner.generate_multiple_parameters(ids, st_callback=self.sent.__setitem__)
        assert len(answer) == number, "a shorter answer would tell NNI that there are no more trials"
        assert list(answer) == []

    def write_result(self, parameter_id, **fields):
        sent = self.sent[parameter_id]
        rate = requested_rate(sent)
        key = self.trials.key(sent)
        plain = {"state": "completed", "feasible": rate <= self.edge, "checkpoint": f"trials/{key}/checkpoint"}
        record = TrialRecord(
            key=key, algorithm=sent["algorithm_name"]["_name"], requested_rate=rate, **{**plain, **fields}
        )
        self.store.trial(key).write_record(record)

    def leave(self, trial_id, name, text):
        """A file that NNI or its hook leaves in a trial's folder."""
        output = self.store.path / "nni" / "id" / "environments" / "local-env" / "trials" / trial_id
        output.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)

    def rates(self):
        return [requested_rate(sent) for sent in self.sent.values()]


@pytest.fixture
def nni(tmp_path):
    return Nni(tmp_path, "l2")


def test_the_search_goes_on_with_one_worker(nni):
    nni.request(1)
    for parameter_id in range(3):
        nni.write_result(parameter_id)
        nni.tuner.receive_trial_result(parameter_id, nni.sent[parameter_id], {"default": 0.5})
        nni.tuner.trial_end(parameter_id, True)
        nni.request(1)
    assert nni.rates() == [0.5, 0.6, 0.7]
    assert nni.finished == 1
    assert [record.requested_rate for record in nni.ledger.records] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("order", [("result", "end"), ("end", "result"), ("end",), ("result",)])
def test_results_and_ends_come_in_any_order(nni, order):
    nni.request(2)
    nni.write_result(0)
    for event in order:
        if event == "result":
            nni.tuner.receive_trial_result(0, nni.sent[0], {"default": 0.5})
        else:
            nni.tuner.trial_end(0, True)
    assert nni.rates() == [0.5, 0.6]
    assert len(nni.ledger.records) == 1


def test_idle_workers_are_kept_and_used_later(nni):
    nni.request(4)
    assert nni.rates() == [0.5]
    nni.write_result(0)
    nni.tuner.receive_trial_result(0, nni.sent[0], {"default": 0.5})
    assert nni.rates() == [0.5, 0.6], "one of the idle workers must take the next rate"


def test_several_algorithms_keep_several_workers_busy(tmp_path):
    nni = Nni(tmp_path, "l1", "l2", "fpgm")
    nni.request(2)
    assert [sent["algorithm_name"]["_name"] for sent in nni.sent.values()] == ["l1", "l2"]
    nni.request(2)
    assert [sent["algorithm_name"]["_name"] for sent in nni.sent.values()] == ["l1", "l2", "fpgm"]


def test_a_killed_trial_is_run_again_twice_and_then_counts_as_infeasible(nni):
    nni.request(1)
    for parameter_id in range(3):
        nni.tuner.trial_end(parameter_id, False)
        nni.request(1)
    assert nni.rates() == [0.5, 0.5, 0.5, 0.4]
    assert [record.state for record in nni.ledger.records] == ["lost"] * 3


def test_a_crashed_trial_is_not_run_again_and_tells_what_it_printed(nni):
    nni.leave("abc", "trial.stderr", "Traceback ...\nImportError: no module named spam\n")
    nni.request(1)
    nni.trials.note_end(0, "abc", "FAILED")
    nni.tuner.trial_end(0, False)
    nni.request(1)
    assert nni.rates() == [0.5, 0.4]
    (record,) = nni.ledger.records
    assert (record.state, record.error) == ("failed", "ImportError: no module named spam")


def test_the_signal_that_killed_a_trial_is_told(nni):
    nni.leave("abc", "trial.signal", "SIGKILL")
    nni.request(1)
    nni.trials.note_end(0, "abc", "USER_CANCELED")
    nni.tuner.trial_end(0, False)
    (record,) = nni.ledger.records
    told = "the trial's process was killed by SIGKILL (the machine may have been out of memory)"
    assert (record.state, record.error) == ("lost", told)


def test_one_that_exits_without_a_result_has_failed(nni):
    nni.request(1)
    nni.trials.note_end(0, "abc", "SUCCEEDED")
    nni.tuner.trial_end(0, True)
    (record,) = nni.ledger.records
    assert (record.state, record.error) == ("failed", "the trial's process ended without a result")


def test_one_that_nni_had_to_end_after_its_limit_is_lost(nni):
    nni.trials._seconds = 0.01
    nni.leave("abc", "trial.signal", "SIGKILL")
    nni.request(1)
    time.sleep(0.02)
    nni.trials.note_end(0, "abc", "EARLY_STOPPED")
    nni.tuner.trial_end(0, False)
    (record,) = nni.ledger.records
    assert record.state == "lost"
    assert "did not end by itself after maximal_trial_seconds (0.01): it may have been stopped" in record.error


def test_nothing_but_failures_ends_the_experiment_with_the_cause(nni):
    nni.request(1)
    for parameter_id in range(2):
        nni.write_result(parameter_id, state="failed", feasible=False, error="ValueError: broken")
        nni.tuner.trial_end(parameter_id, False)
        nni.request(1)
    nni.write_result(2, state="failed", feasible=False, error="ValueError: broken")
    with pytest.raises(TrialError, match="all of the first 3 trials failed, the last one with ValueError: broken"):
        nni.tuner.trial_end(2, False)


def test_what_comes_in_after_closing_is_not_a_result(nni):
    nni.request(1)
    nni.write_result(0, state="stopped", feasible=False)
    nni.trials.close()
    nni.tuner.receive_trial_result(0, nni.sent[0], {"default": -1.0})
    nni.tuner.trial_end(0, True)
    assert nni.ledger.records == []
    assert len(Ledger(nni.store).open) == 1


def test_after_a_resume_what_runs_again_is_waited_for(tmp_path):
    before = Nni(tmp_path, "l2")
    before.request(1)
    after = Nni(tmp_path, "l2")
    after.tuner.adopt(7, before.sent[0])
    after.request(2)
    assert after.rates() == [], "the open rate runs already, as NNI's trial 7"
    after.sent[7] = before.sent[0]
    after.write_result(7)
    after.tuner.receive_trial_result(7, before.sent[0], {"default": 0.5})
    assert after.rates() == [0.5, 0.6]


def test_after_a_resume_what_nni_has_forgotten_is_sent_again(tmp_path):
    before = Nni(tmp_path, "l2")
    before.request(1)
    after = Nni(tmp_path, "l2")
    after.request(1)
    assert after.sent == before.sent
    assert len(Ledger(after.store).open) == 1


def test_a_search_that_was_finished_before_ends_at_once(tmp_path):
    nni = Nni(tmp_path, "l2", edge=2)
    nni.request(1)
    for parameter_id in range(9):
        if nni.finished:
            break
        nni.write_result(parameter_id)
        nni.tuner.trial_end(parameter_id, True)
        nni.request(1)
    again = Nni(tmp_path, "l2")
    again.request(1)
    assert (again.finished, again.sent) == (1, {})


def stock(tmp_path, name="Random", maximal_total_epochs=100, space=None):
    nni = Nni(tmp_path, "l2")
    tuner = BuiltinTuner(create_builtin_tuner(name, {}, seed=0), nni.trials, {"seed": 3}, maximal_total_epochs)
    sparsity = {"_type": "uniform", "_value": [0, 0.9]}
    option = {"_name": "l2", "config_list::::hidden::sparsity": sparsity}
    tuner.update_search_space(space or {"algorithm_name": {"_type": "choice", "_value": [option]}})
    return nni, tuner


def test_a_builtin_tuners_parameters_are_completed_and_journaled(tmp_path):
    nni, tuner = stock(tmp_path)
    generated = tuner.generate_multiple_parameters([0, 1])
    assert len(generated) == 2
    assert all(entry["search"] == {"seed": 3} for entry in generated)
    assert [trial.parameters for trial in Ledger(nni.store).open.values()] == generated


def test_a_builtin_search_ends_when_its_epochs_are_used_up(tmp_path):
    nni, tuner = stock(tmp_path, maximal_total_epochs=5)
    (nni.sent[0],) = tuner.generate_multiple_parameters([0])
    record = TrialRecord(key=nni.trials.key(nni.sent[0]), algorithm="l2", state="completed", epochs=5)
    nni.store.trial(record.key).write_record(record)
    tuner.receive_trial_result(0, nni.sent[0], {"default": 0.4})
    tuner.trial_end(0, True)
    assert nni.finished == 1


def test_a_builtin_tuner_takes_what_ran_again_as_imported(tmp_path):
    _, tuner = stock(tmp_path, "TPE")
    (sent,) = tuner.generate_multiple_parameters([0])
    after, tuner = stock(tmp_path, "TPE")
    tuner.adopt(0, sent)
    record = TrialRecord(key=after.trials.key(sent), algorithm="l2", state="completed")
    after.store.trial(record.key).write_record(record)
    tuner.receive_trial_result(0, sent, {"default": 0.4})
    tuner.trial_end(0, True)
    assert [entry.key for entry in after.ledger.records] == [record.key]


def test_tuners_are_found_whatever_their_case():
    assert require_tuner("tpe") == "TPE"
    assert require_tuner("adaptivecompression") == "AdaptiveCompression"
    assert require_assessor("medianstop") == "Medianstop"


@pytest.mark.parametrize("name", ["Anneal", "SMAC"])
def test_a_tuner_whose_package_is_missing(name):
    with pytest.raises(ConfigError, match=f"tuner '{name}' needs a package that is not installed"):
        create_builtin_tuner(name, {}, seed=0)


def test_an_argument_that_the_tuner_does_not_take():
    with pytest.raises(ConfigError, match=r"tuner 'TPE' could not be created with class_args .*'spam'"):
        create_builtin_tuner("TPE", {"spam": 1}, seed=0)
