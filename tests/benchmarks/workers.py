"""Four workers on one database: `python -m tests.benchmarks.workers [--workers 4] [--server mysql]`.

A module that takes no time is searched with six algorithms in small steps. The rate is that of all workers from the
first result to the last; a trial that was done twice would be one whose rate was trained twice.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import optuna
from optuna.trial import TrialState

from autocompress.engines.optuna.convert import ORDER
from tests.e2e.servers import mysql, postgresql
from tests.e2e.support import ROOT

_WORKER = """
import sys
from autocompress.settings import AccuracyAwareSettings
from autocompress.engines.optuna.study import CompressionStudy
from tests import curve_modules
from tests.e2e.launch import search_space

settings = AccuracyAwareSettings(
    initial_compression_rate=0.1,
    initial_compression_rate_step=0.015,
    minimal_compression_rate_step=0.015,
)
space = search_space("l1", "l2", "fpgm", "level", "magnitude_sparsity", "filter_pruning")
study = CompressionStudy(
    curve_modules.Cliff, space, storage=sys.argv[2], settings=settings, study_name="workers", directory=sys.argv[1]
)
study.study if sys.argv[3:] else study.optimize()
"""


@contextlib.contextmanager
def _postgresql():
    with postgresql() as server:
        yield server.url


SERVERS = {"postgresql": _postgresql, "mysql": mysql}


def run(workers, serve):
    """Trials of the study when the workers have ended."""
    with serve() as url, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _WORKER, str(Path(folder) / "experiment"), url]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "measure"], cwd=ROOT, env=environment, check=True)
        running = [subprocess.Popen(command, cwd=ROOT, env=environment) for _ in range(workers)]
        codes = [worker.wait() for worker in running]
        assert codes == [0] * workers, codes
        study = optuna.load_study(study_name="workers", storage=url)
        return study.get_trials()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--server", default="postgresql", choices=list(SERVERS))
    arguments = parser.parse_args()
    trials = run(arguments.workers, SERVERS[arguments.server])
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    times = sorted(trial.datetime_complete for trial in done)
    seconds = (times[-1] - times[0]).total_seconds()
    twice = sum(number - 1 for number in Counter(trial.user_attrs[ORDER]["key"] for trial in done).values())
    let_go = len(trials) - len(done)
    print(f"{len(done)} trials, {(len(done) - 1) / seconds:.1f} a second, {twice} done twice, {let_go} let go")


if __name__ == "__main__":
    main()
