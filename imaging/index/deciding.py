"""What people decide: what waits in quarantine, and a study whose images are being replaced."""

from __future__ import annotations

import time
from typing import Any

from pymongo.database import Database

from imaging.attributes import SERIES, STUDY
from imaging.dataset import Instance
from imaging.dataset.metadata import texts
from imaging.index.reading import Reader, bounded, hidden, moves_away
from imaging.index.rows import Row, row_of, told, within

NEW, SAME, OTHER, PATIENT, REPLACED = "new", "same", "other", "patient", "replaced"
CUT_OFF = 30.0  # seconds in which a move that is done has gone on


class Decisions(Reader):
    """Thread-safe."""

    def __init__(self, database: Database[Row]) -> None:
        super().__init__(database)
        self._known: dict[str, tuple[str, float]] = {}  # series -> PatientID of its study, until when that is believed
        self._moves: dict[str, tuple[Any, float]] = {}  # what was known of a move, and since when

    def aside(self, owner: str, study: str) -> list[Row]:
        """What is in quarantine for a study, but for what people already decided about, or are deciding."""
        return list(self.quarantine.find({"study": f"{owner}|{study}", "decided": None, "task": None}))

    def patient(self, owner: str, study: str) -> str | None:
        """The PatientID of a study's images; None for a study that is not there."""
        row = self.studies.find_one({"_id": f"{owner}|{study}"}, {"q.PatientID": 1})
        return str(row["q"].get("PatientID", "")) if row else None

    def moved(self, owner: str, study: str) -> bool:
        """Whether its images were replaced by those of another patient, and the record has not followed yet."""
        return self.studies.find_one({"_id": f"{owner}|{study}", "moved": True}, {"_id": 1}) is not None

    def moving(self, owner: str, study: str, since: int, *, hides: bool = True) -> None:
        """Its images are being replaced since then (0: not any more). ``hides``: by those of another patient; until all are, and the
        record has followed, it is not shown, and takes no others."""
        state: Row = {"moving": since, "hides": hides, "later": 0, "dirty": True}
        self.studies.update_one({"_id": f"{owner}|{study}"}, {"$set": state, "$inc": {"revision": 1}})
        self._copies.pop(study, None)
        self._known.clear()

    def still_moving(self, owner: str, study: str) -> None:
        self.studies.update_one({"_id": f"{owner}|{study}", "moving": {"$gt": 0}}, {"$inc": {"moves": 1}})

    def cut_off(self, owner: str, study: str) -> bool:
        """Whether it is being moved and nobody went on with it since this was asked first, of this process, some time ago."""
        id_, now = f"{owner}|{study}", time.monotonic()
        row = self.studies.find_one({"_id": id_}, {"moving": 1, "moves": 1})
        if row is None or not row.get("moving"):
            self._moves.pop(id_, None)
            return False
        seen = row["moving"], row.get("moves")
        before, since = self._moves.get(id_, (None, now))
        if before != seen:
            bounded(self._moves)[id_] = seen, now
        return before == seen and now - since > CUT_OFF

    def takes(self, owner: str, study: str, patient: str) -> bool:
        """Whether a study is this patient's, or not there, and stays so."""
        row = self.studies.find_one({"_id": f"{owner}|{study}"}, {"q.PatientID": 1, "moving": 1, "hides": 1, "moved": 1})
        return row is None or (row["q"].get("PatientID", "") == patient and not hidden(row))

    def expel(self, owner: str, study: str) -> None:
        """What is in a moved study and not its patient's, however it came there, is set aside: before it is shown again nobody's
        images are mixed."""
        row = self.studies.find_one({"_id": f"{owner}|{study}"}, {"q.PatientID": 1, "moving": 1, "hides": 1})
        if row is None or not moves_away(row):
            return
        for one in self.instances.find(within(row["_id"]), {"owner": 1, "uid": 1, "digest": 1, "size": 1, "meta": 1}):
            patient = texts(told(one).get("00100020")).strip()
            if patient != row["q"].get("PatientID", ""):
                kept = {key: one[key] for key in ("owner", "uid", "digest", "size")}
                self._ask(kept | {"study": row["_id"], "why": PATIENT, "patient": patient, "charset": None})
                self.instances.delete_one({"_id": one["_id"], "digest": one["digest"]})
        self._ahead.forget()

    def taken_up(self, owner: str, study: str) -> list[Row]:
        """What of a study is being decided about."""
        return list(self.quarantine.find({"study": f"{owner}|{study}", "decided": None, "task": {"$gt": ""}}))

    def take_up(self, rows: list[Row], task: str | None) -> None:
        """These are decided about by this Task: what comes later is not."""
        self.quarantine.update_many({"_id": {"$in": [row["_id"] for row in rows]}}, {"$set": {"task": task}})

    def decide(self, owner: str, study: str, task: str, replace: bool) -> bool:
        """Whether this is what the Task decided: the first one counts."""
        mine: Row = {"task": task, "replace": replace}
        id_ = {"_id": f"{owner}|{study}"}
        self.studies.update_one(id_ | {"deciding.task": {"$ne": task}}, {"$set": {"deciding": mine}})
        row = self.studies.find_one(id_, {"deciding": 1})
        return row is not None and row["deciding"] == mine

    def undecide(self, owner: str, study: str, task: str) -> None:
        """It cannot be done."""
        self.studies.update_one({"_id": f"{owner}|{study}", "deciding.task": task}, {"$unset": {"deciding": ""}})

    def leave_aside(self, rows: list[Row]) -> None:
        """They stay in quarantine, and nobody is asked about them again."""
        self.quarantine.update_many({"_id": {"$in": [row["_id"] for row in rows]}}, {"$set": {"decided": True}})

    def replace(self, owner: str, instance: Instance, digest: str, size: int) -> None:
        """These bytes, from quarantine, take the place of those of their UID, which go to quarantine. Idempotent."""
        row = row_of(owner, instance, digest, size)
        study = row["series"].rpartition("|")[0]
        known = self.instances.find_one({"_id": row["_id"]}, {"meta": 0})
        if known is not None and known["digest"] != digest:
            old = {key: known[key] for key in ("owner", "uid", "digest", "size")}
            self._aside(old | {"study": study, "why": REPLACED, "decided": True})
        self._add_study(owner, instance)
        patient = instance.attributes[STUDY].get("PatientID", "")
        other: Row = {"_id": study, "q.PatientID": {"$ne": patient} if patient else {"$exists": True}}
        moved: Row = {"$set": {"moved": True, "q": instance.attributes[STUDY]}, "$inc": {"revision": 1}}
        self.studies.update_one(other, moved)  # in one with its revision: an update that began before does not settle it
        self.studies.update_one({"_id": study}, {"$set": {"q": instance.attributes[STUDY]}})
        self._add_series(owner, instance)
        self.series.update_one({"_id": row["series"]}, {"$set": {"q": instance.attributes[SERIES]}})
        self.instances.replace_one({"_id": row["_id"]}, row, upsert=True)
        if known is not None and known["series"] != row["series"] and not self.instances.find_one({"series": known["series"]}):
            self.series.update_one({"_id": known["series"]}, {"$set": {"emptied": True}})
        self.quarantine.delete_one({"_id": _of(row)})
        self._known.clear()
        self._ahead.forget()

    # ------------------------------------------------------------ rows that are made

    def _ask(self, row: Row) -> None:
        """Into quarantine, and people decide. What they left there is no question again; what was replaced once is."""
        self._aside(row)
        self.quarantine.update_one({"_id": _of(row), "why": REPLACED}, {"$set": row | {"decided": None, "task": None}})

    def _aside(self, row: Row) -> None:
        """Into quarantine: nothing of it is found or retrieved. The same bytes again change nothing."""
        self.quarantine.update_one({"_id": _of(row)}, {"$setOnInsert": row}, upsert=True)

    def _add_study(self, owner: str, instance: Instance) -> None:
        top: Row = {"owner": owner, "uid": instance.study, "q": instance.attributes[STUDY], "modalities": [], "classes": []}
        top |= {"seriesCount": 0, "instances": 0}
        self.studies.update_one({"_id": f"{owner}|{instance.study}"}, {"$setOnInsert": top}, upsert=True)
        self._copies.pop(instance.study, None)

    def _add_series(self, owner: str, instance: Instance) -> None:
        study = f"{owner}|{instance.study}"
        accessions = {"$each": [[a.number, a.issuer] for a in instance.accessions]}
        numbers = {"$each": [a.number for a in instance.accessions]}
        self.studies.update_one({"_id": study}, {"$addToSet": {"accessions": accessions, "numbers": numbers}})
        first = {"study": study, "uid": instance.series, "q": instance.attributes[SERIES], "instances": 0}
        requests = {"requests": {"$each": [one for one in instance.requests if one]}}
        there_again: Row = {"$setOnInsert": first, "$addToSet": requests, "$unset": {"emptied": ""}}
        self.series.update_one({"_id": f"{study}|{instance.series}"}, there_again, upsert=True)


def _of(row: Row) -> str:
    """The key of these bytes in quarantine."""
    return f"{row['owner']}|{row['uid']}|{row['digest']}"
