"""A trial in its own process: `python -m autocompress.trial DIRECTORY --channel MODULE:CLASS`.

Where its environment names a fork server, the trial is forked there in no time, and this process stands for it: what it
receives as signals, output and exit code is the trial's. It therefore imports little before it knows.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from autocompress.trial.process import FORK_SERVER, LAUNCHER, PARENT, TRIAL, Channel, ForkedProcess

if TYPE_CHECKING:
    from autocompress.plan import ExperimentPlan

_POLL_SECONDS = 0.02
_INTERRUPTS = (signal.SIGTERM, signal.SIGINT)  # NNI sends SIGINT, which shells let their background jobs ignore


def main(arguments: list[str] | None = None) -> int:
    """Run the trial with the channel's parameters. The exit code is 0 unless the trial failed."""
    from autocompress.plan import ExperimentPlan
    from autocompress.store import ExperimentDirectory
    from autocompress.store.locks import identity_of
    from autocompress.trial.baseline import is_uncompressed, uncompressed_result
    from autocompress.trial.child import IN_CHILD

    parser = argparse.ArgumentParser(prog="python -m autocompress.trial", description=__doc__)
    parser.add_argument("directory", help="the experiment's directory")
    parser.add_argument("--module-root", help="where the module's root is, on another machine than the launcher's")
    parser.add_argument("--channel", required=True, help="MODULE:CLASS that provides parameters and receives results")
    parsed = parser.parse_args(arguments)
    os.environ[IN_CHILD] = "1"
    if LAUNCHER not in os.environ:  # NNI's manager has started it
        with contextlib.suppress(ProcessLookupError):
            os.environ[LAUNCHER] = json.dumps(identity_of(int(os.environ.get(PARENT, os.getppid()))))
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
    from autocompress.search.noise import AccuracyNoise
    from autocompress.store import ExperimentDirectory
    from autocompress.store.artefacts import write_manifest
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
        noise=AccuracyNoise.of(plan.measured, plan.settings.budget),
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


def _forked(address: str) -> int | None:
    """The exit code of the trial, forked by a server; None where there is none, such as after a restart."""
    from autocompress.trial.forkserver import request_file

    environment = {**os.environ, PARENT: str(os.getppid())}
    with (
        socket.socket(socket.AF_UNIX) as connection,
        request_file(TRIAL, sys.argv[1:], environment) as request,
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                connection.connect(address)
                socket.send_fds(connection, [b"."], [theirs.fileno(), 1, 2, 2, request])
            except OSError:
                return None
            theirs.close()
            return _relayed(ours)


def _relayed(status: socket.socket) -> int | None:
    """The exit code of the other process, which receives the signals of this one; None where it did not begin."""
    received: list[int] = []
    for number in _INTERRUPTS:
        signal.signal(number, lambda number, _: received.append(number))
    trial = ForkedProcess.from_pipe(status)
    while trial is not None and (code := trial.poll()) is None:
        while received:
            os.kill(trial.pid, received.pop())
        time.sleep(_POLL_SECONDS)
    return None if trial is None else code


if __name__ == "__main__":
    server = os.environ.pop(FORK_SERVER, None)
    ended = None if server is None else _forked(server)
    if ended is not None and ended < 0:  # by a signal
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    raise SystemExit(main() if ended is None else ended)
