"""What the index is told: instances that arrive, and studies that were brought up to date."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bson.errors import InvalidDocument
from pymongo import IndexModel
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DocumentTooLarge

from imaging.attributes import STUDY
from imaging.dataset import Instance
from imaging.index.deciding import NEW, OTHER, PATIENT, SAME, Decisions
from imaging.index.reading import BELIEVED, bounded, moves_away
from imaging.index.rows import Row, integer, row_of, within
from imaging.study import Accession, Quarantined, Series, StoredInstance, Study
from imaging.together import Together

_AT_ONCE = 100  # studies that are brought up to date before others are looked for
_DUPLICATE = 11000  # MongoDB's code: the key is there


class Received(NamedTuple):
    """An instance whose file is kept: its digest and size."""

    instance: Instance
    digest: str
    size: int


class Index(Decisions):
    """The archive's index. Thread-safe."""

    def __init__(self, database: Database[Row]) -> None:
        super().__init__(database)
        self._insert = Together(
            self._inserted, alone=(BulkWriteError, DocumentTooLarge, InvalidDocument, ValueError, OverflowError)
        )

    def prepare(self) -> None:
        fields = ("uid", "q.PatientID", "q.AccessionNumber", "numbers", "q.StudyDate", "dirty", "waiting")
        self.studies.create_indexes([IndexModel([(field, 1)], name=field) for field in fields])
        self.series.create_indexes([IndexModel([("study", 1)], name="study")])
        self.instances.create_indexes([IndexModel([("series", 1)], name="series")])
        self.quarantine.create_indexes([IndexModel([("study", 1)], name="study")])

    # ------------------------------------------------------------ arriving

    def add(self, owner: str, received: list[Received], alike: Callable[[str, str], bool]) -> list[tuple[str, str]]:
        """What became of each, and the study that it concerns. ``alike``: whether the files of two digests are one data set.

        NEW, SAME (this data set is known), OTHER (other bytes are known under this UID, and stay) or PATIENT (the study holds
        another patient's images). OTHER and PATIENT are put in quarantine. Those that several threads add go in one command, which
        takes a third of the time.
        """
        rows = {n: row_of(owner, *one) for n, one in enumerate(received) if self._has_parents(owner, one.instance)}
        new = dict(zip(rows, self._insert(list(rows.values())), strict=True)) if rows else {}
        return [self._became(owner, one, new.get(n), alike) for n, one in enumerate(received)]

    def _inserted(self, rows: list[Row]) -> list[bool]:
        """Whether each is new: no other has its UID."""
        try:
            self.instances.insert_many(rows, ordered=False)
        except BulkWriteError as error:
            problems = error.details["writeErrors"]
            if any(problem["code"] != _DUPLICATE for problem in problems) or error.details["writeConcernErrors"]:
                raise
            known = {problem["index"] for problem in problems}
            return [n not in known for n in range(len(rows))]
        return [True] * len(rows)

    def _became(self, owner: str, one: Received, new: bool | None, alike: Callable[[str, str], bool]) -> tuple[str, str]:
        """``new``: None where the study is another patient's."""
        instance, digest, _ = one
        if new:
            return NEW, instance.study
        if new is None:
            self._set_aside(owner, one, instance.study, PATIENT)
            return PATIENT, instance.study
        known = self.instances.find_one({"_id": f"{owner}|{instance.uid}"}, {"digest": 1, "series": 1, "syntax": 1})
        series = f"{owner}|{instance.study}|{instance.series}"
        same = known is not None and (known["series"], known["syntax"]) == (series, instance.transfer_syntax)
        if known is not None and same and (known["digest"] == digest or alike(known["digest"], digest)):
            return SAME, instance.study
        study = known["series"].split("|")[1] if known else instance.study
        self._set_aside(owner, one, study, OTHER)
        return OTHER, study

    def _has_parents(self, owner: str, instance: Instance) -> bool:
        """Whether the rows of its study and series are there, which are made if need be. False where the study is another patient's."""
        series, patient = f"{owner}|{instance.study}|{instance.series}", instance.attributes[STUDY].get("PatientID", "")
        known, until = self._known.get(series, (None, 0.0))
        if known == patient and until > time.monotonic():
            return True
        added = self._add_parents(owner, instance)
        if added:
            bounded(self._known)[series] = patient, time.monotonic() + BELIEVED
        return added

    def _set_aside(self, owner: str, one: Received, study: str, why: str) -> None:
        instance, digest, size = one
        row = {"owner": owner, "study": f"{owner}|{study}", "uid": instance.uid, "digest": digest, "size": size, "why": why}
        self._ask(row | {"patient": instance.attributes[STUDY].get("PatientID", ""), "charset": instance.charset})

    def _add_parents(self, owner: str, instance: Instance) -> bool:
        """The rows of study and series are there, and know of the orders. False where the study is another patient's, or is becoming it."""
        study = f"{owner}|{instance.study}"
        self._add_study(owner, instance)
        there = self.studies.find_one({"_id": study}, {"q.PatientID": 1, "moving": 1, "hides": 1})
        if (
            there is None
            or moves_away(there)
            or there["q"].get("PatientID", "") != instance.attributes[STUDY].get("PatientID", "")
        ):
            return False
        self._add_series(owner, instance)
        return True

    def mark(self, owner: str, uid: str, now: int, quiet: int | None = None, held: int | None = None) -> None:
        """Something arrived: the study is to be brought up to date, and has not been quiet. ``quiet``: milliseconds until it is
        complete, where its source has its own. ``held``: until then it stays to be brought up to date, whatever is done: more
        arrives without a mark of its own."""
        marks: Row = {
            "$set": {"dirty": True, "waiting": True, "arrived": now, "quiet": quiet, "later": 0},
            "$inc": {"revision": 1},
        }
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

    def dirty(self, now: int) -> list[tuple[str, str]]:
        """(owner, uid) of some studies to bring up to date."""
        rows = self.studies.find({"dirty": True, "later": {"$not": {"$gt": now}}}, {"owner": 1, "uid": 1}).limit(_AT_ONCE)
        return [(row["owner"], row["uid"]) for row in rows]

    def waiting(self, now: int, quiet: int) -> list[tuple[str, str]]:
        """(owner, uid) of some studies that were not said complete and to which nothing came for so many milliseconds, or for those of
        their source."""
        found: list[tuple[str, str]] = []
        fields = {"owner": 1, "uid": 1, "arrived": 1, "quiet": 1}
        for row in self.studies.find({"waiting": True, "later": {"$not": {"$gt": now}}}, fields):
            if row["arrived"] < now - (row.get("quiet") or quiet):
                found.append((row["owner"], row["uid"]))
                if len(found) == _AT_ONCE:
                    break
        return found

    def defer(self, owner: str, uid: str, until: int) -> None:
        """It could not be brought up to date: it does not take the others' place before then, or before something comes of it."""
        self.studies.update_one({"_id": f"{owner}|{uid}"}, {"$set": {"later": until}})

    def settle(
        self, owner: str, uid: str, revision: int | None, begun: int, *, complete: bool, followed: bool = True
    ) -> None:  # fmt: skip
        """It was brought up to date as it was in this revision, read after ``begun``; what came later keeps it dirty. ``followed``:
        whether the record is of the images' patient now."""
        done: Row = {"dirty": False, "held": 0} | ({"waiting": False} if complete else {})
        free = {"held": {"$not": {"$gte": begun}}}
        as_it_was = {"_id": f"{owner}|{uid}", "revision": revision}
        if followed:
            self.studies.update_one(as_it_was | {"moved": True}, {"$set": {"moved": False}})
        settled = self.studies.update_one(as_it_was | free, {"$set": done}).matched_count
        if not settled and revision is not None:  # what was done may be older than another's doing
            self.studies.update_one({"_id": f"{owner}|{uid}", "revision": {"$gt": revision}}, {"$set": {"dirty": True}})

    def study(self, owner: str, uid: str) -> tuple[Study, int | None] | None:
        """The whole study and its revision; its counts are brought up to date on the way. None while it is being moved, too."""
        row = self.studies.find_one({"_id": f"{owner}|{uid}"})
        if row is None or row.get("moving"):
            return None
        revision = row.get("revision")
        fields = {"series": 1, "uid": 1, "class": 1, "number": 1, "title": 1}
        by_series: dict[str, list[StoredInstance]] = {}
        for i in self.instances.find(within(row["_id"]), fields):
            by_series.setdefault(i["series"], []).append(StoredInstance(i["uid"], i["class"], i["number"], i["title"]))
        series = [_series(s, by_series[s["_id"]]) for s in self.series.find({"study": row["_id"]}) if s["_id"] in by_series]
        series.sort(key=lambda s: (integer(s.attributes.get("SeriesNumber")) or 0, s.uid))
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


def _series(row: Row, instances: Iterable[StoredInstance]) -> Series:
    return Series(row["uid"], row["q"], tuple(sorted(instances, key=lambda i: (i.number or 0, i.uid))))
