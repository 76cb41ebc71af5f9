"""What is read and what will be written: versions, grants, and who sees what. Plain values, and their shape in MongoDB."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]
Filter = dict[str, Any]
Key = tuple[str, str]
# (reference, organisation that owns it, the patients whose it is, the keys of the few who may know of it, none: its organisation)
Touched = tuple[str, str, tuple[str, ...], tuple[str, ...]]

FOREVER = 2**53  # milliseconds; the ``until`` of a grant without an end


@dataclass(frozen=True, slots=True)
class Part:
    """Some resources of a type: with a tag of each of these sets, in this compartment, with this id; nothing named: all."""

    tags: tuple[frozenset[str], ...] = ()
    compartment: str | None = None
    id: str | None = None
    alone: bool = False  # in no other patient's compartment

    def filter(self) -> Filter:
        rows: list[Filter] = [{"t": {"$in": sorted(tags)}} for tags in self.tags]
        rows += [{"c": self.compartment}] if self.compartment else []
        rows += [{"_id": self.id}] if self.id else []
        if self.alone:
            rows.append({"$nor": [{"c": {"$elemMatch": {"$gte": "Patient/", "$lt": "Patient0", "$ne": self.compartment}}}]})
        return {"$and": rows}

    def holds(self, id_: str, entries: Document) -> bool:
        return (
            self.id in (None, id_)
            and (self.compartment is None or self.compartment in entries["c"])
            and not (self.alone and any(c.startswith("Patient/") and c != self.compartment for c in entries["c"]))
            and all(not tags.isdisjoint(entries["t"]) for tags in self.tags)
        )


@dataclass(frozen=True, slots=True)
class Withheld:
    """Resources of a type that are kept back: with these ids, in these compartments, with these tags."""

    ids: frozenset[str]
    compartments: frozenset[str]
    tags: frozenset[str]
    words: frozenset[str] = frozenset()  # of types that cannot say whose they are: what must not be in their text

    def filter(self) -> Filter:
        rows: list[Filter] = [
            {name: {"$in": sorted(values)}}
            for name, values in (("_id", self.ids), ("c", self.compartments), ("t", self.tags))
            if values
        ]
        rows += [{"json": {"$regex": "|".join(re.escape(word) for word in sorted(self.words))}}] if self.words else []
        return {"$nor": rows}

    def hides(self, id_: str, entries: Document) -> bool:
        return (
            id_ in self.ids
            or not (self.compartments.isdisjoint(entries["c"]) and self.tags.isdisjoint(entries["t"]))
            or any(word in entries.get("json", "") for word in self.words)
        )


@dataclass(frozen=True, slots=True)
class Visible:
    """What a caller may see of a type: access keys (None: everything), checked again with their expiry in the second stage.

    ``owners``: the server itself looks at what these organisations own, and at nobody else's; ``parts``: what the token's
    scopes reach of the type, None for all of it; ``withheld``: what of it patients keep from the caller.
    """

    keys: tuple[str, ...] | None
    owners: frozenset[str] | None = None
    parts: tuple[Part, ...] | None = None
    withheld: Withheld | None = None

    @property
    def judges(self) -> bool:
        """Whether it looks at what is in a resource, beside whose it is."""
        return self.parts is not None or self.withheld is not None

    def first(self) -> Filter:
        return {} if self.keys is None else {"acl": {"$in": list(self.keys)}}

    def second(self, now: int) -> list[Filter]:
        if self.owners is not None:
            return [{"owner": {"$in": sorted(self.owners)}}]
        if self.keys is None:
            return []
        keys = {"$in": list(self.keys)}
        held = {"$or": [{"base": keys}, {"grants": {"$elemMatch": {"key": keys, "until": {"$gt": now}}}}]}
        found: list[Filter] = [held] if self.withheld is None else [held, self.withheld.filter()]
        if self.parts is not None:
            found.append({"$or": [part.filter() for part in self.parts]} if self.parts else {"_id": {"$in": []}})
        return found

    def shows(self, document: Document, now: int) -> bool:
        """Of a current document with its entries ``t`` and ``c``."""
        return self.admits(document, now) and self.reaches(document["_id"], document)

    def reaches(self, id_: str, entries: Document) -> bool:
        """Whether the scopes do, and no patient keeps it back."""
        if self.withheld is not None and self.withheld.hides(id_, entries):
            return False
        return self.parts is None or any(part.holds(id_, entries) for part in self.parts)

    def admits(self, document: Document, now: int) -> bool:
        """Whether the access list does."""
        if self.owners is not None:
            return document["owner"] in self.owners
        if self.keys is None:
            return True
        granted = (grant["key"] for grant in document["grants"] if grant["until"] > now)
        return not set(self.keys).isdisjoint([*document["base"], *granted])

    def admits_version(self, version: Document, current: Document, now: int) -> bool:
        """A version as it was: a draft's stays its author's when what became of it is everyone's in the organisation."""
        if self.keys is None:
            return True
        granted = (g["key"] for g in current["grants"] if g["until"] > now and version["v"] >= g["since"])
        return not set(self.keys).isdisjoint([*version["base"], *granted])


EVERYTHING = Visible(None)


def owned_by(*owners: str | None) -> Visible:
    """For the server itself: what these organisations own."""
    return Visible(None, frozenset(owner for owner in owners if owner))


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one resource, as kept. ``ts`` is milliseconds since 1970."""

    type: str
    id: str
    version: int
    ts: int
    deleted: bool
    owner: str
    json: str
    base: tuple[str, ...] = ()
    grants: tuple[Document, ...] = ()
    order: tuple[Any, ...] = ()
    method: str = ""
    generation: int = 0
    sealed: bool = False
    compartments: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.type}/{self.id}"

    @property
    def touched(self) -> Touched:
        """What the audit is told: the resource, its owner, the patients whose it is, the few who may know of it."""
        return self.reference, self.owner, _patients(self.reference, self.compartments), few(self.base)


@dataclass(slots=True)
class Write:
    """The next version of one resource. ``expected`` is the version it replaces, 0 where it is the first."""

    type: str
    id: str
    expected: int
    ts: int
    method: str
    owner: str
    base: list[str]
    json: str
    data: Document | None
    index: Document
    grants: list[Document] = field(default_factory=list)
    kept: tuple[Document, ...] = ()  # the grants that it has already
    generation: int = 0
    sealed: bool = False
    witnesses: tuple[str, ...] = ()  # who may know who wrote it, where they are fewer than its readers

    @property
    def version(self) -> int:
        return self.expected + 1

    @property
    def reference(self) -> str:
        return f"{self.type}/{self.id}"

    @property
    def touched(self) -> Touched:
        return self.reference, self.owner, _patients(self.reference, self.index.get("c", ())), few(self.witnesses or self.base)


def _patients(reference: str, compartments: Iterable[str]) -> tuple[str, ...]:
    if reference.startswith("Patient/"):
        return (reference,)
    return tuple(one for one in compartments if one.startswith("Patient/"))


def few(base: Iterable[str]) -> tuple[str, ...]:
    """The keys of a resource that a role alone may read, such as a review: what tells of it is for them too."""
    keys = tuple(base)
    open_ = any(key == "*" or key.startswith("org/") for key in keys)
    return () if open_ or not any(key.startswith("role/") for key in keys) else keys


@dataclass(frozen=True, slots=True)
class Grant:
    """A right with a reason: ``order`` gives ``key`` sight of a resource until a time."""

    order: str
    key: str
    until: int = FOREVER

    def document(self, since: int = 1) -> Document:
        """``since``: the first version that may be seen; what was there before it was shared is not shared."""
        return {"order": self.order, "key": self.key, "until": self.until, "since": since}


@dataclass(slots=True)
class Changes:
    """What one request will write, in one transaction: resources, and grants on resources (with the owner they must have)."""

    writes: dict[Key, Write] = field(default_factory=dict)
    shares: list[tuple[Key, Grant, str | None]] = field(default_factory=list)
    withdrawals: list[tuple[str, str, int]] = field(default_factory=list)
    guards: dict[Key, int] = field(default_factory=dict)
    orders: set[tuple[str, str]] = field(default_factory=set)
    reserved: set[Key] = field(default_factory=set)
    claims: dict[str, int] = field(default_factory=dict)
    answer: Document | None = None  # what the request was answered, kept with it for who sends it again
    figures: list[Document] = field(default_factory=list)  # what is measured later
    signals: set[str] = field(default_factory=set)  # what other processes watch: told with the commit
    touched: list[Touched] = field(default_factory=list)  # what the audit is to know of beside what is written
    looked_up: dict[tuple[str | None, ...], list[Stored]] = field(default_factory=dict)  # what this plan asked for already
    line: tuple[int, str] | None = None  # what the audit trail is told, and when

    def reserve(self, keys: Iterable[Key]) -> None:
        """Identities that this request will create, so that its resources may refer to each other in any order."""
        self.reserved.update(keys)

    def add(self, write: Write) -> None:
        pending = self.writes.get((write.type, write.id))
        if pending is not None:
            write.expected, write.grants, write.method = pending.expected, pending.grants, pending.method
            write.kept = pending.kept
            write.generation, write.sealed = pending.generation, pending.sealed or write.sealed
        self.writes[write.type, write.id] = write

    def share(self, type_: str, id_: str, grant: Grant, owner: str | None) -> None:
        """``owner``: the organisation that must own the resource at commit; None where the server itself vouches."""
        self.shares.append(((type_, id_), grant, owner))

    def withdraw(self, order: str, key: str, until: int) -> None:
        """All that this order gave this key ends, whatever the order says now."""
        self.withdrawals.append((order, key, until))

    def ordered(self, owner: str, numbers: Iterable[str]) -> None:
        """Orders with these numbers are new: the facility's studies of the same accession are looked at again."""
        self.orders.update((owner, number) for number in numbers)

    def guard(self, seen: Stored) -> None:
        """The commit holds only if nobody wrote or guarded this resource since it was read."""
        self.guards[seen.type, seen.id] = seen.generation

    def claim(self, criteria: str, generation: int) -> None:
        """The commit holds only if nobody acted on these criteria since they were searched by."""
        self.claims[criteria] = generation

    def __bool__(self) -> bool:
        return bool(self.writes or self.shares or self.withdrawals)


# ---------------------------------------------------------------- as MongoDB has them


def acl(base: Iterable[str], grants: Iterable[Document], now: int) -> list[str]:
    return sorted({*base, *(grant["key"] for grant in grants if grant["until"] > now)})


def current_document(write: Write, now: int) -> Document:
    index: Document = write.index if write.data is not None else {"t": [], "d": {}, "q": {}, "o": {}, "c": [], "schema": 0}
    document: Document = {
        "_id": write.id,
        "v": write.version,
        "ts": write.ts,
        "deleted": write.data is None,
        "owner": write.owner,
        "base": write.base,
        "grants": write.grants,
        "acl": acl(write.base, write.grants, now),
        "g": write.generation,
        "sealed": write.sealed,
        "json": write.json,
        **{name: index[name] for name in ("t", "d", "q", "o", "schema")},
        "c": write.index.get("c", []),  # of a deletion: those it was in
    }
    if index.get("u"):
        document["u"] = [f"{write.owner}|{key}" for key in index["u"]]
    if index.get("w"):
        document["w"] = index["w"]
    return document


def history_document(write: Write) -> Document:
    return {
        "_id": f"{write.type}/{write.id}/{write.version}",
        "rid": write.reference,
        "type": write.type,
        "v": write.version,
        "ts": write.ts,
        "method": write.method,
        "deleted": write.data is None,
        "owner": write.owner,
        "base": write.base,
        "json": write.json,
    }


def stored_from(type_: str, d: Document, order: tuple[Any, ...] = ()) -> Stored:
    base, grants = tuple(d["base"]), tuple(d["grants"])
    return Stored(
        type_, d["_id"], d["v"], d["ts"], d["deleted"], d["owner"], d["json"], base, grants, order,
        generation=d["g"], sealed=d["sealed"], compartments=tuple(d.get("c", ())),
    )  # fmt: skip


def version_from(d: Document) -> Stored:
    type_, id_ = d["rid"].split("/")
    base = tuple(d["base"])
    return Stored(type_, id_, d["v"], d["ts"], d["deleted"], d["owner"], d["json"], base, method=d["method"])
