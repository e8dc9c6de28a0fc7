"""Other libraries that remove filters, searched by the rule of `autocompress.search` for `tests.benchmarks.answers`.

Each is given the same trained net, budget, epochs, optimizer and learning rates that go to zero by the step, and a rate
that is a share of the MACs; BatchNorm is recalibrated after each cut, and a model that is within the budget by then is
not trained. Torch-Pruning goes on from the best model so far; FastNAS prunes the trained net anew each time, as its
search space is that of the uncompressed net.
"""

import contextlib
import copy
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autocompress.compression.base import recalibrate
from autocompress.compression.measure import macs
from autocompress.compression.module import evaluate, example_inputs, fresh_model
from autocompress.search import RateAxis
from autocompress.settings import AccuracyAwareSettings, KnowledgeDistillation
from autocompress.trial.distillation import distilling
from autocompress.trial.spec import seed_everything

DISTILLATION = KnowledgeDistillation(type="softmax", scale=0.5, temperature=2.0)
"""The other half of the loss is the module's."""
BATCH = 64
"""Of the example's trainer."""
STEPS = 100
"""Of Torch-Pruning, each of which removes as many channels; it stops where the rate is reached."""
GRADIENT_BATCHES = 4
SCORED = 2_000
"""Images to validate on which FastNAS scores widths."""


def images(module, part):
    """Images and labels of a part of the example's data."""
    return sys.modules[module.__module__].data()[part]


class TorchPruning:
    """Torch-Pruning's pruner with one ranking of all layers.

    Args:
        importance: its name in `torch_pruning.importance`.
        isomorphic: whether layers are ranked with those of the same structure only.
    """

    warm = True
    probe_seconds = 0.0

    def __init__(self, importance, *, isomorphic=False):
        self.importance, self.isomorphic = importance, isomorphic

    def __call__(self, module, model, most):
        """Remove filters until the model has at most so many MACs."""
        import torch_pruning

        inputs, importance = example_inputs(module), getattr(torch_pruning.importance, self.importance)()
        if isinstance(importance, torch_pruning.importance.GroupTaylorImportance):
            _gradients(module, model)
        ignored = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
        pruner = torch_pruning.pruner.BasePruner(
            model,
            inputs,
            importance,
            global_pruning=True,
            isomorphic=self.isomorphic,
            pruning_ratio=0.95,
            max_pruning_ratio=0.95,  # a layer keeps some of its filters
            iterative_steps=STEPS,
            ignored_layers=ignored,
        )
        for _ in range(STEPS):
            if macs(model, inputs) <= most:
                break
            pruner.step()
        return model


def _gradients(module, model):
    """Of the loss on some training images."""
    x, y = images(module, "train")
    model.eval().zero_grad()
    for batch in torch.arange(len(x)).split(250)[:GRADIENT_BATCHES]:
        module.criterion()(model(x[batch]), y[batch]).backward()


class FastNas:
    """ModelOpt's FastNAS: the smallest width of each layer whose loss of accuracy is below a threshold, bisected."""

    warm = False

    def __init__(self):
        self.probe_seconds, self._folder = 0.0, tempfile.TemporaryDirectory()

    def __call__(self, module, model, most):
        """The model with at most so many MACs; the scores of the widths are measured once."""
        import modelopt.torch.prune

        inputs, scores = example_inputs(module), Path(self._folder.name, "scores.pt")
        x, y = (each[:SCORED] for each in images(module, "validation"))
        ratios = tuple(share / 10 for share in range(1, 11))  # half as many as its default: scoring them costs epochs
        features = {"features_ratio": ratios, "feature_divisor": 1}
        rules = {"nn.Conv2d": {"*": {"channels_ratio": ratios, "kernel_size": (), "channel_divisor": 1}}}
        rules |= {"nn.BatchNorm2d": {"*": features}, "nn.Linear": {"*": features}}

        @torch.no_grad()
        def score(candidate):
            return float((torch.cat([candidate(batch).argmax(1) for batch in x.split(500)]) == y).float().mean())

        started, first = time.monotonic(), not scores.exists()
        with contextlib.redirect_stdout(io.StringIO()):
            small, _ = modelopt.torch.prune.prune(
                model,
                mode=[("fastnas", rules)],
                constraints={"flops": 2.0 * most},
                dummy_input=inputs,
                config={
                    "score_func": score,
                    "data_loader": list(module.calibration_data())[:GRADIENT_BATCHES],
                    "collect_func": lambda batch: batch,
                    "checkpoint": str(scores),
                },
            )
        if first:
            self.probe_seconds = time.monotonic() - started
        return small


PEERS = {
    "Torch-Pruning l2": lambda: TorchPruning("GroupMagnitudeImportance"),
    "Torch-Pruning l2 isomorphic": lambda: TorchPruning("GroupMagnitudeImportance", isomorphic=True),
    "Torch-Pruning taylor": lambda: TorchPruning("GroupTaylorImportance"),
    "Torch-Pruning taylor isomorphic": lambda: TorchPruning("GroupTaylorImportance", isomorphic=True),
    "ModelOpt FastNAS": FastNas,
}


@dataclass(frozen=True)
class Trial:
    """One rate.

    Attributes:
        rate: that was requested.
        model: the best of it.
        accuracy: of that.
        epochs: of training.
        macs_removed: share of the uncompressed net's.
        feasible: whether it is within the budget.
    """

    rate: float
    model: Any
    accuracy: float
    epochs: int
    macs_removed: float
    feasible: bool


@dataclass
class PeerSearch:
    """The step-halving rule around a pruner.

    Attributes:
        module: of the net.
        prune: (module, model, most MACs) -> smaller model.
        seed: of the training.
        distilled: whether the uncompressed net teaches.
    """

    module: Any
    prune: Callable[[Any, Any, float], Any]
    seed: int
    distilled: bool = False

    def run(self):
        """All trials, in order."""
        settings, self.original = AccuracyAwareSettings(), fresh_model(self.module).eval()
        self.uncompressed = evaluate(self.module.evaluator(), self.original)
        self.threshold, self.whole = settings.budget.threshold(self.uncompressed), self._macs(self.original)
        rule = settings.rule(RateAxis(0.0, settings.maximal_compression_rate))
        trials, position = {}, rule.start()
        while position is not None:
            if position.rate not in trials:
                epochs = settings.patience_epochs if trials else settings.initial_training_phase_epochs
                trials[position.rate] = self._trial(position, epochs, list(trials.values()))
            position = rule.advance(position, trials[position.rate].feasible)
        return list(trials.values())

    def _trial(self, position, epochs, before):
        if position.rate == 0:
            return Trial(0.0, self.original, self.uncompressed, 0, 0.0, feasible=True)
        seed_everything(self.seed)
        starts = [each for each in before if self.prune.warm and each.feasible and each.rate <= position.rate]
        start = max(starts, key=lambda each: each.rate).model if starts else self.original
        model = self.prune(self.module, copy.deepcopy(start), (1 - position.rate) * self.whole)
        recalibrate(model, self.module.calibration_data())
        best, accuracy, used = model, evaluate(self.module.evaluator(), model.eval()), 0
        train = self._trainer(model, position.lr_factor, epochs)
        while accuracy < self.threshold and used < epochs:
            train(used)
            now, used = evaluate(self.module.evaluator(), model.eval()), used + 1
            if now > accuracy:
                best, accuracy = copy.deepcopy(model), now
        removed = 1 - self._macs(best) / self.whole
        return Trial(position.rate, best, accuracy, used, removed, accuracy >= self.threshold)

    def _trainer(self, model, lr_factor, epochs):
        """A function that trains an epoch; learning rates go to zero by the step."""
        optimizer = self.module.optimizer_factory()(model.parameters())
        rates = [group["lr"] * lr_factor for group in optimizer.param_groups]
        steps = epochs * -(-len(images(self.module, "train")[0]) // BATCH)
        train, criterion, done = self.module.post_compress_finetuning_trainer("l2"), self.module.criterion(), 0

        def lower(*_):
            nonlocal done
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - done / steps)
            done += 1

        def half(*arguments):
            return 0.5 * criterion(*arguments)

        def train_epoch(epoch):
            taught = distilling(model, self.original, half, DISTILLATION) if self.distilled else None
            with taught or contextlib.nullcontext(criterion) as loss:
                train(model.train(), optimizer, loss, epoch)

        lower()
        optimizer.register_step_post_hook(lower)
        return train_epoch

    def _macs(self, model):
        return macs(model, example_inputs(self.module))


def search(module, name, seed):
    """A search with the peer of a name and its parts.

    Returns:
        all trials, the feasible one with the most MACs removed or None, and the seconds of the probe.
    """
    peer, *parts = name.split(" + ")
    prune = PEERS[peer]()
    trials = PeerSearch(module, prune, seed, distilled="distillation" in parts).run()
    feasible = [each for each in trials if each.feasible]
    return trials, max(feasible, key=lambda each: each.macs_removed, default=None), prune.probe_seconds
