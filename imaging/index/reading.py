"""What the index is asked."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pymongo.database import Database

from imaging.index.ahead import Ahead
from imaging.index.rows import Row, Stored, in_order, integer, linked, stored_of, told, within

V = TypeVar("V")

KNOWN = 10_000
BELIEVED = 1.0  # seconds: another process may have moved the study to another patient
HEARD = BELIEVED + 0.2  # seconds after which every process has heard of it
_MAX_KEPT = 12 * 1024 * 1024  # of a document, of MongoDB's 16 MB


@dataclass(frozen=True, slots=True)
class _Copies:
    """The rows of one study by owner, the newest first, and until when they are believed."""

    rows: dict[str, Row]
    until: float


class Reader:
    """Thread-safe."""

    def __init__(self, database: Database[Row]) -> None:
        self.studies = database["dicom_studies"]
        self.series = database["dicom_series"]
        self.instances = database["dicom_instances"]
        self.quarantine = database["dicom_quarantine"]
        self.kept = database["dicom_metadata"]
        self._copies: dict[str, _Copies] = {}
        self._ahead = Ahead(self._of_series)

    def find_studies(self, filter_: Row) -> Iterator[Row]:
        """Newest study date first."""
        yield from (row for row in self.studies.find(filter_).sort([("q.StudyDate", -1), ("_id", 1)]) if not hidden(row))

    def find_series(self, study: str) -> list[Row]:
        return [row for row in self.series.find({"study": study}) if not row.get("emptied")]

    def find_instances(self, study: Row, series: str, *, whole: bool = False) -> list[Row]:
        """In order. ``whole``: with their metadata; otherwise what is searched for, of the whole series in one read."""
        if whole:
            return sorted(self.instances.find({"series": series}, {"frames": 0, "bulk": 0}), key=in_order)
        id_ = f"{series}|rows"
        kept = self._kept(study, id_)
        if kept is not None:
            known: list[Row] = json.loads(zlib.decompress(kept["rows"]))
            return known
        found = sorted(
            self.instances.find({"series": series}, {"_id": 0, "uid": 1, "class": 1, "number": 1, "q": 1}), key=in_order
        )
        packed = zlib.compress(json.dumps(found).encode(), 1)
        self._keep(study, id_, len(packed), {"rows": packed})
        return found

    def _kept(self, study: Row, id_: str) -> Row | None:
        """What was kept of a series as it is in this revision. Nothing while it is held: then more comes under one revision."""
        return None if study.get("held") else self.kept.find_one({"_id": id_, "revision": study.get("revision", 0)})

    def _keep(self, study: Row, id_: str, size: int, what: Row) -> None:
        if size < _MAX_KEPT and not study.get("held"):
            row = {"_id": id_, "revision": study.get("revision", 0)} | what
            self.kept.replace_one({"_id": id_}, row, upsert=True)

    def sample(self, study: str, series: str | None = None) -> dict[str, Any]:
        """The metadata of one instance of a study or series: what all of them say of the patient and the study."""
        row = self.instances.find_one({"series": series} if series else within(study), {"meta": 1})
        return told(row) if row else {}

    def owners(self, uid: str) -> tuple[str, ...]:
        """Who has a copy of a study, the newest first, as it was a second ago at most: each frame of it asks."""
        known = self._copies.get(uid)
        if known is not None and known.until > time.monotonic():
            return tuple(known.rows)
        fields = {"owner": 1, "arrived": 1, "revision": 1, "held": 1, "moving": 1, "hides": 1, "moved": 1}
        found = [row for row in self.studies.find({"uid": uid}, fields) if not hidden(row)]
        rows = sorted(found, key=lambda row: -row.get("arrived", 0))
        if rows:  # one that is not there yet is looked for each time
            bounded(self._copies)[uid] = _Copies({row["owner"]: row for row in rows}, time.monotonic() + BELIEVED)
        return tuple(row["owner"] for row in rows)

    def row(self, owner: str, uid: str) -> Row | None:
        """A study's, if it may be shown."""
        row = self.studies.find_one({"_id": f"{owner}|{uid}"})
        return None if row is None or hidden(row) else row

    def stored(self, owner: str, study: str, series: str | None = None, instance: str | None = None) -> list[Stored]:
        """Where the bytes are of a study, series or instance, in order."""
        if series is not None and instance is not None:
            known = self._copies.get(study)
            row = known.rows.get(owner) if known and known.until > time.monotonic() else None
            if row is not None and not row.get("held"):
                there = self._ahead.row(f"{owner}|{study}|{series}", row.get("revision", 0), instance)
                if there is not None:
                    return [there]
        return [stored_of(row) for row in self._rows(owner, study, series, instance, {"meta": 0, "q": 0})]

    def _of_series(self, series: str) -> list[Stored]:
        return [stored_of(row) for row in self.instances.find({"series": series}, {"meta": 0, "q": 0})]

    def metadata(self, owner: str, study: str, series: str, instance: str) -> bytes | None:
        """The DICOM JSON text of an instance's data set, with ``BULK_MARK`` in it."""
        rows = self._rows(owner, study, series, instance, {"meta": 1, "series": 1})
        return zlib.decompress(rows[0]["meta"]) if rows else None

    def kept_metadata(self, row: Row, series: str, base: str) -> tuple[bytes, str] | None:
        """(gzip of the JSON array of a series' metadata, its hash), kept until something arrives. ``row``: the study's."""
        id_ = f"{row['_id']}|{series}"
        kept = self._kept(row, id_)
        if kept is not None and kept["base"] == base:
            return kept["gzip"], kept["hash"]
        texts = self._texts(id_, base)
        if not texts:
            return None
        text = b"[" + b",".join(texts) + b"]"
        packed, hash_ = gzip.compress(text, 6, mtime=0), hashlib.sha256(text).hexdigest()[:32]
        self._keep(row, id_, len(packed), {"base": base, "gzip": packed, "hash": hash_})
        return packed, hash_

    def _texts(self, series: str, base: str) -> list[bytes]:
        rows = sorted(self.instances.find({"series": series}, {"meta": 1, "number": 1, "uid": 1}), key=in_order)
        return [linked(zlib.decompress(row["meta"]), base) for row in rows]

    def series_of(self, study: str) -> list[str]:
        """The UIDs of a study's series, in order."""
        rows = sorted(self.find_series(study), key=lambda r: (integer(r["q"].get("SeriesNumber")) or 0, r["uid"]))
        return [row["uid"] for row in rows]

    def _rows(self, owner: str, study: str, series: str | None, instance: str | None, fields: Row) -> list[Row]:
        key = f"{owner}|{study}"
        if instance is not None:
            row = self.instances.find_one({"_id": f"{owner}|{instance}"}, fields)
            return [row] if row is not None and row["series"] == f"{key}|{series}" else []
        filter_ = {"series": f"{key}|{series}"} if series is not None else within(key)
        return sorted(self.instances.find(filter_, fields), key=lambda r: (r["series"], *in_order(r)))


def hidden(study: Row) -> bool:
    """Whether its images are another patient's than its record says: while they are replaced, and until the record has followed."""
    return moves_away(study) or bool(study.get("moved"))


def moves_away(study: Row) -> bool:
    """Whether its images are being replaced by another patient's."""
    return bool(study.get("moving") and study.get("hides"))


def bounded(known: dict[str, V]) -> dict[str, V]:
    """What is remembered, empty where it has grown too large."""
    if len(known) >= KNOWN:
        known.clear()
    return known
