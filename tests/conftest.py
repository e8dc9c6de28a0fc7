"""Every test session has a home of its own: NNI writes into it, and into nobody else's."""

import os
import shutil
import sys
import tempfile

import filelock
import hypothesis
import pytest

_home = tempfile.TemporaryDirectory(prefix="autocompress-home-")
os.environ["HOME"] = _home.name  # before NNI is imported, which reads it once
os.environ["XDG_CACHE_HOME"] = f"{_home.name}/.cache"
os.environ["NNI_CONFIG_DIR"] = f"{_home.name}/nni-config"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores

# No example has to be quick: other tests run beside it.
hypothesis.settings.register_profile("autocompress", deadline=None)
hypothesis.settings.load_profile("autocompress")


def pytest_unconfigure():
    _home.cleanup()


@pytest.fixture(autouse=True)
def seeded():
    """Random weights and data are the same ones in every run, whichever tests ran before."""
    for name, seed in (("random", "seed"), ("numpy.random", "seed"), ("torch", "manual_seed")):
        if name in sys.modules:
            getattr(sys.modules[name], seed)(0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """What several tests look at is made once, whichever worker needs it first: `shared(name, make)`.

    `make` is called with a folder of its own, which is returned; the tests only read what lies there.
    """
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared"
    root.mkdir(exist_ok=True)

    def once(name, make):
        folder = root / name
        with filelock.FileLock(f"{folder}.lock"):
            if not (folder / "made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (folder / "made").touch()
        return folder

    return once
