"""A file as it is read for a data set: its head in memory, and only so much of it."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from imaging.dataset.refusal import CANNOT_UNDERSTAND, Refused
from imaging.part10 import IN_MEMORY

MAX_READS = 1_500_000  # an element or an item is up to three


class File:
    """A file whose head is in memory, and which is opened where more of it is read."""

    def __init__(self, path: Path, head: bytes) -> None:
        self.path, self._at = path, 0
        self._opened: BinaryIO | None = None
        self.head = head or self._whole().read(IN_MEMORY)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = self._whole().seek(at, 2) if whence == 2 else self._at + at if whence == 1 else at
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._at + size
        if size >= 0 and end <= len(self.head):
            data = self.head[self._at : end]
        else:
            whole = self._whole()
            whole.seek(self._at)
            data = whole.read(size)
        self._at += len(data)
        return data

    def _whole(self) -> BinaryIO:
        if self._opened is None:
            self._opened = open(self.path, "rb")  # noqa: SIM115 - closed with it
        return self._opened


class Cut(Exception):
    """Not all of it is in the head of the file."""


class Counted:
    """A file of which only so much is read: eight bytes of it may become an object of a kilobyte. ``cut``: it is the head of one.

    Errors: Refused, Cut."""

    def __init__(self, file: BinaryIO | File, cut: bool = False) -> None:
        self._read, self._reads, self._cut = file.read, 0, cut
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > MAX_READS:
            raise Refused(CANNOT_UNDERSTAND, "The data set has too many elements.")
        data = self._read(size)
        if self._cut and len(data) < size:
            raise Cut
        return data
