"""NNCF-style configurations drive real searches."""

import json
from pathlib import Path

import pytest
import torch

from autocompress import AutoCompressionExperiment, CompressionStudy
from autocompress.nncf import CompressionConfig, create_accuracy_aware_training_loop, create_compressed_model
from autocompress.nncf.translation import search_space_of, settings_of
from tests import curve_modules
from tests.cli.support import invoke
from tests.e2e.support import ROOT, free_port, results

pytestmark = pytest.mark.slow
CONFIG = {
    "accuracy_aware_training": {
        "mode": "adaptive_compression_level",
        "params": {"initial_compression_rate_step": 0.05, "minimal_compression_rate_step": 0.05},
    },
    "compression": {"algorithm": "filter_pruning", "params": {"schedule": "baseline", "pruning_target": 0.55}},
}


def test_an_nni_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    config = CompressionConfig.from_dict(CONFIG)
    experiment = AutoCompressionExperiment.from_config(config, curve_modules.Cliff, directory=tmp_path / "experiment")
    experiment.run(free_port())
    experiment.stop()
    assert [record.requested_rate for record in experiment.result.records] == [0.55, 0.6, 0.65]
    assert experiment.result.best.algorithm == "filter_pruning"


def by_optuna(config, module, directory):
    study = CompressionStudy(module, search_space_of(config), settings=settings_of(config), directory=directory)
    return study.optimize()


def by_nni(config, module, directory):
    experiment = AutoCompressionExperiment.from_config(config, module, directory=directory)
    experiment.run(free_port())
    experiment.stop()
    return experiment.result


def by_loop(config, module, directory, *, masked):
    """The same functions, handed over; the model that is given back."""
    controller, model = create_compressed_model(module.model(), config)
    uncompressed = module.evaluator()(model)
    loop = create_accuracy_aware_training_loop(config, controller, uncompressed, masked=masked)

    def train_epoch(controller, model, optimizer, epoch, **_):
        controller.scheduler.epoch_step()
        module.train_epoch(model, optimizer, None, epoch)

    given = loop.run(
        model,
        train_epoch,
        lambda model, **_: module.evaluator()(model),
        lambda: (module.optimizer_factory()(model.parameters()), None),
        log_dir=directory,
    )
    loop.report()
    return loop.result, given


def told(result):
    """All records without keys, which hash other things, and without what a clock says."""
    rates = {record.key: record.requested_rate for record in result.records}
    names = ("requested_rate", "accuracy", "accuracy_margin", "feasible", "score", "achieved_rate", "macs_removed")
    names += ("parameters_removed", "size_removed", "bytes", "epochs", "lr_factor", "seed", "state", "algorithm")
    return [
        {**{name: getattr(record, name) for name in names}, "start": rates.get(record.start_from)}
        for record in result.records
    ]


@pytest.mark.parametrize("masked", [False, True])
def test_the_loop_finds_what_the_engines_find(tmp_path, monkeypatch, masked):
    """One rule, one trial runner, one record format."""
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    config = CompressionConfig.from_dict({"input_info": {"sample_size": [1, 4]}, **CONFIG})
    module = curve_modules.CountsEpochs
    by_loop_found, model = by_loop(config, module, tmp_path / "loop", masked=masked)
    studied = by_optuna(config, module, tmp_path / "study")
    assert told(by_loop_found) == told(studied)
    if not masked:
        assert told(by_nni(config, module, tmp_path / "experiment")) == told(studied)
    other = studied.load_model().state_dict()
    assert model.state_dict().keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())
    assert by_loop_found.verdict == studied.verdict


def test_a_study_by_the_command_line(tmp_path):
    path, out = tmp_path / "config.json", tmp_path / "experiment"
    path.write_text(f"// a comment\n{json.dumps(CONFIG)}")
    command = ["run", "tests/curve_modules.py:Cliff", "--config", path, "--engine", "optuna", "--out", out, "--quiet"]
    answer = invoke(*command)
    assert answer.exit_code == 0, answer.output
    assert [record.requested_rate for record in results(out)] == [0.55, 0.6, 0.65]


def test_a_search_space_or_a_configuration(tmp_path):
    sources, both = "--algorithm or --search-space or --config", ["--search-space", "a", "--config", "b"]
    for options, rule in (
        ([], f"{sources} must be given; none is"),
        (both, "only one of --algorithm, --search-space, --config must be given; got --search-space and --config"),
    ):
        answer = invoke("run", "tests/curve_modules.py:Cliff", *options, "--out", tmp_path / "experiment")
        assert answer.exit_code == 2
        assert rule in answer.output


def test_the_schema_knows_every_algorithm():
    answer = invoke("schema")
    assert answer.exit_code == 0, answer.output
    known = json.loads(answer.output)["$defs"]
    assert {"FilterPruning", "MagnitudeSparsity", "RbSparsity", "Quantization", "Distillation"} <= set(known)


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.json5")), ids=lambda path: Path(path).name)
def test_the_configurations_that_are_shipped(path):
    assert CompressionConfig.from_json(path).accuracy_aware_training is not None
