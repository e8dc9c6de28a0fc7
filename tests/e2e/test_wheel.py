"""The wheel, installed outside the checkout: the first command of a newcomer, and the commands that it prints."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from autocompress.store import ExperimentDirectory
from tests.e2e.support import ROOT, free_port, processes_of, results

pytestmark = pytest.mark.e2e

SOURCES = ("autocompress", "pyproject.toml", "README.md", "LICENSE")


def run(*command, cwd, timeout=300, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what git has of the package, so that nothing is written into the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *SOURCES, cwd=ROOT).splitlines()
    for name in listed:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", built)
    run(sys.executable, "-m", "pip", "wheel", source, *options, cwd=source)
    (path,) = built.glob("autocompress-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new virtual environment with the wheel; what it depends on is that of the one the tests run in."""
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", home / "env", cwd=home)
    python = home / "env" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet", "--no-warn-script-location")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=home)
    (place,) = home.glob("env/lib/python*/site-packages")
    # A path alone: the .pth files there, one of which may name the checkout, are not read.
    (place / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def test_it_holds_all_files_of_the_package(wheel):
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("autocompress/")}
    there = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "autocompress", cwd=ROOT)
    assert shipped == {name for name in there.splitlines() if (ROOT / name).exists()}


def test_the_demo_runs_outside_the_checkout_and_so_does_what_it_prints(installed, tmp_path):
    home, out = tmp_path / "home", tmp_path / "small"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "PATH": f"{installed / 'env' / 'bin'}:{os.environ['PATH']}",
    }

    def command(*arguments):
        return run(*arguments, cwd=tmp_path, **environment)

    place = command("python", "-c", "import autocompress; print(autocompress.__file__)").strip()
    assert place.startswith(str(installed)), place
    printed = command("autocompress", "demo", "--out", out, "--port", free_port(), "--trials", 2)
    found, _, steps = printed.partition("\n\n")
    assert [record.algorithm for record in results(out)] == ["l2", "l2"]
    assert "verified" in found
    assert ExperimentDirectory(out).exists()
    assert not list(processes_of(out)), "nothing may be left running"
    commands = [line[12:].partition("   ")[0] for line in steps.splitlines()]
    report, trials, export, copy, check, search = commands
    assert command(*shlex.split(report)).strip() == f"wrote {out / 'report.html'}"
    assert command(*shlex.split(trials)).count("l2") == 2
    assert "wrote" in command(*shlex.split(export))
    command(*shlex.split(copy))
    assert "applies" in command(*shlex.split(check), "--algorithm", "l2")
    assert "load it" in command(*shlex.split(search), "--engine", "optuna", "--trials", "1")
