"""Every test session has a home of its own: NNI writes into it, and into nobody else's."""

import os
import tempfile

import hypothesis

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
