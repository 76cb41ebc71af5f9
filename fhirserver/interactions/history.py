"""history of a resource, a type, or all.

https://hl7.org/fhir/R4/http.html#history
"""

from __future__ import annotations

import re

from fhirserver import access
from fhirserver.definitions import ResourceType
from fhirserver.errors import BadRequest, Unsupported
from fhirserver.messages import Context, Reply, Request
from fhirserver.moments import span
from fhirserver.primitives import is_datetime
from fhirserver.search import page
from fhirserver.search.query import GENERAL, MAX_COUNT, whole_number
from fhirserver.store import Versions
from fhirserver.versions import Visible

_SHAPING = ("_summary", "_elements")


def history_instance(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """Errors: 404 where there is nothing that the caller may see."""
    return _history(ctx, request, type_.name, id_)


def history_type(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    return _history(ctx, request, type_.name, None)


def history_system(ctx: Context, request: Request) -> Reply:
    return _history(ctx, request, None, None)


def _history(ctx: Context, request: Request, type_: str | None, id_: str | None) -> Reply:
    letter = "r" if id_ else "s"  # "type-level history, system-level history" are of s
    path = "/".join(part for part in (type_, id_, "_history") if part)
    asked, used = _asked(ctx, request, type_, id_, f"history {path}")

    def visible_of(name: str) -> Visible | None:
        served = ctx.store.types.get(name)
        if served is None or not access.permitted(ctx.principal, served, letter):
            return None
        return access.visible(ctx.principal, served, letter)

    rows, place = ctx.store.versions(asked, visible_of)
    if not rows and id_ is not None and type_ is not None and asked.after is None:
        access.found(ctx, ctx.store.types[type_], id_, "r")
    cursor = {"place": list(place)} if place else None
    body = page.history(ctx, path, used, rows, cursor, f"history {path}")
    return Reply(200, body, touched=tuple(dict.fromkeys(row.touched for row in rows)))


def _asked(
    ctx: Context, request: Request, type_: str | None, id_: str | None, fingerprint: str
) -> tuple[Versions, list[tuple[str, str]]]:
    count, low, high, at, after = page.DEFAULT_COUNT, 0, 2**53, None, None
    used: list[tuple[str, str]] = []
    for name, value in request.query:
        if name == "_count":
            count = min(whole_number(value, name), MAX_COUNT) or page.DEFAULT_COUNT
        elif name == "_since":
            low = _span(name, value)[0]
        elif name == "_at":
            at = _span(name, value)
            high = at[1]
        elif name == "_cursor":
            ts, row = page.opened(ctx, value, fingerprint)["place"]
            after = (int(ts), str(row))
        elif name not in (*GENERAL, *_SHAPING):
            raise Unsupported("A history takes _count, _since, _at, _summary and _elements.", name)
        used.append((name, value))
    return Versions(type_, id_, count, low, high, after, at), used


def _span(name: str, value: str) -> tuple[int, int]:
    text = value.replace(" ", "+")
    if "T" in text and not re.search(r"Z$|[+-]\d\d:\d\d$", text):
        text += "Z"
    if not is_datetime(text):
        raise BadRequest(f"{name} is a date or an instant.", name)
    return span(text)
