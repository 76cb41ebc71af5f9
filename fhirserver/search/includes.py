"""_include and _revinclude: what the matches refer to, and what refers to them; with ``:iterate``, of those again.

Only what this caller may see, each once. https://hl7.org/fhir/R4/search.html#include
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.errors import BadRequest, TooCostly
from fhirserver.messages import Context
from fhirserver.search.parameters import parameter, searchable, values
from fhirserver.search.query import Include, Query, tagged
from fhirserver.search.reference import local
from fhirserver.validation import loads
from fhirserver.versions import Stored, Visible

MAX_INCLUDED = 1000
_ROUNDS = 10
# type -> what of it may come along; None: nothing
Allowed = Callable[[str], Visible | None]


def included(ctx: Context, query: Query, matches: list[Stored], allowed: Allowed) -> list[Stored]:
    """Errors: 400 for a parameter that is none, or where more than 1,000 would come along."""
    if not (query.includes or query.revincludes):
        return []
    _checked(ctx, query)
    rows = {row.reference: row for row in matches}
    edge = list(matches)
    for number in range(_ROUNDS):
        found: dict[str, Stored] = {}
        for include in query.includes:
            if number == 0 or include.iterate:
                found |= {row.reference: row for row in _forward(ctx, include, edge, allowed)}
        for include in query.revincludes:
            if number == 0 or include.iterate:
                found |= {row.reference: row for row in _backward(ctx, include, edge, allowed)}
        edge = [row for reference, row in found.items() if reference not in rows]
        rows |= {row.reference: row for row in edge}
        if len(rows) - len(matches) > MAX_INCLUDED:
            raise TooCostly(f"More than {MAX_INCLUDED} resources to include; ask for a smaller page.", "_include")
        if not edge:
            break
    return list(rows.values())[len(matches) :]


def _checked(ctx: Context, query: Query) -> None:
    for name, includes in (("_include", query.includes), ("_revinclude", query.revincludes)):
        for include in includes:
            if include.source == "*" and include.code == "*":
                continue
            source = ctx.store.types.get(include.source)
            param = parameter(source, include.code) if source else None
            known = param is not None and param.kind == "reference"
            if source is None or not (include.code == "*" or known):
                raise BadRequest("There is no reference parameter of this name to include by.", name)


def _parameters(type_: ResourceType, code: str) -> Iterator[SearchParam]:
    """The reference parameter of this name, or every one for ``*``."""
    if code != "*":
        param = parameter(type_, code)
        if param is not None and param.kind == "reference":
            yield param
    else:
        yield from (p for p in searchable(type_).values() if p.kind == "reference")


def _forward(ctx: Context, include: Include, edge: list[Stored], allowed: Allowed) -> list[Stored]:
    wanted: dict[str, list[str]] = {}
    for row in edge:
        if include.source not in ("*", row.type):
            continue
        data = loads(row.json)
        for param in _parameters(ctx.store.types[row.type], include.code):
            for kind, value in values(ctx.store.types[row.type], param, data):
                target = local(value.get("reference", ""), ctx.base) if kind == "Reference" else None
                if target and include.target in (None, target[0]) and target[0] in ctx.store.types:
                    wanted.setdefault(target[0], []).append(target[1])
    return [row for type_, ids in wanted.items() if (seen := allowed(type_)) for row in ctx.store.fetch(type_, ids, seen)]


def _backward(ctx: Context, include: Include, edge: list[Stored], allowed: Allowed) -> list[Stored]:
    sources = list(ctx.store.kept()) if include.source == "*" else [include.source]
    found: list[Stored] = []
    for source in sources:
        seen, type_ = allowed(source), ctx.store.types[source]
        if seen is None:
            continue
        tags = [
            f"{param.code}={row.reference}"
            for param in _parameters(type_, include.code)
            for row in edge
            if (param.targets is None or row.type in param.targets) and include.target in (None, row.type)
        ]
        if tags:
            found += ctx.store.search(tagged(type_, *tags), seen, MAX_INCLUDED + 1)
    return found
