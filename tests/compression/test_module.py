from __future__ import annotations

import subprocess
import sys

import pytest

from autocompress.compression.module import AbstractAutoCompressionModule

from .modules import Minimal


def test_only_model_and_evaluator_must_be_written() -> None:
    assert AbstractAutoCompressionModule.__abstractmethods__ == {"model", "evaluator"}
    with pytest.raises(TypeError, match="abstract"):
        AbstractAutoCompressionModule()


def test_all_other_hooks_have_working_defaults() -> None:
    for hook in ("optimizer_factory", "criterion", "example_inputs", "calibration_data", "holdout_evaluator"):
        assert getattr(Minimal, hook)() is None
    assert Minimal.lr_scheduler_factory() is None
    assert Minimal.sparsifying_trainer("l1") is None
    assert Minimal.post_compress_finetuning_trainer("l1") is None
    assert Minimal.post_compress_finetuning_epochs("l1") is None
    assert Minimal.higher_is_better is True


def test_importing_it_is_light_and_makes_torchvision_importable() -> None:
    code = (
        "import autocompress.compression.module, sys\n"
        "assert 'torch_pruning' not in sys.modules and 'torchvision' not in sys.modules\n"
        "import torchvision\n"
        "print(sum(1 for _ in torchvision.models.resnet18().modules()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60
