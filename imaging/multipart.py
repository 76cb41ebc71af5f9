"""multipart/related, streamed: chunks in, parts out, with bounds; and parts in, bytes out.

https://www.rfc-editor.org/rfc/rfc2046#section-5.1 https://www.rfc-editor.org/rfc/rfc2387
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MAX_HEADERS = 8 * 1024
_MAX_PADDING = 64
_MAX_VALUE = 4 * 1024


class MultipartError(ValueError):
    """The body is not the multipart that its Content-Type says."""


@dataclass(frozen=True, slots=True)
class PartBegins:
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnds:
    pass


Event = PartBegins | PartData | PartEnds


class Reader:
    """Feed it chunks of any size; it holds no more than a chunk and a delimiter."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        self._buffer = b"\r\n"  # the first delimiter need not follow a line
        self._state = "preamble"

    @property
    def complete(self) -> bool:
        return self._state == "epilogue"

    def feed(self, chunk: bytes) -> Iterator[Event]:
        self._buffer += chunk
        progress = True
        while progress and self._state != "epilogue":
            before = (self._state, len(self._buffer))
            yield from self._step()
            progress = (self._state, len(self._buffer)) != before

    def _step(self) -> Iterator[Event]:
        if self._state in ("preamble", "body"):
            yield from self._until_delimiter()
        elif self._state == "headers":
            yield from self._headers()

    def _until_delimiter(self) -> Iterator[Event]:
        at, follows = self._delimiter_at()
        inside = self._state == "body"
        data, rest = self._buffer[:at], self._buffer[at:]
        if follows is None:
            self._buffer = rest
            if inside and data:
                yield PartData(data)
            return
        self._buffer = rest[len(self._delimiter) + len(follows) :]
        self._state = "epilogue" if follows == b"--" else "headers"
        if inside:
            if data:
                yield PartData(data)
            yield PartEnds()

    def _delimiter_at(self) -> tuple[int, bytes | None]:
        """Where the data end, and what ends the delimiter's line; None where no delimiter is there, or not all of it yet.

        Data may begin like a delimiter: it is one only if ``--``, or white space and a new line, follow.
        """
        at = self._buffer.find(self._delimiter)
        while at >= 0:
            rest = self._buffer[at + len(self._delimiter) : at + len(self._delimiter) + _MAX_PADDING]
            if rest.startswith(b"--"):
                return at, b"--"
            padding = rest[: len(rest) - len(rest.lstrip(b" \t"))]
            after = rest[len(padding) :]
            if after.startswith(b"\r\n"):
                return at, padding + b"\r\n"
            if len(rest) < _MAX_PADDING and after in (b"", b"\r", b"-"):
                return at, None  # it may still become one
            at = self._buffer.find(self._delimiter, at + 1)
        return max(0, len(self._buffer) - len(self._delimiter) + 1), None

    def _headers(self) -> Iterator[Event]:
        if self._buffer.startswith(b"\r\n"):
            head, rest = b"", self._buffer[2:]
        elif (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, rest = self._buffer[:end], self._buffer[end + 4 :]
        elif len(self._buffer) > _MAX_HEADERS:
            raise MultipartError("A part's headers are too long.")
        else:
            return
        # A part without a body is followed by its delimiter at once: the CRLF that ends the headers is the delimiter's too.
        self._buffer, self._state = (b"\r\n" + rest if rest.startswith(self._delimiter[2:]) else rest), "body"
        yield PartBegins(_parsed(head))


def _parsed(head: bytes) -> dict[str, str]:
    lines = [line.partition(":") for line in head.decode("latin-1").split("\r\n") if line]
    return {name.strip().lower(): value.strip() for name, _, value in lines}


def parameters(content_type: str) -> tuple[str, dict[str, str]]:
    """Media type and parameters; values may be quoted, or not though they should be (OHIF sends ``type=application/dicom``)."""
    media, *rest = unquoted_split(content_type[:_MAX_VALUE], ";")
    pairs = (part.partition("=") for part in rest)
    return media.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, equals, value in pairs if equals}


def unquoted_split(text: str, at: str) -> list[str]:
    """Split where ``at`` stands outside quotes."""
    parts, quoted = [""], False
    for character in text:
        quoted ^= character == '"'
        if character == at and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def new_boundary() -> str:
    return uuid.uuid4().hex


def written(boundary: str, parts: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[bytes]:
    """The bytes of a multipart message, a chunk at a time."""
    for content_type, chunks in parts:
        yield f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
        yield from chunks
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
