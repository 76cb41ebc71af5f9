"""Bundles of results: entries, links, sealed cursors.

https://hl7.org/fhir/R4/bundle.html
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode

from fhirserver.errors import BadRequest, outcome
from fhirserver.messages import Context
from fhirserver.search.query import DEFAULT_COUNT, Query
from fhirserver.shape import Shape
from fhirserver.validation import dumps, instant
from fhirserver.versions import Stored

_STATUS = {"POST": "201", "PUT": "200", "PATCH": "200", "DELETE": "204"}

__all__ = ["DEFAULT_COUNT", "counted", "history", "opened", "searchset"]


def opened(ctx: Context, cursor: str, fingerprint: str) -> dict[str, Any]:
    """A cursor's contents, if this server sealed it for this search and this caller."""
    content = ctx.unseal(cursor)
    if content is None or content.get("f") != fingerprint:
        raise BadRequest("This page link is not valid for this search; begin again.", "_cursor")
    return content


def searchset(
    ctx: Context, path: str, query: Query, used: list[tuple[str, str]], matches: list[Stored], included: list[Stored],
    total: int | None, cursor: dict[str, Any] | None, fingerprint: str,
) -> str:  # fmt: skip
    shape = Shape.of(used)
    entries = [_entry(ctx, row, "match", shape) for row in matches] + [_entry(ctx, row, "include", shape) for row in included]
    if query.warnings:
        entries.append(_warned(query))
    following = None
    if cursor is not None:
        following = [(n, v) for n, v in used if n != "_cursor"] + [("_cursor", ctx.seal(cursor | {"f": fingerprint}))]
    return _bundle(ctx, "searchset", path, used, following, total, entries)


def counted(ctx: Context, path: str, query: Query, used: list[tuple[str, str]], total: int) -> str:
    return _bundle(ctx, "searchset", path, used, None, total, [_warned(query)] if query.warnings else [])


def _warned(query: Query) -> str:
    return f'{{"resource":{dumps(outcome(query.warnings))},"search":{{"mode":"outcome"}}}}'


def history(
    ctx: Context, path: str, used: list[tuple[str, str]], rows: list[Stored], cursor: dict[str, Any] | None, fingerprint: str
) -> str:
    shape, following = Shape.of(used), None
    if cursor is not None:
        following = [(n, v) for n, v in used if n != "_cursor"] + [("_cursor", ctx.seal(cursor | {"f": fingerprint}))]
    return _bundle(ctx, "history", path, used, following, None, [_version(ctx, row, shape) for row in rows])


def _bundle(
    ctx: Context, kind: str, path: str, used: list[tuple[str, str]], following: list[tuple[str, str]] | None,
    total: int | None, entries: list[str],
) -> str:  # fmt: skip
    links = [{"relation": "self", "url": _url(ctx, path, used)}]
    if following is not None:
        links.append({"relation": "next", "url": _url(ctx, path, following)})
    head = {"resourceType": "Bundle", "id": ctx.new_id(), "type": kind, "timestamp": instant(ctx.now)}
    if total is not None:
        head["total"] = total  # type: ignore[assignment]
    body = dumps(head | {"link": links})[:-1]
    return body + (f',"entry":[{",".join(entries)}]' if entries else "") + "}"


def _url(ctx: Context, path: str, pairs: list[tuple[str, str]]) -> str:
    return (f"{ctx.base}/{path}" if path else ctx.base) + (f"?{urlencode(pairs)}" if pairs else "")


def _entry(ctx: Context, row: Stored, mode: str, shape: Shape) -> str:
    return f'{{"fullUrl":"{ctx.base}/{row.reference}","resource":{shape.shaped(row.json)},"search":{{"mode":"{mode}"}}}}'


def _version(ctx: Context, row: Stored, shape: Shape) -> str:
    url = row.reference if row.method != "POST" else row.type
    told = {"method": row.method, "url": url}
    status = "201" if row.version == 1 else _STATUS[row.method]
    answer = {"status": status, "etag": f'W/"{row.version}"', "lastModified": _when(row)}
    resource = "" if row.deleted else f'"resource":{shape.shaped(row.json)},'
    return f'{{"fullUrl":"{ctx.base}/{row.reference}",{resource}"request":{dumps(told)},"response":{dumps(answer)}}}'


def _when(row: Stored) -> str:
    return instant(datetime.fromtimestamp(row.ts / 1000, timezone.utc))
