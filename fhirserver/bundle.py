"""Batch and transaction: each entry is a Request that goes the same road; a transaction is one commit.

https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import logging
import re
import traceback
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from fhirserver.errors import BadRequest, FHIRError, Invalid, Issue, TooLarge
from fhirserver.interactions import referenced
from fhirserver.messages import Context, Reply, Request
from fhirserver.validation import Document, dumps, loads

log = logging.getLogger("fhirserver.bundle")

MAX_ENTRIES = 1000
_ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}
_HEADERS = {
    "ifMatch": "if-match",
    "ifNoneMatch": "if-none-match",
    "ifNoneExist": "if-none-exist",
    "ifModifiedSince": "if-modified-since",
}
_LINK = re.compile(rb'("(?:reference|url|uri|valueUri|valueUrl|valueCanonical)"\s*:\s*)"([^"\\]+)"')
_CONDITIONAL = re.compile(rb'("reference"\s*:\s*)"([A-Z][A-Za-z]+\?(?:[^"\\]|\\.)+)"')
_REST = re.compile(r"https?://.+/([A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64})")


class _RawEntry(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw(b"")


class _RawBundle(msgspec.Struct):
    entry: list[_RawEntry] = []


@dataclass(frozen=True, slots=True)
class Road:
    """What dispatch hands in: the whole road of one request, its planning half, and the committing loop."""

    dispatch: Callable[[Context, Request], Reply]
    perform: Callable[[Context, Request], Reply]
    retried: Callable[..., Reply]
    acts: Callable[[Request], bool]  # more than a plain write: it comes after those it rests on
    settle: Callable[[Context, Request], Request | Reply]  # a conditional write -> the plain one, or its answer


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its place, what it asks, and the id that its create will have."""

    number: int
    full_url: str | None
    request: Request
    new_id: str | None = None

    @property
    def path(self) -> str:
        return f"Bundle.entry[{self.number}]"


def process(ctx: Context, request: Request, road: Road) -> Reply:
    """Errors: 400/422 for a Bundle that is not one; 413 beyond 1,000 entries."""
    data = loads(request.body)
    if not isinstance(data, dict) or data.get("resourceType") != "Bundle" or data.get("type") not in ("batch", "transaction"):
        raise BadRequest("POST a Bundle of type batch or transaction to the base URL.", "Bundle.type")
    entries = _entries(ctx, data, request)
    if data["type"] == "batch":
        replies = [_alone(ctx, entry, road) for entry in entries]
        return _answer("batch-response", replies, request.prefers("return=minimal"))
    return _transaction(ctx, entries, request, road)


def _entries(ctx: Context, data: Document, request: Request) -> list[Entry]:
    rows = data.get("entry", [])
    if not isinstance(rows, list):
        raise BadRequest("entry is a list.", "Bundle.entry")
    if len(rows) > MAX_ENTRIES:
        raise TooLarge(f"A Bundle may have {MAX_ENTRIES} entries.", "Bundle.entry")
    wrong = [issue for number, row in enumerate(rows) for issue in _problems(row, f"Bundle.entry[{number}]")]
    if wrong:
        raise Invalid(wrong[0].diagnostics, issues=wrong)
    bodies = [bytes(raw.resource) for raw in msgspec.json.decode(request.body, type=_RawBundle).entry]
    return [_entry(ctx, number, row, body) for number, (row, body) in enumerate(zip(rows, bodies, strict=True))]


def _problems(row: Any, path: str) -> list[Issue]:
    asked = row.get("request") if isinstance(row, dict) else None
    if not isinstance(asked, dict):
        return [Issue("required", "An entry has a request.", f"{path}.request")]
    if asked.get("method") not in _ORDER:
        return [Issue("value", "The method is GET, HEAD, POST, PUT, PATCH or DELETE.", f"{path}.request.method")]
    if not isinstance(asked.get("url"), str) or not asked["url"].strip("/"):
        return [Issue("required", "A request has a url.", f"{path}.request.url")]
    acts = asked["method"] == "POST" and "$" in asked["url"]
    if asked["method"] in ("POST", "PUT", "PATCH") and not acts and not isinstance(row.get("resource"), dict):
        return [Issue("required", "This method needs a resource.", f"{path}.resource")]
    if any(name in asked and not isinstance(asked[name], str) for name in _HEADERS):
        return [Issue("value", "A condition is a string.", f"{path}.request")]
    return []


def _entry(ctx: Context, number: int, row: Document, body: bytes) -> Entry:
    asked = row["request"]
    path, _, query = asked["url"].removeprefix(f"{ctx.base}/").partition("?")
    headers = {header: asked[name] for name, header in _HEADERS.items() if name in asked}
    if asked["method"] == "PATCH":
        body, headers["content-type"] = _patch(row["resource"], body, number)
    request = Request(asked["method"], path.strip("/"), tuple(parse_qsl(query, keep_blank_values=True)), headers, body)
    created = ctx.new_id() if asked["method"] == "POST" and "/" not in request.path else None
    return Entry(number, row.get("fullUrl") if isinstance(row.get("fullUrl"), str) else None, request, created)


def _patch(resource: Document, body: bytes, number: int) -> tuple[bytes, str]:
    """A FHIRPath Patch is there as Parameters, another as a Binary. https://hl7.org/fhir/R4/http.html#patch"""
    if resource.get("resourceType") != "Binary":
        return body, "application/fhir+json"
    try:
        return b64decode(resource["data"], validate=True), str(resource["contentType"])
    except (KeyError, ValueError, TypeError):
        where = f"Bundle.entry[{number}].resource"
        raise Invalid("A patch as a Binary has contentType and data.", where) from None


def _alone(ctx: Context, entry: Entry, road: Road) -> Reply:
    """An entry of a batch succeeds or fails by itself."""
    try:
        return road.dispatch(ctx, entry.request)
    except FHIRError as error:
        return Reply(error.status, dumps(error.outcome()))
    except Exception as error:  # our own mistake with one entry is not the others' loss
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("Unexpected %s in a batch\n%s", type(error).__name__, where)
        failed = FHIRError("The server failed; nothing was changed by this entry.")
        return Reply(failed.status, dumps(failed.outcome()))


# ---------------------------------------------------------------- transaction


def _transaction(ctx: Context, entries: list[Entry], request: Request, road: Road) -> Reply:
    _distinct(entries)
    replies: dict[int, Reply] = {}

    def plan(fresh: Context) -> Reply:
        replies.clear()
        settled = [_settled(fresh, entry, road, replies) for entry in entries]
        _distinct([entry for entry in settled if entry.number not in replies])
        links = _links(settled)
        fresh.changes.reserve(key for e in settled if (key := _identity(e)))
        for entry in sorted(settled, key=lambda one: (_ORDER[one.request.method], road.acts(one.request))):
            if _ORDER[entry.request.method] < _ORDER["GET"] and entry.number not in replies:
                resolved = replace(entry.request, body=_resolved(fresh, _relinked(entry.request.body, links), entry))
                replies[entry.number] = _planned(fresh, replace(entry, request=resolved), road)
        return Reply(200, touched=tuple(row for reply in replies.values() for row in reply.touched))

    road.retried(ctx, "transaction", "", plan, request.headers.get("x-provenance"))
    for entry in entries:  # "… GET … requests are processed last", on what was just written
        if entry.number not in replies:
            replies[entry.number] = _alone(ctx, entry, road)
    return _answer("transaction-response", [replies[e.number] for e in entries], request.prefers("return=minimal"))


def _settled(ctx: Context, entry: Entry, road: Road, replies: dict[int, Reply]) -> Entry:
    """The entry without its condition: what is found, or what is to be made."""
    conditional = "if-none-exist" in entry.request.headers or (
        entry.request.method in ("PUT", "PATCH", "DELETE") and entry.request.query
    )
    if not conditional:
        return entry
    try:
        plain = road.settle(ctx, entry.request)
    except FHIRError as error:
        raise error.at(entry.path) from None
    if isinstance(plain, Reply):
        replies[entry.number] = plain
        return replace(entry, request=Request("PUT", plain.touched[0][0]), new_id=None) if plain.touched else entry
    made = plain.method == "POST" and "/" not in plain.path
    return replace(entry, request=plain, new_id=(entry.new_id or ctx.new_id()) if made else None)


def _identity(entry: Entry) -> tuple[str, str] | None:
    """What the entry writes, so that the others may refer to it wherever they stand: "the order … SHALL NOT matter"."""
    if entry.new_id:
        return entry.request.path, entry.new_id
    type_, _, id_ = entry.request.path.partition("/")
    return (type_, id_) if entry.request.method == "PUT" and id_ and "/" not in id_ else None


def _resolved(ctx: Context, body: bytes, entry: Entry) -> bytes:
    """Conditional references become what they mean."""
    if b"?" not in body:
        return body
    texts = {match[2] for match in _CONDITIONAL.finditer(body)}
    try:
        meant = {text: referenced(ctx, loads(b'"' + text + b'"')).encode() for text in texts}
    except FHIRError as error:
        raise error.at(entry.path) from None
    return _CONDITIONAL.sub(lambda match: match[1] + b'"' + meant[match[2]] + b'"', body)


def _planned(ctx: Context, entry: Entry, road: Road) -> Reply:
    try:
        identified = replace(ctx, new_id=_first(entry.new_id, ctx.new_id)) if entry.new_id else ctx
        return road.perform(identified, entry.request)
    except FHIRError as error:
        raise error.at(entry.path) from None


def _first(given: str, then: Callable[[], str]) -> Callable[[], str]:
    """The id that the entry's fullUrl was resolved to, then new ones."""
    ids = [given]
    return lambda: ids.pop() if ids else then()


def _distinct(entries: list[Entry]) -> None:
    """ "If any resource identities … overlap … then the transaction SHALL fail." """
    seen: set[str] = set()
    for entry in entries:
        identity = entry.full_url
        if entry.request.method in ("PUT", "PATCH", "DELETE"):
            identity = f"{entry.request.path}?{entry.request.query}"
        elif entry.request.path.endswith(("/$meta-add", "/$meta-delete")):
            identity = f"{entry.request.path.rpartition('/')[0]}?{()}"
        if identity and entry.request.method != "GET":
            if identity in seen:
                raise BadRequest("Two entries of the transaction are about the same resource.", entry.path)
            seen.add(identity)


def _links(entries: list[Entry]) -> dict[bytes, bytes]:
    """fullUrl -> the reference that it becomes; also as a reference relative to the sender's own base.

    https://hl7.org/fhir/R4/bundle.html#references
    """
    links: dict[bytes, bytes] = {}
    for entry in entries:
        becomes = f"{entry.request.path}/{entry.new_id}" if entry.new_id else entry.request.path
        if not entry.full_url or entry.request.method not in ("POST", "PUT"):
            continue
        links[entry.full_url.encode()] = becomes.encode()
        if entry.new_id and (rest := _REST.fullmatch(entry.full_url)):
            links[rest[1].encode()] = becomes.encode()
    return links


def _relinked(body: bytes, links: dict[bytes, bytes]) -> bytes:
    """References between entries become references to what the entries create; nothing else of the text changes."""
    return _LINK.sub(lambda m: m[1] + b'"' + links.get(m[2], m[2]) + b'"', body) if links else body


# ---------------------------------------------------------------- answer


def _answer(kind: str, replies: list[Reply], minimal: bool) -> Reply:
    rows = ",".join(_row(reply, minimal) for reply in replies)
    body = f'{{"resourceType":"Bundle","type":"{kind}"' + (f',"entry":[{rows}]' if rows else "") + "}"
    return Reply(200, body, touched=tuple(row for reply in replies for row in reply.touched))


def _row(reply: Reply, minimal: bool) -> str:
    response: dict[str, Any] = {"status": str(reply.status)}
    for name, key in (("Location", "location"), ("ETag", "etag")):
        if name in reply.headers:
            response[key] = reply.headers[name]
    failed = reply.status >= 400
    told = dumps(response)[:-1] + (f',"outcome":{reply.body}' if failed else "") + "}"
    shown = f'"resource":{reply.body},' if reply.body and not failed and not minimal else ""
    return f'{{{shown}"response":{told}}}'
