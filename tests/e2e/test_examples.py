"""The examples run as they stand, and NNI 2.10's after changing import lines only."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

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


def clothes(folder, train=400, test=200):
    """Files like those of Fashion-MNIST, of ten coarse patterns under noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 7, 7, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    for name, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % 10
        noisy = patterns[labels] + torch.rand(count, 28, 28, generator=generator)
        for kind, values in (("images", (noisy * 127).byte()), ("labels", labels.byte())):
            shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
            content = bytes([0, 0, 8, values.dim()]) + shape + values.numpy().tobytes()
            (folder / f"{name}-{kind}-idx{values.dim()}-ubyte.gz").write_bytes(gzip.compress(content))


def test_fashion_mnist_and_the_benchmark_that_searches_it(tmp_path):
    """On other images; the trained net is kept, and so are the benchmark's rows."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "FASHION_MNIST": str(tmp_path)}
    environment = {**os.environ, **home, "FASHION_MNIST_IMAGES": "300", "OMP_NUM_THREADS": "1"}
    clothes(tmp_path)

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    printed = run("examples/fashion_mnist.py", "PlainModule").stdout
    shares = re.search(r"l2 at rate [\d.]+: ([\d.]+)% of the parameters and ([\d.]+)% of the mul", printed)
    assert min(map(float, shares.groups())) > 20, printed
    (net,) = (tmp_path / "autocompress").glob("fashion-mnist-PlainModule-14x300-0.pt")
    trained = net.stat().st_mtime_ns

    options = ["--nets", "plain", "--seeds", "1", "--out", tmp_path / "rows.json", "--plot", tmp_path / "plot.png"]
    answers = ["-m", "tests.benchmarks.answers", *map(str, options), "--configurations", "default"]
    first = run(*answers, "default + colour=1")
    assert "left out: default + colour=1: unknown setting 'colour'" in first.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["found"] == 1
    assert row["accuracy"] >= row["threshold"]
    assert row["macs_removed"] == max(removed for *_, removed, feasible in row["path"] if feasible) > 0.2
    assert f"| {100 * row['macs_removed']:.1f} % |" in first.stdout
    again = run(*answers)
    assert again.stdout == first.stdout
    assert "searches" in first.stderr
    assert again.stderr == ""
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert net.stat().st_mtime_ns == trained
