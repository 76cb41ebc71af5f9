"""What is kept and what names it: orphans are removed, and every object can be checked.

Nothing here knows a patient: rows are told by digest, owner and UIDs.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from imaging.blobs import Blobs, Kept
from imaging.index import Index
from imaging.parallel import parallel

CONTESTED = "contested"
DAMAGED, MISSING, UNNAMED = "damaged", "missing", "unnamed"
_PAGE = 500
_TOGETHER = 500_000  # rows whose digests are in memory at once
_FEW = 20
_REMEMBERED = 30 * 86_400.0  # seconds
_FIELDS = {"owner": 1, "study": 1, "series": 1, "uid": 1, "digest": 1, "size": 1}


class NotSweptError(RuntimeError):
    """More is at stake than orphans; why, in words."""


@dataclass(frozen=True, slots=True)
class Named:
    """A row that names an object."""

    collection: str
    id: Any
    owner: str
    study: str
    series: str
    uid: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with an object; ``row`` where one names it."""

    problem: str
    digest: str
    row: Named | None = None

    def __str__(self) -> str:
        told = f"{self.problem} {self.digest}"
        if self.row is None:
            return told
        return f"{told} owner={self.row.owner} study={self.row.study} series={self.row.series} instance={self.row.uid}"


def named(index: Index) -> Iterator[Named]:
    """All rows, a page at a time, so that it may take as long as it likes. Quarantined instances have their objects too."""
    for collection in ("dicom_quarantine", "dicom_instances"):
        yield from _rows(index, collection)


def count(index: Index) -> int:
    return sum(index.instances.database[name].estimated_document_count() for name in ("dicom_quarantine", "dicom_instances"))


def _rows(index: Index, collection: str) -> Iterator[Named]:
    rows = index.instances.database[collection]
    page, filter_ = list[dict[str, Any]](), dict[str, Any]()
    while page := list(rows.find(filter_, _FIELDS).sort("_id", 1).limit(_PAGE)):
        for row in page:
            _, study, series = f"{row.get('series') or row.get('study')}||".split("|")[:3]
            yield Named(
                collection, row["_id"], str(row.get("owner", "")), study, series, str(row.get("uid", "")), row["digest"],
                int(row.get("size", 0)),
            )  # fmt: skip
        filter_ = {"_id": {"$gt": page[-1]["_id"]}}


def unnamed(index: Index, blobs: Blobs, older_than: float) -> Iterator[Kept]:
    """What is there, was kept before then, and has no row.

    Rows are read before files are listed: a file that got its row meanwhile was kept meanwhile, and is young. A row may also move
    from one place to another while they are read, so what seems to have none is looked for once more.
    """
    slices = 1 + count(index) // _TOGETHER
    for number in range(slices):
        known = {key for row in named(index) if (key := _short(row.digest)) % slices == number}
        found = {
            key: kept
            for kept in blobs.digests()
            if kept.modified < older_than and (key := _short(kept.digest)) % slices == number and key not in known
        }
        if found:
            for row in named(index):
                found.pop(_short(row.digest), None)
        yield from found.values()


def _short(digest: str) -> int:
    """Enough of it: of two that agree in this, an orphan is taken for the other, and stays."""
    return int(digest[:15], 16)


def mark(index: Index, blobs: Blobs, *, force: bool = False) -> bool:
    """Write the same new mark to the database and beside the objects, if the database knows the mark that is there.

    A database that was taken back to an earlier state, or is another one, does not: it has no rows of what came since. Then it writes
    one that no database knows, so that another which shares the place sweeps nothing of its either.
    """
    marks, there = index.instances.database["dicom_marks"], blobs.marked()
    if there is not None and not force and marks.find_one({"_id": there}) is None:
        blobs.mark(CONTESTED)
        return False
    now = time.time()
    marks.insert_one({"_id": (new := uuid.uuid4().hex), "when": now})
    blobs.mark(new)
    marks.delete_many({"when": {"$lt": now - _REMEMBERED}, "_id": {"$nin": [there, new]}})
    return True


def sweep(index: Index, blobs: Blobs, older_than: float, *, force: bool = False) -> list[Kept]:
    """Remove the orphans; those that were removed.

    Errors: NotSweptError where the database is likely the wrong one: it does not know the mark beside the objects, or there are more
    orphans than named objects. ``force``: it is the right one.
    """
    if not mark(index, blobs, force=force):
        raise NotSweptError("the database is another one than the images', or an older state of it; nothing was removed")
    orphans = list(unnamed(index, blobs, older_than))
    if not force and len(orphans) > max(_FEW, count(index)):
        raise NotSweptError(f"{len(orphans)} objects have no row, more than have one; nothing was removed")
    return [kept for kept in orphans if blobs.remove(kept.digest, older_than)]


def check(
    index: Index, blobs: Blobs, workers: int, younger: float, step: Callable[[int], None] = lambda _: None
) -> Iterator[Finding]:
    """Read every object that a row names, and find what is wrong; then those that no row names, but for what is ``younger``.

    ``step`` is told the bytes of each. Beside a running server: what changes meanwhile is looked at again before it is told.
    """

    def examined(row: Named) -> tuple[int, str | None]:
        hashed, size = hashlib.sha256(), 0
        try:
            for chunk in blobs.chunks(row.digest):
                hashed.update(chunk)
                size += len(chunk)
        except FileNotFoundError:
            return size, MISSING
        except OSError:  # also what the disk cannot read any more
            return size, DAMAGED
        return size, None if hashed.hexdigest() == row.digest else DAMAGED

    for row, (size, problem) in parallel(examined, named(index), workers):
        step(size)
        if problem and index.instances.database[row.collection].find_one({"_id": row.id, "digest": row.digest}, {"_id": 1}):
            yield Finding(problem, row.digest, row)
    for kept in unnamed(index, blobs, younger):
        if not kept.aside:
            yield Finding(UNNAMED, kept.digest)
