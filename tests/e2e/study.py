"""A worker of a study as a user's script would be: `study.py DIRECTORY MODULE [STORAGE]`."""

import signal
import sys

from autocompress.engines.optuna.study import CompressionStudy
from tests import curve_modules
from tests.e2e.launch import search_space
from tests.e2e.support import free_port

FEW = {  # 0.55, 0.6, 0.65 where the edge is at 0.62, each of them trained
    "preset": "nncf",
    "initial_compression_rate": 0.55,
    "initial_compression_rate_step": 0.05,
    "minimal_compression_rate_step": 0.05,
}


def study(directory, module, storage=None, *names, sampler=None, artefacts=None, **settings):
    """The study that tests run, here or in a process of its own."""
    from autocompress.settings import AccuracyAwareSettings

    return CompressionStudy(
        getattr(curve_modules, module),
        search_space(*(names or ["l2"])),
        storage=storage,
        sampler=sampler,
        artefacts=artefacts,
        settings=AccuracyAwareSettings.from_dict({**FEW, **settings}),
        directory=directory,
    )


def on_nni(directory, module, *names, callbacks=(), **settings):
    """What the same search finds on NNI."""
    from autocompress import AutoCompressionExperiment

    experiment = AutoCompressionExperiment(getattr(curve_modules, module), "local", directory=directory)
    experiment.config.search_space = search_space(*(names or ["l2"]))
    experiment.config.tuner.class_args = {**FEW, **settings}
    experiment.callbacks = list(callbacks)
    experiment.run(free_port())
    experiment.stop()
    return experiment.result


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells let their background jobs ignore
    study(*sys.argv[1:]).optimize()
