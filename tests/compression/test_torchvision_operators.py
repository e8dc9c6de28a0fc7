from __future__ import annotations

import subprocess
import sys

import torch

from autocompress.compression.torchvision_operators import define_torchvision_operators


def test_it_can_be_called_again_also_after_the_import() -> None:
    define_torchvision_operators()
    import torchvision

    define_torchvision_operators()
    assert hasattr(torch.ops.torchvision, "nms")
    assert torchvision.transforms.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)


def test_without_torchvision_nothing_happens() -> None:
    code = (
        "import importlib.util, sys, torch\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'torchvision' else find(name, package)\n"
        "from autocompress.compression.torchvision_operators import define_torchvision_operators\n"
        "define_torchvision_operators()\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
