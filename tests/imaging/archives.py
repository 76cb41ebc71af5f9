"""Other archives for tests, all on the loopback: DCMTK's ``dcmqrscp``, a second server of ours, and a wire that can be cut."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pydicom
import pytest
import uvicorn
from conftest import Server
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from joserfc.jwk import RSAKey

needs_dcmtk = pytest.mark.skipif(shutil.which("dcmqrscp") is None, reason="needs DCMTK: make test-tools")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(check: Callable[[], Any], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not so within {seconds} seconds")


class Pacs:
    """``dcmqrscp``, as the PACS that is sent to and pulled from. ``movers``: AE titles that it may move to, with their ports."""

    def __init__(self, folder: Path, movers: dict[str, int] | None = None, *options: str) -> None:
        self.folder, self.port, self.options = folder, free_port(), options
        self.storage = folder / "PACS"
        self.storage.mkdir(parents=True)
        hosts = "\n".join(f"h{n} = ({title}, localhost, {port})" for n, (title, port) in enumerate((movers or {}).items()))
        (folder / "dcmqrscp.cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nPACS {self.storage} RW (200, 1024mb) ANY\nAETable END\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Pacs:
        command = ["dcmqrscp", "-q", "+B", *self.options, "-c", str(self.folder / "dcmqrscp.cfg")]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until(lambda: listens(self.port))
        return self

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # it and those that it forked, one an association
            self.process.wait(10)
            gc.collect()  # pynetdicom leaves sockets of broken connections to it: now, where that is expected

    def files(self) -> dict[str, list[Path]]:
        """What it keeps, by SOP Instance UID."""
        found: dict[str, list[Path]] = {}
        for path in self.storage.iterdir():
            if path.name != "index.dat":
                with suppress(pydicom.errors.InvalidDicomError):
                    found.setdefault(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID), []).append(path)
        return found

    def load(self, *files: bytes) -> None:
        """By DCMTK's own ``storescu``."""
        folder = self.folder / f"in-{time.monotonic_ns()}"
        folder.mkdir()
        for number, data in enumerate(files):
            (folder / f"{number}.dcm").write_bytes(data)
        command = ["storescu", "-aec", "PACS", "127.0.0.1", str(self.port), "+sd", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def data_set(file: bytes | Path) -> bytes:
    """A file's bytes after its meta information: what DIMSE carries as it is."""
    data = file.read_bytes() if isinstance(file, Path) else file
    length = int.from_bytes(data[140:144], "little")  # (0002,0000) UL
    return data[144 + length :]


class Wire:
    """Between us and a peer: it carries so many bytes to it, and so many ``back``, and then breaks."""

    def __init__(self, port: int, left: int, back: int = 10**9) -> None:
        self.port, self._to, self.left, self.back = free_port(), port, left, back
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._over.is_set():
                ours, _ = self._server.accept()
                try:
                    theirs = socket.create_connection(("127.0.0.1", self._to), 5)
                except OSError:
                    ours.close()
                    continue
                threading.Thread(target=self._carry, args=(ours, theirs, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(theirs, ours, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(16_384):
                if counted:
                    self.left -= len(data)
                else:
                    self.back -= len(data)
                if self.left < 0 or self.back < 0:
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        gc.collect()


class Second(Server):
    """Another server of ours, on a port of its own, with its jobs."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.port = free_port()
        super().__init__(uri, folder, port=self.port, study_quiet_seconds=0.5)
        self.key = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS384"}, auto_kid=True)
        jwks = {"keys": [self.key.as_dict(private=False)]}
        self.auth.clients.add("network", "system/*.cruds", jwks=jwks, organization="remote")
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, "127.0.0.1", self.port, log_level="critical", access_log=False, ws="none")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def jwk(self) -> str:
        return json.dumps(self.key.as_dict(private=True))

    def instances(self, owner: str = "remote") -> dict[str, bytes]:
        """What it keeps of an organisation's, by SOP Instance UID."""
        rows = self.installation.images.index.instances.find({"owner": owner}, {"uid": 1, "digest": 1})
        return {row["uid"]: self.installation.images.blobs.read(row["digest"]) for row in rows}

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        super().close()


def series_of(data: bytes, count: int, **members: Any) -> list[bytes]:
    """A study of so many instances, with file meta information that fits."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    for name, value in members.items():
        setattr(dataset, name, value)
    files = []
    for number in range(1, count + 1):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset.InstanceNumber = number
        file = io.BytesIO()
        pydicom.dcmwrite(file, dataset)
        files.append(file.getvalue())
    return files


def uids(files: list[bytes]) -> dict[str, bytes]:
    return {str(pydicom.dcmread(io.BytesIO(f), stop_before_pixels=True).SOPInstanceUID): f for f in files}


class Both:
    """An installation and the archive in it."""

    def __init__(self, installation: Any) -> None:
        self._installation = installation

    def __getattr__(self, name: str) -> Any:
        whole = name in ("database", "gauges", "restrictions", "store_audit")
        return getattr(self._installation if whole else self._installation.images, name)


@contextmanager
def quiet(uri: str, folder: Path, **settings: Any) -> Iterator[Server]:
    """A server whose jobs run only when a test says so."""
    server = Server(uri, folder, **settings)
    server.installation.prepare()
    yield server
    server.installation.images.sending.stop()
    server.installation.images.pulling.stop()
    server.close()


def pem(key: Any) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def certificate(name: str, key: Any, issuer: tuple[x509.Name, Any] | None) -> x509.Certificate:
    """By an authority, or the authority's own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by, signing = issuer or (subject, key)
    now = datetime.now(timezone.utc)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1)).add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
    )  # fmt: skip
    if issuer:
        built = built.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    return built.sign(signing, hashes.SHA256())
