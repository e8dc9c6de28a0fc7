"""How long it takes to measure the sensitivity of layers: `python -m tests.benchmarks.probe`.

On one core, with the default settings and batches of 64 images of 32x32 pixels, as where the time of an epoch is not
known. It must take at most 60 s for resnet18 and 120 s for mobilenet_v2. The machine's load is printed beside it.
"""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from autocompress import AbstractAutoCompressionModule, AutoCompressionSearchSpaceGenerator
from autocompress.compression.measure import ReferenceModel
from autocompress.search_space import SearchSpace
from autocompress.settings import AccuracyAwareSettings
from autocompress.trial.probe import SearchProbe

# isort: split
# After autocompress: beside a CPU-only torch, torchvision cannot be imported before it.
from torchvision import models

LIMITS = {"resnet18": 60.0, "mobilenet_v2": 120.0}


class Images(AbstractAutoCompressionModule):
    """A net of torchvision for ten classes, and batches of noise."""

    name = ""

    @classmethod
    def model(cls):
        torch.manual_seed(0)
        return models.get_model(cls.name, num_classes=10).eval()

    @classmethod
    def evaluator(cls):
        return lambda model: 1.0

    @classmethod
    def example_inputs(cls):
        return torch.zeros(1, 3, 32, 32)

    @classmethod
    def calibration_data(cls):
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(64, 3, 32, 32, generator=generator) for _ in range(8)]


def main():
    torch.set_num_threads(1)
    generator = AutoCompressionSearchSpaceGenerator()
    entries = [{"sparsity": {"_type": "uniform", "_value": [0, 0.95]}, "op_types": ["default"]}]
    generator.add_config("l2", entries, allocation="sensitivity", rate_of="macs")
    space = SearchSpace.parse(generator.dumps())
    for name, limit in LIMITS.items():
        module = type(name, (Images,), {"name": name})
        with TemporaryDirectory() as folder:
            probe = SearchProbe(module, AccuracyAwareSettings(), ReferenceModel.of(module), "", cache=Path(folder))
            started, computed = time.monotonic(), time.process_time()
            (found,) = probe.run(space)
        seconds, computed = time.monotonic() - started, time.process_time() - computed
        points = sum(len(each.kept) - 1 for each in found.couplings)
        verdict = "within" if seconds <= limit else "ABOVE"
        load = os.getloadavg()[0]
        print(
            f"{name:<13} {seconds:5.1f} s ({computed:.1f} s computed, load {load:.1f}), {verdict} {limit:g} s: "
            f"{len(found.couplings)} couplings, {points} widths, {found.samples} samples",
            flush=True,
        )


if __name__ == "__main__":
    main()
