"""What an attacker tries on NNI's server: another machine, another program, a web page the user visits."""

import base64
import http.client
import json
import os
import pickle
import re
import socket
import stat
from pathlib import Path

import psutil
import pytest
import requests
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import connect

from tests.e2e.support import Launcher, manager_of, trial_of, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    directory = tmp_path_factory.mktemp("security") / "experiment"
    launcher = Launcher(directory, "HangsAbove")  # it does not end while tests look at it
    try:
        until(lambda: trial_of(directory), launcher)
        yield launcher
    finally:
        launcher.kill()


def prefix_of(running):
    return re.search(rf"http://127\.0\.0\.1:{running.port}/([0-9a-f]+)/oview", running.printed())[1]


def folder_of(running):
    """Of a trial, in NNI's directory."""
    folders = running.directory.glob("nni/*/environments/local-env/trials/*")
    return until(lambda: next((folder for folder in folders if (folder / "trial.stdout").exists()), None), running)


def ask(running, path, method="GET", **headers):
    """Without the client's own idea of what a path should be."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.request(method, f"/{prefix_of(running)}{path}", headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


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


def test_no_command_line_has_the_secret_path(running):
    until(lambda: trial_of(running.directory), running)
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert any(str(running.directory) in command for command in commands)
    assert not [command for command in commands if prefix_of(running) in command]


def modes_of_files_with(secret, *roots):
    """Path -> modes of the file and of the directory nearest to it that others cannot enter, if any."""
    for path in {path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()}:
        if secret.encode() in path.read_bytes():
            closed = [stat.S_IMODE(parent.stat().st_mode) & 0o077 == 0 for parent in path.parents]
            yield path, stat.S_IMODE(path.stat().st_mode), any(closed[:-2])


def test_no_file_that_others_can_read_has_the_secret_path(running):
    until(lambda: "Connect to" in "".join(log.read_text() for log in running.directory.rglob("trial.log")), running)
    found = list(modes_of_files_with(prefix_of(running), running.directory, Path.home()))
    names = {path.name for path, _, _ in found}
    assert {"nnimanager.log", "experiment.log", "trial.log", ".experiment"} <= names
    assert {mode for _, mode, _ in found} == {0o600}, found
    assert all(closed for _, _, closed in found), found


def test_what_trials_write_is_as_open_as_the_user_has_it(running):
    """The umask of NNI's manager is not theirs."""
    umask = os.umask(0o022)
    os.umask(umask)
    folder = until(lambda: next(running.directory.glob("trials/*"), None), running)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example", "Origin": "http://attacker.example"},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"},
    ],
)
def test_other_pages_cannot_use_the_secret_path(running, headers):
    assert ask(running, "/api/v1/nni/check-status")[0] == 200
    assert ask(running, "/api/v1/nni/check-status", **headers)[0] == 403
    assert ask(running, "/api/v1/nni/experiment", "DELETE", **headers)[0] == 403
    assert ask(running, "/api/v1/nni/check-status")[0] == 200


@pytest.mark.parametrize(("host", "origin"), [("attacker.example", None), ("localhost", "http://attacker.example")])
def test_other_pages_get_no_channel(running, host, origin):
    led_here = socket.create_connection(("127.0.0.1", running.port))
    with led_here, pytest.raises(InvalidHandshake, match="403"):
        connect(f"ws://{host}:{running.port}/{prefix_of(running)}/tuner", origin=origin, sock=led_here)


def escape(text):
    """Every character, so that no client and no server makes it shorter."""
    return "".join(f"%{ord(character):02x}" for character in text)


def test_files_of_a_trial_are_served(running):
    folder = folder_of(running)
    (folder / "notes.txt").write_text("mine")
    route = f"/api/v1/nni/trial-file/{folder.name}"
    assert ask(running, f"{route}/notes.txt") == (200, b"mine")
    assert ask(running, f"{route}/stdout")[0] == 200
    assert ask(running, f"{route}/trial.log")[0] == 200


def test_the_route_of_a_trials_files_does_not_leave_its_folder(running, tmp_path):
    folder = folder_of(running)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (folder.parent / f"{folder.name}x").mkdir(exist_ok=True)
    (folder.parent / f"{folder.name}x" / "secret.txt").write_text("secret")
    for name, target in {"link": secret, "up": tmp_path, "stdout.link": "/etc/passwd"}.items():
        (folder / name).symlink_to(target)
    up = os.path.relpath(secret, folder)
    names = [up, str(secret), f"../{folder.name}x/secret.txt", "..", ".", "link", "up/secret.txt", "stdout.link"]
    names += [f"./{up}", f"notes/../{up}", f"/{up}", "\0", f"{up}\0.txt", up.replace("/", "\\"), "/proc/self/environ"]
    route = "/api/v1/nni/trial-file"
    asked = [f"{route}/{folder.name}/{escape(name)}" for name in names]
    asked += [f"{route}/{folder.name}/{name}" for name in (up, up.replace("/", "%2F"), up.replace("/", "%252F"))]
    asked += [f"{route}/{escape(f'{folder.name}/{up}'.rpartition('/')[0])}/secret.txt"]
    asked += [
        f"{route}/{escape(os.path.relpath(tmp_path, folder.parent))}/secret.txt",
        f"{route}/{escape('..')}/stdout",
    ]
    for path in asked:
        status, text = ask(running, path)
        assert b"secret\n" not in text + b"\n", path
        assert b"root:" not in text, path
        assert status in (404, 500) or b"<title>Neural Network Intelligence</title>" in text, (path, status, text)


@pytest.mark.parametrize("route", ["/logs", ""])
def test_routes_of_static_files_stay_where_they_are(running, route):
    for up in ("../" * 20, "..%2f" * 20, "%2e%2e/" * 20, "%2e%2e%2f" * 20, "..\\" * 20, "/", "//"):
        status, text = ask(running, f"{route}/{up}etc/passwd")
        assert b"root:" not in text, up
        assert status in (400, 403, 404) or b"<title>Neural Network Intelligence</title>" in text, (up, status)


def test_tensorboard_makes_no_directories_elsewhere(running, tmp_path):
    nni = next(running.directory.glob("nni/*/trials/.."), next(running.directory.glob("nni/*")))
    answer = requests.post(
        f"http://127.0.0.1:{running.port}/{prefix_of(running)}/api/v1/nni/tensorboard",
        json={"trials": os.path.relpath(tmp_path / "made", nni / "trials")},
        timeout=20,
    )
    assert answer.status_code == 400
    assert "a trial's id must consist of letters and digits" in answer.json()["error"]
    assert not (tmp_path / "made").exists()
