"""_include and _revinclude: what the matches refer to, and what refers to them.

Only what this caller may see, each once. https://hl7.org/fhir/R4/search.html#include
"""

from __future__ import annotations

from collections.abc import Callable

from fhirserver.errors import BadRequest, TooCostly
from fhirserver.messages import Context
from fhirserver.search.query import Include, Query, parameter, plain, values
from fhirserver.search.reference import local
from fhirserver.validation import loads
from fhirserver.versions import Stored, Visible

MAX_INCLUDED = 1000
# type -> what of it may come along; None: nothing
Allowed = Callable[[str], Visible | None]


def included(ctx: Context, query: Query, matches: list[Stored], allowed: Allowed) -> list[Stored]:
    rows: dict[str, Stored] = {}
    for include in query.includes:
        rows |= {row.reference: row for row in _forward(ctx, query, include, matches, allowed)}
    for include in query.revincludes:
        rows |= {row.reference: row for row in _backward(ctx, include, matches, allowed)}
    if len(rows) > MAX_INCLUDED:
        raise TooCostly(f"More than {MAX_INCLUDED} resources to include; ask for a smaller page.", "_include")
    shown = {row.reference for row in matches}
    return [row for reference, row in rows.items() if reference not in shown]


def _forward(ctx: Context, query: Query, include: Include, matches: list[Stored], allowed: Allowed) -> list[Stored]:
    param = parameter(query.type, include.code) if include.source == query.type.name else None
    if param is None or param.kind != "reference":
        raise BadRequest("There is no reference parameter of this name to include by.", "_include")
    wanted: dict[str, list[str]] = {}
    for row in matches:
        for kind, value in values(query.type, param.code, loads(row.json)):
            target = local(value.get("reference", ""), ctx.base) if kind == "Reference" else None
            if target and include.target in (None, target[0]) and target[0] in ctx.store.types:
                wanted.setdefault(target[0], []).append(target[1])
    return [row for type_, ids in wanted.items() if (seen := allowed(type_)) for row in ctx.store.fetch(type_, ids, seen)]


def _backward(ctx: Context, include: Include, matches: list[Stored], allowed: Allowed) -> list[Stored]:
    source = ctx.store.types.get(include.source)
    param = parameter(source, include.code) if source else None
    if source is None or param is None or param.kind != "reference":
        raise BadRequest("There is no reference parameter of this name to include by.", "_revinclude")
    seen = allowed(source.name)
    if seen is None or not matches:
        return []
    asked = plain(source, (param.code, ",".join(row.reference for row in matches)))
    return ctx.store.search(asked, seen, MAX_INCLUDED + 1)
