"""DIMSE as the provider: C-ECHO and C-STORE. A data set goes from the connection to its file, and is never in memory.

PS3.7: https://dicom.nema.org/medical/dicom/current/output/chtml/part07/PS3.7.html
PS3.4 Annex B, C-STORE and its statuses: https://dicom.nema.org/medical/dicom/current/output/chtml/part04/sect_B.2.3.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from imaging import part10
from imaging.blobs import Incoming
from imaging.dataset import CANNOT_UNDERSTAND, DATA_SET_MISMATCH, OUT_OF_RESOURCES, is_uid
from imaging.dimse.upperlayer import INVALID_VALUE, UNEXPECTED_PDU, Association, Fragment, Violation
from imaging.part10 import Named

log = logging.getLogger("imaging.dimse")

SUCCESS, PROCESSING_FAILURE, NO_SUCH_OPERATION = 0x0000, 0x0110, 0x0211
_C_STORE_RQ, _C_ECHO_RQ, _C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
_NO_DATA_SET = 0x0101
_AFFECTED_CLASS, _FIELD, _MESSAGE, _DATA_SET_TYPE, _AFFECTED_INSTANCE = 0x0002, 0x0100, 0x0110, 0x0800, 0x1000
_MAX_COMMAND = 16 * 1024
_READ = 8  # times the largest instance: what is read of one that is too large, so that its sender can be answered


@dataclass(frozen=True, slots=True)
class Status:
    """How a request ended; ``comment``: for the sender's log, 64 characters of it, without what was in the data set."""

    code: int
    comment: str = ""


class Service(Protocol):
    """Where the instances of one association go. Whatever ``receive`` and ``store`` raise costs that instance alone."""

    largest: int

    def receive(self) -> Incoming | Status:
        """A file for the next one, or why there is none."""

    def store(self, incoming: Incoming, named: Named) -> Status:
        """The file is whole; it is the service's from now on."""

    def failed(self, error: Exception) -> Status:
        """What to tell the sender of an unexpected error."""

    def ended(self) -> None:
        """The association is over, however."""


def serve(association: Association, service: Service) -> None:
    """Until it is released. Error: Ended."""
    fragments = association.fragments()
    try:
        for first in fragments:
            association.amid = True
            _Message(association, service, fragments).answered(first)
            association.amid = False
    finally:
        service.ended()


class _Message:
    """A request that arrives, with its data set where it has one."""

    def __init__(self, association: Association, service: Service, fragments: Iterator[Fragment]) -> None:
        self._association, self._service, self._fragments = association, service, fragments

    def answered(self, first: Fragment) -> None:
        command = _decoded(self._command(first))
        context = self._association.contexts.get(first.context)
        if context is None or len(command.get(_FIELD, b"")) != 2 or len(command.get(_MESSAGE, b"")) != 2:
            raise Violation(INVALID_VALUE)
        field = int.from_bytes(command[_FIELD], "little")
        has_data = command.get(_DATA_SET_TYPE) != _NO_DATA_SET.to_bytes(2, "little")
        if field == _C_CANCEL_RQ:
            return
        if field == _C_STORE_RQ:
            named = Named(_text(command, _AFFECTED_CLASS), _text(command, _AFFECTED_INSTANCE), context.syntax)
            status = (
                self._stored(first.context, named, context.sop_class) if has_data else Status(CANNOT_UNDERSTAND, "No data set.")
            )
        else:
            if has_data:
                self._drain(first.context)
            status = Status(SUCCESS if field == _C_ECHO_RQ else NO_SUCH_OPERATION)
        self._association.send_command(first.context, _response(field, command, status))

    def _command(self, fragment: Fragment) -> bytes:
        found, context = b"", fragment.context
        while True:
            if not fragment.command or fragment.context != context or len(found) + len(fragment.data) > _MAX_COMMAND:
                raise Violation(UNEXPECTED_PDU)
            found += fragment.data
            if fragment.last:
                return found
            fragment = self._next()

    def _next(self) -> Fragment:
        fragment = next(self._fragments, None)
        if fragment is None:
            raise Violation(UNEXPECTED_PDU)
        return fragment

    def _data(self, context: int) -> Iterator[memoryview]:
        read = 0
        while True:
            fragment = self._next()
            if fragment.command or fragment.context != context:
                raise Violation(UNEXPECTED_PDU)
            read += len(fragment.data)
            if read > _READ * self._service.largest:
                raise Violation(INVALID_VALUE)
            yield fragment.data
            if fragment.last:
                return

    def _drain(self, context: int) -> None:
        for _ in self._data(context):
            pass

    def _stored(self, context: int, named: Named, sop_class: str) -> Status:
        begun = _named_wrong(named, sop_class) or self._begun(named)
        if isinstance(begun, Status):
            self._drain(context)
            return begun
        try:
            problem = self._received(context, begun)
        except BaseException:
            begun.discard()
            raise
        if problem:
            begun.discard()
            return problem
        try:
            return self._service.store(begun, named)
        except Exception as error:
            begun.discard()
            return self._service.failed(error)

    def _received(self, context: int, incoming: Incoming) -> Status | None:
        """The data set is read to its end, also when it is not wanted any more: until then its sender does not listen."""
        problem: Status | None = None
        for chunk in self._data(context):
            problem = problem or self._written(incoming, chunk)
        return problem

    def _begun(self, named: Named) -> Incoming | Status:
        try:
            incoming = self._service.receive()
        except Exception as error:
            return self._service.failed(error)
        if isinstance(incoming, Status):
            return incoming
        problem = self._written(incoming, part10.header(named))
        if problem:
            incoming.discard()
        return problem or incoming

    def _written(self, incoming: Incoming, chunk: bytes | memoryview) -> Status | None:
        if incoming.size + len(chunk) > self._service.largest:
            return Status(OUT_OF_RESOURCES, "The instance is larger than what is taken.")
        try:
            incoming.write(bytes(chunk))
        except OSError as error:
            return self._service.failed(error)
        return None


def _named_wrong(named: Named, sop_class: str) -> Status | None:
    """UIDs are checked before anything else."""
    if not is_uid(named.uid) or not is_uid(named.sop_class):
        return Status(DATA_SET_MISMATCH, "Affected SOP Class or Instance UID is not a UID.")
    if named.sop_class != sop_class:
        return Status(DATA_SET_MISMATCH, "Affected SOP Class UID is not that of the context.")
    return None


# ---------------------------------------------------------------- command sets: PS3.7 section 6.3.1, Implicit VR Little Endian


def _decoded(command: bytes) -> dict[int, bytes]:
    """Elements of group 0000. Error: Violation."""
    found, at = {}, 0
    while at < len(command):
        group, element = int.from_bytes(command[at : at + 2], "little"), int.from_bytes(command[at + 2 : at + 4], "little")
        length = int.from_bytes(command[at + 4 : at + 8], "little")
        if group or at + 8 + length > len(command):
            raise Violation(INVALID_VALUE)
        found[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def _text(command: dict[int, bytes], element: int) -> str:
    return command.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _response(field: int, command: dict[int, bytes], status: Status) -> bytes:
    def short(value: int) -> bytes:
        return value.to_bytes(2, "little")

    comment = status.comment.encode("ascii", "replace")[:64]
    elements = {
        _AFFECTED_CLASS: command.get(_AFFECTED_CLASS, b""),
        _FIELD: short(field | 0x8000),
        0x0120: command[_MESSAGE],
        _DATA_SET_TYPE: short(_NO_DATA_SET),
        0x0900: short(status.code),
        0x0902: comment + b" " * (len(comment) % 2),
        _AFFECTED_INSTANCE: command.get(_AFFECTED_INSTANCE, b""),
    }
    body = b"".join(
        b"\0\0" + short(element) + len(value).to_bytes(4, "little") + value for element, value in elements.items() if value
    )
    return b"\0\0\0\0\x04\0\0\0" + len(body).to_bytes(4, "little") + body
