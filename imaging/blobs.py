"""Bytes by content: sha256, two levels of folders, written to a temporary file, synced, then renamed.

A file is kept as it was received, but for the preamble, which is zeroed (PS3.10: it has no meaning; CVE-2019-11687).
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREAMBLE = 128
CHUNK = 1024 * 1024


class Incoming:
    """A file that is being received."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by keep or discard

    def write(self, chunk: bytes) -> None:
        if self.size < PREAMBLE:
            zeroed = min(PREAMBLE - self.size, len(chunk))
            chunk = bytes(zeroed) + chunk[zeroed:]
        self.size += len(chunk)
        self._hash.update(chunk)
        rest = memoryview(chunk)
        while rest:  # on a disk that is filling up, a write may take a part, and the next one fails
            rest = rest[self._file.write(rest) :]

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class Blobs:
    """A folder of files named by what is in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)

    def receive(self) -> Incoming:
        return Incoming(self._incoming / uuid.uuid4().hex)

    def keep(self, incoming: Incoming) -> str:
        """Durable under its digest when this returns."""
        target = self.path(incoming.digest)
        if target.exists():
            incoming.discard()
            return incoming.digest
        incoming.sync()
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(incoming.path, target)
        _sync_folder(target.parent)
        return incoming.digest

    def path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest[2:4] / digest

    def read(self, digest: str, segments: tuple[tuple[int, int], ...] | None = None) -> bytes:
        """The whole file, or the bytes of its (offset, length) segments."""
        with open(self.path(digest), "rb") as file:
            if segments is None:
                return file.read()
            return b"".join(os.pread(file.fileno(), length, offset) for offset, length in segments)

    def chunks(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The file, or its bytes from ``start`` up to ``end``, with no more than a chunk of it in memory."""
        with open(self.path(digest), "rb") as file:
            file.seek(start)
            left = self.size(digest) - start if end is None else end - start
            while left > 0 and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    @contextmanager
    def local(self, digest: str) -> Iterator[Path]:
        """The file, for those who need one."""
        yield self.path(digest)

    def sweep(self, older_than: float) -> int:
        """Remove what uploads that were cut off left behind."""
        old = [path for path in self._incoming.iterdir() if path.stat().st_mtime < older_than]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
