"""Bytes on a disk: two levels of folders, written to a temporary file, synced, then renamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from imaging.blobs import PIECE, Blobs, Damaged, Incoming, Kept, Segments, is_digest, joined


class Disk(Blobs):
    """A folder of files named by what is in them. Several servers may share it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def keep(self, incoming: Incoming) -> str:
        target = self._path(incoming.digest)
        if _renewed(target, incoming.size):
            incoming.discard()
            return incoming.digest
        incoming.sync()
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(incoming.path, target)
        _sync_folder(target.parent)
        return incoming.digest

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise FileNotFoundError(digest)
        return self.folder / digest[:2] / digest[2:4] / digest

    def read(self, digest: str, segments: Segments | None = None) -> bytes:
        with open(self._path(digest), "rb", buffering=0) as file:
            if segments is None:
                return file.readall()
            return b"".join(_exactly(file.fileno(), length, offset) for offset, length in joined(segments))

    def chunks(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        pieces = self._pieces(self._path(digest), start, end)
        return chain((next(pieces, b""),), pieces)  # begun, so that what is not there is told at once

    def _pieces(self, path: Path, start: int, end: int | None) -> Iterator[bytes]:
        with open(path, "rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size if end is None else end
            for at in range(start, end, PIECE):
                yield _exactly(file.fileno(), min(PIECE, end - at), at)

    def size(self, digest: str) -> int:
        return self._path(digest).stat().st_size

    @contextmanager
    def local(self, digest: str) -> Iterator[Path]:
        path = self._path(digest)
        path.stat()
        yield path

    def exists(self, digest: str) -> bool:
        return is_digest(digest) and self._path(digest).exists()

    def digests(self) -> Iterator[Kept]:
        for folder in (below for top in _folders(self.folder) for below in _folders(top)):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_digest(entry.name):
                        with suppress(FileNotFoundError):
                            told = entry.stat()
                            yield Kept(entry.name, told.st_mtime, told.st_size)

    def remove(self, digest: str, older_than: float) -> bool:
        path = self._path(digest)
        with suppress(OSError), open(path, "r+b", buffering=0) as file:  # on a disk that cannot lock nothing is removed
            fcntl.flock(file, fcntl.LOCK_EX)  # who keeps the same bytes renews them before this, or finds them gone after
            held = os.fstat(file.fileno())
            if held.st_mtime < older_than and os.path.samestat(held, os.stat(path)):
                path.unlink()
                return True
        return False

    def marked(self) -> str | None:
        try:
            return (self.folder / "mark").read_text()
        except FileNotFoundError:
            return None

    def mark(self, text: str) -> None:
        temporary = self.spool / f"mark-{text}"
        temporary.write_text(text)
        os.replace(temporary, self.folder / "mark")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if len(path.name) == 2 and path.is_dir())


def _renewed(path: Path, size: int) -> bool:
    """Whether the bytes are there: as young as new, and nobody removes them. Those of another size are damaged: not there."""
    try:
        with open(path, "rb", buffering=0) as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH)
            told = os.fstat(file.fileno())
            if told.st_nlink == 0 or told.st_size != size:
                return False
            os.utime(file.fileno())
            return True
    except FileNotFoundError:
        return False


def _exactly(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length:  # Linux gives 2 GB at most
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            raise Damaged("An image's file is shorter than it was.")
        data += more
    return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
