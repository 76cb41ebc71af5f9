"""Study, series and instance rows in MongoDB. The only user of pymongo in this package.

A row's identity begins with its owner, the organisation whose credential stored it: two facilities' copies of one UID are
two rows. The file is kept first, the row second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pymongo import IndexModel
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from imaging.attributes import INSTANCE, SERIES, STUDY
from imaging.dataset import Instance
from imaging.study import Accession, Series, StoredInstance, Study

Row = dict[str, Any]
_KNOWN = 10_000
NEW, SAME, OTHER, PATIENT = "new", "same", "other", "patient"


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an instance's bytes are."""

    owner: str
    study: str
    series: str
    uid: str
    sop_class: str
    transfer_syntax: str
    digest: str
    size: int
    frames: tuple[tuple[tuple[int, int], ...], ...]


class Index:
    """The archive's index. Thread-safe."""

    def __init__(self, database: Database[Row]) -> None:
        self.studies = database["dicom_studies"]
        self.series = database["dicom_series"]
        self.instances = database["dicom_instances"]
        self._known: dict[str, str] = {}  # series -> PatientID of its study

    def prepare(self) -> None:
        fields = ("uid", "q.PatientID", "q.AccessionNumber", "numbers", "q.StudyDate", "dirty", "waiting")
        self.studies.create_indexes([IndexModel([(field, 1)], name=field) for field in fields])
        self.series.create_indexes([IndexModel([("study", 1)], name="study")])
        self.instances.create_indexes([IndexModel([(field, 1)], name=field) for field in ("study", "series")])

    # ------------------------------------------------------------ arriving

    def add(self, owner: str, instance: Instance, digest: str, size: int) -> str:
        """NEW, SAME (these bytes are known), OTHER (other bytes are known under this UID, and stay) or PATIENT (the study
        holds another patient's images)."""
        study = f"{owner}|{instance.study}"
        series = f"{study}|{instance.series}"
        patient = instance.attributes[STUDY].get("PatientID", "")
        if self._known.get(series) != patient:
            self._add_parents(owner, instance, study, series)
            top = self.studies.find_one({"_id": study}, {"q.PatientID": 1})
            if top is None or top["q"].get("PatientID", "") != patient:
                return PATIENT
            self._remember(series, patient)
        row = {
            "_id": f"{owner}|{instance.uid}",
            "owner": owner,
            "study": study,
            "series": series,
            "uid": instance.uid,
            "class": instance.sop_class,
            "syntax": instance.transfer_syntax,
            "number": _number(instance.attributes[INSTANCE].get("InstanceNumber")),
            "title": instance.title,
            "digest": digest,
            "size": size,
            "frames": _packed(instance.frames),
            "q": instance.attributes[INSTANCE],
            "meta": json.dumps(instance.metadata, separators=(",", ":")),
        }
        try:
            self.instances.insert_one(row)
        except DuplicateKeyError:
            known = self.instances.find_one({"_id": row["_id"]}, {"digest": 1, "study": 1})
            return SAME if known and (known["digest"], known["study"]) == (digest, study) else OTHER
        return NEW

    def _add_parents(self, owner: str, instance: Instance, study: str, series: str) -> None:
        first = {"study": study, "uid": instance.series, "q": instance.attributes[SERIES], "instances": 0}
        self.series.update_one({"_id": series}, {"$setOnInsert": first}, upsert=True)
        top = {
            "owner": owner,
            "uid": instance.study,
            "q": instance.attributes[STUDY],
            "modalities": [],
            "seriesCount": 0,
            "instances": 0,
        }
        accessions = [[a.number, a.issuer] for a in instance.accessions]
        numbers = [a.number for a in instance.accessions]
        self.studies.update_one(
            {"_id": study},
            {"$setOnInsert": top, "$addToSet": {"accessions": {"$each": accessions}, "numbers": {"$each": numbers}}},
            upsert=True,
        )

    def _remember(self, series: str, patient: str) -> None:
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[series] = patient

    def mark(self, owner: str, uid: str, now: int) -> None:
        """Something arrived: the study is to be brought up to date, and has not been quiet."""
        self.studies.update_one({"_id": f"{owner}|{uid}"}, {"$set": {"dirty": True, "waiting": True, "arrived": now}})

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

    def waiting(self, arrived_before: int) -> list[tuple[str, str]]:
        """(owner, uid) of studies that were not said complete and to which nothing came since."""
        rows = self.studies.find({"waiting": True}, {"owner": 1, "uid": 1, "arrived": 1}).limit(1000)
        return [(row["owner"], row["uid"]) for row in rows if row["arrived"] < arrived_before]

    def settle(self, owner: str, uid: str, arrived: int, *, complete: bool) -> None:
        """It was brought up to date with what had come until ``arrived``; what came later keeps it dirty."""
        done: Row = {"dirty": False} | ({"waiting": False} if complete else {})
        self.studies.update_one({"_id": f"{owner}|{uid}", "arrived": arrived}, {"$set": done})

    def study(self, owner: str, uid: str) -> tuple[Study, int] | None:
        """The whole study and when something last arrived; its counts are brought up to date on the way."""
        row = self.studies.find_one({"_id": f"{owner}|{uid}"})
        if row is None:
            return None
        arrived = row.get("arrived", 0)
        fields = {"series": 1, "uid": 1, "class": 1, "number": 1, "title": 1}
        by_series: dict[str, list[StoredInstance]] = {}
        for i in self.instances.find({"study": row["_id"]}, fields):
            by_series.setdefault(i["series"], []).append(StoredInstance(i["uid"], i["class"], i["number"], i["title"]))
        series = [_series(s, by_series.get(s["_id"], [])) for s in self.series.find({"study": row["_id"]})]
        series.sort(key=lambda s: (_number(s.attributes.get("SeriesNumber")) or 0, s.uid))
        self._count(row["_id"], series)
        accessions = tuple(Accession(number, issuer) for number, issuer in row.get("accessions", ()))
        return Study(owner, uid, row["q"], accessions, tuple(series)), arrived

    def _count(self, study: str, series: list[Series]) -> None:
        for one in series:
            self.series.update_one({"_id": f"{study}|{one.uid}"}, {"$set": {"instances": len(one.instances)}})
        modalities = sorted({m for one in series if (m := one.attributes.get("Modality"))})
        total = sum(len(one.instances) for one in series)
        self.studies.update_one(
            {"_id": study}, {"$set": {"modalities": modalities, "seriesCount": len(series), "instances": total}}
        )

    # ------------------------------------------------------------ asking

    def find_studies(self, filter_: Row) -> Iterator[Row]:
        """Newest study date first."""
        yield from self.studies.find(filter_).sort([("q.StudyDate", -1), ("_id", 1)])

    def find_series(self, study: str) -> list[Row]:
        return list(self.series.find({"study": study}))

    def find_instances(self, series: str) -> list[Row]:
        return list(self.instances.find({"series": series}, {"meta": 0, "frames": 0}))

    def copies(self, uid: str) -> list[Row]:
        """Each owner's row of a study."""
        return list(self.studies.find({"uid": uid}))

    def stored(self, owner: str, study: str, series: str | None = None, instance: str | None = None) -> list[Stored]:
        """Where the bytes are of a study, series or instance, in order."""
        return [_stored(row) for row in self._rows(owner, study, series, instance, {"meta": 0})]

    def metadata(self, owner: str, study: str, series: str | None = None, instance: str | None = None) -> list[str]:
        """The DICOM JSON texts of a study's, series' or instance's data sets."""
        return [
            row["meta"] for row in self._rows(owner, study, series, instance, {"meta": 1, "series": 1, "number": 1, "uid": 1})
        ]

    def _rows(self, owner: str, study: str, series: str | None, instance: str | None, fields: Row) -> list[Row]:
        key = f"{owner}|{study}"
        if instance is not None:
            row = self.instances.find_one(
                {"_id": f"{owner}|{instance}"},
                fields | ({"study": 1, "series": 1} if fields.get("meta") else {}),
            )
            there = row is not None and row["series"] == f"{key}|{series}"
            return [row] if row is not None and there else []
        filter_ = {"series": f"{key}|{series}"} if series is not None else {"study": key}
        return sorted(self.instances.find(filter_, fields), key=lambda r: (r["series"], r["number"] or 0, r["uid"]))


def _series(row: Row, instances: Iterable[StoredInstance]) -> Series:
    return Series(row["uid"], row["q"], tuple(sorted(instances, key=lambda i: (i.number or 0, i.uid))))


def _stored(row: Row) -> Stored:
    owner, study, series = row["series"].split("|")
    return Stored(
        owner, study, series, row["uid"], row["class"], row["syntax"], row["digest"], row["size"], _unpacked(row["frames"])
    )


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:
        return None


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
