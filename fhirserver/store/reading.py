"""Reading versions: a read names what its caller may see (``Visible``); there is no default."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from fhirserver.definitions import ResourceType
from fhirserver.store.database import translated
from fhirserver.versions import Document, Filter, Stored, Visible, stored_from, version_from

_BATCH, _MOST_LOOKED_AT = 500, 2000
_WINDOW = 3_600_000  # milliseconds
_HIDDEN = {"t": 0, "d": 0, "q": 0, "u": 0, "schema": 0}
_JUDGED = {"d": 0, "q": 0, "u": 0, "schema": 0}  # by its tags too
_ACCESS = ("base", "grants", "owner", "c")


class Asked(Protocol):
    """A search as the store needs it: the type, a flat first stage and an exact second one, and the order."""

    @property
    def type(self) -> ResourceType: ...

    @property
    def sort(self) -> list[tuple[str, int]]: ...

    def stages(self, arrays: str = "") -> tuple[Filter, list[Filter]]: ...


Place = tuple[int, str]  # the time and _id of a row of the history


@dataclass(frozen=True, slots=True)
class Versions:
    """Which versions: of a resource, a type or all; made in [low, high); after a place; current at some time in ``at``."""

    type: str | None
    id: str | None
    limit: int
    low: int = 0
    high: int = 2**53
    after: Place | None = None
    at: tuple[int, int] | None = None


class Reader:
    """Current versions, the history, and searches."""

    def __init__(
        self,
        database: Database[Document],
        types: dict[str, ResourceType],
        entries: Callable[[ResourceType, str], Document],
        clock: Callable[[], int],
    ) -> None:
        self.types, self._entries = types, entries
        self._clock = clock
        self.database = database
        self.client: MongoClient[Document] = database.client
        self.history: Collection[Document] = database["history"]
        self._current = {name: database[name] for name in types}

    def get(self, type_: str, id_: str, visible: Visible) -> Stored | None:
        """The current version, deleted or not; None where there is none or it is hidden."""
        with translated():
            document = self._current[type_].find_one({"_id": id_}, _JUDGED if visible.judges else _HIDDEN)
        return stored_from(type_, document) if document and visible.shows(document, self._clock()) else None

    def fetch(self, type_: str, ids: Iterable[str], visible: Visible) -> list[Stored]:
        """The current versions of those that exist and are visible, deleted ones left out."""
        wanted, now = list(dict.fromkeys(ids)), self._clock()
        if not wanted:
            return []
        with translated():
            found = list(self.database[type_].find({"_id": {"$in": wanted}}, _JUDGED if visible.judges else _HIDDEN))
        return [stored_from(type_, d) for d in found if not d["deleted"] and visible.shows(d, now)]

    def owners(self, type_: str, ids: Iterable[str]) -> dict[str, str]:
        """For the server itself: id -> the organisation whose it is or, deleted, was."""
        wanted = {"_id": {"$in": list(dict.fromkeys(ids))}}
        with translated():
            return {row["_id"]: row["owner"] for row in self.database[type_].find(wanted, {"owner": 1})}

    def business_keys(self, type_: str, keys: list[str], visible: Visible) -> set[str]:
        """Those of the unique keys (``owner|kind|value``) whose resource exists and is visible."""
        now = self._clock()
        with translated():
            found = list(self.database[type_].find({"u": {"$in": keys}}, dict.fromkeys(("u", "t", *_ACCESS), 1)))
        return {key for row in found if visible.shows(row, now) for key in row["u"]}

    def vread(self, type_: str, id_: str, version: int, visible: Visible) -> Stored | None:
        """Where the current version is visible, and this one was to this caller."""
        with translated():
            row = self.history.find_one({"_id": f"{type_}/{id_}/{version}"})
            shown = self._shown([row], lambda _: visible) if row else []
        return shown[0] if shown else None

    def versions(self, asked: Versions, visible_of: Callable[[str], Visible | None]) -> tuple[list[Stored], Place | None]:
        """A page of the history, newest first: what the caller may see of at most 2,000 rows, and where to go on."""
        shown: list[Stored] = []
        place, looked = asked.after, 0
        with translated():
            while len(shown) <= asked.limit and looked < _MOST_LOOKED_AT:
                rows = self._older(asked, place)
                if not rows:
                    return shown, None
                looked += len(rows)
                for row in self._shown(rows, visible_of, asked.at):
                    shown.append(row)
                    if len(shown) > asked.limit:  # one more than asked for: there is a next page, after the last shown
                        last = shown[-2] if asked.limit else shown[-1]
                        return shown[:-1], (last.ts, f"{last.reference}/{last.version}")
                place = (rows[-1]["ts"], rows[-1]["_id"])
        return shown, place

    def _older(self, asked: Versions, place: Place | None) -> list[Document]:
        """The next rows; looked for in windows that widen, since a database may sort all that a filter finds."""
        high, width = place[0] + 1 if place else min(asked.high, self._clock() + _WINDOW), _WINDOW
        size = min(_BATCH, max(2 * asked.limit, 20))
        while True:
            low = max(asked.low, high - width)
            filter_: Filter = {"ts": {"$gte": low, "$lt": high}}
            if asked.type:
                filter_ = ({"rid": f"{asked.type}/{asked.id}"} if asked.id else {"type": asked.type}) | filter_
            stages: list[Document] = [{"$match": filter_}]
            if place:
                stages.append({"$match": {"$or": [{"ts": {"$lt": place[0]}}, {"ts": place[0], "_id": {"$lt": place[1]}}]}})
            rows = list(self.history.aggregate([*stages, {"$sort": {"ts": -1, "_id": -1}}, {"$limit": size}]))
            if len(rows) == size or low <= asked.low:
                return rows
            if rows and asked.id is None:
                return rows
            width *= 16

    def _shown(
        self, rows: list[Document], visible_of: Callable[[str], Visible | None], at: tuple[int, int] | None = None
    ) -> list[Stored]:
        """What of these versions may be seen: by the access list that is current, and by each version's own content;
        ``at``: only those current at some time in it."""
        now = self._clock()
        ids: dict[str, list[str]] = {}
        for row in rows:
            ids.setdefault(row["type"], []).append(row["rid"].partition("/")[2])
        current: dict[str, Document] = {}
        fields = dict.fromkeys(_ACCESS, 1)
        for type_, wanted in ids.items():
            if visible_of(type_) is not None:
                found = self.database[type_].find({"_id": {"$in": list(dict.fromkeys(wanted))}}, fields)
                current |= {f"{type_}/{document['_id']}": document for document in found}
        shown = []
        for row in rows:
            seen, document = visible_of(row["type"]), current.get(row["rid"])
            if seen is None or document is None:
                continue
            admitted = seen.admits(document, now) and seen.admits_version(row, document, now)
            if admitted and (not seen.judges or seen.reaches(document["_id"], self._entries_of(row, document))):
                shown.append(row)
        return [version_from(row) for row in (self._current_in(shown, at) if at else shown)]

    def _entries_of(self, row: Document, current: Document) -> Document:
        """The index entries of an old version, which are not kept; a deletion is of what was there before."""
        if row["deleted"]:
            return {"t": [], "c": current["c"], "json": row["json"]}
        return self._entries(self.types[row["type"]], row["json"]) | {"json": row["json"]}

    def _current_in(self, rows: list[Document], at: tuple[int, int]) -> list[Document]:
        """Versions that were current at some time in [low, high): made before its end, and not replaced before its start."""
        following = [f"{row['rid']}/{row['v'] + 1}" for row in rows if row["ts"] < at[0]]
        replaced = {d["_id"]: d["ts"] for d in self.history.find({"_id": {"$in": following}}, {"ts": 1})} if following else {}
        return [
            row
            for row in rows
            if row["ts"] < at[1] and (row["ts"] >= at[0] or replaced.get(f"{row['rid']}/{row['v'] + 1}", at[1]) > at[0])
        ]

    def kept(self) -> list[str]:
        """The types that have a collection."""
        with translated():
            names = set(self.database.list_collection_names())
        return sorted(names & set(self.types))

    def more_than(self, type_: str, visible: Visible, limit: int) -> bool:
        """Whether there are more than so many to look through."""
        stages: list[Document] = [{"$match": visible.first()}, {"$limit": limit + 1}, {"$count": "n"}]
        with translated():
            rows = list(self.database[type_].aggregate(stages))
        return bool(rows) and rows[0]["n"] > limit

    def search(self, query: Asked, visible: Visible, limit: int, after: tuple[Any, ...] | None = None) -> list[Stored]:
        fields = dict.fromkeys(("json", "v", "ts", "deleted", "owner", "base", "grants", "o", "g", "sealed", "c"), 1)
        stages = self._stages(query, visible, after)
        pipeline = [*stages, {"$sort": dict(query.sort)}, {"$limit": limit}, {"$project": fields}]
        with translated():
            rows = list(self.database[query.type.name].aggregate(pipeline))
        return [stored_from(query.type.name, row, tuple(_at(row, name) for name, _ in query.sort)) for row in rows]

    def count(self, query: Asked, visible: Visible) -> int:
        with translated():
            rows = list(self.database[query.type.name].aggregate([*self._stages(query, visible, None), {"$count": "n"}]))
        return int(rows[0]["n"]) if rows else 0

    def tally(self, type_: str, tags: Iterable[str], prefix: str, narrowed: Filter | None = None) -> dict[str, int]:
        """For the server itself: how many resources with one of these tags have each tag that begins with the prefix."""
        stages: list[Document] = [
            {"$match": {"t": {"$in": list(tags)}}},
            {"$match": {"deleted": False, **(narrowed or {})}},
            {"$project": {"t": 1}},
            {"$unwind": "$t"},
            {"$match": {"t": {"$regex": f"^{re.escape(prefix)}"}}},
            {"$group": {"_id": "$t", "n": {"$sum": 1}}},
        ]
        with translated():
            return {row["_id"]: row["n"] for row in self.database[type_].aggregate(stages)}

    def _stages(self, query: Asked, visible: Visible, after: tuple[Any, ...] | None) -> list[Document]:
        first, second = query.stages(self.joins)
        second = [*second, *visible.second(self._clock()), {"deleted": False}]
        if after is not None:
            second.append(_beyond(query.sort, after))
        return [{"$match": first | visible.first()}, {"$match": {"$and": second}}]

    def explain(self, query: Asked, visible: Visible) -> Document:
        """The plan of the first stage, for tests and operators."""
        first = self._stages(query, visible, None)[0]["$match"]
        return dict(self.database.command("explain", {"find": query.type.name, "filter": first}, verbosity="queryPlanner"))

    @cached_property
    def _server(self) -> Document:
        return dict(self.client.server_info())

    @property
    def is_embedded(self) -> bool:
        """Whether the database is SecantusDB, whose planner differs from MongoDB's."""
        return "secantusVersion" in self._server

    @cached_property
    def joins(self) -> str:
        """Of which arrays the planner joins both bounds of a range on one element: MongoDB of all, SecantusDB in Rust (which
        names a storage engine) of the tags, SecantusDB in Python of none."""
        if not self.is_embedded:
            return "tdq"
        return "t" if self._server.get("storageEngines") else ""

    def ping(self) -> None:
        with translated():
            self.client.admin.command("ping")


def _at(row: Document, name: str) -> Any:
    value: Any = row
    for part in name.split(".", 1):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _beyond(sort: list[tuple[str, int]], after: tuple[Any, ...]) -> Filter:
    """Keyset: strictly after the last row shown."""
    ways: list[Filter] = []
    for position, (name, direction) in enumerate(sort):
        equal = {n: after[i] for i, (n, _) in enumerate(sort[:position])}
        ways.append(equal | {name: {"$gt" if direction > 0 else "$lt": after[position]}})
    return {"$or": ways}
