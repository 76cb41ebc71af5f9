"""The audit trail on its way: lines first, AuditEvents and Provenance made of them.

A write leaves its line in its own transaction; a read appends one to a local file before its reply, and a job stores closed
files as segments. Of the lines become resources when somebody reads those, and those of writes also by a job.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fhirserver import audit
from fhirserver.audit import SECURITY
from fhirserver.errors import Conflict, InsufficientStorage
from fhirserver.messages import Line
from fhirserver.moments import milliseconds
from fhirserver.search.index import index
from fhirserver.store import Store
from fhirserver.validation import Document, dumps, instant
from fhirserver.versions import Changes, Write

__all__ = ["SECURITY", "TYPES", "Trail", "materialise", "of_writes"]

log = logging.getLogger("fhirserver.trail")

_BATCH = 50  # lines in a commit: while one is written, other writers wait on the embedded database
# Reading these reads what the lines become.
TYPES = frozenset({"AuditEvent", "Provenance"})


class Trail:
    """The local file of reads, one a process, in the data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._file: Any = None

    def append(self, line: Line) -> None:
        """Written to the operating system before the reply leaves: it survives the process. Error: 507."""
        text = line.text().encode() + b"\n"
        try:
            with self._lock:
                if self._file is None:
                    self._file = open(self.folder / f"{uuid.uuid4().hex}.open", "ab", buffering=0)  # noqa: SIM115 - open until the segment is closed
                if self._file.write(text) != len(text):
                    raise OSError("short write")
        except OSError:
            self._abandon()
            raise InsufficientStorage("The audit trail cannot be written, so nothing is answered.") from None

    def _abandon(self) -> None:
        """After a write that failed, perhaps half way: the next line begins a new file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            Path(self._file.name).rename(Path(self._file.name).with_suffix(".closed"))
            self._file = None

    def store_segments(self, store: Store) -> int:
        """Close this process's file and store it, and those of processes that are gone, as segments."""
        with self._lock:
            self._close()
        closed = sorted(self.folder.glob("*.closed"))
        for path in closed:
            store.registers.add_segment({"_id": path.stem, "data": zlib.compress(path.read_bytes())})
            path.unlink(missing_ok=True)
        return len(closed)

    def waiting(self) -> int:
        """How many closed files are not stored yet."""
        return sum(1 for _ in self.folder.glob("*.closed"))

    def adopt(self) -> None:
        """At start: files that a killed process left open are closed."""
        for path in self.folder.glob("*.open"):
            if not _in_use(path):
                path.rename(path.with_suffix(".closed"))


def _in_use(path: Path) -> bool:
    """Whether some process still holds the file open (Linux); elsewhere a file a day old is taken as left behind."""
    proc = Path("/proc")
    if not proc.is_dir():
        return datetime.now(timezone.utc).timestamp() - path.stat().st_mtime < 86_400
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                if any(os.readlink(fd) == str(path.resolve()) for fd in (entry / "fd").iterdir()):
                    return True
            except OSError:
                continue
    return False


def materialise(store: Store) -> None:
    """Make resources of all lines. Ids are made from the line, so that a second run, or one beside it, changes nothing."""
    of_writes(store)
    for segment in store.registers.segments():
        lines = zlib.decompress(segment["data"]).splitlines()
        for start in range(0, len(lines), _BATCH):
            batch = lines[start : start + _BATCH]
            _made(store, [(f"{segment['_id']}-{number}", line) for number, line in enumerate(batch, start)])
        store.registers.drop_segment(segment["_id"])


def of_writes(store: Store) -> None:
    """Make resources of the lines that writes left."""
    while rows := store.registers.trail(_BATCH):
        _made(store, [(str(row["_id"]), row["line"]) for row in rows])
        store.registers.drop_trail(rows)


def _made(store: Store, lines: list[tuple[str, Any]]) -> None:
    """All in one commit; where some are there already, those of each line by themselves."""
    try:
        store.commit(_changes(store, lines))
    except Conflict:
        for one in lines if len(lines) > 1 else ():
            _made(store, [one])


def _changes(store: Store, lines: list[tuple[str, Any]]) -> Changes:
    changes = Changes()
    for id_, text in lines:
        line = _read(text)
        if line is not None:
            for number, (keys, document) in enumerate(audit.events(line)):
                _add(changes, store, f"{id_}-{number}", line, document, keys)
            for number, (base, document) in enumerate(audit.proofs(line)):
                _add(changes, store, f"{id_}-p{number}", line, document, base)
    return changes


def _read(text: str | bytes) -> Line | None:
    """None for what a crash or a full disk left of a line whose request was not answered."""
    try:
        return Line.read(text)
    except ValueError:
        log.warning("A line of the audit trail was cut short and is left out")
        return None


def _add(changes: Changes, store: Store, id_: str, line: Line, document: Document, base: list[str] | None) -> None:
    type_, owner = store.types[document["resourceType"]], line.principal.organization
    keys = base if base is not None else type_.base_keys(owner, document)
    meta = {"versionId": "1", "lastUpdated": instant(line.when)}
    text = dumps({"resourceType": type_.name, "id": id_, "meta": meta} | document)
    ts = milliseconds(line.when)
    changes.add(Write(type_.name, id_, 0, ts, "POST", owner, keys, text, document, index(type_, document)))
