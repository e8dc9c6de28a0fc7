"""Searches of nets that are hard to follow, on both engines and with every filter pruner: right, or left alone."""

import pytest

from autocompress import (
    AutoCompressionExperiment,
    AutoCompressionSearchSpaceGenerator,
    CompressionStudy,
    load_compressed,
)
from autocompress.compression.base import layer_shapes
from autocompress.settings import AccuracyAwareSettings
from tests import hard_modules
from tests.compression.structures import PRUNED
from tests.e2e.support import free_port
from tests.hard_modules import check_searched

pytestmark = pytest.mark.slow

PRUNERS = ("l1", "l2", "fpgm", "slim", "taylorfo", "apoz", "mean_activation", "filter_pruning")
ARGUMENTS = {
    "slim": {"training_epochs": 0},  # its training would move the weights by which filters are known again
    "filter_pruning": {"prune_first_conv": True, "prune_downsample_convs": True},
}
SETTINGS = AccuracyAwareSettings(initial_training_phase_epochs=1, maximal_absolute_accuracy_degradation=0.3)


def search_space(*names):
    """A trial of each algorithm."""
    generator = AutoCompressionSearchSpaceGenerator()
    for name in names:
        generator.add_config(name, [{"sparsity": 0.5, "op_types": ["default"]}], **ARGUMENTS.get(name, {}))
    return generator.dumps()


def check(module, result, names):
    """All trials of a search, and the model that it gives."""
    original = module.model()
    wanted = {f"nets.{name}.{layer}" for name in module.names for layer in PRUNED[name][1]}
    pruned = {f"nets.{name}.{layer}" for name in module.names for layer in PRUNED[name][0]}
    assert [record.algorithm for record in result.records] == list(names)
    for record in result.records:
        assert record.state == "completed", record.error
        assert set(record.left_alone) == wanted, record.algorithm
        assert all(why.split(":")[0] in wanted for why in record.left_alone.values())
        assert all(why.endswith("; it keeps its filters") for why in record.left_alone.values())
        smaller = load_compressed(result.directory.path / record.checkpoint, original)
        assert set(narrower(original, smaller)) == pruned, record.algorithm
        check_searched(smaller, original)
    check_searched(result.load_model(), original)


def narrower(original, smaller):
    whole, left = layer_shapes(original), layer_shapes(smaller)
    return {name for name, shape in left.items() if shape.width < whole[name].width}


@pytest.fixture
def studies(shared):
    """The studies of the modules, each run when it is first needed."""

    def searched(module):
        def study(folder):
            return CompressionStudy(module, search_space(*PRUNERS), settings=SETTINGS, directory=folder / "study")

        folder = shared(f"study of {module.__name__}", lambda folder: study(folder).optimize())
        return study(folder).result

    return searched


@pytest.mark.parametrize("module", hard_modules.FAULTS)
def test_every_pruner_in_a_study(module, studies):
    check(module, studies(module), PRUNERS)


@pytest.mark.parametrize("module", hard_modules.LIKES)
def test_their_likes_in_a_study(module, tmp_path):
    names = ("l2", "filter_pruning")
    study = CompressionStudy(module, search_space(*names), settings=SETTINGS, directory=tmp_path / "study")
    check(module, study.optimize(), names)


def test_an_experiment_on_nni(tmp_path, studies):
    """Leaves the same layers alone, with the same sentences, as a study of the same."""
    module, names = hard_modules.FAULTS[0], ("l2", "filter_pruning")
    experiment = AutoCompressionExperiment(module, "local", directory=tmp_path / "experiment")
    experiment.config.search_space, experiment.settings = search_space(*names), SETTINGS
    try:
        experiment.run(free_port())
    finally:
        experiment.stop()
    check(module, experiment.result, names)
    told = [
        {record.algorithm: record.left_alone for record in each.records if record.algorithm in names}
        for each in (studies(module), experiment.result)
    ]
    assert told[0] == told[1]
