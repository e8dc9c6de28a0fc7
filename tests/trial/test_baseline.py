"""Trials compared with the uncompressed model, sample by sample."""

import pytest
import torch

from autocompress.compression.module import fresh_model
from autocompress.formats.checkpoint import load_compressed
from autocompress.search.noise import AccuracyNoise, mean_error, paired_error, share_error
from autocompress.store import ExperimentDirectory
from autocompress.trial.run import run_trial
from tests.curve_modules import Cliff, PerSample

NOISE = AccuracyNoise(slope=0.99)
FILE = "uncompressed.json"


class Noted(PerSample):
    """Notes what is evaluated, and evaluates with random numbers, which it does not put back."""

    rates: list

    @classmethod
    def values(cls, model):
        cls.rates.append(cls.rate(model))
        torch.rand(3)
        return super().values(model)

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        torch.nn.init.normal_(model.hidden.weight)


@pytest.fixture(autouse=True)
def _noted():
    Noted.rates = []


def trial(module, directory, rate=0.5, search=None, **options):
    order = {
        "algorithm_name": {"_name": "l2", "config_list::::hidden::sparsity": rate},
        "search": {"requested_rate": rate, "epochs": 3, **(search or {})},
    }
    return run_trial(module, order, threshold=0.85, directory=directory, **{"noise": NOISE, **options})


def values(record, module, directory):
    model = load_compressed(directory / record.checkpoint, fresh_model(module))
    return module.values(model).float().tolist(), module.values(fresh_model(module)).float().tolist()


@pytest.mark.parametrize("rate", [0.5, 0.7], ids=["within", "outside"])
def test_the_error_is_that_of_the_kept_model_beside_the_uncompressed_one(tmp_path, rate):
    record = trial(PerSample, tmp_path, rate)
    assert record.state == "completed", record.error
    assert record.feasible == (rate == 0.5)
    after, before = values(record, PerSample, tmp_path)
    assert record.accuracy == pytest.approx(sum(after) / len(after))
    assert record.accuracy_error == pytest.approx(paired_error(after, before, 0.99), rel=1e-12)
    assert record.feasible == (record.accuracy_error < mean_error(after)), "where models differ little, pairing helps"


def test_the_uncompressed_model_is_evaluated_once_for_all_trials(tmp_path):
    first, second = trial(Noted, tmp_path, 0.5), trial(Noted, tmp_path, 0.6)
    assert Noted.rates.count(0) == 1, Noted.rates
    assert (tmp_path / FILE).exists()
    for record in (first, second):
        assert record.accuracy_error == pytest.approx(paired_error(*values(record, Noted, tmp_path), 0.99))


def test_a_trial_is_the_same_whether_it_evaluates_the_uncompressed_model_or_not(tmp_path):
    """On another machine, or as the second trial of its directory, the values may be there or not."""
    trial(Noted, tmp_path / "one", 0.6)
    known, new = trial(Noted, tmp_path / "one"), trial(Noted, tmp_path / "other")
    assert (known.accuracy, known.accuracy_error) == (new.accuracy, new.accuracy_error)
    weights = [
        load_compressed(tmp_path / place / known.checkpoint, fresh_model(Noted)).hidden.weight
        for place in ("one", "other")
    ]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"fingerprint": 1, "values": ["a"]}', None], ids=["empty", "none", "wrong", "another's"]
)
def test_values_that_cannot_be_used_are_evaluated_again(tmp_path, content):
    first = trial(Noted, tmp_path, 0.6)
    if content is None:
        ExperimentDirectory(tmp_path).write_uncompressed_values("another module's", [1.0, 0.0])
    else:
        (tmp_path / FILE).write_text(content)
    record = trial(Noted, tmp_path)
    assert Noted.rates.count(0) == 2
    assert record.accuracy_error == pytest.approx(paired_error(*values(record, Noted, tmp_path), 0.99))
    assert first.accuracy_error is not None


class Fewer(PerSample):
    """Leaves samples out where the model is small."""

    @classmethod
    def values(cls, model):
        found = super().values(model)
        return found[:300] if cls.rate(model) > 0.55 else found


def test_other_samples_than_the_uncompressed_models_are_not_paired(tmp_path):
    record = trial(Fewer, tmp_path, 0.6)
    after, _ = values(record, Fewer, tmp_path)
    assert record.accuracy_error == pytest.approx(mean_error(after))


def test_of_an_accuracy_alone_nothing_is_kept(tmp_path):
    known = trial(Cliff, tmp_path, noise=AccuracyNoise(samples=400))
    assert known.accuracy_error == share_error(known.accuracy, 400)
    assert not (tmp_path / FILE).exists()
    assert trial(Cliff, tmp_path / "other", noise=None).accuracy_error is None


def test_the_values_come_back_as_they_were(tmp_path):
    directory = ExperimentDirectory(tmp_path)
    assert directory.uncompressed_values("f") is None
    for kept in ([1.0, 0.0, 1.0], [0.1, -2.5e-9, 1e300, 3.0]):
        directory.write_uncompressed_values("f", kept)
        assert directory.uncompressed_values("f") == tuple(kept)


@pytest.mark.parametrize(("confidence", "quantile"), [(0.5, 0.0), (0.8, 0.8416212), (0.975, 1.959964)])
def test_a_confidence_requires_a_margin_of_as_many_errors(tmp_path, confidence, quantile):
    record = trial(PerSample, tmp_path, 0.5, search={"confidence": confidence})
    assert record.required_margin == pytest.approx(quantile * record.accuracy_error, rel=1e-5)
    assert record.feasible == (record.accuracy_margin >= record.required_margin)
    assert (record.score > 0) == record.feasible


def test_of_an_accuracy_alone_no_margin_is_required(tmp_path):
    record = trial(Cliff, tmp_path, noise=AccuracyNoise(samples=400), search={"confidence": 0.9})
    assert (record.required_margin, record.accuracy_error is None) == (0.0, False)
