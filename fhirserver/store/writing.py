"""Writing: every change of one request in one transaction, by compare-and-set; and the collections it needs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pymongo import InsertOne, MongoClient, UpdateOne, errors
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from fhirserver.definitions import ResourceType
from fhirserver.errors import Conflict, Unavailable
from fhirserver.store.database import Index, create, now_ms, translated
from fhirserver.store.reading import Reader
from fhirserver.store.registers import Registers
from fhirserver.versions import Changes, Document, Filter, Grant, Write, acl, current_document, history_document

T = TypeVar("T")

_BULK_WRITE, _AT_ONCE = 25, 12  # the wire version that has it; as many steps as it is the faster for
_CONTENT = ("v", "ts", "deleted", "json", "t", "d", "q", "o", "c", "u", "w", "schema", "sealed")


@dataclass(frozen=True, slots=True)
class Step:
    """A new document; or a change of one that has to be as it was (``found_by``), else ``unmet`` is the conflict's text."""

    collection: str
    document: Document
    found_by: Filter | None = None
    unmet: str = ""


class Store(Reader):
    """The database behind the FHIR side. Thread-safe; one per process. ``indexes`` are those that a type needs, ``entries``
    makes a resource's own, of its JSON; ``room`` raises where a write has none."""

    def __init__(
        self,
        database: Database[Document],
        types: dict[str, ResourceType],
        indexes: Callable[[ResourceType], list[Index]],
        entries: Callable[[ResourceType, str], Document],
        clock: Callable[[], int] = now_ms,
        room: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(database, types, entries, clock)
        self.registers = Registers(database, clock)
        self.signalled: Callable[[], None] = lambda: None  # called after a commit that other processes watch for
        self._indexes, self._room = indexes, room
        self._ready: set[str] = set()
        self._turns = Counter[str]()  # by type; "" for all of them
        self._lock = threading.Lock()

    def commit(self, changes: Changes) -> None:
        """All of it or nothing. Errors: 409 where a resource is no longer at the version that was read; 507."""
        self._room()
        for type_ in {type_ for type_, _ in changes.writes} or {"Task"}:
            self.prepare(type_)
        try:
            with translated():
                self.transact(lambda session: self._write(changes, session))
        finally:
            self._turn(changes)
        if changes.signals:
            with suppress(Unavailable):  # it is written; who is to know will know a second later
                self.signalled()

    def turn(self, type_: str) -> int:
        """A number that is another one after each commit of this process that wrote or shared some of the type: by it who remembers
        what was read knows whether it is so still."""
        return self._turns[type_] + self._turns[""]

    def _turn(self, changes: Changes) -> None:
        concerned = {type_ for type_, _ in changes.writes} | {type_ for (type_, _), *_ in changes.shares}
        with self._lock:
            self._turns.update(concerned | ({""} if changes.withdrawals else set()))

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
        if changes.answer:
            yield Step("answers", changes.answer)
        for row in changes.figures:
            yield Step("figures", row)
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
        if absent := {name: "" for name in ("u", "w") if name not in document}:
            update["$unset"] = absent
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

    def drop_answers(self, before: int) -> None:
        """Those that nobody is promised any more."""
        with translated():
            self.database["answers"].delete_many({"ts": {"$lt": before}})

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
                create(self.database, "orders_to_match", [])
                create(self.database, "shares", [Index((("order", 1),))])
                create(
                    self.database,
                    "history",
                    [Index((("rid", 1), ("ts", -1))), Index((("ts", -1),)), Index((("type", 1), ("ts", -1)))],
                )
                create(self.database, "claims", [])
                create(self.database, "signals", [])
                create(self.database, "answers", [])
                create(self.database, "trail", [])
                create(
                    self.database,
                    "figures",
                    [Index((("centre", 1), ("ts", 1))), Index((("facility", 1), ("ts", 1))), Index((("report", 1),))],
                )
                create(self.database, type_, self._indexes(self.types[type_]))
                self._ready.add(type_)

    # ------------------------------------------------------------ indexing again

    def add_indexes(self, type_: ResourceType) -> None:
        """Those that the type did not need before."""
        with translated():
            create(self.database, type_.name, self._indexes(type_))

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
            change = {"$set": {n: entries[n] for n in ("t", "d", "q", "o", "c", "w", "schema") if n != "w" or entries["w"]}}
            return self.database[type_].update_one(same, change).matched_count == 1


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
