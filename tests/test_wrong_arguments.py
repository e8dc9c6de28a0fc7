"""Every public function refuses an argument of another kind in one sentence that names it."""

import pytest
import torch

import autocompress as ac
from autocompress import nncf
from autocompress.errors import ConfigError, ModuleError
from autocompress.nncf import CompressionConfig
from autocompress.optuna import AdaptiveCompressionPruner, set_accuracy_margin
from autocompress.search import StepHalving
from autocompress.settings import AccuracyAwareSettings
from tests import curve_modules
from tests.e2e.launch import search_space
from tests.nncf.support import FILTERS, Net

MODULE, SPACE, X = curve_modules.Flat, search_space("l2"), torch.ones(1, 1, 8, 8)
CONFIG = {
    "input_info": {"sample_size": [1, 1, 8, 8]},
    "accuracy_aware_training": {"mode": "adaptive_compression_level", "params": {}},
    "compression": [FILTERS],
}


def config():
    return CompressionConfig.from_dict(CONFIG)


def controller():
    return nncf.create_compressed_model(Net(), config())[0]


def study(**given):
    return ac.CompressionStudy(**{"module": MODULE, "search_space": SPACE, "directory": "study", **given})


def optimize(**given):
    return study().optimize(**given)


def experiment(**given):
    return ac.AutoCompressionExperiment(**{"module": MODULE, "directory": "experiment", **given})


def started(**attributes):
    made = experiment()
    made.config.search_space = SPACE
    for name, value in attributes.items():
        setattr(made, name, value)
    made.start(1)


def compared(**given):
    return ac.compare_tuners(
        **{"module": MODULE, "search_space": SPACE, "tuners": "random", "directory": "compared", **given}
    )


def created(**given):
    return nncf.create_compressed_model(**{"model": Net(), "config": config(), **given})


def loop(**given):
    asked = {"config": config(), "compression_ctrl": controller(), "uncompressed_model_accuracy": 0.9, **given}
    return nncf.create_accuracy_aware_training_loop(**asked)


def run(**given):
    controller, model = nncf.create_compressed_model(Net(), config())
    made = nncf.create_accuracy_aware_training_loop(config(), controller, 0.9)
    asked = {"model": model, "train_epoch_fn": print, "validate_fn": lambda model: 0.9, "log_dir": "runs", **given}
    return made.run(**asked)


def set_rate(compression_rate):
    controller().compression_rate = compression_rate


BUDGET, SETTINGS = "an AccuracyBudget or None", "an AccuracyAwareSettings or None"
OBJECT = {"patience_epochs": 2}
WRONG = [
    (study, "budget", 2.0, BUDGET),
    (study, "settings", OBJECT, f"{SETTINGS}; got .*: AccuracyAwareSettings.from_dict makes one"),
    (study, "storage", 5, "a string or a BaseStorage or None"),
    (study, "sampler", "TPE", "a BaseSampler or None"),
    (study, "objective", 5, "a string or None"),
    (study, "study_name", 5, "a string or None"),
    (study, "directory", 5, "a path or None"),
    (study, "artefacts", 5, "a string or None"),
    (study, "baseline", 0.9, "a Baseline or None"),
    (optimize, "n_trials", 0, "a whole number >= 1 or None"),
    (optimize, "n_trials", "2", "a whole number >= 1 or None"),
    (optimize, "n_jobs", 0, "a whole number >= 1"),
    (optimize, "on_record", 5, "a function or None"),
    (optimize, "callbacks", [5], "a sequence, each a Callback"),
    (experiment, "config_or_platform", 5, "an ExperimentConfig or a string or a sequence, each a string or None"),
    (experiment, "id", 5, "a string or None"),
    (experiment, "directory", 5, "a path or None"),
    (started, "budget", 2.0, "an AccuracyBudget;"),
    (started, "settings", OBJECT, "an AccuracyAwareSettings; got"),
    (started, "objective", 5, "a string or None"),
    (started, "callbacks", print, "a sequence, each a Callback"),
    (started, "confirmed", "no", "True or False"),
    (compared, "budget", 2.0, BUDGET),
    (compared, "settings", OBJECT, SETTINGS),
    (compared, "tuners", 5, "a string or a sequence, each a string"),
    (compared, "seeds", 2.5, "a whole number >= 1"),
    (compared, "trials", "20", "a whole number >= 1"),
    (compared, "jobs", 0, "a whole number >= 1 or None"),
    (compared, "engine", 5, "a string"),
    (compared, "on_outcome", 5, "a function or None"),
    (created, "model", "net", "a Module;"),
    (created, "config", CONFIG, "a CompressionConfig; got .*: CompressionConfig.from_dict makes one"),
    (created, "compression_state", 5, "a mapping or None"),
    (loop, "config", CONFIG, "a CompressionConfig; got .*: CompressionConfig.from_dict makes one"),
    (loop, "compression_ctrl", Net(), "a CompressionController"),
    (loop, "uncompressed_model_accuracy", "90 %", "a finite number"),
    (loop, "minimal_compression_rate", "0", "a number"),
    (loop, "masked", "yes", "True or False"),
    (loop, "higher_is_better", None, "True or False"),
    (loop, "seed", 0.5, "a whole number"),
    (run, "train_epoch_fn", 5, "a function"),
    (run, "validate_fn", 0.9, "a function"),
    (run, "configure_optimizers_fn", (None, None), "a function or None"),
    (run, "log_dir", 5, "a path or None"),
    (run, "resume", True, "a path or None"),
    (run, "preflight", "no", "True or False"),
    (set_rate, "compression_rate", "0.5", "a number"),
    (ac.check_module, "search_space", 5, "a path or a mapping or an AutoComp"),
    (ac.AdaptiveCompressionSampler, "settings", OBJECT, SETTINGS),
    (ac.AdaptiveCompressionSampler, "rate", 0.5, "a string"),
    (AdaptiveCompressionPruner, "maximal_total_epochs", "many", "a whole number"),
    (StepHalving, "initial_rate", "0.5", "a finite number"),
]


@pytest.mark.parametrize(("call", "name", "value", "rule"), WRONG, ids=[f"{w[0].__name__}-{w[1]}" for w in WRONG])
def test_an_argument_of_another_kind(call, name, value, rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"module": MODULE, name: value} if call is ac.check_module else {name: value}
    with pytest.raises(ConfigError, match=rf"^{name} must be {rule}") as refused:
        call(**given)
    assert "\n" not in str(refused.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*")), "nothing has begun"


@pytest.mark.parametrize("call", [study, experiment, compared, ac.check_module])
@pytest.mark.parametrize("module", [5, Net])
def test_a_module_of_another_kind(call, module):
    with pytest.raises(ModuleError, match=r"module must (be a class; got 5|inherit .*; Net does)"):
        call(module=module)


def test_files_and_models():
    for call in (
        lambda: ac.load_compressed(5),
        lambda: ac.load_compressed("checkpoint", "net"),
        lambda: ac.export(Net(), 5, X),
        lambda: ac.export("net", "small.onnx", X),
        lambda: nncf.load_state(Net(), 5),
        lambda: nncf.register_default_init_args(config(), 5),
        lambda: set_accuracy_margin(5, 0.1),
        lambda: AccuracyAwareSettings().with_budget(2.0),
        lambda: ac.AutoCompressionSearchSpaceGenerator().add_config(5, []),
    ):
        with pytest.raises(ConfigError, match=r"must be .*; got"):
            call()
