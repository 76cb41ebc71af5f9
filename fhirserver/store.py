"""Versions, index and transactions in MongoDB. The only user of pymongo in this package.

Every type has one *current* collection, and one insert-only ``history`` collection holds every version of all types, the
current one too; both are written in one transaction with the Provenance and AuditEvent of the change. ``history`` is also
the outbox that change streams read.

A read names what its caller may see (``Visible``); there is no default.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from pymongo import IndexModel, InsertOne, MongoClient, UpdateOne, errors
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from fhirserver.definitions import ResourceType
from fhirserver.errors import Conflict, Duplicate, InsufficientStorage, TooLarge, Unavailable
from fhirserver.versions import (
    Changes,
    Document,
    Filter,
    Grant,
    Stored,
    Visible,
    Write,
    acl,
    current_document,
    history_document,
    stored_from,
    version_from,
)

T = TypeVar("T")

MAX_INDEXES = 64
_DUPLICATE_KEY = 11000
_NAMESPACE_EXISTS = 48
_OUT_OF_DISK = 14031
_TOO_LARGE = (10334, 17280, 17419)
_BULK_WRITE, _AT_ONCE = 25, 12  # the wire version that has it; as many steps as it is the faster for
# Shutting down, stepping down, no longer primary; an embedded server whose storage failed (1) is started again.
_PASSING = (1, 91, 189, 10107, 11600, 13435)
_BATCH, _MOST_LOOKED_AT = 500, 2000
_WINDOW = 3_600_000  # milliseconds
_CONTENT = ("v", "ts", "deleted", "json", "t", "d", "q", "o", "c", "u", "schema", "sealed")
_HIDDEN = {"t": 0, "d": 0, "q": 0, "u": 0, "schema": 0}


class Asked(Protocol):
    """A search as the store needs it: the type, a flat first stage and an exact second one, and the order."""

    type: ResourceType
    sort: list[tuple[str, int]]

    def stages(self, arrays: str = "") -> tuple[Filter, list[Filter]]: ...


@dataclass(frozen=True, slots=True)
class Index:
    """An index that a type needs: (field, direction) pairs."""

    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    sparse: bool = False

    def model(self) -> IndexModel:
        options = {"unique": True, "sparse": True} if self.unique else {"sparse": True} if self.sparse else {}
        return IndexModel(list(self.keys), name="_".join(name for name, _ in self.keys), **options)


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


@dataclass(frozen=True, slots=True)
class Step:
    """A new document; or a change of one that has to be as it was (``found_by``), else ``unmet`` is the conflict's text."""

    collection: str
    document: Document
    found_by: Filter | None = None
    unmet: str = ""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Store:
    """The database behind the FHIR side. Thread-safe; one per process. ``room`` raises where a write has none."""

    def __init__(
        self,
        database: Database[Document],
        types: dict[str, ResourceType],
        indexes: Callable[[ResourceType], list[Index]],
        clock: Callable[[], int] = now_ms,
        room: Callable[[], None] = lambda: None,
    ) -> None:
        self.types = types
        self._clock, self._room = clock, room
        self.signalled: Callable[[], None] = lambda: None  # called after a commit that other processes watch for
        self._indexes = indexes
        self.database = database
        self.client: MongoClient[Document] = database.client
        self.history: Collection[Document] = database["history"]
        self._current = {name: database[name] for name in types}
        self._ready: set[str] = set()
        self._lock = threading.Lock()

    # ------------------------------------------------------------ reading

    def get(self, type_: str, id_: str, visible: Visible) -> Stored | None:
        """The current version, deleted or not; None where there is none or it is hidden."""
        with translated():
            document = self._current[type_].find_one({"_id": id_}, _HIDDEN)
        return stored_from(type_, document) if document and visible.shows(document, self._clock()) else None

    def fetch(self, type_: str, ids: Iterable[str], visible: Visible) -> list[Stored]:
        """The current versions of those that exist and are visible, deleted ones left out."""
        wanted, now = list(dict.fromkeys(ids)), self._clock()
        if not wanted:
            return []
        with translated():
            found = list(self.database[type_].find({"_id": {"$in": wanted}}, _HIDDEN))
        return [stored_from(type_, d) for d in found if not d["deleted"] and visible.shows(d, now)]

    def business_keys(self, type_: str, keys: list[str], visible: Visible) -> set[str]:
        """Those of the unique keys (``owner|kind|value``) whose resource exists and is visible."""
        now = self._clock()
        with translated():
            found = list(self.database[type_].find({"u": {"$in": keys}}, {"u": 1, "base": 1, "grants": 1, "owner": 1}))
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
        """What of these versions may be seen, by what is current; ``at``: only those current at some time in it."""
        now = self._clock()
        ids: dict[str, list[str]] = {}
        for row in rows:
            ids.setdefault(row["type"], []).append(row["rid"].partition("/")[2])
        current: dict[str, Document] = {}
        fields = {"base": 1, "grants": 1, "owner": 1}
        for type_, wanted in ids.items():
            if visible_of(type_) is not None:
                found = self.database[type_].find({"_id": {"$in": list(dict.fromkeys(wanted))}}, fields)
                current |= {f"{type_}/{document['_id']}": document for document in found}
        shown = []
        for row in rows:
            seen, document = visible_of(row["type"]), current.get(row["rid"])
            if seen and document and seen.shows(document, now) and seen.shows_version(row, document, now):
                shown.append(row)
        return [version_from(row) for row in (self._current_in(shown, at) if at else shown)]

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

    # ------------------------------------------------------------ writing

    def commit(self, changes: Changes) -> None:
        """All of it or nothing. Errors: 409 where a resource is no longer at the version that was read; 507."""
        self._room()
        for type_ in {type_ for type_, _ in changes.writes}:
            self.prepare(type_)
        with translated():
            self.transact(lambda session: self._write(changes, session))
        if changes.signals:
            with suppress(Unavailable):  # it is written; who is to know will know a second later
                self.signalled()

    def transact(self, callback: Callable[[ClientSession], T]) -> T:
        """Run ``callback`` in a transaction, retried whole on transient errors, durable when it returns.

        Without a read concern, which the embedded server does not take with a bulkWrite: a transaction sees one snapshot in
        any case, and what it read is as durable as itself when its own commit is by a majority.
        """
        with self.client.start_session(causal_consistency=False) as session:
            return session.with_transaction(callback, write_concern=WriteConcern("majority", j=True))

    def _write(self, changes: Changes, session: ClientSession) -> None:
        self._carry_out(list(self._steps(changes)), session)
        for (type_, id_), grant, owner in changes.shares:
            self._share(type_, id_, grant, owner, session)
        for order, key, until in changes.withdrawals:
            self._withdraw(order, key, until, session)
        for name in changes.signals:
            self.database["signals"].update_one({"_id": name}, {"$inc": {"n": 1}}, upsert=True, session=session)

    def _steps(self, changes: Changes) -> Iterator[Step]:
        """What meets other requests first, then what is new."""
        for criteria, generation in changes.claims.items():
            yield self._claim(criteria, generation)
        for (type_, id_), generation in changes.guards.items():
            written = changes.writes.get((type_, id_))
            if written is None:
                yield _guard(type_, id_, generation)
            elif written.expected and written.generation != generation:  # read twice, and not the same
                raise Conflict("The resource was changed by another request meanwhile.")
        for write in changes.writes.values():
            if write.expected:
                yield self._replace(write)
        for write in changes.writes.values():
            if not write.expected:
                yield Step(write.type, current_document(write, self._clock()))
        if changes.orders:
            yield Step("orders_to_match", {"orders": sorted(changes.orders)})
        if changes.line:
            ts, line = changes.line
            yield Step("trail", {"ts": ts, "line": line})
        for write in changes.writes.values():
            yield Step("history", history_document(write))

    def _carry_out(self, steps: list[Step], session: ClientSession) -> None:
        """A few in one command, which takes half of the time; many by collection, which takes less then."""
        if not steps:
            return
        if len(steps) <= _AT_ONCE and self._takes_bulk_writes:
            _in_one_command(self.client, self.database.name, steps, session)
            return
        new: dict[str, list[Document]] = {}
        for step in steps:
            if step.found_by is None:
                new.setdefault(step.collection, []).append(step.document)
            elif not self.database[step.collection].update_one(step.found_by, step.document, session=session).matched_count:
                raise Conflict(step.unmet)
        for name, documents in new.items():
            self.database[name].insert_many(documents, session=session)

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

    @cached_property
    def _takes_bulk_writes(self) -> bool:
        """MongoDB 8.0: https://www.mongodb.com/docs/manual/reference/command/bulkWrite/"""
        return int(self.client.admin.command("hello")["maxWireVersion"]) >= _BULK_WRITE

    def _replace(self, write: Write) -> Step:
        """Compare-and-set on the version and on the generation, which a change of the grants moves too."""
        document = current_document(write, self._clock())
        # What is deleted is shared with nobody any more, also when it is written again.
        grants = [] if write.data is None else list(write.kept)
        content = {name: document[name] for name in _CONTENT if name in document}
        acl_now = acl(write.base, grants, self._clock())
        update: Document = {"$set": content | {"base": write.base, "grants": grants, "acl": acl_now, "g": write.generation + 1}}
        if "u" not in document:
            update["$unset"] = {"u": ""}
        identity = {"_id": write.id, "v": write.expected, "g": write.generation}
        return Step(write.type, update, identity, "The resource was changed by another request meanwhile.")

    def claimed(self, criteria: str) -> int:
        """How often these criteria of a conditional interaction were acted on; 0 for never, or not for an hour."""
        with translated():
            row = self.database["claims"].find_one({"_id": criteria})
        return int(row["g"]) if row else 0

    def _claim(self, criteria: str, generation: int) -> Step:
        """Two conditional interactions by the same criteria meet here: one of them is planned again."""
        ts = self._clock()
        if generation == 0:
            return Step("claims", {"_id": criteria, "g": 1, "ts": ts})
        step = {"$set": {"g": generation + 1, "ts": ts}}
        return Step("claims", step, {"_id": criteria, "g": generation}, "Another request acted on the same criteria meanwhile.")

    def drop_claims(self, before: int) -> None:
        """Those that no request can still rest on."""
        with translated():
            self.database["claims"].delete_many({"ts": {"$lt": before}})

    def _withdraw(self, order: str, key: str, until: int, session: ClientSession) -> None:
        given = list(self.database["shares"].find({"order": order, "key": key}, session=session))
        for row in given:
            self._share(row["type"], row["id"], Grant(order, key, until), None, session)
        self.database["shares"].delete_many({"order": order, "key": key}, session=session)

    def _share(self, type_: str, id_: str, grant: Grant, owner: str | None, session: ClientSession) -> None:
        """Checked in the transaction that changes it, so that nobody shares what is not theirs."""
        collection = self.database[type_]
        fields = {"owner": 1, "base": 1, "grants": 1, "v": 1, "deleted": 1}
        found = collection.find_one({"_id": id_}, fields, session=session)
        if found is None or (owner is not None and found["owner"] != owner):
            raise Conflict("A resource to be shared is not the sharing organisation's.")
        if found["deleted"] and grant.until > self._clock():
            raise Conflict("A resource to be shared was deleted meanwhile.")
        self._remember(type_, id_, grant, session)
        same = [g for g in found["grants"] if (g["order"], g["key"]) == (grant.order, grant.key)]
        since = same[0]["since"] if same and same[0]["until"] > self._clock() else found["v"]
        grants = [*(g for g in found["grants"] if g not in same), grant.document(since)]
        if grants != found["grants"]:
            # A plan that has read the old grants is planned again.
            update = {"$set": {"grants": grants, "acl": acl(found["base"], grants, self._clock())}, "$inc": {"g": 1}}
            collection.update_one({"_id": id_}, update, session=session)

    def _remember(self, type_: str, id_: str, grant: Grant, session: ClientSession) -> None:
        """Which order opened what to whom, so that exactly that can end."""
        row = {
            "_id": f"{grant.order}|{grant.key}|{type_}/{id_}",
            "order": grant.order,
            "key": grant.key,
            "type": type_,
            "id": id_,
        }
        if grant.until > self._clock():
            self.database["shares"].replace_one({"_id": row["_id"]}, row, upsert=True, session=session)
        else:
            self.database["shares"].delete_one({"_id": row["_id"]}, session=session)

    def shared(self, order: str) -> list[tuple[str, str, str]]:
        """(type, id, key) of what an order opened."""
        with translated():
            return [(row["type"], row["id"], row["key"]) for row in self.database["shares"].find({"order": order})]

    # ------------------------------------------------------------ collections

    def prepare(self, type_: str) -> None:
        """The type's collection and indexes, made once, before its first write and outside any transaction."""
        if type_ in self._ready:
            return
        with self._lock, translated():
            if type_ not in self._ready:
                self._create("orders_to_match", [])
                self._create("shares", [Index((("order", 1),))])
                self._create(
                    "history", [Index((("rid", 1), ("ts", -1))), Index((("ts", -1),)), Index((("type", 1), ("ts", -1)))]
                )
                self._create("claims", [])
                self._create("signals", [])
                self._create("trail", [])
                self._create(type_, self._indexes(self.types[type_]))
                self._ready.add(type_)

    def _create(self, name: str, wanted: list[Index]) -> None:
        _within_limits(name, wanted)
        try:
            with suppress(errors.CollectionInvalid):
                self.database.create_collection(name)
        except errors.OperationFailure as error:
            if error.code != _NAMESPACE_EXISTS:  # another process was first
                raise
        if wanted:
            self.database[name].create_indexes([index.model() for index in wanted])

    # ------------------------------------------------------------ indexing again

    def signal(self, name: str) -> int:
        """How often it was given."""
        with translated():
            row = self.database["signals"].find_one({"_id": name})
        return int(row["n"]) if row else 0

    def add_indexes(self, type_: ResourceType) -> None:
        """Those that the type did not need before."""
        with translated():
            self._create(type_.name, self._indexes(type_))

    def size(self, type_: str) -> int:
        """About how many resources there are, deleted ones included."""
        with translated():
            return int(self.database[type_].estimated_document_count())

    def stale(self, type_: str, schema: int | str, after: str, limit: int) -> tuple[list[Document], str | None]:
        """Of the next ``limit`` resources after an id: those indexed otherwise, and the id to go on after."""
        collection, fields = self.database[type_], {"schema": 1, "deleted": 1}
        with translated():
            rows = list(collection.find({"_id": {"$gt": after}}, fields).sort("_id", 1).limit(limit))
            ids = [row["_id"] for row in rows if not row["deleted"] and row["schema"] != schema]
            found = list(collection.find({"_id": {"$in": ids}}, {"v": 1, "g": 1, "json": 1})) if ids else []
        return found, rows[-1]["_id"] if rows else None

    def index_again(self, type_: str, row: Document, entries: Document) -> bool:
        """False where the resource was changed meanwhile: by a write, which indexed it, or in who may see it."""
        same = {"_id": row["_id"], "v": row["v"], "g": row["g"]}
        with translated():
            change = {"$set": {n: entries[n] for n in ("t", "d", "q", "o", "c", "schema")}}
            return self.database[type_].update_one(same, change).matched_count == 1

    def reindexing(self) -> dict[str, Document]:
        """Type -> how far its indexing is."""
        with translated():
            return {row["_id"]: row for row in self.database["reindexing"].find({})}

    def set_reindexing(self, type_: str, state: Document) -> None:
        with translated():
            self.database["reindexing"].replace_one({"_id": type_}, state, upsert=True)

    # ------------------------------------------------------------ orders whose studies are looked at again

    def orders_to_match(self) -> list[Document]:
        with translated():
            return list(self.database["orders_to_match"].find({}).limit(1000))

    def orders_matched(self, rows: list[Document]) -> None:
        with translated():
            self.database["orders_to_match"].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})

    # ------------------------------------------------------------ audit segments

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

    def ping(self) -> None:
        with translated():
            self.client.admin.command("ping")


def _guard(type_: str, id_: str, generation: int) -> Step:
    """What a plan rests on is as it was: two plans that rest on one resource meet here."""
    unmet = "A resource that this rests on was changed by another request meanwhile."
    return Step(type_, {"$set": {"g": generation + 1}}, {"_id": id_, "g": generation}, unmet)


def _in_one_command(client: MongoClient[Document], database: str, steps: list[Step], session: ClientSession) -> None:
    models: list[InsertOne[Document] | UpdateOne] = [
        InsertOne(step.document, namespace=f"{database}.{step.collection}")
        if step.found_by is None
        else UpdateOne(step.found_by, step.document, namespace=f"{database}.{step.collection}")
        for step in steps
    ]
    try:
        result = client.bulk_write(models, session=session, verbose_results=True)
    except errors.ClientBulkWriteException as error:
        if isinstance(error.error, errors.PyMongoError):
            raise error.error from None  # it has the label by which the transaction is tried again
        raise
    for number, step in enumerate(steps):
        if step.found_by is not None and not result.update_results[number].matched_count:
            raise Conflict(step.unmet)


def _within_limits(name: str, wanted: list[Index]) -> None:
    """MongoDB's own limits, which the embedded server does not keep: https://www.mongodb.com/docs/manual/reference/limits/"""
    if len(wanted) >= MAX_INDEXES:
        raise AssertionError(f"{name} declares {len(wanted)} indexes; MongoDB allows {MAX_INDEXES}, that of _id included")
    for index in wanted:
        if sum(field[:2] in ("d.", "q.") or field in ("t", "acl", "c", "u") for field, _ in index.keys) > 1:
            raise AssertionError(f"{name}: an index may hold one array")


@contextmanager
def translated() -> Iterator[None]:
    """pymongo's errors -> ours, in one place."""
    try:
        yield
    except (errors.DuplicateKeyError, errors.BulkWriteError, errors.ClientBulkWriteException) as error:
        # Their texts hold the document: never passed on.
        first = ((error.details or {}).get("writeErrors") or [error.details or {}])[0]
        if first.get("code") in _TOO_LARGE:
            raise TooLarge("The resource does not fit into the database.") from None
        if first.get("code") != _DUPLICATE_KEY:
            raise Unavailable("The database did not take the write; try again.") from None
        if "u" in first.get("keyPattern", {}):
            raise Duplicate("The organisation already has a resource with this business identifier.") from None
        raise Conflict("The resource was created by another request meanwhile.") from None
    except errors.DocumentTooLarge:
        raise TooLarge("The resource does not fit into the database.") from None
    except (errors.ConnectionFailure, errors.ExecutionTimeout, errors.WTimeoutError):  # before OperationFailure, which some are
        raise Unavailable("The database cannot be reached; try again.") from None
    except errors.OperationFailure as error:
        if error.code in _TOO_LARGE:
            raise TooLarge("The resource does not fit into the database.") from None
        if error.code == _OUT_OF_DISK:
            raise InsufficientStorage("The database's disk is full. Nothing was changed; try again later.") from None
        if error.has_error_label("TransientTransactionError") or error.code in _PASSING:
            raise Unavailable("The database is busy; try again.") from None
        raise


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
