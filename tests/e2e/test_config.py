"""NNCF-style configurations drive real searches."""

import json
from pathlib import Path

import pytest

from autocompress import AutoCompressionExperiment, CompressionConfig
from tests import curve_modules
from tests.cli.support import invoke
from tests.e2e.support import ROOT, free_port, results

pytestmark = pytest.mark.e2e
CONFIG = {
    "accuracy_aware_training": {
        "mode": "adaptive_compression_level",
        "params": {"initial_compression_rate_step": 0.05, "minimal_compression_rate_step": 0.05},
    },
    "compression": {"algorithm": "filter_pruning", "params": {"pruning_target": 0.55}},
}


def test_an_nni_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    config = CompressionConfig.from_dict(CONFIG)
    experiment = AutoCompressionExperiment.from_config(config, curve_modules.Cliff, directory=tmp_path / "experiment")
    experiment.run(free_port())
    experiment.stop()
    assert [record.requested_rate for record in experiment.result.records] == [0.55, 0.6, 0.65]
    assert experiment.result.best.algorithm == "filter_pruning"


def test_a_study_by_the_command_line(tmp_path):
    path, out = tmp_path / "config.json", tmp_path / "experiment"
    path.write_text(f"// a comment\n{json.dumps(CONFIG)}")
    command = ["run", "tests/curve_modules.py:Cliff", "--config", path, "--engine", "optuna", "--out", out, "--quiet"]
    answer = invoke(*command)
    assert answer.exit_code == 0, answer.output
    assert [record.requested_rate for record in results(out)] == [0.55, 0.6, 0.65]


def test_a_search_space_or_a_configuration(tmp_path):
    for options, told in (([], "neither is"), (["--search-space", "a", "--config", "b"], "both are")):
        answer = invoke("run", "tests/curve_modules.py:Cliff", *options, "--out", tmp_path / "experiment")
        assert answer.exit_code == 2
        assert f"--search-space or --config must be given; {told}" in answer.output


def test_the_schema_knows_every_algorithm():
    answer = invoke("schema")
    assert answer.exit_code == 0, answer.output
    known = json.loads(answer.output)["$defs"]
    assert {"FilterPruning", "MagnitudeSparsity", "RbSparsity", "Quantization", "Distillation"} <= set(known)


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.json5")), ids=lambda path: Path(path).name)
def test_the_configurations_that_are_shipped(path):
    assert CompressionConfig.from_json(path).accuracy_aware_training is not None
