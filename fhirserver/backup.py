"""Backup and restore: the database as it was at one moment, the images' bytes, and the reads that are not stored yet.

A backup is a plain tar, written and read as a stream; documents are compressed, images are not, as they often are already:

    manifest.json · audit/<id> · collections/<name>/<number>.bson.gz (up to 8 MB of BSON) · blobs/<sha256> · end.json (counts)

An audit file is removed after it is in the database, so they come first; an image is there before its row, so they come last.

One moment: MongoDB gives it to a snapshot session, for five minutes (``minSnapshotHistoryWindowInSeconds``), and to a
transaction for one. The embedded server takes such a session and shows later writes in it all the same; its transactions do
hold still, for as long as they are used once a minute. So it is asked which of the two it keeps.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import sys
import tarfile
import tempfile
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

from bson import CodecOptions, Timestamp, decode_all, raw_bson
from pymongo import client_session, errors, read_concern
from pymongo.database import Database

from fhirserver.app import Installation
from fhirserver.store import translated
from imaging.blobs import Damaged
from imaging.keeping import CONTESTED

VERSION, _BUFFER = 1, 1024**2
_CHUNK, _DOCUMENTS, _BATCH = 8 * 1024**2, 2000, 500  # bytes and documents in a member, documents in an answer of the database
_RAW: CodecOptions[raw_bson.RawBSONDocument] = CodecOptions(document_class=raw_bson.RawBSONDocument)


class Tally(Counter[str]):
    """How much was done, told on stderr: on a terminal in one line that changes, elsewhere in a line now and then."""

    size, due = 0, 0.0

    def add(self, member: tarfile.TarInfo, number: int) -> None:
        self[member.name.rpartition("/")[0] or member.name] += number
        self.size += member.size
        end, terminal = "\n" if member.name == "end.json" else "", sys.stderr.isatty()
        if end or time.monotonic() >= self.due:
            documents = sum(count for folder, count in self.items() if folder.startswith("collections/"))
            line = f"{documents:,} documents, {self['blobs']:,} images, {self.size / 1e6:,.1f} MB"
            sys.stderr.write(f"\r{line}\x1b[K{end}" if terminal else f"{line}\n")
            self.due = time.monotonic() + (0.2 if terminal else 10.0)


def backup(installation: Installation, file: str) -> None:
    """Into ``file``, which is there when it is complete; ``-`` is standard output. Errors: RuntimeError, OSError."""
    if not installation.database.list_collection_names():
        raise RuntimeError("there is nothing to back up: the database is empty")
    with _target(file) as out, tarfile.open(fileobj=out, mode="w|", bufsize=_BUFFER) as tar:
        for name, number, content in _members(installation, done := Tally()):
            member = tarfile.TarInfo(name)
            member.size = content.seek(0, os.SEEK_END) - content.seek(0)
            tar.addfile(member, content)
            tar.members.clear()  # type: ignore[attr-defined]  # it would remember every image
            done.add(member, number)


def _members(installation: Installation, done: Tally) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, how many documents or files it is, content."""
    notes, blobs, raw = installation.trail.folder, installation.images.blobs, installation.database.with_options(_RAW)
    yield "manifest.json", 1, BytesIO(json.dumps({"version": VERSION, "time": str(installation.clock())}).encode())
    for id_ in sorted({path.stem for path in notes.iterdir() if path.stem.isalnum()}):
        for suffix in (".open", ".closed"):  # a file is renamed from the one to the other, then stored, then removed
            with suppress(FileNotFoundError), open(notes / f"{id_}{suffix}", "rb") as file:
                yield f"audit/{id_}", 1, file
                break
    with _one_moment(installation.database) as (session, names):
        for name in names:
            for number, chunk in enumerate(_chunks(raw[name].find({}, session=session, batch_size=_BATCH)), 1):
                yield f"collections/{name}/{number:06}.bson.gz", len(chunk), BytesIO(gzip.compress(b"".join(chunk), 1, mtime=0))
        rows = installation.images.index.instances.find({}, {"digest": 1}, session=session, batch_size=_BATCH)
        wanted = array("Q", (short for short, _ in groupby(sorted(_short(row["digest"]) for row in rows))))
    there = bytearray(len(wanted))
    for kept in blobs.digests():
        at = bisect_left(wanted, short := _short(kept.digest))
        known = at < len(wanted) and wanted[at] == short
        if kept.aside and not known:
            continue
        with suppress(FileNotFoundError, Damaged), blobs.local(kept.digest) as path, open(path, "rb") as file:
            if known:
                there[at] = 1
            yield f"blobs/{kept.digest}", 1, file
    if lost := there.count(0):
        sys.stderr.write(f"fhirserver: {lost} images are not in the backup, they are missing: fhirserver check-images\n")
    yield "end.json", 1, BytesIO(json.dumps(done).encode())


def _short(digest: str) -> int:
    """Enough of it to count by."""
    return int(digest[:16], 16)


@contextmanager
def _one_moment(database: Database[dict[str, Any]]) -> Iterator[tuple[client_session.ClientSession, list[str]]]:
    """A session whose reads all see the database as it is now, and the collections that there are."""
    first, snapshots = database.list_collection_names()[0], True
    with suppress(errors.OperationFailure):  # who really looks into the past has to refuse 1970
        database.command("find", first, filter={"_id": ""}, readConcern={"level": "snapshot", "atClusterTime": Timestamp(1, 1)})
        snapshots = False
    with database.client.start_session(snapshot=snapshots) as session:
        if not snapshots:
            session.start_transaction(read_concern.ReadConcern("snapshot"))
        database[first].find_one({"_id": ""}, session=session)  # the first read makes the moment
        yield session, sorted(database.list_collection_names())


def _chunks(documents: Iterable[raw_bson.RawBSONDocument]) -> Iterator[list[bytes]]:
    chunk, size = list[bytes](), 0
    for document in documents:
        if chunk and (size + len(document.raw) > _CHUNK or len(chunk) == _DOCUMENTS):
            yield chunk
            chunk, size = [], 0
        chunk.append(bytes(document.raw))
        size += len(document.raw)
    if chunk:
        yield chunk


@contextmanager
def _target(file: str) -> Iterator[IO[bytes]]:
    """For its owner alone, as it holds patient data and keys; under its name when it is complete."""
    if file == "-":
        yield sys.stdout.buffer
        return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{Path(file).name}.", dir=Path(file).parent)
    try:
        with open(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(descriptor)
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)


def restore(installation: Installation, file: str) -> None:
    """All of ``file`` (``-`` is standard input) into an empty database, or nothing. Error: RuntimeError."""
    database, blobs, notes = installation.database, installation.images.blobs, list[Path]()
    if full := [name for name in database.list_collection_names() if database[name].find_one({}, {"_id": 1})]:
        raise RuntimeError(f"the database {database.name} is not empty: there is something in {', '.join(sorted(full)[:3])} …")
    bare = not any(True for _ in blobs.digests())
    try:
        with open(sys.stdin.fileno() if file == "-" else file, "rb", closefd=file != "-") as source, translated():
            _load(installation, source, notes)
    except BaseException as error:
        for name in database.list_collection_names() if installation.store.is_embedded else ():
            rows = database[name].find({}, {"_id": 1}, batch_size=_BATCH)  # the embedded one syncs for each that a drop removes
            while ids := [row["_id"] for row in islice(rows, _BATCH)]:
                database[name].delete_many({"_id": {"$in": ids}})
        database.client.drop_database(database)
        for path in notes:
            path.unlink(missing_ok=True)
        for kept in blobs.digests() if bare else ():
            while blobs.remove(kept.digest, math.inf):
                pass
        if isinstance(error, Exception):
            raise RuntimeError(f"nothing was restored: {type(error).__name__}: {error}") from error
        raise
    if not bare:  # what came after the backup has no row any more, and is no orphan to be swept unasked
        blobs.mark(CONTESTED)


def _load(installation: Installation, source: IO[bytes], notes: list[Path]) -> None:
    """Each member in its turn. The files made for the audit are told in ``notes``."""
    raw, done, chunks = installation.database.with_options(_RAW), Tally(), Counter[str]()
    tar = tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER)  # noqa: SIM115 - the source is closed by who opened it
    while "end.json" not in done and (member := tar.next()) is not None:
        content, number = tar.extractfile(member) or BytesIO(), 1
        match member.name.split("/"):
            case ["manifest.json"] if not done and json.load(content)["version"] == VERSION:
                installation.auth.prepare()
                installation.images.index.prepare()
            case ["audit", id_] if done and id_.isalnum():
                path = installation.trail.folder / f"{id_}.closed"
                with suppress(FileExistsError), open(path, "xb") as file:  # one that is there has no less
                    notes.append(path)
                    shutil.copyfileobj(content, file)
            case ["collections", name, chunk] if done and chunk == f"{chunks[name] + 1:06}.bson.gz":
                chunks[name] += 1
                if name in installation.store.types:
                    installation.store.prepare(name)
                raw[name].insert_many(documents := decode_all(gzip.decompress(content.read()), _RAW))
                number = len(documents)
            case ["blobs", digest] if done:
                incoming = installation.images.blobs.receive()
                try:
                    shutil.copyfileobj(content, incoming, _BUFFER)
                    if incoming.digest != digest:
                        raise tarfile.ReadError(f"the image {digest} is not what it was")
                    installation.images.blobs.keep(incoming)
                finally:
                    incoming.discard()
            case ["end.json"] if json.load(content) == done:
                pass
            case _:
                raise tarfile.ReadError(f"{member.name} is not what comes next")
        done.add(member, number)
        tar.members.clear()  # type: ignore[attr-defined]
    if "end.json" not in done:
        raise tarfile.ReadError("it is cut off")
    for path in (path for path in notes if raw["audit_segments"].find_one({"_id": path.stem})):
        path.unlink()
