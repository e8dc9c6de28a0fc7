"""A trial in its own process: `python -m autocompress.trial DIRECTORY --channel MODULE:CLASS`."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from autocompress.plan import ExperimentPlan
from autocompress.store import ExperimentDirectory
from autocompress.store.artefacts import write_manifest
from autocompress.store.locks import identity_of
from autocompress.trial.baseline import is_uncompressed, uncompressed_result
from autocompress.trial.child import IN_CHILD
from autocompress.trial.process import LAUNCHER, Channel

_INTERRUPTS = (signal.SIGTERM, signal.SIGINT)  # NNI sends SIGINT, which shells let their background jobs ignore


def main(arguments: list[str] | None = None) -> int:
    """Run the trial with the channel's parameters. The exit code is 0 unless the trial failed."""
    parser = argparse.ArgumentParser(prog="python -m autocompress.trial", description=__doc__)
    parser.add_argument("directory", help="the experiment's directory")
    parser.add_argument("--module-root", help="where the module's root is, on another machine than the launcher's")
    parser.add_argument("--channel", required=True, help="MODULE:CLASS that provides parameters and receives results")
    parsed = parser.parse_args(arguments)
    os.environ[IN_CHILD] = "1"
    if LAUNCHER not in os.environ:  # NNI's manager has started it
        with contextlib.suppress(ProcessLookupError):
            os.environ[LAUNCHER] = json.dumps(identity_of(os.getppid()))
    for number in _INTERRUPTS:
        signal.signal(number, _interrupt)
    plan = ExperimentPlan.read(ExperimentDirectory(parsed.directory))
    if plan.settings.maximal_trial_seconds is not None:
        # A thread outside the interpreter: it prints where the trial hangs, and ends it.
        faulthandler.dump_traceback_later(plan.settings.maximal_trial_seconds, exit=True)
    channel = _channel(parsed.channel)
    parameters = channel.parameters()
    if is_uncompressed(parameters):
        channel.report_final(uncompressed_result(plan.measured, plan.threshold))
        return 0
    return _run(parsed, plan, channel, parameters)


def _run(parsed: argparse.Namespace, plan: ExperimentPlan, channel: Channel, parameters: dict[str, Any]) -> int:
    # These import torch, which the baseline trial does not need.
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.trial.run import run_trial

    reference = ModuleReference.from_dict(plan.module)
    if parsed.module_root is not None:
        reference = reference.moved(Path(parsed.module_root))
    record = run_trial(
        reference.load(keep_path=True),
        parameters,
        threshold=plan.threshold,
        directory=parsed.directory,
        reporter=channel,
        fingerprint=plan.measured.fingerprint,
    )
    if parsed.module_root is not None:
        write_manifest(ExperimentDirectory(parsed.directory).trial(record.key).path)
    if record.state == "failed":
        print(record.error, file=sys.stderr)
    return int(record.state == "failed")


def _channel(reference: str) -> Channel:
    module, _, name = reference.partition(":")
    channel: Channel = getattr(importlib.import_module(module), name)()
    return channel


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """The last state is saved and reported. Once more must not end the saving."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
