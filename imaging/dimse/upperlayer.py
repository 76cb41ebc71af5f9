"""The DICOM upper layer as the one who is called: an association over one connection, everything in it bounded.

PS3.8 section 9: https://dicom.nema.org/medical/dicom/current/output/chtml/part08/chapter_9.html

pynetdicom's classes read and write the PDUs that negotiate. Its reactor is not used: that polls in two threads for each
association, keeps in memory whatever length a peer announces, and waits for ever within a PDU.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import PresentationContext

from imaging.attributes import BIG_ENDIAN, EXPLICIT_LE, IMPLICIT_LE
from imaging.dataset import is_uid
from imaging.part10 import IMPLEMENTATION_UID

MAX_PDU = 131_072
VERIFICATION = "1.2.840.10008.1.1"

_MAX_REQUEST = 256 * 1024
_ASSOCIATE_RQ, _P_DATA, _RELEASE_RQ, _ABORT = 0x01, 0x04, 0x05, 0x07
_RELEASE_RP = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"
_LOOK_UP = 0.5  # seconds between looks whether the server stops

# PS3.8 Table 9-21 and section 9.3.8: (result, source, reason)
CALLING_UNKNOWN, CALLED_UNKNOWN = (1, 1, 3), (1, 1, 7)
CONGESTION, LIMIT_EXCEEDED = (2, 3, 1), (2, 3, 2)
UNRECOGNISED_PDU, UNEXPECTED_PDU, INVALID_VALUE = 1, 2, 6

_LOSSY = frozenset({"50", "51", "81", "91", "93", "112", "203"})
_NOT_KEPT = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"} | {
    f"1.2.840.10008.1.2.4.{last}" for last in (94, 95, 204, 205)  # deflated, or the pixels are elsewhere
} | {f"1.2.840.10008.1.2.7.{last}" for last in (1, 2, 3)})  # fmt: skip
KEPT = frozenset(ALL_TRANSFER_SYNTAXES) - _NOT_KEPT
_STORAGE = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)


class Ended(Exception):
    """The association is over: aborted, cut, or left alone for too long."""


class Idle(Ended):
    """Nothing was begun for too long, or the server stops."""


class Violation(Ended):
    """What the peer sent is not the protocol; it is told so."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for an association to be agreed on, in all; for the next bytes of what has begun; for the next message."""

    agreement: float = 30.0
    network: float = 30.0
    idle: float = 300.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who calls, and whom: the AE titles that the request names, the address that it comes from, the certificate's SHA-256."""

    calling: str
    called: str
    address: str
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Context:
    """A presentation context that was accepted."""

    sop_class: str
    syntax: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """A presentation data value: PS3.8 Annex E."""

    context: int
    command: bool
    last: bool
    data: memoryview


class Association:
    """One connection. ``stopping``: the server stops; what has begun is brought to its end."""

    def __init__(
        self, connection: socket.socket, address: str, fingerprint: str | None, limits: Limits, stopping: threading.Event
    ) -> None:
        self._connection, self._address, self._fingerprint = connection, address, fingerprint
        self._limits, self._stopping = limits, stopping
        self._buffer = bytearray(MAX_PDU)
        self.contexts: dict[int, Context] = {}
        self.amid = False  # a message has begun and is not answered yet

    # ------------------------------------------------------------ negotiation

    def negotiate(self, until: float, decide: Callable[[Peer], tuple[int, int, int] | None]) -> bool:
        """Whether there is an association now; ``decide`` gives the reason why not. Error: Ended."""
        self._connection.settimeout(max(0.1, until - time.monotonic()))
        type_, length = self._head()
        if type_ != _ASSOCIATE_RQ:
            raise Violation(UNEXPECTED_PDU if 1 <= type_ <= 7 else UNRECOGNISED_PDU)
        if length > _MAX_REQUEST:
            raise Violation(INVALID_VALUE)
        body = bytearray(length)
        self._fill(memoryview(body), until)
        try:
            pdu = A_ASSOCIATE_RQ()
            pdu.decode(b"\x01\x00" + length.to_bytes(4, "big") + bytes(body))
            asked = pdu.to_primitive()
            peer = Peer(asked.calling_ae_title.strip(), asked.called_ae_title.strip(), self._address, self._fingerprint)
            results = [_answered(context) for context in asked.presentation_context_definition_list]
        except Exception:  # a parser of hostile input, whatever it raises
            raise Violation(INVALID_VALUE) from None
        refused = decide(peer)
        answer = A_ASSOCIATE()
        if refused:
            answer.result, answer.result_source, answer.diagnostic = refused
            self.send(A_ASSOCIATE_RJ(answer).encode())
            return False
        answer.application_context_name = asked.application_context_name
        answer.calling_ae_title, answer.called_ae_title = asked.calling_ae_title, asked.called_ae_title
        answer.result, answer.result_source = 0, 1
        answer.presentation_context_definition_results_list = results
        length_, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
        length_.maximum_length_received = MAX_PDU
        implementation.implementation_class_uid = IMPLEMENTATION_UID
        answer.user_information = [length_, implementation]
        self.contexts = {
            c.context_id: Context(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in results if not c.result
        }
        self.send(A_ASSOCIATE_AC(answer).encode())
        return True

    # ------------------------------------------------------------ data

    def fragments(self) -> Iterator[Fragment]:
        """Until the peer releases the association. A fragment's data are good until the next is asked for. Error: Ended."""
        while True:
            type_, length = self._awaited() if not self.amid else self._head()
            if type_ == _P_DATA:
                yield from self._values(length)
            elif type_ in (_RELEASE_RQ, _ABORT) and length == 4:
                self._fill(memoryview(self._buffer)[:4])
                if type_ == _ABORT or self.amid:
                    raise Ended
                self.send(_RELEASE_RP)
                return
            else:
                raise Violation(UNEXPECTED_PDU if 1 <= type_ <= 7 else UNRECOGNISED_PDU)

    def _values(self, length: int) -> Iterator[Fragment]:
        if length > MAX_PDU:
            raise Violation(INVALID_VALUE)
        data = memoryview(self._buffer)[:length]
        self._fill(data)
        at = 0
        while at < length:
            size = int.from_bytes(data[at : at + 4], "big")
            if size < 2 or at + 4 + size > length:
                raise Violation(INVALID_VALUE)
            flags = data[at + 5]
            yield Fragment(data[at + 4], bool(flags & 1), bool(flags & 2), data[at + 6 : at + 4 + size])
            at += 4 + size

    def send_command(self, context: int, command: bytes) -> None:
        """A command set is shorter than any maximum that a peer may give."""
        value = (len(command) + 2).to_bytes(4, "big") + bytes((context, 0x03)) + command
        self.send(bytes((_P_DATA, 0)) + len(value).to_bytes(4, "big") + value)

    def abort(self, reason: int = 0) -> None:
        """By the provider: PS3.8 section 9.3.8."""
        self.send(bytes((_ABORT, 0, 0, 0, 0, 4, 0, 0, 2, reason)))

    def send(self, data: bytes) -> None:
        try:
            self._connection.settimeout(self._limits.network)
            self._connection.sendall(data)
        except OSError:
            raise Ended from None

    # ------------------------------------------------------------ bytes

    def _awaited(self) -> tuple[int, int]:
        """The next PDU's head, for which a peer may take its time; Ended when the server stops meanwhile."""
        first = memoryview(bytearray(1))
        until = time.monotonic() + self._limits.idle
        self._connection.settimeout(_LOOK_UP)
        while not self._stopping.is_set():
            try:
                if not self._connection.recv_into(first):
                    raise Ended
                return self._head(bytes(first))
            except TimeoutError:
                if time.monotonic() > until:
                    raise Idle from None
            except OSError:
                raise Ended from None
        raise Idle

    def _head(self, begun: bytes = b"") -> tuple[int, int]:
        rest = bytearray(6 - len(begun))
        self._fill(memoryview(rest))
        head = begun + bytes(rest)
        return head[0], int.from_bytes(head[2:], "big")

    def _fill(self, view: memoryview, until: float | None = None) -> None:
        """All of it, or Ended."""
        try:
            while view:
                left = self._limits.network if until is None else min(self._limits.network, until - time.monotonic())
                self._connection.settimeout(max(left, 0.01))
                count = self._connection.recv_into(view)
                if not count or (until is not None and time.monotonic() > until):
                    raise Ended
                view = view[count:]
        except OSError:
            raise Ended from None


def _answered(asked: PresentationContext) -> PresentationContext:
    """PS3.8 Table 9-18: accepted, abstract syntax not supported (3), or transfer syntaxes not supported (4)."""
    answer = PresentationContext()
    answer.context_id, answer.abstract_syntax = asked.context_id, asked.abstract_syntax
    offered = [str(syntax) for syntax in asked.transfer_syntax]
    chosen = chosen_syntax(offered)
    answer.transfer_syntax = [chosen or offered[0]]
    answer.result = 3 if not _stored_or_verified(str(asked.abstract_syntax)) else 0 if chosen else 4
    return answer


def _stored_or_verified(sop_class: str) -> bool:
    """Storage of every kind, and of private classes; no query, no printing, no worklist."""
    storage = sop_class in _STORAGE or sop_class.startswith("1.2.840.10008.5.1.4.1.1.")
    return sop_class == VERIFICATION or (is_uid(sop_class) and (storage or not sop_class.startswith("1.2.840.10008.")))


def chosen_syntax(offered: list[str]) -> str | None:
    """One that is kept, as the peer has it rather than made for us, and never one that makes it lose something if that can be."""
    kept = [syntax for syntax in offered if syntax in KEPT]
    native = [syntax for syntax in (EXPLICIT_LE, IMPLICIT_LE) if syntax in kept]
    lossless = [s for s in kept if s not in native and s != BIG_ENDIAN and s.rpartition(".")[2] not in _LOSSY]
    return next(iter([*lossless, *native, *kept]), None)
