"""Files that hold DICOM instances: given one by one, in folders, in ZIPs, on CDs.

PS3.10 section 7.1 (a file's head): https://dicom.nema.org/medical/dicom/current/output/chtml/part10/chapter_7.html
A DICOMDIR (PS3.3 annex F) says what else is on a medium; it is not read: the files themselves are, and names are never followed.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

HEAD = 4096
_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
_ENTRIES = 200_000  # of a ZIP
_RATIO, _ALWAYS = 100, 1024**3  # a ZIP may unfold to so many times its size, or to so many bytes
_UNREADABLE = (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, zlib.error)
_UNPRINTABLE = re.compile("[^\\x20-\\x7e\\u00a0-\\ud7ff\\ue000-\\ufffd]+")


class MediaError(ValueError):
    """What cannot be read, in words."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file; ``archive`` and ``entry`` where it is in a ZIP."""

    path: Path
    size: int
    archive: zipfile.ZipFile | None = None  # closed with the last who knows it
    entry: zipfile.ZipInfo | None = None

    @property
    def name(self) -> str:
        name = f"{self.path}!{self.entry.filename}" if self.entry else str(self.path)
        return _UNPRINTABLE.sub("?", name)


@dataclass(slots=True)
class Passed:
    """What was passed over, and what could not be read."""

    links: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Head:
    """What the first bytes tell: whether it is a DICOM file, or a medium's directory, and the SOP Instance UID."""

    dicom: bool
    directory: bool = False
    uid: str = ""


def files(paths: Iterable[Path], passed: Passed) -> Iterator[Found]:
    """All that is there, folders and ZIPs unfolded; a ZIP in a ZIP is not. Links in folders are not followed.

    Errors: MediaError for a path that is not there.
    """
    for path in paths:
        if not path.exists():
            raise MediaError(f"there is no {path}")
        for one in _below(path, passed) if path.is_dir() else (path,):
            try:
                told = one.stat()
                if not stat.S_ISREG(told.st_mode):
                    passed.links += 1
                elif _is_zip(one):
                    yield from _unfolded(one, told.st_size)
                else:
                    yield Found(one, told.st_size)
            except _UNREADABLE as error:
                passed.unreadable.append((_UNPRINTABLE.sub("?", str(one)), _reason(error)))


def _below(folder: Path, passed: Passed) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        passed.unreadable.append((_UNPRINTABLE.sub("?", str(error.filename)), _reason(error)))

    for at, folders, names in os.walk(folder, onerror=failed):
        folders.sort()
        for name in sorted(names):
            path = Path(at, name)
            if path.is_symlink():
                passed.links += 1
            else:
                yield path
        passed.links += sum(Path(at, name).is_symlink() for name in folders)


def _is_zip(path: Path) -> bool:
    """By its first bytes; a DICOM file whose preamble looks like one is a DICOM file."""
    with open(path, "rb") as file:
        start = file.read(132)
    return start[:4] in (b"PK\x03\x04", b"PK\x05\x06") and start[128:] != b"DICM"


def _unfolded(path: Path, size: int) -> Iterator[Found]:
    archive = zipfile.ZipFile(path)
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > _ENTRIES:
        raise MediaError(f"the ZIP has more than {_ENTRIES} files")
    if sum(entry.file_size for entry in entries) > max(_ALWAYS, _RATIO * size):
        raise MediaError(f"the ZIP unfolds to more than {_RATIO} times its size")
    for entry in entries:
        if not stat.S_ISLNK(entry.external_attr >> 16):
            yield Found(path, entry.file_size, archive, entry)


class Reader:
    """A file's bytes, never more than its size. Errors: MediaError, and of nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except _UNREADABLE as error:
            raise MediaError(_reason(error)) from None


@contextmanager
def opened(found: Found) -> Iterator[Reader]:
    """Error: MediaError."""
    try:
        if found.archive is None or found.entry is None:
            file: IO[bytes] = open(found.path, "rb")  # noqa: SIM115 - closed below
        elif found.entry.flag_bits & 1:
            raise MediaError("it is encrypted")
        else:
            file = found.archive.open(found.entry)
    except _UNREADABLE as error:
        raise MediaError(_reason(error)) from None
    with file:
        yield Reader(file)


def _reason(error: Exception) -> str:
    if isinstance(error, MediaError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"it cannot be read ({type(error).__name__})"


def head(start: bytes) -> Head:
    """Of the first bytes of a file. The file meta information is Explicit VR Little Endian, whatever follows."""
    if start[128:132] != b"DICM":
        return Head(False)
    found = {}
    at = 132
    while at + 8 <= len(start) and start[at : at + 2] == b"\x02\x00":
        element, vr = start[at + 2 : at + 4], start[at + 4 : at + 6]
        long = vr in (b"OB", b"UN", b"OW", b"SQ", b"UT")
        begin = at + (12 if long else 8)
        length = int.from_bytes(start[at + 8 : at + 12] if long else start[at + 6 : at + 8], "little")
        found[element] = start[begin : begin + length].decode("ascii", "replace").strip("\0 ")
        at = begin + length
    return Head(True, found.get(b"\x02\x00") == _DIRECTORY, found.get(b"\x03\x00", ""))
