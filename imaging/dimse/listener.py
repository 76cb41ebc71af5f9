"""A port on which DICOM associations are taken: who may hold one, how many, and how it ends.

Of several processes the one that could bind the port owns it; the kernel gives it to another at once when that one dies.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from imaging.dimse.service import Service, serve
from imaging.dimse.upperlayer import (
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    CONGESTION,
    LIMIT_EXCEEDED,
    Association,
    Ended,
    Idle,
    Limits,
    Peer,
    Violation,
)

log = logging.getLogger("imaging.dimse.listener")

_LINGER = 1.0
_AGAIN = 1.0  # seconds between attempts to own the port
_WAITING = 40  # connections without an association; the oldest makes room for a new one


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen. ``title``: the AE title that callers must name; None: any. ``most``: associations at a time."""

    host: str
    port: int
    title: str | None
    tls: ssl.SSLContext | None = None
    most: int = 20
    limits: Limits = field(default_factory=Limits)


def loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return address == "localhost"


def client_certificates(certificate: Path, key: Path, authorities: Path) -> ssl.SSLContext:
    """TLS in which both sides show a certificate. Errors: OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authorities)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@dataclass(eq=False, slots=True)
class _Connection:
    socket: socket.socket
    address: str
    thread: threading.Thread | None = None
    agreed: bool = False
    closed: bool = False


class Listener:
    """``admit``: the service for a peer, or None where it is not known here; whatever it raises asks the peer to try later."""

    def __init__(self, place: Place, admit: Callable[[Peer], Service | None]) -> None:
        self._place, self._admit = place, admit
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._thread = threading.Thread(target=self._run, name="dimse", daemon=True)
        self.owns = False  # whether this process has the port

    @property
    def associations(self) -> int:
        return sum(connection.agreed for connection in self._connections)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 10.0) -> None:
        """No new associations; what is being received is brought to its end, for so many seconds."""
        self._stopping.set()
        until = time.monotonic() + patience
        if self._thread.ident:
            self._thread.join(patience)
        for connection in list(self._connections):
            if connection.agreed and connection.thread:
                connection.thread.join(max(0.0, until - time.monotonic()))
        for connection in list(self._connections):
            _shut(connection)
            if connection.thread:
                connection.thread.join(1.0)

    # ------------------------------------------------------------ the port

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._bound() as listening:
                    self.owns = True
                    self._accept(listening)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    log.error("Cannot listen for DICOM on port %s (%s); trying again", self._place.port, type(error).__name__)
            self.owns = False
            self._stopping.wait(_AGAIN)

    def _bound(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._place.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self._place.host, self._place.port))
            listening.listen(64)
            listening.settimeout(0.5)
        except OSError:
            listening.close()
            raise
        log.info("Listening for DICOM on %s port %s", self._place.host, self._place.port)
        return listening

    def _accept(self, listening: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                accepted, address = listening.accept()
            except TimeoutError:
                continue
            except OSError as error:  # out of file descriptors, or the peer has gone
                log.warning("A DICOM connection was not taken (%s)", type(error).__name__)
                self._stopping.wait(0.1)
                continue
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._begin(_Connection(accepted, str(address[0])))

    def _begin(self, connection: _Connection) -> None:
        with self._lock:
            waiting = [c for c in self._connections if not c.agreed]
            if len(waiting) >= _WAITING:
                _shut(waiting[0])
                self._connections.remove(waiting[0])
            self._connections.append(connection)
        connection.thread = threading.Thread(target=self._attended, args=(connection,), name="association", daemon=True)
        connection.thread.start()

    # ------------------------------------------------------------ one connection

    def _attended(self, connection: _Connection) -> None:
        try:
            self._serve(connection)
        except (Ended, OSError):
            pass
        except Exception as error:  # our own fault, which costs this association alone
            log.error("Unexpected %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        finally:
            _close(connection)
            with self._lock:
                if connection in self._connections:
                    self._connections.remove(connection)

    def _serve(self, connection: _Connection) -> None:
        until = time.monotonic() + self._place.limits.agreement
        fingerprint = None
        if self._place.tls:
            connection.socket.settimeout(self._place.limits.agreement)
            secured = self._place.tls.wrap_socket(connection.socket, server_side=True, do_handshake_on_connect=False)
            connection.socket = secured
            if connection.closed:
                raise Ended
            secured.do_handshake()
            fingerprint = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
        association = Association(connection.socket, connection.address, fingerprint, self._place.limits, self._stopping)
        found: list[Service] = []
        try:
            if association.negotiate(until, lambda peer: self._refused(connection, peer, found)):
                serve(association, found[0])
        except Violation as violation:
            log.warning("A peer at %s does not speak DICOM as it should", connection.address)
            association.abort(violation.reason)
        except Idle:
            association.abort()

    def _refused(self, connection: _Connection, peer: Peer, found: list[Service]) -> tuple[int, int, int] | None:
        if self._place.title is not None and peer.called != self._place.title:
            return CALLED_UNKNOWN
        try:
            service = self._admit(peer)
        except Exception as error:
            log.warning("An association was put off (%s)", type(error).__name__)
            return CONGESTION
        if service is None:
            log.warning("An association was rejected: %s at %s is not known here", ascii(peer.calling), connection.address)
            return CALLING_UNKNOWN
        with self._lock:
            if sum(c.agreed for c in self._connections) >= self._place.most:
                return LIMIT_EXCEEDED
            connection.agreed = True
        found.append(service)
        return None


def _shut(connection: _Connection) -> None:
    """Wakes the thread that waits for it."""
    connection.closed = True
    with suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def _close(connection: _Connection) -> None:
    """What was sent last, a rejection or an abort, is to arrive: for a moment, the peer may close first."""
    until = time.monotonic() + _LINGER
    with suppress(OSError, ValueError):
        connection.socket.settimeout(_LINGER)
        connection.socket.shutdown(socket.SHUT_WR)
        while time.monotonic() < until and not connection.closed and connection.socket.recv(65536):
            pass
    connection.socket.close()
