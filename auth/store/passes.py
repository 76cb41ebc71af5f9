"""Passes and the one-time codes that lead to them, as they are kept: hashes of handles, what they are for, until when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pymongo.database import Database

from auth.store.documents import Document, after, digest, fresh, left, now

CODE_SECONDS = 60
IDLE_SECONDS = 1800
LONGEST_SECONDS = 8 * 3600
_NOTED_EVERY = 60  # seconds: how exactly it is known when a pass was used last
_MOST = 50  # records that one pass is for: the last that were opened


class KeptPasses:
    """``origin`` is the session or the token that a pass comes of; ``records`` are references."""

    def __init__(self, database: Database[Document]) -> None:
        self._passes = database["auth_passes"]
        self._codes = database["auth_pass_codes"]

    def prepare(self) -> None:
        for collection in (self._passes, self._codes):
            collection.create_index("expires", expireAfterSeconds=0)
        self._passes.create_index("origin")

    def add(self, origin: str, records: Iterable[str]) -> str:
        """A new one, good also for what is open by the same origin: a browser keeps one cookie for all its windows. Its handle."""
        found: dict[str, datetime] = {}
        for row in self._passes.find({"origin": origin}).sort("expires", 1):
            found |= {one["what"]: one["until"] for one in open_(row)}
        until = after(LONGEST_SECONDS)
        new = dict.fromkeys(records, until)
        rows = [
            {"what": what, "until": when} for what, when in ({w: u for w, u in found.items() if w not in new} | new).items()
        ]
        rows = rows[-_MOST:]
        handle = fresh()
        self._passes.insert_one({"_id": digest(handle), "origin": origin, "records": rows, "used": now(), "expires": until})
        return handle

    def get(self, handle: str) -> Document | None:
        """None where it is unknown, or was not used for too long. That it is used now is noted: ``noted`` says whether."""
        found = self._passes.find_one({"_id": digest(handle)})
        if found is None or not open_(found):
            return None
        noted = left({"expires": found["used"]}) < -_NOTED_EVERY
        if noted:
            self._passes.update_one({"_id": found["_id"]}, {"$set": {"used": now()}})
        return found | {"noted": noted}

    def add_code(self, origin: str, records: Iterable[str], where: str) -> str:
        code = fresh()
        row = {"_id": digest(code), "origin": origin, "records": list(records), "where": where, "used": False}
        self._codes.insert_one(row | {"expires": after(CODE_SECONDS)})
        return code

    def take_code(self, code: str) -> Document | None:
        """Once, within its minute."""
        unused = {"_id": digest(code), "used": False}
        found = self._codes.find_one(unused)
        if found is None or left(found) <= 0:
            return None
        return found if self._codes.update_one(unused, {"$set": {"used": True}}).matched_count else None


def open_(found: Document) -> list[Document]:
    """What a pass is still good for."""
    if left({"expires": found["used"]}) <= -IDLE_SECONDS:
        return []
    return [one for one in found["records"] if left({"expires": one["until"]}) > 0]
