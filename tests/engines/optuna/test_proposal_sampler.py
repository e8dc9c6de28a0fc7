"""The proposals of a plan, each given to one trial of a study."""

import optuna
import pytest

from autocompress.engines.optuna.convert import ORDER, RECORD
from autocompress.engines.optuna.proposal_sampler import ProposalSampler, key_of, suggest
from autocompress.search_space import SearchSpace
from tests.written import plan, record


@pytest.fixture
def sampler():
    return ProposalSampler(plan())


def claimed(study, sampler):
    trial = study.ask()
    (proposal, *_) = sampler.free(sampler.open(study.trials), study.trials)
    return trial, sampler.claim(study, trial, proposal)


def test_a_proposal_is_claimed_once(sampler):
    study = optuna.create_study(sampler=sampler)
    (proposal, *_) = sampler.open(study.trials)
    first, second = study.ask(), study.ask()
    order = sampler.claim(study, first, proposal)
    assert order.proposal == proposal
    assert order.key == key_of(plan(), order.parameters)
    assert study.trials[0].user_attrs[ORDER]["key"] == order.key
    assert sampler.claim(study, second, proposal) is None
    assert study.trials[1].user_attrs[ORDER] is None


def test_the_study_knows_the_rate(sampler):
    study = optuna.create_study(sampler=sampler)
    trial, order = claimed(study, sampler)
    assert (
        trial.params
        == {"algorithm_name": "l2", "l2/compression_rate": order.proposal.requested_rate}
        == {
            "algorithm_name": "l2",
            "l2/compression_rate": 0.5,
        }
    )


def test_the_search_goes_to_its_end_as_the_rule_says(sampler):
    study, rates, expected = optuna.create_study(sampler=sampler), [], []
    while sampler.open(study.trials):
        trial, order = claimed(study, sampler)
        rate = order.proposal.requested_rate
        rates.append(rate)
        trial.set_user_attr(RECORD, record(order.key, rate, feasible=rate < 0.58).to_dict())
        study.tell(trial, 1.0)
    records = []
    while (proposal := plan().searches[0].next(records)) is not None:
        expected.append(proposal.requested_rate)
        records.append(record(f"key{len(records)}", expected[-1], feasible=expected[-1] < 0.58))
    assert rates == expected
    assert len(rates) > 3


KINDS = {
    "constant": {"_type": "choice", "_value": [0.25]},
    "choice": {"_type": "choice", "_value": [0.25, 0.5]},
    "uniform": {"_type": "uniform", "_value": [0.1, 0.9]},
    "quniform": {"_type": "quniform", "_value": [0.1, 0.9, 0.2]},
    "loguniform": {"_type": "loguniform", "_value": [0.1, 0.9]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_sampler_chooses_from_the_search_space(kind):
    algorithm = {"_name": "l2", "config_list::::hidden::sparsity": KINDS[kind]}
    space = SearchSpace.parse({"algorithm_name": {"_type": "choice", "_value": [algorithm]}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [suggest(study.ask(), space)["algorithm_name"] for _ in range(200)]
    assert {each["_name"] for each in found} == {"l2"}
    rates = [each["config_list::::hidden::sparsity"] for each in found]
    assert all(0.1 <= rate <= 0.9 for rate in rates)
    if kind == "constant":
        assert set(rates) == {0.25}
    if kind == "choice":
        assert set(rates) == {0.25, 0.5}
    if kind == "quniform":
        assert all(min(abs(rate - step) for step in (0.2, 0.4, 0.6, 0.8)) < 1e-9 for rate in rates), rates
    if kind == "loguniform":
        assert sum(rate < 0.3 for rate in rates) / len(rates) == pytest.approx(0.5, abs=0.1)
