"""Locks name their holder, end with it, and are not held by what it forks."""

import os
import subprocess
import sys

import pytest

from autocompress.errors import StoreError
from autocompress.store.locks import (
    identity_of,
    is_running,
    lock,
    lock_holder,
    named,
    short_lock,
    this_host,
    this_process,
    write_holder,
)

FORKS = """
import os, sys, time
from pathlib import Path
from autocompress.store.locks import lock, write_holder
with lock(Path(sys.argv[1])) as file:
    write_holder(file, what="a test")
    if not os.fork():
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    sys.stdin.read()
"""


@pytest.fixture
def forked(tmp_path):
    """A holder of a lock, and a process that it has forked, which outlives it."""
    command = [sys.executable, "-c", FORKS, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    yield holder, child
    holder.kill()
    holder.wait()
    os.kill(child, 9)


def test_a_fork_of_the_holder_does_not_hold_the_lock(tmp_path, forked):
    holder, child = forked
    path = tmp_path / "lock"
    assert lock_holder(path) == {**identity_of(holder.pid), "what": "a test"}
    with pytest.raises(BlockingIOError), lock(path):
        pass
    holder.kill()
    holder.wait()
    assert is_running(identity_of(child)), "the fork lives"
    assert lock_holder(path) is None
    with lock(path, 5):
        pass


def test_the_holder_is_named_and_nobody_else(tmp_path):
    path = tmp_path / "lock"
    assert lock_holder(path) is None
    with lock(path) as file:
        assert lock_holder(path) == {}, "it has not said who it is"
        write_holder(file, trial="abc")
        assert lock_holder(path) == {**this_process(), "trial": "abc"}
        assert named(lock_holder(path)) == f"process {os.getpid()}"
    assert lock_holder(path) is None
    assert "abc" in path.read_text()


def test_one_that_does_not_let_go_is_named(tmp_path, forked):
    holder, _ = forked
    message = (
        rf"lock must be free within 0\.1 s; process {holder.pid} holds it: if that is stopped, let it go on or end"
    )
    with pytest.raises(StoreError, match=message), short_lock(tmp_path / "lock", 0.1):
        pass


def test_a_zombie_does_not_run():
    ended = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = identity_of(ended.pid)
    assert is_running(alive)
    ended.stdin.close()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    assert not is_running(alive)
    ended.wait()
    assert not is_running(alive)


@pytest.mark.parametrize("broken", [{}, {"pid": "x", "started": 1}, {"pid": None, "started": None}, {"pid": 1}])
def test_what_is_no_identity_does_not_run(broken):
    assert not is_running(broken)


def test_a_process_elsewhere_is_named_with_its_machine():
    assert named({"host": "far/boot", "pid": 7, "started": 1.0}) == "process 7 on far"
    assert named({"host": this_host(), "pid": 7, "started": 1.0}) == "process 7"
    assert named({}) == "another process"
