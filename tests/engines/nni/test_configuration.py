"""Bad input gets a clear error before any training, and before NNI is started."""

import socket

import pytest

from autocompress import (
    AccuracyBudget,
    AutoCompressError,
    AutoCompressionExperiment,
    AutoCompressionSearchSpaceGenerator,
)
from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import ConfigError, EngineError, ModuleError, StoreError
from tests import curve_modules as modules

SPARSITY = {"_type": "uniform", "_value": [0, 0.9]}


def experiment(directory, module=modules.CountsEpochs, algorithm="l2", sparsity=None, **layers):
    made = AutoCompressionExperiment(module, "local", directory=directory / "experiment")
    entry = {"sparsity": sparsity or SPARSITY, **(layers or {"op_names": ["hidden"]})}
    key = f"config_list::{':'.join(entry.get('op_types', []))}::{':'.join(entry.get('op_names', []))}::sparsity"
    option = {"_name": algorithm, key: entry["sparsity"]}
    made.config.search_space = {"algorithm_name": {"_type": "choice", "_value": [option]}}
    return made


@pytest.fixture(autouse=True)
def epochs_log(tmp_path, monkeypatch):
    log = tmp_path / "epochs.log"
    monkeypatch.setenv("EPOCHS_LOG", str(log))
    yield log
    assert not log.exists(), "something was trained"


def refused(made, kind, message, port=None):
    with pytest.raises(kind) as caught:
        made.start(port or 1)
    assert message in str(caught.value), str(caught.value)
    assert isinstance(caught.value, AutoCompressError)
    assert not (made.directory / "experiment.json").exists()
    assert made.url is None


def test_unknown_algorithm(tmp_path):
    refused(experiment(tmp_path, algorithm="l3"), ConfigError, "unknown algorithm 'l3'; did you mean 'l2' or 'l1'?")


@pytest.mark.slow
def test_an_algorithm_whose_hooks_are_missing(tmp_path):
    refused(experiment(tmp_path, algorithm="slim"), ModuleError, "algorithm 'slim' needs criterion()")


def test_two_adaptive_algorithms_in_one_mix(tmp_path):
    message = "must have one algorithm with an adaptive compression rate; 'l2+level' has 'l2' and 'level'"
    refused(experiment(tmp_path, algorithm="l2+level"), ConfigError, message)


def test_unknown_tuner(tmp_path):
    made = experiment(tmp_path)
    made.config.tuner.name = "TPEE"
    refused(made, ConfigError, "unknown tuner 'TPEE'; did you mean 'TPE'")
    made.config.tuner.name = "AdaptiveCompresion"
    refused(made, ConfigError, "did you mean 'AdaptiveCompression'")


def test_unknown_assessor(tmp_path):
    made = experiment(tmp_path)
    made.config.assessor.name = "Medianstopp"
    refused(made, ConfigError, "unknown assessor 'Medianstopp'; did you mean 'Medianstop'")


def test_a_builtin_tuner_without_an_end(tmp_path):
    made = experiment(tmp_path)
    made.config.tuner.name = "TPE"
    refused(made, ConfigError, "tuner 'TPE' does not end by itself: config.max_trial_number")


def test_a_builtin_tuner_that_cannot_take_nested_search_spaces(tmp_path):
    made = experiment(tmp_path)
    made.config.tuner.name, made.config.max_trial_number = "GP", 3
    refused(made, ConfigError, "tuner 'GP' cannot take this search space: float() argument must be")


def test_a_builtin_tuner_that_minimises(tmp_path):
    made = experiment(tmp_path)
    made.config.tuner.name, made.config.max_trial_number = "TPE", 3
    made.config.tuner.class_args = {"optimize_mode": "minimize"}
    refused(made, ConfigError, "optimize_mode must be 'maximize', since trials report a score; got 'minimize'")


@pytest.mark.parametrize("range_", [[-0.1, 0.5], [0.5, 1.0], [0.5, 1.5]])
def test_a_rate_outside_its_range(tmp_path, range_):
    made = experiment(tmp_path, sparsity={"_type": "uniform", "_value": range_})
    refused(made, ConfigError, "[0, 1)")


def test_both_or_neither_degradation():
    with pytest.raises(ConfigError, match=r"exactly one of maximal_relative_accuracy_degradation .* neither is given"):
        AccuracyBudget()
    with pytest.raises(ConfigError, match=r"exactly one of .* got both"):
        AccuracyBudget(1.0, 0.01)


def test_a_setting_of_the_tuner_that_does_not_exist(tmp_path):
    made = experiment(tmp_path)
    made.config.tuner.class_args = {"patience_epoch": 3}
    refused(made, ConfigError, "patience_epochs")


@pytest.mark.slow
def test_a_layer_type_the_model_does_not_have(tmp_path):
    made = experiment(tmp_path, op_types=["Conv2d"])
    refused(made, ConfigError, "the model has no layer of type 'Conv2d'")


def test_module_class_missing():
    reference = ModuleReference.parse("tests/curve_modules.py:Kneee")
    with pytest.raises(ModuleError, match="'Kneee'; did you mean 'Knee'"):
        reference.load()


def test_module_class_not_a_subclass():
    with pytest.raises(ModuleError, match="must be a subclass of AbstractAutoCompressionModule; NotAModule is not"):
        ModuleReference.parse("tests/curve_modules.py:NotAModule").load()
    with pytest.raises(ModuleError, match="must inherit AbstractAutoCompressionModule; NotAModule does not"):
        AutoCompressionExperiment(modules.NotAModule, "local")


@pytest.mark.slow
def test_no_optimizer_for_a_trainer(tmp_path):
    refused(experiment(tmp_path, modules.NoOptimizer), ModuleError, "optimizer_factory() must return a function")


@pytest.mark.slow
def test_a_class_that_a_trial_does_not_find(tmp_path):
    class_ = type("Broken", (modules.Knee,), {"__module__": modules.__name__})
    modules.Broken = class_  # only here: the trial's process does not find it
    try:
        refused(experiment(tmp_path, class_), ModuleError, "curve_modules.py: unknown class 'Broken'")
    finally:
        del modules.Broken


def test_no_search_space(tmp_path):
    made = AutoCompressionExperiment(modules.Knee, "local", directory=tmp_path / "experiment")
    refused(made, ConfigError, "the search space must be given")


def test_port_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(experiment(tmp_path), EngineError, f"port {port} on 127.0.0.1 is taken", port)


def test_directory_of_another_experiment(tmp_path):
    made = experiment(tmp_path)
    made.directory.mkdir()
    (made.directory / "experiment.json").write_text("{}")
    with pytest.raises(StoreError, match="must not belong to another experiment"):
        made.start(1)
    (made.directory / "experiment.json").rename(made.directory / "something.txt")
    refused(made, StoreError, "must be empty")


def test_resume_of_nothing(tmp_path):
    with pytest.raises(StoreError, match="holds no experiment"):
        AutoCompressionExperiment.open(tmp_path)


@pytest.mark.slow
def test_a_generator_is_taken_as_it_is(tmp_path):
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config("l2", [{"sparsity": SPARSITY, "op_types": ["Conv2d"]}])
    made = AutoCompressionExperiment(modules.Knee, "local", directory=tmp_path / "experiment")
    made.config.search_space = generator.dumps()
    refused(made, ConfigError, "no layer of type 'Conv2d'")
