"""The probe of a search: done once, by a key, resumed, bounded; and what trials make of it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.compression.measure import ReferenceModel
from autocompress.compression.module import AbstractAutoCompressionModule
from autocompress.compression.module_loading import ModuleReference
from autocompress.compression.pruning.sensitivity import PROBE_SECONDS, CouplingProbe, Probe
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.errors import ModuleError
from autocompress.plan import ExperimentPlan
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, SearchSpace
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.store.journal import Journal
from autocompress.testing.zoo import ZooModule, block
from autocompress.trial.check import check_module
from autocompress.trial.probe import SearchProbe, cache_directory
from autocompress.trial.process import PROGRESS_FILE
from autocompress.trial.run import run_trial
from autocompress.trial.tasks import check_algorithm, measure_baseline

QUICK = AccuracyAwareSettings.from_dict({"preflight": False})


def space(*names, **arguments):
    generator = AutoCompressionSearchSpaceGenerator()
    for name in names or ["l2"]:
        entries = [{"sparsity": {"_type": "uniform", "_value": [0, 0.9]}, "op_types": ["default"]}]
        if name.endswith("+qat"):
            entries.append({"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Linear"]})
        generator.add_config(name, entries, **{"allocation": "sensitivity", **arguments})
    return SearchSpace.parse(generator.dumps())


def net():
    return nn.Sequential(
        *block(3, 16, nn.BatchNorm2d),
        *block(16, 24, nn.BatchNorm2d),
        *block(24, 32, nn.BatchNorm2d),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


class Small(ZooModule):
    """Three layers, the last of which counts most."""

    build = staticmethod(net)
    shape = (3, 8, 8)
    batches = 6


class OtherWeights(Small):
    @classmethod
    def model(cls):
        model = super().model()
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] += 1e-3
        return model


class OtherData(Small):
    @classmethod
    def data(cls):
        return [(x + 1e-3, y) for x, y in super().data()]


def probe(cache, module=Small, settings=QUICK, fingerprint="f", **options):
    return SearchProbe(module, settings, ReferenceModel.of(module), fingerprint, cache=cache, **options)


def test_what_was_measured_is_found_by_a_later_search(tmp_path):
    (first,) = probe(tmp_path).run(space())
    (kept,) = tmp_path.glob("*.jsonl")
    written = kept.read_bytes()
    (later,) = probe(tmp_path, settings=QUICK.with_changes({"patience_epochs": 7, "seed": 3})).run(space("l2+qat"))
    assert dataclasses.replace(later, seconds=first.seconds) == first
    assert kept.read_bytes() == written
    assert [each.layers for each in first.couplings] == [("0",), ("3",), ("6",)]
    assert first.samples == 16


@pytest.mark.parametrize(
    ("module", "settings", "fingerprint", "name"),
    [
        (OtherWeights, {}, "f", "l2"),
        (OtherData, {}, "f", "l2"),
        (Small, {"probe_widths": 3}, "f", "l2"),
        (Small, {"probe_batches": 2}, "f", "l2"),
        (Small, {}, "other source", "l2"),
        (Small, {}, "f", "l1"),
    ],
)
def test_what_may_differ_is_measured_again(tmp_path, module, settings, fingerprint, name):
    (first,) = probe(tmp_path).run(space())
    (other,) = probe(tmp_path, module, QUICK.with_changes(settings), fingerprint).run(space(name))
    assert other.key != first.key
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_a_layer_that_was_not_needed_before_is_measured_beside_the_others(tmp_path):
    (fewer,) = probe(tmp_path).run(space(ignored_scopes=["3"]))
    assert [each.layers for each in fewer.couplings] == [("0",), ("6",)]
    (all_,) = probe(tmp_path).run(space())
    assert all_.key == fewer.key
    assert (all_.couplings[0], all_.couplings[2]) == fewer.couplings
    assert len(Journal(next(tmp_path.glob("*.jsonl"))).read()) == 1 + 3


def test_a_pruner_alone_and_in_a_mix_may_be_for_other_layers(tmp_path):
    both = space("l2", "l2+qat")
    others = [
        dataclasses.replace(each, entries=tuple(dataclasses.replace(e, op_types=(), op_names=(name,)) for e in entries))
        for each, name in zip(both.algorithms, ("0", "6"), strict=True)
        for entries in [[entry for entry in each.entries if entry.quant_types is None]]
    ]
    others[1] = dataclasses.replace(others[1], entries=(*others[1].entries, both.algorithms[1].entries[-1]))
    (found,) = probe(tmp_path).run(dataclasses.replace(both, algorithms=tuple(others)))
    assert [each.layers for each in found.couplings] == [("0",), ("6",)]


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_what_a_kill_has_left_is_gone_on_with(tmp_path, lines):
    (whole,) = probe(tmp_path).run(space())
    (kept,) = tmp_path.glob("*.jsonl")
    written = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(written[:lines]) + written[lines][:20])
    (again,) = probe(tmp_path).run(space())
    assert again.couplings == whole.couplings
    assert kept.read_bytes() == b"".join(written)


def test_a_damaged_file_is_not_used(tmp_path, caplog):
    (whole,) = probe(tmp_path).run(space())
    (kept,) = tmp_path.glob("*.jsonl")
    kept.write_bytes(kept.read_bytes().replace(b'"damage": [0.0, 0.', b'"damage": [0.0, 9.', 1))
    (again,) = probe(tmp_path).run(space())
    assert again.couplings == whole.couplings
    assert "the sensitivities are measured again" in caplog.text


def test_without_a_place_to_keep_them_they_are_measured_all_the_same(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    (found,) = probe(tmp_path / "file" / "cache").run(space())
    assert len(found.couplings) == 3
    assert "sensitivities are not kept for later searches" in caplog.text
    assert cache_directory() == Path(os.environ["XDG_CACHE_HOME"]) / "autocompress" / "sensitivities"


def test_it_takes_two_epochs_at_most(tmp_path):
    assert probe(tmp_path).seconds == PROBE_SECONDS
    assert probe(tmp_path, epoch_seconds=40.0).seconds == 80
    assert probe(tmp_path, epoch_seconds=0.01).seconds == 2
    limited = QUICK.with_changes({"maximal_trial_seconds": 30.0})
    assert probe(tmp_path, settings=limited, epoch_seconds=40.0).seconds == 15


def test_there_are_fewer_points_where_it_would_take_longer():
    inputs = [(torch.randn(16, 3, 8, 8),) for _ in range(8)]
    model = Small.model()
    whole = CouplingProbe.within(model, Probe(model, inputs), couplings=3, widths=6, seconds=60)
    assert (whole.probe.batches, whole.widths) == (8, 6)
    least = CouplingProbe.within(model, Probe(model, inputs), couplings=3, widths=6, seconds=0)
    assert (least.probe.batches, least.widths) == (1, 2)
    seconds = 18 * 2.5 * whole.probe.seconds / 8
    between = CouplingProbe.within(model, Probe(model, inputs), couplings=3, widths=6, seconds=seconds)
    assert between.probe.batches < 8


def test_progress_is_written_where_a_display_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress"))
    probe(tmp_path / "cache").run(space())
    what = "measuring how sensitive each layer is (l2)"
    assert json.loads((tmp_path / "progress").read_text()) == {"what": what, "done": 18, "of": 18}


def test_nothing_is_measured_where_nothing_is_allocated_by_it(tmp_path):
    assert probe(tmp_path).run(space(allocation="global")) == ()
    assert not list(tmp_path.iterdir())
    choice = {"_type": "choice", "_value": ["uniform", "least_damage"]}
    assert [each.algorithm for each in probe(tmp_path).run(space("l1", "l2", allocation=choice))] == ["l1", "l2"]


class WithoutData(AbstractAutoCompressionModule):
    """No data, and no trainer that it could be taken from."""

    @classmethod
    def model(cls):
        return net()

    @classmethod
    def evaluator(cls):
        return lambda model: float(model(torch.ones(2, 3, 8, 8)).sum()) * 0 + 0.9


NEEDS = "calibration_data() or sparsifying_trainer() or post_compress_finetuning_trainer()"


def test_a_module_without_inputs_is_refused_before_anything_is_trained():
    with pytest.raises(ModuleError) as caught:
        measure_baseline(WithoutData, space(), QUICK)
    assert str(caught.value) == f"algorithm 'l2' needs {NEEDS}; WithoutData returns None"
    (check,) = check_module(WithoutData, space())
    assert (check.applies, check.reason) == (False, f"needs {NEEDS}")
    check_algorithm(WithoutData, space(allocation="global").algorithms[0], ReferenceModel.of(WithoutData))


def begun(directory, settings=QUICK, **arguments):
    searched = space(**arguments)
    baseline = measure_baseline(Small, searched, settings)
    store = ExperimentDirectory(directory)
    plan = ExperimentPlan.of(ModuleReference.of(Small).to_dict(), searched, settings, None, "AdaptiveCompression")
    plan = plan.with_baseline(baseline, None)
    store.write_settings(plan.to_dict())
    return plan, store


def test_trials_have_what_was_measured_in_their_keys_and_read_it_from_the_directory(tmp_path):
    plan, store = begun(tmp_path / "search")
    assert ExperimentPlan.read(store) == plan
    (proposal,) = plan.proposals([])
    parameters = plan.trial_parameters(proposal)
    assert parameters["search"]["probe"] == plan.measured.probe
    assert len(plan.measured.probe) == 16
    record = run_trial(Small, parameters, threshold=0.0, directory=store.path)
    assert record.error is None, record.error
    assert record.achieved_rate == pytest.approx(0.5, abs=0.02)
    parameters["search"]["probe"] = "0" * 16
    other = run_trial(Small, parameters, threshold=0.0, directory=store.path)
    assert other.key != record.key
    assert "must hold the sensitivities '0000000000000000' that the trial's parameters name; it has" in other.error


KILLED = """
import os, signal, sys
from pathlib import Path
from autocompress.store.journal import Journal
from tests.trial.test_probe import probe, space

append, lines = Journal.append, []

def killing(journal, event, **content):
    append(journal, event, **content)
    lines.append(event)
    if len(lines) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = killing
probe(Path(sys.argv[1])).run(space())
"""


@pytest.mark.slow
def test_a_killed_probe_loses_no_coupling(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run([*command, "3"], check=False)
    assert killed.returncode == -signal.SIGKILL
    (file,) = tmp_path.glob("*.jsonl")
    before = Journal(file).read()
    assert len(before) == 3, "its head and two couplings"
    subprocess.run([*command, "2"], check=True)  # the last one is all that is left
    after = Journal(file).read()
    assert after[:3] == before
    assert len(after) == 1 + 3
    (whole,) = probe(None).run(space())
    kept = {each["coupling"]["layers"][0]: tuple(each["coupling"]["damage"]) for each in after[1:]}
    assert kept == {each.layers[0]: each.damage for each in whole.couplings}


@pytest.mark.slow
def test_trials_in_processes_of_their_own_have_the_same_widths(tmp_path):
    found = {}
    for name in ("local", "nni-tuner", "optuna"):
        settings = QUICK.with_changes({"minimal_compression_rate_step": 0.05, "patience_epochs": 1})
        request = SearchRequest(ModuleReference.of(Small), space(rate_of="macs"), tmp_path / name, settings)
        search = engine_named(name).create(request)
        search.run()
        found[name] = [json.dumps(each.parameters, sort_keys=True) for each in search.result.records]
        found[name] += [(each.key, each.achieved_rate, each.bytes) for each in search.result.records]
    assert found["local"] == found["nni-tuner"] == found["optuna"]
    assert len(found["local"]) > 4
