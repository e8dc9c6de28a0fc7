"""Another machine, as far as this one can be: a network of its own, an SSH server, and a home of its own."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.support import skip

_NUMBERS = itertools.count()
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class Machine:
    host: str
    port: int
    key: Path
    home: Path


def require_machines():
    """Skip where no such machine can be made; where tests must not be skipped, fail."""
    there = {"sshd": Path(SSHD).exists(), "ip": shutil.which("ip") is not None, "root": os.geteuid() == 0}
    if lacking := [name for name, is_there in there.items() if not is_there]:
        skip(f"needs {', '.join(lacking)}")


@contextlib.contextmanager
def machine(folder, **environment):
    """A machine that reaches nothing of this one but through SSH.

    Args:
        folder: for its keys and its home.
        environment: variables of all its processes.
    """
    number = next(_NUMBERS)  # a network that was deleted takes its time to go
    name, net = f"ac{os.getpid()}n{number}", f"10.213.{(7 * os.getpid() + number) % 256}"
    with network(name, net):
        home = folder / "home"
        home.mkdir()
        environment = {"HOME": home, "OMP_NUM_THREADS": 1, **environment}  # its trials share the cores, too
        config = folder / "sshd_config"
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        lines = [
            "Port 2222",
            f"ListenAddress {net}.2",
            f"HostKey {folder}/host",
            f"AuthorizedKeysFile {folder}/user.pub",
            "StrictModes no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
            "UsePAM no",
            f"PidFile {folder}/sshd.pid",
            f"Subsystem sftp internal-sftp -d {home}",
            "SetEnv " + " ".join(f"{key}={value}" for key, value in environment.items()),
        ]
        config.write_text("\n".join(lines) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, SSHD, "-D", "-f", str(config), "-E", str(folder / "sshd.log")]
        )
        try:
            yield Machine(f"{net}.2", 2222, folder / "user", home)
        finally:
            inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
            for pid in inside.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            server.wait()


@contextlib.contextmanager
def network(name, net):
    """A network namespace, joined to this one by a cable."""
    commands = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add {net}.1/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add {net}.2/30 dev {name}b",
        f"ip -n {name} link set {name}b up",
        f"ip -n {name} link set lo up",
        f"ip -n {name} route add default via {net}.1",
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)  # the cable goes with it


PYTHON_PATH = str(Path(sys.executable).parent)
