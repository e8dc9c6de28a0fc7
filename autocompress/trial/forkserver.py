"""A process that has imported what trials need and forks one for each: it begins in 0.05 s instead of 3.

It runs no operator of PyTorch, opens no device and does not load the user's module, so that a fork is as good as a
fresh interpreter. After multiprocessing's forkserver, which would import the launching script as well.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import weakref
from typing import Any

import setproctitle

from autocompress.trial.process import PIPE

DESCRIPTORS = 4
"""With each request: for the process id and exit code, the trial's output, its results, and the request."""

_IMPORTS = (
    "torch",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "torch_pruning",
    "numpy.ma",
    "autocompress.trial.__main__",
    "autocompress.trial.process",
    "autocompress.trial.run",
    "autocompress.compression.pruning.filters",
)


def main() -> None:
    """Serve the socket that is the standard input; each trial runs and ends in here."""
    setproctitle.getproctitle()  # it looks for the place of titles, which a change of the environment hides
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in _IMPORTS:
        importlib.import_module(name)
    _settle()
    arguments = _Server(requests).serve()
    if arguments is None:
        return
    setproctitle.setproctitle(f"{sys.executable} -m autocompress.trial {' '.join(arguments)}")
    code: int = importlib.import_module("autocompress.trial.__main__").main(arguments)
    # An interpreter's end without the taking apart of all modules, which takes 0.7 s; multiprocessing's children do so.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _settle() -> None:
    """Freeze this memory for the forks to share: no garbage collection in it, no destruction of torch's operators."""
    gc.collect()
    gc.freeze()
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False


class _Server:
    """Forks for each request, and reports each child's exit code."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._status_pipes: dict[int, int] = {}
        self._woken, self._waker = socket.socketpair()

    def serve(self) -> list[str] | None:
        """The arguments, in a forked trial; None in the server, when the requests' socket is closed."""
        self._waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno())
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._woken in ready:
                    self._report_ends()
                if self._requests in ready:
                    message, descriptors, _, _ = socket.recv_fds(self._requests, 1, DESCRIPTORS)
                    if not message:
                        return None
                    if self._is_child(*descriptors):
                        return _trial(*descriptors[1:])

    def _is_child(self, status_pipe: int, *others: int) -> bool:
        child = os.fork()
        if not child:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self._requests, self._woken, self._waker):
                end.close()
            for each in (status_pipe, *self._status_pipes.values()):
                os.close(each)
            return True
        self._status_pipes[child] = status_pipe
        _report(status_pipe, child)
        for each in others:
            os.close(each)
        return False

    def _report_ends(self) -> None:
        self._woken.recv(4096)
        for child in list(self._status_pipes):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                status_pipe = self._status_pipes.pop(child)
                _report(status_pipe, os.waitstatus_to_exitcode(status))
                os.close(status_pipe)


def _report(status_pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the launcher has gone; the trial's record counts
        os.write(status_pipe, f"{number}\n".encode())


def _trial(output: int, results: int, request: int) -> list[str]:
    """Set up what a fresh interpreter would have, and return its arguments."""
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    with os.fdopen(request, "rb") as file:
        received: dict[str, Any] = json.loads(file.read())
    os.environ.clear()
    os.environ.update({**received["environment"], PIPE: str(results)})
    arguments: list[str] = received["arguments"]
    return arguments


if __name__ == "__main__":
    main()
