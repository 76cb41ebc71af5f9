"""A server in a process of its own, with its own data folder and database: for the flow tests and the benches."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

START_SECONDS = 60
Asked = tuple[str, str | None, str | None, str]  # an OAuth client, its organisation, who signs in, scopes


class Running:
    """``fhirserver serve`` in a process of its own; with ``ca``, the file of who signed its certificate, over TLS."""

    def __init__(self, folder: Path, ca: Path | None = None, **settings: str) -> None:
        self.folder = folder
        self.verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca else True
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"{'https' if ca else 'http'}://127.0.0.1:{self.port}"
        # A database of its own, unless it is given one
        self.environment = {name: value for name, value in os.environ.items() if name != "FHIRSERVER_MONGODB_URI"}
        self.environment |= {"FHIRSERVER_PORT": str(self.port)} | {f"FHIRSERVER_{k.upper()}": v for k, v in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[httpx.Client] = []

    def start(self, workers: int = 1) -> float:
        """Seconds until it is ready."""
        begun = time.monotonic()
        with open(self.folder / "serve.log", "ab") as log:
            command = [
                sys.executable,
                "-m",
                "fhirserver",
                "serve",
                "--port",
                str(self.port),
                "--data",
                str(self.folder / "data"),
                "--workers",
                str(workers),
            ]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        while time.monotonic() - begun < START_SECONDS:
            assert self.process.poll() is None, self.log()
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, verify=self.verify).status_code == 200:
                    return time.monotonic() - begun
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log())

    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    def command(self, *arguments: str, given: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fhirserver", *arguments, "--data", str(self.folder / "data")],
            env=self.environment, capture_output=True, text=True, timeout=60, input=given,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commands(self, *many: tuple[str, ...], given: str = "") -> list[str]:
        """Some commands in one process, which is faster: their lines, in order."""
        run = "import json, sys; from fhirserver.__main__ import main\nsys.exit(any(map(main, json.loads(sys.argv[1]))))"
        arguments = json.dumps([[*one, "--data", str(self.folder / "data")] for one in many])
        done = subprocess.run(
            [sys.executable, "-c", run, arguments],
            env=self.environment, capture_output=True, text=True, timeout=60, input=given,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()

    def client(
        self, id_: str, organization: str | None = None, *, user: str | None = None, scope: str = "system/*.cruds"
    ) -> httpx.Client:
        """An HTTP client with a token from the command line; the OAuth client is registered on the way."""
        return self.several((id_, organization, user, scope))[0]

    def several(self, *asked: Asked, before: tuple[tuple[str, ...], ...] = ()) -> list[httpx.Client]:
        """As ``client``, of one process; ``before``: commands that come first."""
        commands = list(before)
        for id_, organization, *_ in asked:
            place = ["--organization", organization] if organization else []
            known = ["--secret", f"secret of {id_}", "--scope", "system/*.cruds user/*.cruds", *place]
            commands.append(("client", "add", id_, *known))
        commands += [
            ("token", "--client", id_, "--scope", scope, *(["--user", user] if user else [])) for id_, _, user, scope in asked
        ]
        made = [
            httpx.Client(
                base_url=f"{self.url}/fhir", headers={"Authorization": f"Bearer {token}"}, timeout=30, verify=self.verify
            )
            for token in self.commands(*commands)[-len(asked) :]
        ]
        self.clients += made
        return made

    @property
    def uri(self) -> str:
        """Of the database that it has started."""
        return str(json.loads((self.folder / "data" / "run.json").read_text())["mongodb_uri"])

    @property
    def database(self) -> psutil.Process:
        assert self.process is not None
        [child] = [
            c for c in psutil.Process(self.process.pid).children(recursive=True) if "secantusd-py" in " ".join(c.cmdline())
        ]
        return child

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.stop()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def kill(self) -> None:
        """``kill -9`` of the server and its database, at once."""
        assert self.process is not None
        database = self.database
        self.process.kill()
        database.kill()
        self.process.wait(10)
        database.wait(10)
