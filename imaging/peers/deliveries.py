"""What is to be sent where: one row a study and destination, and one for each instance that has arrived there.

An instance is written down as the peer answers it, so what was cut off goes on with what is missing; one that came later puts its study
back in the queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pymongo import IndexModel
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

Row = dict[str, Any]
WAITING, SENT, FAILED = "waiting", "sent", "failed"
_DOUBTFUL = 2


@dataclass(frozen=True, slots=True)
class Delivery:
    """``asked`` counts how often it was put in the queue; ``rank``: the more urgent first; ``since``: when it began to wait;
    ``tries``: how often it failed since."""

    id: str
    destination: str
    owner: str
    study: str
    state: str
    asked: int
    rank: int
    since: int
    tries: int
    reason: str


class Deliveries:
    """The queue. Thread-safe; of several processes one sends to a destination at a time, by the lease that it holds."""

    def __init__(self, database: Database[Row]) -> None:
        self._rows, self._done = database["dicom_deliveries"], database["dicom_delivered"]

    def prepare(self) -> None:
        self._rows.create_indexes([IndexModel([("destination", 1), ("state", 1), ("next", 1)], name="waiting")])
        self._done.create_indexes([IndexModel([("delivery", 1)], name="delivery")])

    def want(self, destination: str, owner: str, study: str, rank: int, now: int) -> None:
        """Put a study in the queue, or back; it is the same however often it is said."""
        id_ = f"{destination}|{owner}|{study}"
        again: Row = {"$inc": {"asked": 1}, "$min": {"rank": rank}}
        if self._rows.update_one({"_id": id_, "state": WAITING}, again).matched_count:
            return
        fresh = {"state": WAITING, "since": now, "next": now, "reason": "", "rank": rank, "tries": 0}
        if self._rows.update_one({"_id": id_}, {"$inc": {"asked": 1}, "$set": fresh}).matched_count:
            return
        try:
            self._rows.insert_one({"_id": id_, "destination": destination, "owner": owner, "study": study, "asked": 1, **fresh})
        except DuplicateKeyError:
            self._rows.update_one({"_id": id_}, again)

    def due(self, destination: str, now: int, limit: int = 100) -> list[Delivery]:
        """The most urgent first; what failed several times does not stand in the way of the others."""
        found = self._rows.find({"destination": destination, "state": WAITING, "next": {"$lte": now}})
        rows = found.sort([("rank", 1), ("since", 1)]).limit(1000)
        return sorted(map(_delivery, rows), key=lambda one: (one.tries > _DOUBTFUL, one.rank, one.since, one.id))[:limit]

    def with_something_due(self, destinations: Iterable[str], now: int) -> list[str]:
        return [
            name for name in destinations
            if self._rows.find_one({"destination": name, "state": WAITING, "next": {"$lte": now}}, {"_id": 1})
        ]  # fmt: skip

    def owners(self, destination: str) -> list[str]:
        """Whose studies are or were for it."""
        return sorted({row["owner"] for row in self._rows.find({"destination": destination}, {"owner": 1})})

    def waiting(self, destination: str) -> list[Delivery]:
        return [_delivery(row) for row in self._rows.find({"destination": destination, "state": WAITING})]

    def arrived(self, delivery: Delivery) -> dict[str, str]:
        """The digests of the instances that are there already, by UID."""
        start = len(delivery.id) + 1
        return {row["_id"][start:]: row["digest"] for row in self._done.find({"delivery": delivery.id})}

    def note(self, delivery: Delivery, uid: str, digest: str) -> None:
        """This instance is there now."""
        row = {"_id": f"{delivery.id}|{uid}", "delivery": delivery.id, "digest": digest}
        self._done.replace_one({"_id": row["_id"]}, row, upsert=True)

    def finish(self, delivery: Delivery) -> None:
        """All of it is there; unless it was asked for again meanwhile."""
        done = {"$set": {"state": SENT, "reason": ""}}
        self._rows.update_one({"_id": delivery.id, "asked": delivery.asked}, done)

    def postpone(self, delivery: Delivery, reason: str, until: int) -> None:
        self._rows.update_one({"_id": delivery.id}, {"$set": {"reason": reason, "next": until}, "$inc": {"tries": 1}})

    def hold(self, delivery: Delivery, reason: str, until: int) -> None:
        """It may not be sent yet, which is nobody's failure."""
        self._rows.update_one({"_id": delivery.id}, {"$set": {"reason": reason, "next": until}})

    def hurry(self, destination: str, now: int) -> None:
        """The destination is there again: nothing waits for its own turn."""
        self._rows.update_many({"destination": destination, "state": WAITING, "next": {"$gt": now}}, {"$set": {"next": now}})

    def fail(self, delivery: Delivery, reason: str) -> None:
        """It stays where it is until it is asked for again, by a person or because instances came."""
        given_up = {"$set": {"state": FAILED, "reason": reason}}
        self._rows.update_one({"_id": delivery.id, "asked": delivery.asked}, given_up)

    def withdraw(self, delivery: Delivery) -> None:
        """It may not be sent any more."""
        self._rows.delete_one({"_id": delivery.id})

    def retry(self, destination: str, now: int) -> int:
        """What failed and what waits is tried at once; how many."""
        again = {"$inc": {"asked": 1}, "$set": {"state": WAITING, "next": now, "reason": "", "tries": 0}}
        return self._rows.update_many({"destination": destination, "state": {"$in": [WAITING, FAILED]}}, again).modified_count

    def drop(self, destination: str) -> None:
        self._rows.delete_many({"destination": destination})
        self._done.delete_many({"delivery": {"$gte": f"{destination}|", "$lt": f"{destination}}}"}})

    def figures(self, destination: str) -> dict[str, int]:
        """How many wait, were sent and failed, and since when the oldest waits (``oldest``; 0: none does)."""
        mine = {"destination": destination}
        counted = {state: self._rows.count_documents(mine | {"state": state}) for state in (WAITING, SENT, FAILED)}
        first = self._rows.find(mine | {"state": WAITING}, {"since": 1}).sort("since", 1).limit(1)
        return counted | {"oldest": next((row["since"] for row in first), 0)}

    def failures(self, destination: str) -> list[Delivery]:
        return [_delivery(row) for row in self._rows.find({"destination": destination, "state": FAILED})]


def _delivery(row: Row) -> Delivery:
    return Delivery(
        row["_id"],
        row["destination"],
        row["owner"],
        row["study"],
        row["state"],
        row["asked"],
        row["rank"],
        row["since"],
        row["tries"],
        row["reason"],
    )
