"""Work that needs the user's module, done in a process of its own.

The launching process never loads a model: it holds no device memory, and nothing a model's code does can disturb it.
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
    """Check that this process does not load the user's module for us: importing a script must not launch it again.

    Args:
        rule: what must not be done there.

    Raises:
        ModuleError: it does.
    """
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
    """Check the search space against the model, make the preflight, and measure the uncompressed model.

    Args:
        module: reference to the user's module, as JSON.
        search_space: in NNI's wire format.
        directory: the experiment's directory.
        settings: of the search; by default the defaults.
        confirmed: whether a budget that is hardly meant is warned of only, not refused.

    Raises:
        AutoCompressError: what is wrong with the module or the search space.
    """
    task = {"module": module, "search_space": search_space, "settings": _plain(settings), "confirmed": confirmed}
    return Baseline.from_dict(_run("measure", task, directory))


def verify_in_child(module: Mapping[str, Any], checkpoint: Path, threshold: float, directory: Path) -> Verdict:
    """Load a checkpoint afresh and evaluate it, on the hold-out data too.

    Args:
        module: reference to the user's module, as JSON.
        checkpoint: a trial's checkpoint.
        threshold: the worst tolerable accuracy.
        directory: the experiment's directory.

    Raises:
        AutoCompressError: the checkpoint or the module is damaged.
    """
    task = {"module": module, "checkpoint": str(checkpoint), "threshold": threshold}
    return Verdict(**_run("verify", task, directory))


def holdouts_in_child(module: Mapping[str, Any], checkpoints: Iterable[Path]) -> dict[Path, float | None]:
    """Evaluate checkpoints on hold-out data.

    Args:
        module: reference to the user's module, as JSON.
        checkpoints: of its trials.

    Returns:
        checkpoint -> accuracy, None without such data.

    Raises:
        AutoCompressError: a checkpoint or the module is damaged.
    """
    answer = _run("holdout", {"module": module, "checkpoints": [str(each) for each in checkpoints]}, None)
    return {Path(place): accuracy for place, accuracy in answer["accuracies"].items()}


def check_in_child(
    module: Mapping[str, Any], search_space: Mapping[str, Any] | None, settings: AccuracyAwareSettings | None = None
) -> tuple[list[dict[str, Any]], Preflight]:
    """Make the preflight, then try each algorithm on the model, as `checking.check_module` does.

    Args:
        module: reference to the user's module, as JSON.
        search_space: in NNI's wire format; None: every algorithm on all layers.
        settings: of the search; by default the defaults.

    Returns:
        the checks as JSON, and what the preflight found.

    Raises:
        AutoCompressError: what is wrong with the module or the search space.
    """
    task = {"module": module, "search_space": search_space, "settings": _plain(settings)}
    answer = _run("check", task, None)
    checks: list[dict[str, Any]] = answer["checks"]
    return checks, Preflight.from_dict(answer["preflight"])


def _plain(settings: AccuracyAwareSettings | None) -> dict[str, Any]:
    return (settings or AccuracyAwareSettings()).to_dict()


def _run(task: str, content: Mapping[str, Any], directory: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="autocompress-") as temporary:
        order, answer = Path(temporary, "order.json"), Path(temporary, "answer.json")
        order.write_text(
            json.dumps({"task": task, "directory": directory and str(directory), **content}), encoding="utf-8"
        )
        command = [sys.executable, "-m", "autocompress.trial.tasks", str(order), str(answer)]
        code = subprocess.run(command, env={**os.environ, IN_CHILD: "1"}, check=False).returncode
        if not answer.exists():
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise TrialError(f"the process that was to {task} the model {how}")
        return _unpacked(json.loads(answer.read_text(encoding="utf-8")))


def _unpacked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" not in answer:
        return answer
    kind = getattr(errors, answer["error"], None)
    if isinstance(kind, type) and issubclass(kind, AutoCompressError) and kind is not TrialError:
        raise kind(answer["message"]) from TrialError("in the process that loads the module", answer["traceback"])
    raise TrialError(f"{answer['error']}: {answer['message']}", answer["traceback"])
