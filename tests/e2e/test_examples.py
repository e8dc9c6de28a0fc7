"""The examples run as they stand, and NNI 2.10's after changing import lines only."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e import digits
from tests.e2e.support import ROOT, free_port

pytestmark = pytest.mark.slow

NNI_EXAMPLE = ROOT / "examples" / "nni_auto_compress"


def test_a_module_of_nni_2_10_runs_after_changing_its_import_lines(tmp_path):
    shutil.copytree(NNI_EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("*.pth", "__pycache__"))
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "auto_compress_torch.py", str(free_port())],
        cwd=tmp_path / "example",
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (directory,) = (home / "nni-experiments").glob("autocompress-*")
    result = CompressionResult(ExperimentDirectory(directory))
    assert len(result.records) == 6
    assert all(record.state == "completed" for record in result.records), result.records
    assert result.verdict.feasible
    assert "verified" in done.stdout


@pytest.mark.parametrize("file", ["auto_compress_module.py", "auto_compress_torch.py"])
def test_only_import_lines_name_autocompress(file):
    """Each import of ours stands below NNI's own in a comment, and nothing else is ours."""
    text = (NNI_EXAMPLE / file).read_text()
    ours = re.compile(
        r"# NNI 2\.10: (from nni\.compression\.pytorch\.auto_compress import .*)\nfrom autocompress import "
    )
    as_it_was = ours.sub(lambda match: "from nni.compression.pytorch.auto_compress import ", text)
    assert as_it_was != text
    assert "from autocompress" not in as_it_was


@pytest.mark.parametrize("seed", range(3))
def test_digits_within_the_budget_on_three_seeds(shared, seed):
    folder, printed = digits.finished(shared, seed)
    out, stdout = folder / "experiment", printed["stdout"]
    result = CompressionResult(ExperimentDirectory(out))
    best = result.best
    assert result.verdict.accuracy >= result.threshold
    assert result.verdict.accuracy == pytest.approx(best.accuracy)
    assert result.verdict.holdout_accuracy is not None
    assert len(result.records) <= 12, result.records
    assert best.parameters_removed >= 0.85, best
    assert best.bytes < result.baseline.measurement.bytes / 4
    shown = [line for line in stdout.splitlines() if line.startswith("trial ")]
    assert len(shown) == len(result.records), stdout
    assert f"verified    {result.verdict.accuracy:g} when loaded afresh" in stdout
    listed = subprocess.run(
        [sys.executable, "-m", "autocompress.cli", "best", str(out), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(listed.stdout)["key"] == best.key


def test_a_mix_on_digits_ends_as_an_int8_model_that_ships(tmp_path):
    out, port = tmp_path / "experiment", str(free_port())
    run = [sys.executable, "-m", "autocompress.cli"]
    command = [*run, "run", "examples/digits.py:DigitsModule", "--search-space", "search_spaces/l2_qat.json"]
    command += ["--port", port, "--out", str(out), "--objective", "size"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = CompressionResult(ExperimentDirectory(out))
    best = result.best
    assert result.verdict.accuracy >= result.threshold
    assert not best.simulated
    assert best.size_removed >= 0.93, best
    assert best.score == best.size_removed
    command = [*run, "export", str(out), str(tmp_path / "small.onnx"), "--json"]
    shipped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert shipped.returncode == 0, shipped.stderr[-3000:]
    report = json.loads(shipped.stdout)
    assert report["max_difference"] <= report["tolerance"], report
    assert report["bytes"] == (tmp_path / "small.onnx").stat().st_size < result.baseline.measurement.bytes / 5


def test_the_nncf_style_example(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "nncf_style.py"), "--log-dir", "runs"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (directory,) = (tmp_path / "runs").iterdir()
    result = CompressionResult(ExperimentDirectory(directory))
    assert result.verdict.feasible
    assert result.best.parameters_removed > 0.5, result.best
    assert (directory / "report.html").exists()
    assert (tmp_path / "digits.onnx").exists()
    assert "within the accuracy budget" in done.stdout


def test_a_pruner_of_ones_own(tmp_path):
    """It is searched, and conforms on nets of several kinds."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "own_pruner.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^spread at rate 0\.[6-9]", done.stdout, re.MULTILINE), done.stdout
    code = (
        "from examples.own_pruner import Spread\n"
        "from autocompress.testing.conformance import check_conformance\n"
        "from autocompress.testing.zoo import ZOO\n"
        "for net in ('cnn', 'resnet18', 'regression'):\n    check_conformance(ZOO[net], Spread.name)\n"
    )
    conforms = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert conforms.returncode == 0, conforms.stderr[-3000:]
