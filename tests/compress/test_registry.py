from __future__ import annotations

import subprocess
import sys

import pytest

from autocompress.algorithms import ALGORITHMS
from autocompress.compress.base import CompressionRequest
from autocompress.compress.layers import LayerTarget
from autocompress.compress.registry import compressor
from autocompress.errors import ConfigError

from .nets import IMAGE, build, outputs, train

AVAILABLE = [name for name, algorithm in ALGORITHMS.items() if algorithm.compressor and algorithm.kind == "pruner"]


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_pruner_compresses_trains_and_finishes(name: str) -> None:
    model = build("plain")
    request = CompressionRequest(name, (LayerTarget(("default",), rate=0.5),), IMAGE)
    compression = compressor(name).compress(model, request)
    train(compression.model)
    trained, rate = outputs(compression.model), compression.achieved_rate(compression.model)
    finished = compression.finish(compression.model)
    assert (outputs(finished) == trained).all()
    assert compression.achieved_rate(finished) == rate == pytest.approx(0.5, abs=0.02)
    assert 0 < compression.achieved_rate(finished, whole_model=True) < 1


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'l0'"):
        compressor("l0")


def test_one_that_this_version_does_not_have() -> None:
    missing = next(name for name, algorithm in ALGORITHMS.items() if algorithm.compressor is None)
    with pytest.raises(ConfigError, match=f"algorithm '{missing}' is not available in this version"):
        compressor(missing)


def test_only_the_file_that_is_needed_is_imported() -> None:
    code = (
        "import sys\n"
        "from autocompress.compress.registry import compressor\n"
        "compressor('level')\n"
        "assert 'torch_pruning' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
