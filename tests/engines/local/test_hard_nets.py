"""Loops on nets that are hard to follow: filters are removed rightly or the record says which layers keep theirs."""

import pytest

from autocompress import load_compressed
from autocompress.compression.base import layer_shapes
from autocompress.nncf import (
    CompressionConfig,
    create_accuracy_aware_training_loop,
    create_compressed_model,
    register_default_init_args,
)
from tests.compression.structures import PRUNED
from tests.hard_modules import NETS, HardNets, batches, check_searched

pytestmark = pytest.mark.usefixtures("no_report")


def config(example, importance):
    params = {
        "initial_training_phase_epochs": 1,
        "patience_epochs": 1,
        "minimal_compression_rate_step": 0.1,
        "maximal_absolute_accuracy_degradation": 0.3,
    }
    options = {
        "pruning_target": 0.5,
        "pruning_steps": 1,
        "prune_first_conv": True,
        "prune_downsample_convs": True,
        "filter_importance": importance,
    }
    return CompressionConfig.from_dict(
        {
            "input_info": [{"sample_size": list(each.shape)} for each in example],
            "accuracy_aware_training": {"mode": "adaptive_compression_level", "params": params},
            "compression": {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": options},
        }
    )


def searched(name, directory, *, masked=False, importance="L2", preflight=True):
    """A loop over one net, and the net."""
    module = type(name, (HardNets,), {"names": (name,)})
    original, evaluate = module.model(), module.evaluator()
    settings = register_default_init_args(config(module.example_inputs(), importance), batches())
    controller, model = create_compressed_model(module.model(), settings)
    loop = create_accuracy_aware_training_loop(
        settings, controller, evaluate(original), masked=masked, maximal_compression_rate=0.5
    )
    train = module.post_compress_finetuning_trainer("filter_pruning")

    def train_epoch(controller, model, epoch, optimizer, **_):
        controller.scheduler.epoch_step()
        train(model, optimizer, module.criterion(), epoch)

    def optimizers():
        return module.optimizer_factory()(model.parameters()), None

    best = loop.run(model, train_epoch, evaluate, optimizers, log_dir=directory, preflight=preflight)
    return loop, original, best


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_each_net_is_pruned_rightly_or_left_alone(name, masked, tmp_path):
    loop, original, best = searched(name, tmp_path, masked=masked)
    pruned, left_alone = ({f"nets.{name}.{layer}" for layer in layers} for layers in PRUNED[name])
    records = loop.result.records
    assert records
    for record in records:
        assert record.state == "completed", record.error
        assert set(record.left_alone) == left_alone
        assert all(why.split(":")[0] in left_alone for why in record.left_alone.values())
        assert all(why.endswith("; it keeps its filters") for why in record.left_alone.values())
        check_searched(load_compressed(loop.directory / record.checkpoint, original), original)
    assert narrower(original, best) == pruned
    check_searched(best, original)


def narrower(original, smaller):
    whole, left = layer_shapes(original), layer_shapes(smaller)
    return {name for name, shape in left.items() if shape.width < whole[name].width}


@pytest.mark.parametrize("importance", ["L1", "geometric_median"])
def test_whatever_ranks_the_filters(importance, tmp_path):
    loop, original, best = searched("channel_shuffle", tmp_path, importance=importance)
    assert set(loop.result.best.left_alone) == {"nets.channel_shuffle.first.0", "nets.channel_shuffle.depthwise.0"}
    check_searched(best, original)
