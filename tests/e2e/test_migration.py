"""The snippets of the migration page, run in their order as one script."""

import re
import subprocess
import sys

import pytest

from tests.e2e.support import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "pages" / "howto" / "migration.md"
BLOCK = re.compile(r'^```python title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)

PRELUDE = '''
import sys
from pathlib import Path

import torch

sys.path.insert(0, EXAMPLES)
from digits import DATA, DigitsModule, accuracy_on

Path("nncf_config.json").write_text("""{
  // as NNCF's users have it
  "input_info": {"sample_size": [1, 1, 8, 8]},
  "accuracy_aware_training": {
    "mode": "adaptive_compression_level",
    "params": {"maximal_relative_accuracy_degradation": 2.0, "initial_training_phase_epochs": 2, "patience_epochs": 1}
  },
  "compression": [
    {"algorithm": "filter_pruning", "params": {"schedule": "baseline", "pruning_target": 0.4}},
    {"algorithm": "quantization"}
  ]
}""")
fresh_model, evaluate = DigitsModule.model, accuracy_on("validation")
model, epochs, criterion = fresh_model(), 1, torch.nn.CrossEntropyLoss()
x, y = DATA["train"]
train_loader = list(zip(x.split(64), y.split(64)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
uncompressed_model_accuracy = evaluate(model)


def train_epoch_fn(compression_ctrl, model, optimizer, **kwargs):
    compression_ctrl.scheduler.epoch_step()
    for inputs, targets in train_loader:
        compression_ctrl.scheduler.step()
        optimizer.zero_grad()
        (criterion(model.train()(inputs), targets) + compression_ctrl.loss()).backward()
        optimizer.step()


def validate_fn(model, **kwargs):
    return evaluate(model)


def configure_optimizers_fn():
    return torch.optim.SGD(compressed_model.parameters(), lr=0.01, momentum=0.9), None
'''


def snippets():
    return BLOCK.findall(PAGE.read_text())


def test_every_snippet_says_whose_it_is():
    titles = {title for title, _ in snippets()}
    assert titles == {"NNCF 2.x", "NNCF 2.x and autocompress", "NNI 2.10", "NNI 2.10 and autocompress", "autocompress"}
    assert PAGE.read_text().count("```python") == len(snippets())


def test_the_snippets_run_in_their_order(tmp_path):
    ours = [code for title, code in snippets() if "autocompress" in title]
    assert len(ours) >= 12, len(ours)
    script = tmp_path / "migrated.py"
    script.write_text(PRELUDE.replace("EXAMPLES", repr(str(ROOT / "examples"))) + "\n".join(ours))
    ran = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "within the accuracy budget" in ran.stdout
    assert (tmp_path / "compressed_model.onnx").exists()
