"""Ctrl-C comes through, wherever it arrives, and does not break off the stopping."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from autocompress.engines import base
from autocompress.engines.base import Interrupts


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(base, "_AGAIN_SECONDS", 0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_again_does_not_break_off_the_stopping(number):
    before, interrupts = signal.getsignal(number), Interrupts()
    with interrupts.counted():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert interrupts.count == 3
    assert signal.getsignal(number) is before


class Finalized:
    """A signal arrives while it is destroyed: Python drops what is raised there."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def in_a_finalizer():
    Finalized()


def in_a_callback():
    thing = Finalized.__new__(type("Thing", (), {}))
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    assert reference() is None


def caught_by_other_code():
    with contextlib.suppress(BaseException):  # as much code does it
        signal.raise_signal(signal.SIGINT)


def interrupted(interrupts, run, *arguments):
    with interrupts.counted():
        run(*arguments)
        time.sleep(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lose", [in_a_finalizer, in_a_callback, caught_by_other_code])
def test_what_is_lost_is_raised_again(lose):
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        interrupted(interrupts, lose)
    assert interrupts.count == 1


def stop_slowly(steps):
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        time.sleep(0.3)
        try:
            _ = 1 / 0
        except ZeroDivisionError:  # another error meanwhile
            time.sleep(0.3)
        steps.append("stopped")


def test_the_stopping_is_not_broken_off():
    steps = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(Interrupts(), stop_slowly, steps)
    assert steps == ["stopped"]


def test_what_has_done_its_work_is_left_alone():
    before, interrupts = signal.getsignal(signal.SIGINT), Interrupts()
    with interrupts.counted():
        interrupts.settle()
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)
    assert interrupts.count == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_no_signals():
    before = signal.getsignal(signal.SIGINT)

    def count():
        with Interrupts().counted():
            assert signal.getsignal(signal.SIGINT) is before

    thread = threading.Thread(target=count)
    thread.start()
    thread.join()


def test_a_background_job_is_interrupted_too():
    """Shells let them ignore Ctrl-C, and Python leaves that so."""
    code = "from autocompress.engines.base import Interrupts\nimport time\n"
    code += "with Interrupts().counted():\n    print('up', flush=True)\n    time.sleep(60)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    process.stdout.close()
