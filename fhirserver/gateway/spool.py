"""A folder of instances that were taken and are not delivered yet. What is in it survives a cut of the power.

``incoming``: being received · ``waiting``: durable, to be sent, named by arrival and content · ``refused``: what the server does
not take, each with the reason beside it. Nothing is removed from ``waiting`` but by ``delivered`` and ``refuse``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from imaging import part10
from imaging.blobs import Incoming

_SHORTEST, _LONGEST = 2.0, 3600.0  # seconds until one that failed by itself is tried again


@dataclass(eq=False, slots=True)
class Waiting:
    """One of them. ``alone``: it is sent in a request of its own, since one with others failed."""

    path: Path
    size: int
    arrived: float
    uid: str
    taken: bool = False
    alone: bool = False
    tries: int = 0
    due: float = 0.0

    @property
    def digest(self) -> str:
        return self.path.stem.partition("-")[2]


class Spool:
    """The folder, in use by one process. Thread-safe. ``most``: bytes that may wait; ``reserve``: bytes that stay free on its disk."""

    def __init__(self, folder: Path, most: int, reserve: int) -> None:
        self.folder, self._most, self._reserve = folder, most, reserve
        self._incoming, self._waiting, self._refused = (folder / name for name in ("incoming", "waiting", "refused"))
        for part in (self._incoming, self._waiting, self._refused):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_file = _locked(folder)
        for left in self._incoming.iterdir():  # nobody was told that they had been taken
            left.unlink()
        self._changed = threading.Condition()
        self._entries: dict[str, Waiting] = {}  # by digest, oldest first
        self._bytes = 0
        self.unreadable = 0
        for path in sorted(self._waiting.iterdir()):
            self._load(path)

    def _load(self, path: Path) -> None:
        with open(path, "rb") as file:
            head = file.read(part10.HEAD)
        stat = path.stat()
        try:
            self._add(Waiting(path, stat.st_size, stat.st_mtime, part10.named(head).uid))
        except ValueError:  # damaged: it stays where it is, and is told
            self.unreadable += 1

    def _add(self, entry: Waiting) -> None:
        self._entries[entry.digest] = entry
        self._bytes += entry.size

    def close(self) -> None:
        os.close(self._lock_file)

    # ------------------------------------------------------------ taking in

    def room(self) -> bool:
        return self._bytes < self._most and shutil.disk_usage(self.folder).free > self._reserve

    def receive(self) -> Incoming:
        return Incoming(self._incoming / uuid.uuid4().hex)

    def keep(self, incoming: Incoming, uid: str) -> None:
        """Durable when this returns. The same bytes again are the same. Error: OSError."""
        digest = incoming.digest
        with self._changed:
            if digest in self._entries:
                incoming.discard()
                return
        incoming.sync()
        path = self._waiting / f"{time.time_ns():020}-{digest}.dcm"
        os.rename(incoming.path, path)
        _sync(self._waiting)
        with self._changed:
            if digest in self._entries:  # another association was faster
                path.unlink()
                return
            self._add(Waiting(path, incoming.size, time.time(), uid))
            self._changed.notify()

    # ------------------------------------------------------------ giving out

    def take(self, most: int, largest: int, patience: float) -> list[Waiting]:
        """The oldest that are due and fit into one request; waits so many seconds for some. Of the versions of one instance the
        first goes first, and never two at a time."""
        until = time.monotonic() + patience
        with self._changed:
            while not (batch := self._due(most, largest)):
                left = until - time.monotonic()
                if left <= 0:
                    return []
                self._changed.wait(min(left, 0.5))
            for entry in batch:
                entry.taken = True
            return batch

    def _due(self, most: int, largest: int) -> list[Waiting]:
        now, size = time.monotonic(), 0
        batch: list[Waiting] = []
        before: set[str] = set()
        for entry in self._entries.values():
            first = entry.uid not in before
            before.add(entry.uid)
            if entry.taken or entry.due > now or not first:
                continue
            if batch and (entry.alone or size + entry.size > largest):
                continue
            batch.append(entry)
            size += entry.size
            if entry.alone or len(batch) == most or size >= largest:
                break
        return batch

    def delivered(self, entry: Waiting) -> None:
        """The server has it. Where the removal is lost in a cut, it is sent again, and the server knows it."""
        self._gone(entry)
        with suppress(FileNotFoundError):
            entry.path.unlink()

    def refuse(self, entry: Waiting, reason: str) -> None:
        """Kept for people to look at."""
        told = {"sopInstance": entry.uid, "reason": reason, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        target = self._refused / entry.path.name
        target.with_suffix(".json").write_text(json.dumps(told) + "\n")
        os.rename(entry.path, target)
        _sync(self._refused)
        self._gone(entry)

    def again(self, entries: list[Waiting], *, alone: bool = False, later: bool = False) -> None:
        """They were not delivered. ``alone``: each by itself from now on; ``later``: after a pause that doubles."""
        with self._changed:
            for entry in entries:
                entry.taken = False
                entry.alone = entry.alone or alone
                if later:
                    entry.due = time.monotonic() + min(_SHORTEST * 2.0**entry.tries, _LONGEST)
                    entry.tries += 1
            self._changed.notify_all()

    def _gone(self, entry: Waiting) -> None:
        with self._changed:
            if self._entries.pop(entry.digest, None) is not None:
                self._bytes -= entry.size
            self._changed.notify_all()

    # ------------------------------------------------------------ telling

    def waiting(self) -> tuple[int, int, float]:
        """How many, how many bytes, and when the oldest arrived (0 where none waits)."""
        with self._changed:
            oldest = next(iter(self._entries.values()), None)
            return len(self._entries), self._bytes, oldest.arrived if oldest else 0.0

    def refused(self) -> int:
        return sum(1 for path in self._refused.iterdir() if path.suffix == ".dcm")


def _locked(folder: Path) -> int:
    """Error: RuntimeError where another gateway uses the folder."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RuntimeError(f"another gateway is using the spool {folder}") from None
    return descriptor


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
