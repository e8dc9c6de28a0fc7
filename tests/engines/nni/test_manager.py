import socket
import subprocess
import sys

import psutil
import pytest

from autocompress.engines.nni.manager import default_port, end_process, find_manager, new_url_prefix, require_free_port
from autocompress.errors import EngineError


def test_a_taken_port_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"the port must be free; port {port} on 127.0.0.1 is taken"):
            require_free_port(port)
    require_free_port(port)


def test_the_default_port_is_a_free_one():
    require_free_port(default_port())


def test_paths_are_not_repeated():
    assert len({new_url_prefix() for _ in range(100)}) == 100


def test_a_process_and_its_children_are_ended():
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {stubborn!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    end_process(psutil.Process(parent.pid), patience=1)
    parent.wait(10)
    parent.stdout.close()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_an_experiments_manager_is_found_by_its_id():
    code = "print('up', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, "--experiment-id", "abc123"], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        assert find_manager("abc123").pid == process.pid
        assert find_manager("abc12") is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
