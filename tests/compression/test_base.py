from __future__ import annotations

import subprocess
import sys

import pytest

from autocompress.compression.base import compressor
from autocompress.errors import ConfigError
from autocompress.registry import algorithms


@pytest.mark.parametrize("name", algorithms())
def test_every_algorithm_has_a_compressor(name: str) -> None:
    assert type(compressor(name)) is type(algorithms()[name].compressor())


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'l0'"):
        compressor("l0")


def test_a_mix_has_none() -> None:
    with pytest.raises(ConfigError, match=r"a mix has no compressor of its own, its parts have; got 'l2\+qat'"):
        compressor("l2+qat")


def test_only_the_file_that_is_needed_is_imported() -> None:
    code = (
        "import sys\n"
        "from autocompress.compression.base import compressor\n"
        "compressor('level')\n"
        "assert 'torch_pruning' not in sys.modules\n"
        "assert 'torchao' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
