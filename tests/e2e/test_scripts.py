"""A class that is defined in the launching script."""

import os
import subprocess
import sys

import pytest

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e.support import free_port

pytestmark = pytest.mark.slow

SCRIPT = """
import os
from autocompress import AutoCompressionExperiment
from autocompress.testing import CurveModule, flat
import helper_beside_the_script

class Mine(CurveModule):
    curve = staticmethod(flat())

def launch():
    experiment = AutoCompressionExperiment(Mine, "local", directory="experiment")
    sparsity = {"_type": "uniform", "_value": [0.9, 0.95]}
    option = {"_name": "l2", "config_list::::hidden::sparsity": sparsity}
    experiment.config.search_space = {"algorithm_name": {"_type": "choice", "_value": [option]}}
    experiment.run(int(os.environ["PORT"]))
    print(experiment.result.summary())

"""


def run(tmp_path, script):
    (tmp_path / "my script.py").write_text(script)
    (tmp_path / "helper_beside_the_script.py").touch()
    command = [sys.executable, "my script.py"]
    return subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_it_is_found_by_the_trials(tmp_path):
    done = run(tmp_path, SCRIPT + 'if __name__ == "__main__":\n    launch()\n')
    assert done.returncode == 0, done.stdout + done.stderr
    result = CompressionResult(ExperimentDirectory(tmp_path / "experiment"))
    assert [record.requested_rate for record in result.records] == [0.9, 0.95]
    assert result.load_model(trust_module=True).hidden.out_features == 20


def test_a_script_without_its_guard_is_told(tmp_path):
    done = run(tmp_path, SCRIPT + "launch()\n")
    assert done.returncode != 0
    assert 'put the launching code of your script under `if __name__ == "__main__":`' in done.stderr, done.stderr
