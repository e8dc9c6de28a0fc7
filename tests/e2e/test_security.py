"""What an attacker tries on NNI's server: another machine, another program, a web page the user visits."""

import base64
import json
import os
import pickle
import socket

import psutil
import pytest
import requests
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import connect

from tests.e2e.support import Launcher, manager_of, trial_of, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    directory = tmp_path_factory.mktemp("security") / "experiment"
    launcher = Launcher(directory, "Slow")
    try:
        until(lambda: trial_of(directory), launcher)
        yield launcher
    finally:
        launcher.kill()


def prefix_of(running):
    command = manager_of(running.directory).cmdline()
    return command[command.index("--url-prefix") + 1]


class Exploit:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def payload(proof):
    code = base64.b64encode(pickle.dumps(Exploit(proof))).decode()
    return {"__nni_type__": f"bytes:{code}"}


def test_only_loopback_is_listened_on(running):
    family = [manager := manager_of(running.directory), *manager.children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}, listening


def test_another_machine_cannot_connect(running):
    addresses = [
        address.address
        for entries in psutil.net_if_addrs().values()
        for address in entries
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    for address in [*addresses, "127.0.0.2"]:
        with socket.socket() as attacker:
            attacker.settimeout(5)
            assert attacker.connect_ex((address, running.port)) != 0, address


@pytest.mark.parametrize("prefix", ["", "/guess", "/00000000000000000000000000000000"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/"),
        ("get", "/oview"),
        ("get", "/api/v1/nni/experiment"),
        ("post", "/api/v1/nni/trial-jobs"),
        ("put", "/api/v1/nni/experiment?update_type=TRIAL_CONCURRENCY"),
        ("get", "/api/v1/nni/trial-file/x/..%2F..%2F..%2F..%2F..%2Fetc%2Fpasswd"),
        ("get", "/logs/nnimanager.log"),
    ],
)
def test_without_the_secret_path_there_is_nothing(running, tmp_path, prefix, method, path):
    url = f"http://127.0.0.1:{running.port}{prefix}{path}"
    headers = {"Origin": "http://attacker.example", "Content-Type": "application/json"}
    body = json.dumps(payload(tmp_path / "proof"))
    answer = requests.request(method, url, data=None if method == "get" else body, headers=headers, timeout=10)
    assert (answer.status_code, answer.text) == (404, "Not Found")
    assert prefix_of(running) not in str(answer.headers) + answer.text
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("path", ["/tuner", "/guess/tuner"])
def test_the_tuner_channel_needs_the_secret_path(running, path):
    with pytest.raises(InvalidHandshake, match="404"):
        connect(f"ws://127.0.0.1:{running.port}{path}")


def test_the_secret_path_is_new_each_time_and_long(running):
    prefix = prefix_of(running)
    assert len(prefix) == 32
    assert int(prefix, 16) > 0


def test_the_page_is_there_for_the_user(running):
    url = f"http://127.0.0.1:{running.port}/{prefix_of(running)}"
    assert f"{url}/oview" in running.printed()
    page = requests.get(f"{url}/oview", timeout=10)
    assert page.status_code == 200
    assert "<title>Neural Network Intelligence</title>" in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert requests.get(f"{url}/api/v1/nni/check-status", timeout=10).json()["status"] == "RUNNING"
