"""The small collections of background work: who does it now, how far it is, and what waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pymongo import errors
from pymongo.database import Database

from fhirserver.store.database import translated
from fhirserver.versions import Document


class Registers:
    """Signals, leases, progress of indexing, orders to match, the audit trail on its way, the definitions published."""

    def __init__(self, database: Database[Document], clock: Callable[[], int]) -> None:
        self.database, self._clock = database, clock

    def signal(self, name: str) -> int:
        """How often it was given."""
        with translated():
            row = self.database["signals"].find_one({"_id": name})
        return int(row["n"]) if row else 0

    def reindexing(self) -> dict[str, Document]:
        """Type -> how far its indexing is."""
        with translated():
            return {row["_id"]: row for row in self.database["reindexing"].find({})}

    def set_reindexing(self, type_: str, state: Document) -> None:
        with translated():
            self.database["reindexing"].replace_one({"_id": type_}, state, upsert=True)

    def answer(self, id_: str) -> Document | None:
        """What a request with this key was answered."""
        with translated():
            return self.database["answers"].find_one({"_id": id_})

    def figures_of(self, report: str) -> list[Document]:
        """What was measured of one report."""
        with translated():
            return list(self.database["figures"].find({"report": report}))

    def measured(
        self, organization: str, kind: str, by: str, clock: str | None, percents: Iterable[int], period: tuple[int, int]
    ) -> list[Document]:
        """Of the rows that an organisation read or asked for, by a member: how many, how many in time, and percentiles of one
        clock (the smallest value that so many percent do not exceed)."""
        low, high = period
        read: Document = {"centre": organization}
        stages: list[Document] = [
            {"$match": {"kind": kind, "ts": {"$gte": low, "$lt": high}}},
            {"$match": read if by == "reader" else {"$or": [read, {"facility": organization}]}},
            {"$sort": {f"took.{clock}": 1}},
            {
                "$group": {
                    "_id": f"${by}",
                    "n": {"$sum": 1},
                    "met": {"$sum": {"$cond": ["$met", 1, 0]}},
                    **({"all": {"$push": f"$took.{clock}"}} if clock else {}),
                }
            },
            {
                "$project": {
                    "n": 1,
                    "met": 1,
                    **{f"p{percent}": {"$arrayElemAt": ["$all", _nth(percent)]} for percent in percents if clock},
                }
            },
            {"$sort": {"_id": 1}},
        ]
        with translated():
            return list(self.database["figures"].aggregate(stages))

    def orders_to_match(self) -> list[Document]:
        with translated():
            return list(self.database["orders_to_match"].find({}).limit(1000))

    def orders_matched(self, rows: list[Document]) -> None:
        with translated():
            self.database["orders_to_match"].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})

    def trail(self, limit: int) -> list[Document]:
        """Lines that writes left, of which no AuditEvent and Provenance was made yet: the first ones."""
        with translated():
            return list(self.database["trail"].find({}).sort("_id", 1).limit(limit))

    def drop_trail(self, rows: list[Document]) -> None:
        with translated():
            self.database["trail"].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})

    def add_segment(self, segment: Document) -> None:
        """A closed piece of the audit trail, idempotent by its ``_id``."""
        with translated():
            self.database["audit_segments"].replace_one({"_id": segment["_id"]}, segment, upsert=True)

    def segments(self) -> list[Document]:
        with translated():
            return list(self.database["audit_segments"].find({}))

    def drop_segment(self, id_: str) -> None:
        with translated():
            self.database["audit_segments"].delete_one({"_id": id_})

    def published(self) -> str | None:
        """The stamp of the definitions that are stored as resources."""
        with translated():
            row = self.database["published"].find_one({"_id": "definitions"})
        return str(row["stamp"]) if row else None

    def set_published(self, stamp: str) -> None:
        with translated():
            self.database["published"].replace_one({"_id": "definitions"}, {"stamp": stamp}, upsert=True)

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Whether ``holder`` has the lease now: it held it, or nobody does any more."""
        leases, now = self.database["leases"], self._clock()
        until = now + int(seconds * 1000)
        with translated():
            held = leases.update_one({"_id": name, "holder": holder}, {"$set": {"until": until}})
            if held.matched_count:
                return True
            free = leases.update_one({"_id": name, "until": {"$lt": now}}, {"$set": {"holder": holder, "until": until}})
            if free.matched_count:
                return True
            try:
                leases.insert_one({"_id": name, "holder": holder, "until": until})
            except errors.DuplicateKeyError:
                return False
        return True


def _nth(percent: int) -> Document:
    """Where the percentile stands in a sorted array of ``n``: nearest rank, counted from 0."""
    rank: Document = {"$ceil": {"$multiply": ["$n", percent / 100]}}
    return {"$max": [0, {"$toInt": {"$subtract": [rank, 1]}}]}
