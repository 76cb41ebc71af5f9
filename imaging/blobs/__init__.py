"""Bytes by content: named by their sha256, on a disk or in S3, behind one small interface.

A file is kept as it was received, but for the preamble, which is zeroed (PS3.10: it has no meaning; CVE-2019-11687). It is received
into a spool file, and is durable when ``keep`` returns: files first, rows second. What no row names is an orphan, and is removed when
it is a day old; ``keep`` of bytes that are there makes them young again, and no removal comes between.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from imaging.part10 import IN_MEMORY

PREAMBLE = 128
PIECE = 1024 * 1024  # bytes of a file that are in memory at once
Segments = tuple[tuple[int, int], ...]  # (offset, length) each

_DIGEST = re.compile("[0-9a-f]{64}")


class Away(Exception):
    """The store of the images does not answer, or not to us. Later it may."""


class Damaged(OSError):
    """The bytes are not all there, or not what their name says."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is there: its digest, when it was last kept (seconds since 1970), its bytes; ``aside``: it is about to be removed."""

    digest: str
    modified: float
    size: int
    aside: bool = False


class Incoming:
    """A file that is being received. ``head``: what it begins with. ``charset``: the Specific Character Set of its data set, where that names none, by its source."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.charset: str | None = None
        self.head = bytearray()
        self.size = 0
        self._hash = hashlib.sha256()
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by keep or discard

    def write(self, chunk: bytes) -> None:
        if self.size < PREAMBLE:
            zeroed = min(PREAMBLE - self.size, len(chunk))
            chunk = bytes(zeroed) + chunk[zeroed:]
        self.size += len(chunk)
        if len(self.head) < IN_MEMORY:
            self.head += chunk[: IN_MEMORY - len(self.head)]
        self._hash.update(chunk)
        rest = memoryview(chunk)
        while rest:  # on a disk that is filling up, a write may take a part, and the next one fails
            rest = rest[self._file.write(rest) :]

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def rest(self) -> None:
        """It is all there and waits to be kept: meanwhile it holds no descriptor."""
        self._file.close()

    def sync(self) -> None:
        if self._file.closed:
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115 - closed below
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class Blobs(ABC):
    """Errors of all that asks: FileNotFoundError for what is not there, Damaged, Away."""

    def __init__(self, spool: Path) -> None:
        """``spool``: a local folder for what is being received."""
        self.spool = spool / "incoming"
        self.spool.mkdir(parents=True, exist_ok=True, mode=0o700)

    def receive(self) -> Incoming:
        return Incoming(self.spool / uuid.uuid4().hex)

    @abstractmethod
    def keep(self, incoming: Incoming) -> str:
        """Durable under its digest when this returns, and as young as new."""

    @abstractmethod
    def read(self, digest: str, segments: Segments | None = None) -> bytes:
        """The whole file, or the bytes of its segments: one ranged read each, adjacent ones together."""

    @abstractmethod
    def chunks(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start`` to before ``end``, a piece at a time. What is not there is told at once."""

    @abstractmethod
    def size(self, digest: str) -> int: ...

    @abstractmethod
    def local(self, digest: str) -> AbstractContextManager[Path]:
        """A file to read, for who needs one, until the context ends."""

    @abstractmethod
    def exists(self, digest: str) -> bool: ...

    @abstractmethod
    def digests(self) -> Iterator[Kept]:
        """All that is there."""

    @abstractmethod
    def remove(self, digest: str, older_than: float) -> bool:
        """An orphan, unless it was kept since then; whether it was removed."""

    @abstractmethod
    def marked(self) -> str | None:
        """What ``mark`` wrote last. By it a database is known that is not the one which names these bytes, or is older."""

    @abstractmethod
    def mark(self, text: str) -> None: ...

    def sweep(self, older_than: float) -> int:
        """Remove what uploads that were cut off left behind."""
        return sum(_remove_old(path, older_than) for path in self.spool.iterdir())


def _remove_old(path: Path, older_than: float) -> bool:
    try:
        old = path.stat().st_mtime < older_than
        if old:
            path.unlink()
    except FileNotFoundError:  # it was kept, or another process swept it
        return False
    return old


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def joined(segments: Segments) -> list[tuple[int, int]]:
    """Those that follow each other as one."""
    found: list[tuple[int, int]] = []
    for offset, length in segments:
        if found and sum(found[-1]) == offset:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((offset, length))
    return found


def opened(setting: str | None, folder: Path, endpoint: str | None = None) -> Blobs:
    """``setting``: a folder, ``s3://bucket/prefix``, or None for ``folder``, which is where S3 has its spool and cache.

    Errors: ValueError for a setting that is neither.
    """
    if setting is None or not setting.startswith("s3://"):
        if setting is not None and "://" in setting:
            raise ValueError(f"the images' bytes are in a folder or in s3://bucket/prefix, not in {setting}")
        from imaging.blobs.disk import Disk

        return Disk(Path(setting) if setting else folder)
    try:
        from imaging.blobs.s3 import S3
    except ImportError as error:
        raise ValueError(f"images in S3 need the package {error.name}: pip install 'fhirserver[s3]'") from None
    bucket, _, prefix = setting.removeprefix("s3://").partition("/")
    if not bucket:
        raise ValueError("the setting of the images' bytes names no bucket: s3://bucket/prefix")
    return S3(bucket, prefix.strip("/"), folder, endpoint)
