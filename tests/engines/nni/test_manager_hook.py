"""What is loaded into NNI's manager before its own code, in NNI's own node with a small server in NNI's place."""

import http.client
import io
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import nni
import nni_node
import pytest
from fontTools.ttLib import TTFont

from autocompress.engines.nni import manager
from tests.e2e.support import free_port

NODE = Path(nni_node.__path__[0], "node")
HOOK = Path(manager.__file__).with_name("manager_hook.js")
PREFIX = "0123456789abcdef" * 2

SERVER = """
const http = require('http');
const port = Number(process.argv[process.argv.indexOf('--port') + 1]);
const server = http.createServer((request, answer) => answer.end(`reached ${request.url}`));
server.on('upgrade', (request, socket) => socket.end('HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n'));
server.listen(port, () => console.log(JSON.stringify([process.argv, process.env, process.umask()])));
"""


def node(code, *arguments, **environment):
    known = {**os.environ, "NODE_OPTIONS": f'--require "{HOOK}"', **environment}
    return [str(NODE), "-e", code, "--", *arguments], known


@pytest.fixture(scope="module")
def server():
    port = free_port()
    command, environment = node(SERVER, "--port", str(port), "--action", "create", AUTOCOMPRESS_URL_PREFIX=PREFIX)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield port, json.loads(process.stdout.readline())
        finally:
            process.kill()


def ask(server, path=f"/{PREFIX}/oview", method="GET", **headers):
    port, _ = server
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value.replace("PORT", str(port)))
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def upgrade(server, path=f"/{PREFIX}/tuner", **headers):
    port, _ = server
    lines = {"Host": f"localhost:{port}", "Upgrade": "websocket", "Connection": "Upgrade", **headers}
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        connection.sendall(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode())
        return int(connection.recv(100).split()[1])


def test_the_secret_comes_by_the_environment_and_is_handed_on_to_nobody(server):
    port, (argv, environment, umask) = server
    channel = f"ws://localhost:{port}/{PREFIX}/tuner"
    assert argv[-4:] == ["--url-prefix", PREFIX, "--tuner-command-channel", channel]
    assert not {"AUTOCOMPRESS_URL_PREFIX", "NODE_OPTIONS"} & set(environment)
    assert umask == 0o077


def test_a_manager_that_shows_has_no_tuner():
    code = "console.log(JSON.stringify(process.argv))"
    command, environment = node(code, "--port", "1", "--action", "view", AUTOCOMPRESS_URL_PREFIX=PREFIX)
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed)[-2:] == ["--url-prefix", PREFIX]


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "[::1]:PORT", "localhost:9000", "LOCALHOST"])
@pytest.mark.parametrize("origin", [False, True])
def test_the_page_answers_by_the_names_of_this_machine_on_any_forwarded_port(server, host, origin):
    headers = {"Origin": f"http://{host}"} if origin else {}
    assert ask(server, Host=host, **headers) == (200, f"reached /{PREFIX}/oview")


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:PORT",
        "localhost.attacker.example:PORT",
        "127.0.0.1.attacker.example",
        "attacker.example#localhost",
        "localhost@attacker.example",
        "192.168.0.7:PORT",
        "0.0.0.0:PORT",
        "127.0.0.1:PORT:1",
        "",
    ],
)
def test_a_name_that_was_made_to_lead_here_is_refused(server, host):
    """DNS rebinding: the page of an attacker is then of the same origin."""
    rule = "Forbidden: Host must be localhost, 127.0.0.1 or [::1]"
    assert ask(server, Host=host) == (403, rule)
    assert ask(server, Host=host, Origin=f"http://{host}") == (403, rule)
    assert upgrade(server, Host=host.replace("PORT", str(server[0]))) == 403


ORIGINS = [
    "http://attacker.example",
    "https://127.0.0.1.attacker.example",
    "http://localhost:3000",
    "http://localhost",
    "null",
    "file://",
    "",
]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(server, method, origin):
    answer = ask(server, f"/{PREFIX}/api/v1/nni/trial-jobs", method, Origin=origin)
    assert answer == (403, "Forbidden: Origin must be this page")


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_page_of_another_origin_gets_no_channel(server, origin):
    assert upgrade(server, Origin=origin) == 403


def test_the_channels_of_tuner_and_trials(server):
    """Neither sends an origin; a browser would send this page's."""
    assert upgrade(server) == 101
    assert upgrade(server, Origin=f"http://localhost:{server[0]}") == 101
    assert upgrade(server, path="/tuner") == 404


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_loads_without_telling_its_origin(server, site):
    """Pictures and scripts."""
    assert ask(server, Sec_Fetch_Site=site, Sec_Fetch_Dest="script")[0] == 403
    assert ask(server, Sec_Fetch_Site=site, Sec_Fetch_Dest="iframe")[0] == 403
    assert ask(server, Sec_Fetch_Site=site, Sec_Fetch_Dest="document")[0] == 200, "a link that the user follows"
    assert ask(server, method="POST", Sec_Fetch_Site=site, Sec_Fetch_Dest="document")[0] == 403, "a form"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_what_the_page_itself_loads(server, site):
    assert ask(server, Sec_Fetch_Site=site, Sec_Fetch_Dest="script")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/", f"/{PREFIX}x", f"/{PREFIX[:-1]}", f"//{PREFIX}/", f"/x/{PREFIX}/", f"/{PREFIX.upper()}/"]
    + [f"/{PREFIX}/{netron}" for netron in ("netron", "netron/", "Netron/x", "/netron", "%6eetron", "netron?x")],
)
def test_what_is_outside_is_not_there(server, path):
    assert ask(server, path) == (404, "Not Found")
    assert ask(server, path, Host="attacker.example", Origin="null") == (404, "Not Found"), "not even a reason"


@pytest.mark.parametrize("path", ["", "/", "?x=1", "/netronic", "/api/v1/nni/check-status"])
def test_what_is_inside_is_there(server, path):
    assert ask(server, f"/{PREFIX}{path}") == (200, f"reached /{PREFIX}{path}")


SPAWN = """
const { spawnSync } = require('child_process');
const [folder] = process.argv.slice(1);
const trial = { NNI_TRIAL_JOB_ID: 'abc', NNI_OUTPUT_DIR: folder, PATH: process.env.PATH };
const options = { shell: '/bin/bash', env: trial, stdio: 'inherit' };
const child = require('child_process').spawn('python3 -c "import os; os.mkdir(\\'' + folder + '/made\\')"', options);
child.on('exit', () => {
    const board = require('child_process').spawn('tensorboard', ['--bind_all --logdir_spec=1:x', '--port=6006'],
        { shell: true, env: { PATH: folder }, stdio: 'inherit' });
});
"""


def test_children(tmp_path):
    """A trial has the user's umask, its log is the owner's; TensorBoard listens to nobody else."""
    board = tmp_path / "tensorboard"
    board.write_text('#!/bin/sh\necho "$@"\n')
    board.chmod(0o755)
    command, environment = node(SPAWN, str(tmp_path))
    printed = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, umask=0o027, timeout=60
    )
    assert printed.stdout == "--host=127.0.0.1 --logdir_spec=1:x --port=6006\n", printed
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "trial.log").stat().st_mode & 0o777 == 0o600


VERSIONS = """
const { spawn } = require('child_process');
spawn(process.argv[1], ['-m', 'nni.tools.nni_manager_scripts.collect_version_info'], { stdio: 'inherit' });
"""


def test_versions_are_nnis_own_without_its_import():
    command, environment = node(VERSIONS, sys.executable, PYTHONPROFILEIMPORTTIME="1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {
        "nniVersion": nni.__version__,
        "nniPath": nni.__path__[0],
        "pythonVersion": "{}.{}.{}-{}-{}".format(*sys.version_info),
        "pythonPath": sys.executable,
    }
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "importlib.metadata" in imported
    assert "nni" not in imported


OVER_SSH = """
const { Client } = require(require.resolve('ssh2', { paths: [process.cwd()] }));
for (const script of ['create_trial_keeper_dir abc env', 'launch_trial_keeper /home/x']) {
    Client.prototype.exec(`PATH="/x" python -m nni.tools.nni_manager_scripts.${script}`);
}
"""


def test_nnis_directory_on_another_machine_is_made_for_its_owner_only(tmp_path):
    """The address of the manager is written below it."""
    recorder = tmp_path / "recorder.js"
    recorder.write_text(
        "const { Client } = require(require.resolve('ssh2', { paths: [process.cwd()] }));\n"
        "Client.prototype.exec = (command) => console.log(command);\n"
    )
    command, environment = node(OVER_SSH, "--port", "1", AUTOCOMPRESS_OVER_SSH="1", AUTOCOMPRESS_URL_PREFIX=PREFIX)
    environment["NODE_OPTIONS"] = f'--require "{recorder}" {environment["NODE_OPTIONS"]}'
    printed = subprocess.run(
        command, env=environment, cwd=NODE.parent, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    script = 'PATH="/x" python -m nni.tools.nni_manager_scripts.'
    assert printed == [
        f"umask 077; {script}create_trial_keeper_dir abc env",
        f"{script}launch_trial_keeper /home/x",
    ]


@pytest.fixture(scope="module")
def page_server():
    """In the directory that has NNI's page."""
    port = free_port()
    command, environment = node(SERVER, "--port", str(port), "--action", "create", AUTOCOMPRESS_URL_PREFIX=PREFIX)
    folder = nni_node.__path__[0]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            yield port, json.loads(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("place", ["", "/", "/oview", "/detail", "/experiment", "/index.html", "/detail?x=1"])
def test_the_page_runs_a_script_of_ours_first(page_server, place):
    status, text = ask(page_server, f"/{PREFIX}{place}")
    first, second = text.index("window.FabricConfig"), text.index("!function()")
    assert (status, first < second) == (200, True)


@pytest.mark.parametrize("place", ["/static/js/main.js", "/api/v1/nni/experiment", "/oview/x", "/autocompress/x.js"])
def test_all_else_is_nnis(page_server, place):
    assert ask(page_server, f"/{PREFIX}{place}") == (200, f"reached /{PREFIX}{place}")


def test_icons_are_there_and_only_for_the_page(page_server):
    port, _ = page_server
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{PREFIX}/autocompress/fabric-icons-3-0.woff") as answer:
        font = TTFont(io.BytesIO(answer.read()))
    assert {0xE70D, 0xE711, 0xE8FD} <= font.getBestCmap().keys()
    assert ask(page_server, f"/{PREFIX}/autocompress/a.woff", Origin="http://elsewhere.example")[0] == 403
    assert ask(page_server, "/autocompress/a.woff")[0] == 404
