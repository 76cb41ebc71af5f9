"""Study, series and instance rows in MongoDB. The only user of pymongo in this package.

A row's identity begins with its owner, the organisation whose credential stored it: two facilities' copies of one UID are
two rows. The file is kept first, the row second.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pymongo import IndexModel
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from imaging.attributes import INSTANCE, SERIES, STUDY
from imaging.dataset import Instance
from imaging.dataset.metadata import BULK_MARK
from imaging.study import Accession, Quarantined, Series, StoredInstance, Study

Row = dict[str, Any]
V = TypeVar("V")
_KNOWN = 10_000
_BELIEVED = 1.0  # seconds: another process may have moved the study to another patient
_MAX_KEPT = 12 * 1024 * 1024  # of a document, of MongoDB's 16 MB
NEW, SAME, OTHER, PATIENT, REPLACED = "new", "same", "other", "patient", "replaced"


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an instance's bytes are. ``count``: of frames; ``frames``: where they are, if that is known. ``bulk``: path -> (offset,
    length) of the values that the metadata refer to."""

    owner: str
    study: str
    series: str
    uid: str
    sop_class: str
    transfer_syntax: str
    digest: str
    size: int
    count: int
    frames: tuple[tuple[tuple[int, int], ...], ...]
    bulk: dict[str, tuple[int, int]]
    number: int | None = None


class Index:
    """The archive's index. Thread-safe."""

    def __init__(self, database: Database[Row]) -> None:
        self.studies = database["dicom_studies"]
        self.series = database["dicom_series"]
        self.instances = database["dicom_instances"]
        self.quarantine = database["dicom_quarantine"]
        self.kept = database["dicom_metadata"]
        self._known: dict[str, tuple[str, float]] = {}  # series -> PatientID of its study, until when that is believed
        self._owners: dict[str, tuple[tuple[str, ...], float]] = {}

    def prepare(self) -> None:
        fields = ("uid", "q.PatientID", "q.AccessionNumber", "numbers", "q.StudyDate", "dirty", "waiting")
        self.studies.create_indexes([IndexModel([(field, 1)], name=field) for field in fields])
        self.series.create_indexes([IndexModel([("study", 1)], name="study")])
        self.instances.create_indexes([IndexModel([("series", 1)], name="series")])
        self.quarantine.create_indexes([IndexModel([("study", 1)], name="study")])

    # ------------------------------------------------------------ arriving

    def add(self, owner: str, instance: Instance, digest: str, size: int, alike: Callable[[str, str], bool]) -> tuple[str, str]:
        """What became of it, and the study that it concerns. ``alike``: whether the files of two digests are one data set.

        NEW, SAME (this data set is known), OTHER (other bytes are known under this UID, and stay) or PATIENT (the study holds
        another patient's images). OTHER and PATIENT are put in quarantine.
        """
        series = f"{owner}|{instance.study}|{instance.series}"
        patient = instance.attributes[STUDY].get("PatientID", "")
        known_patient, until = self._known.get(series, (None, 0.0))
        if known_patient != patient or until < time.monotonic():
            if not self._add_parents(owner, instance):
                self._set_aside(owner, instance, digest, size, instance.study, PATIENT)
                return PATIENT, instance.study
            self._remember(series, patient)
        row = _row(owner, instance, digest, size)
        try:
            self.instances.insert_one(row)
        except DuplicateKeyError:
            known = self.instances.find_one({"_id": row["_id"]}, {"digest": 1, "series": 1, "syntax": 1})
            same = known is not None and (known["series"], known["syntax"]) == (series, instance.transfer_syntax)
            if known is not None and same and (known["digest"] == digest or alike(known["digest"], digest)):
                return SAME, instance.study
            study = known["series"].split("|")[1] if known else instance.study
            self._set_aside(owner, instance, digest, size, study, OTHER)
            return OTHER, study
        return NEW, instance.study

    def _set_aside(self, owner: str, instance: Instance, digest: str, size: int, study: str, why: str) -> None:
        row = {"owner": owner, "study": f"{owner}|{study}", "uid": instance.uid, "digest": digest, "size": size, "why": why}
        self._aside(row | {"patient": instance.attributes[STUDY].get("PatientID", ""), "charset": instance.charset})

    def _aside(self, row: Row) -> None:
        """Into quarantine: nothing of it is found or retrieved; people decide. The same bytes again change nothing."""
        self.quarantine.update_one({"_id": f"{row['owner']}|{row['uid']}|{row['digest']}"}, {"$setOnInsert": row}, upsert=True)

    def _add_parents(self, owner: str, instance: Instance) -> bool:
        """The rows of study and series are there, and know of the orders. False where the study is another patient's."""
        study = f"{owner}|{instance.study}"
        top: Row = {"owner": owner, "uid": instance.study, "q": instance.attributes[STUDY], "modalities": [], "classes": []}
        top |= {"seriesCount": 0, "instances": 0}
        self.studies.update_one({"_id": study}, {"$setOnInsert": top}, upsert=True)
        self._owners.pop(instance.study, None)
        there = self.studies.find_one({"_id": study}, {"q.PatientID": 1})
        if there is None or there["q"].get("PatientID", "") != instance.attributes[STUDY].get("PatientID", ""):
            return False
        accessions = {"$each": [[a.number, a.issuer] for a in instance.accessions]}
        numbers = {"$each": [a.number for a in instance.accessions]}
        self.studies.update_one({"_id": study}, {"$addToSet": {"accessions": accessions, "numbers": numbers}})
        first = {"study": study, "uid": instance.series, "q": instance.attributes[SERIES], "instances": 0}
        requests = {"requests": {"$each": [one for one in instance.requests if one]}}
        series = f"{study}|{instance.series}"
        self.series.update_one({"_id": series}, {"$setOnInsert": first, "$addToSet": requests}, upsert=True)
        return True

    def _remember(self, series: str, patient: str) -> None:
        _bounded(self._known)[series] = patient, time.monotonic() + _BELIEVED

    def mark(self, owner: str, uid: str, now: int, quiet: int | None = None, held: int | None = None) -> None:
        """Something arrived: the study is to be brought up to date, and has not been quiet. ``quiet``: milliseconds until it is
        complete, where its source has its own. ``held``: until then it stays to be brought up to date, whatever is done: more
        arrives without a mark of its own."""
        marks: Row = {"$set": {"dirty": True, "waiting": True, "arrived": now, "quiet": quiet}, "$inc": {"revision": 1}}
        marks |= {"$max": {"held": held}} if held else {}
        self.studies.update_one({"_id": f"{owner}|{uid}"}, marks)

    def let_go(self, owner: str, uid: str, held: int) -> None:
        """Nothing more comes of what was held until then, unless somebody else holds it for longer."""
        done = {"$set": {"dirty": True, "held": 0}, "$inc": {"revision": 1}}
        self.studies.update_one({"_id": f"{owner}|{uid}", "held": held}, done)

    def again(self, accessions: set[tuple[str, str]]) -> None:
        """The studies of these (owner, accession number) are to be brought up to date, though nothing arrived."""
        wanted = sorted({number for _, number in accessions})
        rows = self.studies.find({"numbers": {"$in": wanted}}, {"owner": 1, "numbers": 1}) if wanted else ()
        for row in rows:
            if any((row["owner"], number) in accessions for number in row["numbers"]):
                self.studies.update_one({"_id": row["_id"]}, {"$set": {"dirty": True}})

    # ------------------------------------------------------------ bringing up to date

    def dirty(self) -> list[tuple[str, str]]:
        """(owner, uid) of studies to bring up to date."""
        return [(row["owner"], row["uid"]) for row in self.studies.find({"dirty": True}, {"owner": 1, "uid": 1}).limit(100)]

    def waiting(self, now: int, quiet: int) -> list[tuple[str, str]]:
        """(owner, uid) of studies that were not said complete and to which nothing came for so many milliseconds, or for those of
        their source."""
        rows = self.studies.find({"waiting": True}, {"owner": 1, "uid": 1, "arrived": 1, "quiet": 1}).limit(1000)
        return [(row["owner"], row["uid"]) for row in rows if row["arrived"] < now - (row.get("quiet") or quiet)]

    def settle(self, owner: str, uid: str, revision: int | None, begun: int, *, complete: bool) -> None:
        """It was brought up to date as it was in this revision, read after ``begun``; what came later keeps it dirty."""
        done: Row = {"dirty": False, "held": 0} | ({"waiting": False} if complete else {})
        free = {"held": {"$not": {"$gte": begun}}}
        as_it_was = {"_id": f"{owner}|{uid}", "revision": revision}
        self.studies.update_one(as_it_was | {"moved": True}, {"$set": {"moved": False}})  # the record has followed
        self.studies.update_one(as_it_was | free, {"$set": done})

    def study(self, owner: str, uid: str) -> tuple[Study, int | None] | None:
        """The whole study and its revision; its counts are brought up to date on the way."""
        row = self.studies.find_one({"_id": f"{owner}|{uid}"})
        if row is None:
            return None
        revision = row.get("revision")
        fields = {"series": 1, "uid": 1, "class": 1, "number": 1, "title": 1}
        by_series: dict[str, list[StoredInstance]] = {}
        for i in self.instances.find(_within(row["_id"]), fields):
            by_series.setdefault(i["series"], []).append(StoredInstance(i["uid"], i["class"], i["number"], i["title"]))
        series = [_series(s, by_series.get(s["_id"], [])) for s in self.series.find({"study": row["_id"]})]
        series.sort(key=lambda s: (_number(s.attributes.get("SeriesNumber")) or 0, s.uid))
        self._count(row["_id"], series)
        accessions = tuple(Accession(number, issuer) for number, issuer in row.get("accessions", ()))
        aside = tuple(Quarantined(q["uid"], q["digest"], q["why"]) for q in self.aside(owner, uid))
        return Study(owner, uid, row["q"], accessions, tuple(series), aside, bool(row.get("moved"))), revision

    def _count(self, study: str, series: list[Series]) -> None:
        for one in series:
            self.series.update_one({"_id": f"{study}|{one.uid}"}, {"$set": {"instances": len(one.instances)}})
        modalities = sorted({m for one in series if (m := one.attributes.get("Modality"))})
        classes = sorted({instance.sop_class for one in series for instance in one.instances})
        total = sum(len(one.instances) for one in series)
        counted = {"modalities": modalities, "classes": classes, "seriesCount": len(series), "instances": total}
        self.studies.update_one({"_id": study}, {"$set": counted})

    # ------------------------------------------------------------ asking

    def find_studies(self, filter_: Row) -> Iterator[Row]:
        """Newest study date first."""
        yield from self.studies.find(filter_).sort([("q.StudyDate", -1), ("_id", 1)])

    def find_series(self, study: str) -> list[Row]:
        return list(self.series.find({"study": study}))

    def find_instances(self, study: Row, series: str, *, whole: bool = False) -> list[Row]:
        """In order. ``whole``: with their metadata; otherwise what is searched for, of the whole series in one read."""
        if whole:
            return sorted(self.instances.find({"series": series}, {"frames": 0, "bulk": 0}), key=_order)
        id_ = f"{series}|rows"
        kept = self._kept(study, id_)
        if kept is not None:
            known: list[Row] = json.loads(zlib.decompress(kept["rows"]))
            return known
        found = sorted(
            self.instances.find({"series": series}, {"_id": 0, "uid": 1, "class": 1, "number": 1, "q": 1}), key=_order
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
        row = self.instances.find_one({"series": series} if series else _within(study), {"meta": 1})
        return told(row) if row else {}

    def owners(self, uid: str) -> tuple[str, ...]:
        """Who has a copy of a study, the newest first, as it was a second ago at most: each frame of it asks."""
        known, until = self._owners.get(uid, ((), 0.0))
        if until < time.monotonic():
            rows = sorted(self.studies.find({"uid": uid}, {"owner": 1, "arrived": 1}), key=lambda row: -row.get("arrived", 0))
            known = tuple(row["owner"] for row in rows)
            if known:  # one that is not there yet is looked for each time
                _bounded(self._owners)[uid] = known, time.monotonic() + _BELIEVED
        return known

    def row(self, owner: str, uid: str) -> Row | None:
        """A study's."""
        return self.studies.find_one({"_id": f"{owner}|{uid}"})

    def stored(self, owner: str, study: str, series: str | None = None, instance: str | None = None) -> list[Stored]:
        """Where the bytes are of a study, series or instance, in order."""
        return [_stored(row) for row in self._rows(owner, study, series, instance, {"meta": 0, "q": 0})]

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
        rows = sorted(self.instances.find({"series": series}, {"meta": 1, "number": 1, "uid": 1}), key=_order)
        return [linked(zlib.decompress(row["meta"]), base) for row in rows]

    def series_of(self, study: str) -> list[str]:
        """The UIDs of a study's series, in order."""
        rows = sorted(self.series.find({"study": study}), key=lambda r: (_number(r["q"].get("SeriesNumber")) or 0, r["uid"]))
        return [row["uid"] for row in rows]

    def _rows(self, owner: str, study: str, series: str | None, instance: str | None, fields: Row) -> list[Row]:
        key = f"{owner}|{study}"
        if instance is not None:
            row = self.instances.find_one({"_id": f"{owner}|{instance}"}, fields)
            return [row] if row is not None and row["series"] == f"{key}|{series}" else []
        filter_ = {"series": f"{key}|{series}"} if series is not None else _within(key)
        return sorted(self.instances.find(filter_, fields), key=lambda r: (r["series"], *_order(r)))

    # ------------------------------------------------------------ what people decided

    def aside(self, owner: str, study: str) -> list[Row]:
        """What is in quarantine for a study, but for what people already decided about."""
        return list(self.quarantine.find({"study": f"{owner}|{study}", "decided": None}))

    def patient(self, owner: str, study: str) -> str:
        """The PatientID of a study's images."""
        row = self.studies.find_one({"_id": f"{owner}|{study}"}, {"q.PatientID": 1})
        return str(row["q"].get("PatientID", "")) if row else ""

    def moved(self, owner: str, study: str) -> bool:
        """Whether its images were replaced by those of another patient, and the record has not followed yet."""
        return self.studies.find_one({"_id": f"{owner}|{study}", "moved": True}, {"_id": 1}) is not None

    def decide(self, owner: str, study: str) -> None:
        """What is in quarantine for a study stays there, and nobody is asked about it again."""
        self.quarantine.update_many({"study": f"{owner}|{study}"}, {"$set": {"decided": True}})

    def replace(self, owner: str, instance: Instance, digest: str, size: int) -> None:
        """These bytes, from quarantine, take the place of those of their UID, which go to quarantine. Idempotent."""
        row = _row(owner, instance, digest, size)
        study = row["series"].rpartition("|")[0]
        known = self.instances.find_one({"_id": row["_id"]}, {"meta": 0})
        if known is not None and known["digest"] != digest:
            old = {key: known[key] for key in ("owner", "uid", "digest", "size")}
            self._aside(old | {"study": study, "why": REPLACED, "decided": True})
        patient = instance.attributes[STUDY].get("PatientID", "")
        other: Row = {"_id": study, "q.PatientID": {"$ne": patient} if patient else {"$exists": True}}
        moved: Row = {"$set": {"moved": True, "q": instance.attributes[STUDY]}, "$inc": {"revision": 1}}
        self.studies.update_one(other, moved)  # in one with its revision: an update that began before does not settle it
        self.studies.update_one({"_id": study}, {"$set": {"q": instance.attributes[STUDY]}})
        self._add_parents(owner, instance)
        self.series.update_one({"_id": row["series"]}, {"$set": {"q": instance.attributes[SERIES]}})
        self.instances.replace_one({"_id": row["_id"]}, row, upsert=True)
        self.quarantine.delete_one({"_id": f"{owner}|{instance.uid}|{digest}"})
        self._known.clear()


def _row(owner: str, instance: Instance, digest: str, size: int) -> Row:
    return {
        "_id": f"{owner}|{instance.uid}",
        "owner": owner,
        "series": f"{owner}|{instance.study}|{instance.series}",
        "uid": instance.uid,
        "class": instance.sop_class,
        "syntax": instance.transfer_syntax,
        "number": _number(instance.attributes[INSTANCE].get("InstanceNumber")),
        "title": instance.title,
        "digest": digest,
        "size": size,
        "count": instance.count,
        "frames": _packed(instance.frames),
        "bulk": [list(one) for one in instance.bulk],
        "q": instance.attributes[INSTANCE],
        "meta": instance.metadata,
    }


def _bounded(known: dict[str, V]) -> dict[str, V]:
    """What is remembered, empty where it has grown too large."""
    if len(known) >= _KNOWN:
        known.clear()
    return known


def linked(text: bytes, base: str) -> bytes:
    """A text of metadata with the URLs of its bulk data. ``base``: the URL of /dicomweb."""
    return text.replace(BULK_MARK.encode(), f"{BULK_MARK[:-1]}{base}".encode())


def _within(study: str) -> Row:
    """All series of a study, by the one index on their keys."""
    return {"series": {"$gte": f"{study}|", "$lt": f"{study}}}"}}


def _order(row: Row) -> tuple[int, str]:
    return row["number"] or 0, row["uid"]


def told(row: Row) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(zlib.decompress(row["meta"]))
    return metadata


def _series(row: Row, instances: Iterable[StoredInstance]) -> Series:
    return Series(row["uid"], row["q"], tuple(sorted(instances, key=lambda i: (i.number or 0, i.uid))))


def _stored(row: Row) -> Stored:
    owner, study, series = row["series"].split("|")
    bulk = {path: (offset, length) for path, offset, length in row["bulk"]}
    return Stored(
        owner,
        study,
        series,
        row["uid"],
        row["class"],
        row["syntax"],
        row["digest"],
        row["size"],
        row["count"],
        _unpacked(row["frames"]),
        bulk,
        row["number"],
    )


def _number(text: str | None) -> int | None:
    """An Integer String, which has 32 bits: PS3.5 table 6.2-1. What is none, is none."""
    try:
        number = int(text) if text else None
    except ValueError:
        return None
    return number if number is not None and -(2**31) <= number < 2**31 else None


def _packed(frames: tuple[tuple[tuple[int, int], ...], ...]) -> Row | list[list[list[int]]]:
    """Frames that follow each other as (start, length, count); others as they are."""
    if frames and all(
        len(f) == 1 and f[0] == (frames[0][0][0] + i * frames[0][0][1], frames[0][0][1]) for i, f in enumerate(frames)
    ):
        return {"at": frames[0][0][0], "length": frames[0][0][1], "count": len(frames)}
    return [[list(segment) for segment in frame] for frame in frames]


def _unpacked(packed: Any) -> tuple[tuple[tuple[int, int], ...], ...]:
    if isinstance(packed, dict):
        return tuple(((packed["at"] + i * packed["length"], packed["length"]),) for i in range(packed["count"]))
    return tuple(tuple((offset, length) for offset, length in frame) for frame in packed)
