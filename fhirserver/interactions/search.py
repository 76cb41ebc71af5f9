"""search at type, compartment and system level.

https://hl7.org/fhir/R4/http.html#search
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fhirserver import access
from fhirserver.definitions import ResourceType
from fhirserver.errors import BadRequest, NotFound, TooCostly
from fhirserver.interactions import merged
from fhirserver.messages import Context, Reply, Request
from fhirserver.search import includes, page
from fhirserver.search.clause import IDENTIFYING, Clause
from fhirserver.search.index import COMPARTMENTS, scalar
from fhirserver.search.lookup import Lookup, Pairs
from fhirserver.search.parameters import parameters, values
from fhirserver.search.query import Query, parse
from fhirserver.validation import loads
from fhirserver.versions import Stored, Visible

MAX_CHAIN = 1000
MAX_LOOKUPS = 200
MAX_SORTED = 1000
MAX_SCANNED = 10_000
# the rows of a page -> what comes along with them
Also = Callable[[list[Stored]], list[Stored]]
_LAST_ID = "~"  # after every id: "[A-Za-z0-9\\-.]"


def search_type(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    return answered(ctx, request, type_.name, [understood(ctx, type_, request.query, lenient=_lenient(request))])


def search_compartment(ctx: Context, request: Request, type_: ResourceType | None, compartment: str, id_: str) -> Reply:
    """``Patient/1/Observation``, ``Patient/1/*``. https://hl7.org/fhir/R4/compartmentdefinition.html"""
    if compartment not in COMPARTMENTS:
        raise NotFound("There is no compartment of this type.")
    access.require(ctx.principal, ctx.store.types[compartment], "r")
    if access.found(ctx, ctx.store.types[compartment], id_, "r").deleted:
        raise NotFound(f"No {compartment} has this id.")
    within = {"$in": merged.same(ctx, [f"{compartment}/{id_}"])}
    asked = [type_] if type_ else _asked_types(ctx, request)
    queries = [understood(ctx, one, _untyped(request.query), lenient=_lenient(request)) for one in asked]
    for query in queries:
        query.clauses.append(Clause({"c": within}, IDENTIFYING + 1))
    return answered(ctx, request, f"{compartment}/{id_}/{type_.name if type_ else '*'}", queries)


def search_system(ctx: Context, request: Request) -> Reply:
    """All types, or those of ``_type``, by the parameters that they share."""
    queries = [understood(ctx, one, _untyped(request.query), lenient=_lenient(request)) for one in _asked_types(ctx, request)]
    return answered(ctx, request, "", queries)


def _lenient(request: Request) -> bool:
    return request.prefers("handling=lenient")


def _untyped(pairs: Pairs) -> list[tuple[str, str]]:
    return [(name, value) for name, value in pairs if name != "_type"]


def _asked_types(ctx: Context, request: Request) -> list[ResourceType]:
    """Those of ``_type`` that the caller may search, or every such type that has resources."""
    named = [name for n, value in request.query if n == "_type" for name in value.split(",")]
    for name in named:
        if name not in ctx.store.types:
            raise BadRequest("_type names a resource type that is not served here.", "_type")
        access.require(ctx.principal, ctx.store.types[name], "s")
    types = [ctx.store.types[name] for name in (dict.fromkeys(named) if named else ctx.store.kept())]
    return [type_ for type_ in types if access.permitted(ctx.principal, type_, "s")]


# ---------------------------------------------------------------- one search, over one type or several


def answered(
    ctx: Context, request: Request, path: str, queries: list[Query], also: Also | None = None, ahead: Sequence[Stored] = ()
) -> Reply:
    """One page over all queries; ``also``: what comes along with the rows shown, else what the first query includes;
    ``ahead``: what stands before all others."""
    several = len(queries) != 1
    if several and any(query.by or query.sort[0][0] != "ts" for query in queries):
        raise BadRequest("Over several types, _sort is by _lastUpdated.", "_sort")
    query = queries[0] if queries else understood(ctx, ctx.store.types["Patient"], _untyped(request.query), _lenient(request))
    if query.only_count:
        counted = sum(_count(ctx, one) for one in queries)
        return Reply(200, page.counted(ctx, path, query, _used(request, query, several), counted))
    fingerprint = _fingerprint(ctx, path, query)
    after = tuple(page.opened(ctx, query.cursor, fingerprint)["after"]) if query.cursor else None
    rows = [row for one in queries for row in _rows(ctx, one, after)]
    if several:
        rows.sort(key=lambda row: (query.sort[0][1] * row.ts, row.type, row.id))
    shown = rows[: query.count]
    cursor = {"after": [*shown[-1].order, *([shown[-1].type] if several else [])]} if len(rows) > query.count else None
    if not after:
        shown = [*ahead, *shown]
    total: int | None = None
    if query.accurate_total:
        total = sum(_count(ctx, one) for one in queries)
    elif not (cursor or after):
        total = len(shown)
    included = (
        also(shown)
        if also
        else includes.included(ctx, query, shown, lambda name: access.includable(ctx.principal, ctx.store.types[name]))
    )
    used = _used(request, query, several)
    body = page.searchset(ctx, path, query, used, shown, included, total, cursor, fingerprint)
    return Reply(200, body, touched=tuple(row.touched for row in [*shown, *included]))


def _used(request: Request, query: Query, several: bool) -> list[tuple[str, str]]:
    types = [pair for pair in request.query if pair[0] == "_type"] if several else []
    return types + query.used


def _rows(ctx: Context, query: Query, after: tuple[Any, ...] | None) -> list[Stored]:
    """A page and one more."""
    seen = access.visible(ctx.principal, query.type, "s")
    _bounded(ctx, query, seen)
    if query.by:
        return _sorted_in_memory(ctx, query, seen, after)
    if after is not None and len(after) > len(query.sort):  # of several types: by time, then by type, then by id
        ts, id_, last = after
        after = (ts, id_ if query.type.name == last else "" if query.type.name > last else _LAST_ID)
    return ctx.store.search(query, seen, query.count + 1, after)


def _bounded(ctx: Context, query: Query, seen: Visible) -> None:
    """A filter that no index serves is looked at resource by resource: as far as that is cheap."""
    if query.scans and ctx.store.more_than(query.type.name, seen, MAX_SCANNED):
        raise TooCostly(
            f"No index serves this filter alone, and there are more than {MAX_SCANNED} {query.type.name} resources to look "
            "through; add a parameter that selects, such as an identifier, a reference, a name or a date."
        )


def _count(ctx: Context, query: Query) -> int:
    seen = access.visible(ctx.principal, query.type, "s")
    _bounded(ctx, query, seen)
    return ctx.store.count(query, seen)


def _sorted_in_memory(ctx: Context, query: Query, seen: Visible, after: tuple[Any, ...] | None) -> list[Stored]:
    rows = ctx.store.search(query, seen, MAX_SORTED + 1)
    if len(rows) > MAX_SORTED:
        offered = ", ".join(("_id", "_lastUpdated", *query.type.sorts))
        raise TooCostly(f"More than {MAX_SORTED} to sort; narrow the search, or sort by {offered}.", "_sort")
    keyed = [(_key(ctx, query, row), row) for row in rows]
    for position in reversed(range(len(query.by) + 1)):
        keyed.sort(key=lambda pair: pair[0][position], reverse=position < len(query.by) and query.by[position][1] < 0)
    if after is not None:
        place = next((n for n, (key, _) in enumerate(keyed) if key == list(after)), None)
        keyed = keyed[place + 1 :] if place is not None else [p for p in keyed if _is_after(p[0], list(after), query.by)]
    return [replace(row, order=tuple(key)) for key, row in keyed[: query.count + 1]]


def _is_after(key: list[Any], last: list[Any], by: list[tuple[str, int]]) -> bool:
    for mine, theirs, direction in zip(key, last, [d for _, d in by] + [1], strict=True):
        if mine != theirs:
            return bool(mine > theirs) == (direction > 0)
    return False


def _key(ctx: Context, query: Query, row: Stored) -> list[Any]:
    data = loads(row.json)
    columns = {"_id": row.id, "_lastUpdated": row.ts}
    return [
        columns[code] if code in columns else scalar(query.type, code, values(query.type, parameters(query.type)[code], data))
        for code, _ in query.by
    ] + [row.id]


def _fingerprint(ctx: Context, path: str, query: Query) -> str:
    """A cursor is good for this search, by this caller, alone."""
    p = ctx.principal
    asked = repr([p.name, p.organization, p.scopes, p.patient, path, [pair for pair in query.used if pair[0] != "_cursor"]])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


# ---------------------------------------------------------------- understanding, with what has to be looked up


def understood(
    ctx: Context, type_: ResourceType, pairs: Pairs, lenient: bool = False, lookups: Iterator[int] | None = None
) -> Query:
    """The query, its chains resolved to what this caller may see; this server's own base is no part of a reference."""
    base = f"{ctx.base}/"
    asked = [(name, value.replace(base, "") if base in value else value) for name, value in pairs]
    return parse(type_, asked, lenient, _lookup(ctx, lookups or iter(range(MAX_LOOKUPS))))


def _lookup(ctx: Context, lookups: Iterator[int]) -> Lookup:
    """``lookups`` is what is left of those that one request may make, however its chains fork."""

    def find(target: str, pairs: Pairs) -> list[Stored]:
        if target not in ctx.store.types:
            raise BadRequest("A chain passes through a type that is not served here.")
        access.require(ctx.principal, ctx.store.types[target], "s")
        return _all(ctx, understood(ctx, ctx.store.types[target], pairs, lookups=lookups), lookups)

    def meeting(type_: ResourceType, clause: Clause) -> list[Stored]:
        return _all(ctx, Query(type_, [clause], sort=[("_id", 1)]), lookups)

    def may(target: str) -> bool:
        return access.permitted(ctx.principal, ctx.store.types[target], "s")

    return Lookup(ctx.store.types, ctx.base, find, meeting, lambda references: merged.same(ctx, references), may)


def _all(ctx: Context, query: Query, lookups: Iterator[int]) -> list[Stored]:
    if next(lookups, None) is None:
        raise TooCostly(f"The search looks into more than {MAX_LOOKUPS} others; name the types that its chains pass through.")
    seen = access.visible(ctx.principal, query.type, "s")
    _bounded(ctx, query, seen)
    found = ctx.store.search(query, seen, MAX_CHAIN + 1)
    if len(found) > MAX_CHAIN:
        raise TooCostly(f"The chain passes through more than {MAX_CHAIN} {query.type.name} resources; narrow it.")
    return found


def found_by(ctx: Context, type_: ResourceType, pairs: Pairs, limit: int) -> list[Stored]:
    """What a conditional interaction's criteria find. Errors: 400 where they choose nothing."""
    query = understood(ctx, type_, pairs)
    if not query.clauses:
        raise BadRequest("The criteria of a conditional interaction are search parameters that choose.")
    seen = access.visible(ctx.principal, type_, "s")
    _bounded(ctx, query, seen)
    return ctx.store.search(query, seen, limit)
