"""A process that has imported what trials need and forks one for each: it begins in 0.05 s instead of 3.

It runs no operator of PyTorch, opens no device and does not load the user's module, so that what it forks is as good as
a fresh interpreter. In the manner of multiprocessing's forkserver, which would import the launching script as well.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any

import setproctitle

from autocompress.trial.pipe import PIPE

DESCRIPTORS = 4
"""With each request: where process id and exit code are told, where the trial prints, its results, the request."""

_IMPORTS = ("torch", "torch._dynamo", "torch.utils.flop_counter", "torch_pruning", "autocompress.trial.run")


def main() -> int:
    """Serve the socket that is the standard input; each trial returns from here, as from an interpreter of its own."""
    setproctitle.getproctitle()  # it looks for the place of titles, which a change of the environment hides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who tell
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in _IMPORTS:
        importlib.import_module(name)
    arguments = _serve(requests)
    if arguments is None:
        return 0
    setproctitle.setproctitle(f"{sys.executable} -m autocompress.trial {' '.join(arguments)}")
    code: int = importlib.import_module("autocompress.trial.__main__").main(arguments)
    return code


def _serve(requests: socket.socket) -> list[str] | None:
    """The arguments, in a process that is to be a trial; None in the server, when nobody asks any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1, DESCRIPTORS)
        if not message:
            return None
        if os.fork() == 0:
            requests.close()
            return _trial(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _trial(teller: int, output: int, results: int, request: int) -> list[str]:
    """Fork once more, so that the server need not wait: the parent tells of the child's end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child:
        os.close(results)
        _tell(teller, child)
    os.close(teller)
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    with os.fdopen(request, "rb") as file:
        asked: dict[str, Any] = json.loads(file.read())
    os.environ.clear()
    os.environ.update({**asked["environment"], PIPE: str(results)})
    arguments: list[str] = asked["arguments"]
    return arguments


def _tell(teller: int, child: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone; the trial's record counts
        os.write(teller, f"{child}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(teller, f"{code}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
