"""Inputs and outputs as they come: by keyword, in dictionaries and dataclasses, with masks and labels."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import flatten_tensors, forward_outputs
from autocompress.compression.module import argument_inputs, fresh_model
from autocompress.errors import CompressionError, ModuleError
from autocompress.formats.export import export
from autocompress.search_space import default_space
from autocompress.testing.conformance import check_outputs, check_reload, compress
from autocompress.testing.zoo import ZooModule
from autocompress.trial.check import check_module

WIDTH, LENGTH, CLASSES = 16, 6, 3


class Net(nn.Module):
    """An embedding of words or features, two layers, the mean over what a mask leaves, and a head."""

    def __init__(self):
        super().__init__()
        self.words, self.first = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 32)
        self.second, self.head = nn.Linear(32, 24), nn.Linear(24, CLASSES)

    def scores(self, ids, mask):
        hidden = functional.relu(self.second(functional.relu(self.first(self.words(ids)))))
        shares = mask.to(hidden.dtype).unsqueeze(-1)
        return self.head((hidden * shares).sum(1) / shares.sum(1))


class ByKeyword(Net):
    def forward(self, ids, *, mask, scale=1.0):
        return self.scores(ids, mask) * scale


@dataclass
class Batch:
    ids: torch.Tensor
    mask: torch.Tensor
    name: str = ""


@dataclass
class Output:
    """As Hugging Face's models without transformers."""

    scores: torch.Tensor
    loss: torch.Tensor | None = None


class OfRecords(Net):
    def forward(self, batch):
        assert isinstance(batch, Batch)
        return Output(self.scores(batch.ids, batch.mask))


class Nested(Net):
    def forward(self, batch):
        ids, (mask, _) = batch["text"]["ids"], batch["masks"]
        return {"out": [self.scores(ids, mask)], "others": (OrderedDict(mask=mask),)}


class WithLoss(Net):
    def forward(self, ids=None, mask=None, labels=None):
        scores = self.scores(ids, mask)
        return Output(scores, None if labels is None else functional.cross_entropy(scores, labels))


def ids(batch):
    return torch.randint(0, 20, (batch, LENGTH), generator=torch.Generator().manual_seed(batch))


def mask(batch, kind=torch.bool):
    """The last two words of the last sample are padding."""
    found = torch.ones(batch, LENGTH, dtype=kind)
    found[-1, LENGTH - 2 :] = 0
    return found


def labels(batch):
    return torch.arange(batch) % CLASSES


CASES = {
    "keyword only, a mask of booleans": (ByKeyword, lambda batch: {"ids": ids(batch), "mask": mask(batch)}),
    "keyword only, a mask of integers": (ByKeyword, lambda batch: {"mask": mask(batch, torch.long), "ids": ids(batch)}),
    "a dataclass": (OfRecords, lambda batch: Batch(ids(batch), mask(batch))),
    "nested": (
        Nested,
        lambda batch: {"batch": {"text": {"ids": ids(batch)}, "masks": [mask(batch, torch.float), mask(batch)]}},
    ),
    "labels left out": (WithLoss, lambda batch: {"ids": ids(batch), "mask": mask(batch)}),
    "labels used": (WithLoss, lambda batch: {"ids": ids(batch), "mask": mask(batch), "labels": labels(batch)}),
}


def module(case):
    """A module whose calibration data is of dictionaries or records, with an index and labels that the net may take."""
    kind, inputs = CASES[case]

    class Module(ZooModule):
        shape = (LENGTH,)

        @classmethod
        def model(cls):
            torch.manual_seed(0)
            return kind().eval()

        @classmethod
        def example_inputs(cls):
            return inputs(1)

        @classmethod
        def calibration_data(cls):
            given = inputs(4)
            return [{**given, "index": 7}] if "ids" in given_names(given) else [(given, labels(4))]

        @classmethod
        def evaluator(cls):
            return lambda model: float(forward_outputs(model, argument_inputs(model, inputs(4), ""))[0].mean())

        @classmethod
        def sparsifying_trainer(cls, compress_algorithm_name):
            def train(model, optimizer, criterion, epoch):
                given = inputs(4)
                optimizer.zero_grad()
                outputs = model(**given) if isinstance(given, dict) else model(given)
                sum(each.square().mean() for each in flatten_tensors(outputs) if each.requires_grad).backward()
                optimizer.step()

            return train

    return Module


def given_names(given):
    return given if isinstance(given, dict) else ()


@pytest.mark.slow
def test_labels_that_only_the_batches_have_are_left_out_of_a_graph():
    class Module(module("labels left out")):
        @classmethod
        def calibration_data(cls):
            return [{"ids": ids(4), "mask": mask(4), "labels": labels(4)}]

    compressed = compress(Module, "qat", None, ReferenceModel.of(Module))
    with pytest.raises(ModuleError, match=r"has, ids, mask; it was given 'labels' too: leave it out"):
        compressed.compressions[-1].model(ids=ids(4), mask=mask(4), labels=labels(4))


ALGORITHMS = ["level", "l2", "taylorfo", "mean_activation"]


@pytest.mark.parametrize("case", CASES)
def test_every_algorithm_applies(case):
    found = {each.algorithm: each for each in check_module(module(case), default_space(ALGORITHMS).wire)}
    assert {name: each.reason for name, each in found.items()} == dict.fromkeys(ALGORITHMS)
    assert found["l2"].reductions[-1].parameters_removed > 0.3


@pytest.mark.slow
def test_a_stored_graph_takes_no_classes_of_the_user():
    with pytest.raises(CompressionError, match="must be tensors in tuples, lists and dictionaries; it has a Batch"):
        compress(module("a dataclass"), "qat", None, ReferenceModel.of(module("a dataclass")))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_compressed_model_takes_what_the_model_took(case):
    inputs = CASES[case][1]
    reference = ReferenceModel.of(module(case))
    algorithm = "l2+naive" if case == "a dataclass" else "l2+qat"
    compressed = compress(module(case), algorithm, 0.5, reference)
    trained = compressed.compressions[-1].model
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    module(case).sparsifying_trainer("qat")(trained.train(), optimizer, None, 0)
    check_outputs(compressed.finished, reference)
    check_reload(compressed, reference)
    given = inputs(1)
    outputs = [
        each(**given) if isinstance(given, dict) else each(given)
        for each in (fresh_model(module(case)), compressed.finished)
    ]
    assert [each.shape for each in flatten_tensors(outputs[0])] == [each.shape for each in flatten_tensors(outputs[1])]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ""])
@pytest.mark.parametrize("case", CASES)
def test_exports_take_it_too(case, suffix, tmp_path):
    inputs = CASES[case][1]
    reference = ReferenceModel.of(module(case))
    compressed = compress(module(case), "l2", 0.5, reference)
    given = inputs(2)
    report = export(compressed.finished, tmp_path / f"model{suffix}", given, original=reference.original)
    assert report.checked
    assert report.max_difference <= report.tolerance
