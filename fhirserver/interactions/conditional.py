"""Conditional interactions: the resource that a search finds, or one made where it finds none.

Two requests by the same criteria meet in a claim, so that of many identical ones a single resource comes.
https://hl7.org/fhir/R4/http.html#ccreate https://hl7.org/fhir/R4/http.html#cond-update
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import parse_qsl

from fhirserver import access
from fhirserver.definitions import ResourceType
from fhirserver.errors import BadRequest, NotFound, PreconditionFailed
from fhirserver.interactions import search
from fhirserver.interactions.read import reply
from fhirserver.messages import Context, Reply, Request
from fhirserver.search.query import GENERAL
from fhirserver.validation import loads
from fhirserver.versions import Stored

Pairs = tuple[tuple[str, str], ...]


def criteria(text: str) -> Pairs:
    """A query string, as a header has it."""
    return tuple(parse_qsl(text.rpartition("?")[2], keep_blank_values=True))


def _claimed(ctx: Context, type_: ResourceType, asked: str | Pairs) -> Pairs:
    """The criteria, claimed: the commit fails where another request acted on the same ones since."""
    pairs = criteria(asked) if isinstance(asked, str) else asked
    key = repr([ctx.principal.organization, type_.name, sorted(pairs)])
    name = hashlib.sha256(key.encode()).hexdigest()
    if name in ctx.changes.claims:
        raise BadRequest("Two entries of the transaction have the same criteria.")
    ctx.changes.claim(name, ctx.store.claimed(name))
    return pairs


def _only_match(ctx: Context, type_: ResourceType, pairs: Pairs) -> Stored | None:
    """Errors: 412 where the criteria are "not selective enough"."""
    found = search.found_by(ctx, type_, pairs, 2)
    if len(found) > 1:
        raise PreconditionFailed(f"The criteria find more than one {type_.name}.")
    return found[0] if found else None


def settled(ctx: Context, request: Request, type_: ResourceType) -> Request | Reply:
    """A conditional request as the plain one that it comes to; or its answer, where a create found what is there.

    PUT: the one that is found is updated; where none is found it is created, by the id in the body if there is one.
    DELETE: 204 where there is nothing to delete, as of what is deleted already. PATCH: 404 for none. All: 412 for several,
    "not selective enough".
    """
    asked = request.headers.get("if-none-exist") if request.method == "POST" else _chosen(request)
    if asked is None:
        return request
    access.require(ctx.principal, type_, "s")
    match = _only_match(ctx, type_, _claimed(ctx, type_, asked))
    headers = {name: value for name, value in request.headers.items() if name != "if-none-exist"}
    if request.method == "POST":
        return Request("POST", request.path, (), headers, request.body) if match is None else _answer(ctx, request, match)
    if request.method == "PUT":
        return _put(request, headers, match)
    if match is None:
        if request.method == "DELETE":
            return Reply(204)
        raise NotFound(f"The criteria find no {type_.name}.")
    return Request(request.method, match.reference, (), headers, request.body)


def _answer(ctx: Context, request: Request, match: Stored) -> Reply:
    told = reply(200, match)
    where = {"Location": f"{ctx.base}/{match.reference}/_history/{match.version}"}
    return Reply(200, "" if request.prefers("return=minimal") else match.json, {**told.headers, **where}, told.touched)


def _put(request: Request, headers: Mapping[str, str], match: Stored | None) -> Request:
    body = loads(request.body)
    given = body.get("id") if isinstance(body, dict) else None
    if match is None:
        if isinstance(given, str):
            return Request("PUT", f"{request.path}/{given}", (), headers, request.body)
        return Request("POST", request.path, (), headers, request.body)
    if given not in (None, match.id):
        raise BadRequest("The id in the body is not that of the resource which the criteria find.", f"{match.type}.id")
    sent = (
        request.body
        if given or not isinstance(body, dict)
        else b'{"id":"' + match.id.encode() + b'",' + request.body.lstrip()[1:]
    )
    return Request("PUT", match.reference, (), headers, sent)


def referenced(ctx: Context, reference: str) -> str:
    """A conditional reference, ``Patient?identifier=…``, as the reference that it means. Errors: 412 for none or several.

    https://hl7.org/fhir/R4/http.html#trules
    """
    name, _, query = reference.partition("?")
    if name not in ctx.store.types:
        raise BadRequest("A conditional reference names a resource type that is served here.")
    access.require(ctx.principal, ctx.store.types[name], "s")
    match = _only_match(ctx, ctx.store.types[name], criteria(query))
    if match is None:
        raise PreconditionFailed(f"A conditional reference finds no {name}.")
    return match.reference


def _chosen(request: Request) -> Pairs:
    return tuple(pair for pair in request.query if pair[0] not in GENERAL)
