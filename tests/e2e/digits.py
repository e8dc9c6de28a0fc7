"""The digits example by the command line; several tests look at the search with seed 0."""

import json
import os
import subprocess
import sys

from tests.e2e.support import ROOT, free_port, processes_of


def search(folder, seed=0):
    """Run it; the folder has `experiment`, `home`, and `printed.json`: what was printed, and the port."""
    home, port = folder / "home", free_port()
    home.mkdir()
    command = [sys.executable, "-m", "autocompress.cli", "run", "examples/digits.py:DigitsModule"]
    command += ["--search-space", "search_spaces/l2.json", "--port", str(port), "--out", str(folder / "experiment")]
    command += ["--seed", str(seed)] if seed else []
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "DIGITS_SEED": str(seed)}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not list(processes_of(folder / "experiment")), "nothing may be left running"
    (folder / "printed.json").write_text(json.dumps({"port": port, "stdout": done.stdout, "stderr": done.stderr}))


def finished(shared, seed=0):
    """Its folder, and what `printed.json` holds."""
    folder = shared(f"digits with seed {seed}", lambda folder: search(folder, seed))
    return folder, json.loads((folder / "printed.json").read_text())
