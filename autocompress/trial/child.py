"""Tasks that need the user's module, run in a child process.

The launching process never loads a model: it holds no device memory, and a model's code cannot disturb it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autocompress import errors
from autocompress.errors import AutoCompressError, ModuleError, TrialError
from autocompress.records import Baseline, Preflight
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import Verdict

IN_CHILD = "AUTOCOMPRESS_CHILD"
"""Environment variable that is set in processes that load the user's module for us."""


def refuse_in_child(rule: str) -> None:
    """Check that this is no child process: importing a user's script there must not launch a search again."""
    if os.environ.get(IN_CHILD):
        raise ModuleError(
            f"{rule} while a trial loads your module: put the launching code of your script under "
            '`if __name__ == "__main__":`'
        )


def measure_in_child(
    module: Mapping[str, Any],
    search_space: Mapping[str, Any],
    directory: Path,
    settings: AccuracyAwareSettings | None = None,
    *,
    confirmed: bool = True,
) -> Baseline:
    """Check the search space against the model, run the preflight, and measure the uncompressed model.

    Raises:
        AutoCompressError: what is wrong with the module or the search space.
    """
    task = {"module": module, "search_space": search_space, "settings": _plain(settings), "confirmed": confirmed}
    return Baseline.from_dict(_run("measure", task, directory))


def verify_in_child(module: Mapping[str, Any], checkpoint: Path, threshold: float, directory: Path) -> Verdict:
    """Load a checkpoint afresh and evaluate it, on the hold-out data too."""
    task = {"module": module, "checkpoint": str(checkpoint), "threshold": threshold}
    return Verdict(**_run("verify", task, directory))


def holdouts_in_child(module: Mapping[str, Any], checkpoints: Iterable[Path]) -> dict[Path, float | None]:
    """Evaluate checkpoints on hold-out data; None for each without such data."""
    result = _run("holdout", {"module": module, "checkpoints": [str(each) for each in checkpoints]}, None)
    return {Path(place): accuracy for place, accuracy in result["accuracies"].items()}


def check_in_child(
    module: Mapping[str, Any], search_space: Mapping[str, Any] | None, settings: AccuracyAwareSettings | None = None
) -> tuple[list[dict[str, Any]], Preflight]:
    """Run the preflight and `check.check_module`; the checks as JSON, and what the preflight found."""
    task = {"module": module, "search_space": search_space, "settings": _plain(settings)}
    result = _run("check", task, None)
    checks: list[dict[str, Any]] = result["checks"]
    return checks, Preflight.from_dict(result["preflight"])


def _plain(settings: AccuracyAwareSettings | None) -> dict[str, Any]:
    return (settings or AccuracyAwareSettings()).to_dict()


def _run(task: str, content: Mapping[str, Any], directory: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="autocompress-") as temporary:
        request, result = Path(temporary, "request.json"), Path(temporary, "result.json")
        request.write_text(
            json.dumps({"task": task, "directory": directory and str(directory), **content}), encoding="utf-8"
        )
        command = [sys.executable, "-m", "autocompress.trial.tasks", str(request), str(result)]
        code = subprocess.run(command, env={**os.environ, IN_CHILD: "1"}, check=False).returncode
        if not result.exists():
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise TrialError(f"the process that was to {task} the model {how}")
        return _unpacked(json.loads(result.read_text(encoding="utf-8")))


def _unpacked(result: dict[str, Any]) -> dict[str, Any]:
    if "error" not in result:
        return result
    kind = getattr(errors, result["error"], None)
    if isinstance(kind, type) and issubclass(kind, AutoCompressError) and kind is not TrialError:
        raise kind(result["message"]) from TrialError("in the process that loads the module", result["traceback"])
    raise TrialError(f"{result['error']}: {result['message']}", result["traceback"])
