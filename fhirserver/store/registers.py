"""The small collections of background work: who does it now, how far it is, and what waits for it."""

from __future__ import annotations

from collections.abc import Callable

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
