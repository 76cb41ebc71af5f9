"""A server that runs: the database it needs, the workers, and the run file that tells other commands where it is."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from fastapi import FastAPI

from fhirserver import logs
from fhirserver.app import connect, create_app
from fhirserver.embedded import EmbeddedDatabase
from fhirserver.settings import Settings


def serve(settings: Settings, workers: int, before: Callable[[Settings, str], None] = lambda *_: None) -> int:
    """Run until a signal ends it; the embedded database ends with it. ``before`` has the database first, given its URI."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    # uvicorn raises the signal again when it has stopped; it must not end this process before the database is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _exclusive(settings.data_dir), suppress(KeyboardInterrupt):
        embedded = None if settings.mongodb_uri else EmbeddedDatabase(settings.data_dir)
        uri = embedded.start() if embedded else settings.mongodb_uri or ""
        try:
            _write_run_file(settings, uri)
            before(settings, uri)
            _run(settings, uri, workers, embedded)
        finally:
            run_file(settings).unlink(missing_ok=True)
            if embedded:
                embedded.stop()
    return 0


def _run(settings: Settings, uri: str, workers: int, embedded: EmbeddedDatabase | None) -> None:
    # The access log would hold search values, which are patient data.
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "access_log": False,
        "server_header": False,
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": settings.trusted_proxies,
        "ws": "none",
        "log_config": None,
    }
    if settings.tls_cert:
        options |= {
            "ssl_certfile": settings.tls_cert,
            "ssl_keyfile": settings.tls_key,
            "ssl_ciphers": "ECDHE+AESGCM:ECDHE+CHACHA20",
        }
    if workers == 1:
        crashes = (lambda: embedded.crashes) if embedded else int
        with connect(uri) as client:
            uvicorn.run(create_app(settings, client[settings.database], crashes=crashes), **options)
        return
    with tempfile.TemporaryDirectory(prefix="fhirserver-metrics-") as counted:
        _run_several(settings, uri, workers, counted, options)


def _run_several(settings: Settings, uri: str, workers: int, counted: str, options: dict[str, Any]) -> None:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = counted
    os.environ["FHIRSERVER_MONGODB_URI"] = uri
    os.environ["FHIRSERVER_DATA_DIR"] = str(settings.data_dir)
    os.environ["FHIRSERVER_HOST"], os.environ["FHIRSERVER_PORT"] = settings.host, str(settings.port)
    uvicorn.run("fhirserver.running:worker", factory=True, workers=workers, **options)


def worker() -> FastAPI:
    """One of several worker processes: everything from the environment that ``serve`` set."""
    settings = Settings()
    logs.configure(settings.log_format)
    assert settings.mongodb_uri is not None
    return create_app(settings, connect(settings.mongodb_uri)[settings.database])


def run_file(settings: Settings) -> Path:
    return settings.data_dir / "run.json"


def _write_run_file(settings: Settings, uri: str) -> None:
    with open(os.open(run_file(settings), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"pid": os.getpid(), "url": settings.base, "mongodb_uri": uri}, file)


@contextmanager
def database_uri(settings: Settings) -> Iterator[str]:
    """For a command: the configured database, the running server's, or one started for as long as the command takes."""
    if settings.mongodb_uri:
        yield settings.mongodb_uri
        return
    if uri := of_running_server(settings):
        yield uri
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _exclusive(settings.data_dir):
        embedded = EmbeddedDatabase(settings.data_dir)
        try:
            yield embedded.start()
        finally:
            embedded.stop()


def of_running_server(settings: Settings) -> str | None:
    """The database of the server that runs on this data folder; None where none does."""
    try:
        found = json.loads(run_file(settings).read_text())
    except (OSError, ValueError):
        return None
    return str(found["mongodb_uri"]) if psutil.pid_exists(found["pid"]) else None


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One server on one data folder. Error: RuntimeError."""
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another server is using the data folder {folder}") from None
        yield
