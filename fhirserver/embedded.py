"""The embedded database: SecantusDB as a child process, for trial and tests.

It listens on a loopback port, asks for a random password kept in a 0600 file, syncs each commit to disk, and ends with
the process that started it. When it ends by itself it is reported and started again on the same port.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

log = logging.getLogger("fhirserver.embedded")

_USER = "fhirserver"
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_LOOK_SECONDS = 3.0
_INTERNAL_ERROR = 1
_PR_SET_PDEATHSIG = 1


class EmbeddedDatabase:
    """One SecantusDB on one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.crashes = 0
        self._secret = folder / "database.json"
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, port: int | None = None) -> str:
        """Start it, made ready the first time, and return its URI. Errors: RuntimeError with what to do."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._secret.exists():
            self._provision()
        port, ready = port or _free_port(), threading.Event()
        failed: list[str] = []
        # The thread that starts the child also waits for it: PR_SET_PDEATHSIG is bound to the thread that made the child.
        thread = threading.Thread(target=self._keep_running, args=(port, ready, failed), name="embedded-database", daemon=True)
        thread.start()
        ready.wait()
        if failed:
            raise RuntimeError(failed[0])
        return self.uri(port)

    def uri(self, port: int) -> str:
        password = json.loads(self._secret.read_text())["password"]
        return f"mongodb://{_USER}:{password}@127.0.0.1:{port}/?directConnection=true&authSource=admin"

    def stop(self) -> None:
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            _end(process)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _keep_running(self, port: int, ready: threading.Event, failed: list[str]) -> None:
        while not self._stopping.is_set():
            self._process = _spawn(self.folder, port, "--auth", "--sync-on-commit")
            up = _wait_for(port, self._process)
            if not up and not ready.is_set():
                failed.append(f"The embedded database did not start; see {self.folder / 'database.log'}.")
                ready.set()
                return
            ready.set()
            code = self._ended(port)
            if not self._stopping.is_set():
                self.crashes += 1
                log.error("The embedded database ended unexpectedly (code %s); starting it again.", code)
                time.sleep(min(0.2 * self.crashes, 5.0))

    def _ended(self, port: int) -> int:
        """The exit code, when it has one. A storage engine that has panicked (a full disk) never works again in its process,
        which goes on running: it is ended, and a new one recovers what was committed."""
        assert self._process is not None
        with MongoClient[dict[str, object]](self.uri(port), serverSelectionTimeoutMS=2000, maxPoolSize=1) as client:
            while True:
                try:
                    return self._process.wait(_LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    if not self._stopping.is_set() and _failed(client):
                        log.error("The embedded database's storage has failed; it is ended.")
                        self._process.kill()

    def _provision(self) -> None:
        """Make the user before the first start with --auth: until then there is nothing to protect."""
        port, password = _free_port(), secrets.token_urlsafe(32)
        process = _spawn(self.folder, port, "--sync-on-commit")
        if not _wait_for(port, process):
            raise RuntimeError(f"The embedded database did not start; see {self.folder / 'database.log'}.")
        try:
            with MongoClient[dict[str, object]](f"mongodb://127.0.0.1:{port}/?directConnection=true") as client:
                client.admin.command("createUser", _USER, pwd=password, roles=["root"])
        except PyMongoError as error:
            raise RuntimeError("The embedded database refused its first user.") from error
        finally:
            process.kill()  # what it has answered is synced, and it takes seconds to end by itself
            process.wait()
        temporary = self._secret.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"password": password}, file)
        temporary.rename(self._secret)


def _failed(client: MongoClient[dict[str, object]]) -> bool:
    """Whether the simplest read fails inside the server; that it is slow or away is another matter."""
    try:
        client.admin["alive"].find_one({})
    except OperationFailure as error:
        return error.code == _INTERNAL_ERROR
    except PyMongoError:
        return False
    return False


def program() -> str:
    """Errors: RuntimeError where the extra is not installed."""
    beside = Path(sys.executable).with_name("secantusd-py")
    found = str(beside) if beside.exists() else shutil.which("secantusd-py")
    if found is None:
        raise RuntimeError(
            "No database: set FHIRSERVER_MONGODB_URI, or install the embedded one: pip install 'fhirserver[embedded]'"
        )
    return found


def _spawn(folder: Path, port: int, *options: str) -> subprocess.Popen[bytes]:
    command = [
        program(),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--storage-path",
        str(folder / "db"),
        "--log-level",
        "WARNING",
    ]
    with open(folder / "database.log", "ab") as log_file:
        return subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            preexec_fn=_end_with_parent,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and end it where it does not: what was committed is on disk."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        # Not SIGTERM: the server waits for its clients then, and its commits are on disk anyhow.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False
