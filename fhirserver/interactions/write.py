"""create, update, delete.

https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

from fhirserver import access
from fhirserver.definitions import ResourceType
from fhirserver.errors import BadRequest, Conflict, Invalid, Issue, NotFound, PreconditionFailed, outcome
from fhirserver.interactions.read import reply, version_headers
from fhirserver.messages import Context, Reply, Request
from fhirserver.moments import milliseconds
from fhirserver.primitives import is_id
from fhirserver.search.index import index
from fhirserver.search.query import plain
from fhirserver.search.reference import relative
from fhirserver.validation import Resource, dumps, instant, loads
from fhirserver.validation import parse as parse_resource
from fhirserver.versions import EVERYTHING, Stored, Write, few

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ETAG = re.compile(r'(?:W/)?"([0-9]{1,15})"')


def create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """https://hl7.org/fhir/R4/http.html#create"""
    access.writable(ctx, type_)
    resource = parse_resource(request.body, type_.name)
    access.resolvable(ctx, [(type_.name, resource.data)])
    write = put(ctx, type_, resource, ctx.new_id(), None, "POST")
    return written(ctx, request, write, 201)


def update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """https://hl7.org/fhir/R4/http.html#update"""
    access.writable(ctx, type_)
    resource = parse_resource(request.body, type_.name)
    if resource.id != id_:
        raise BadRequest("The id in the body is the id in the URL.", f"{type_.name}.id")
    access.resolvable(ctx, [(type_.name, resource.data)])
    current = existing(ctx, type_, id_)
    check_if_match(request, current)
    if request.headers.get("if-none-match", "").strip() == "*" and current is not None and not current.deleted:
        raise PreconditionFailed("There is a resource with this id already, and If-None-Match is *.")
    if current is not None and not current.deleted and unchanged(resource, current):
        return reply(200, current)
    write = put(ctx, type_, resource, id_, current, "PUT")
    return written(ctx, request, write, 200 if current is not None and not current.deleted else 201)


def delete(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """https://hl7.org/fhir/R4/http.html#delete"""
    current = access.found(ctx, type_, id_, "d")
    check_if_match(request, current)
    if current.deleted:
        return Reply(204, headers={"ETag": f'W/"{current.version}"'})
    access.writable(ctx, type_)
    access.owned(ctx, current)
    if not type_.deletable(loads(current.json)):
        raise Conflict(f"A {type_.name} is part of the record and is not deleted; set its status instead.")
    for referrer, code in type_.referrers:
        query = plain(ctx.store.types[referrer], (code, f"{type_.name}/{id_}"))
        if ctx.store.search(query, EVERYTHING, 1):
            raise Conflict(f"Other resources ({referrer}) refer to this {type_.name}.")
    version, ts = current.version + 1, milliseconds(ctx.now)
    tomb = (
        f'{{"resourceType":"{type_.name}","id":"{id_}","meta":{{"versionId":"{version}","lastUpdated":"{instant(ctx.now)}"}}}}'
    )
    gone = Write(
        type_.name,
        id_,
        current.version,
        ts,
        "DELETE",
        current.owner,
        list(current.base),
        tomb,
        None,
        {"c": list(current.compartments)},
    )
    gone.generation = current.generation
    ctx.changes.add(gone)
    return Reply(204, headers={"ETag": f'W/"{version}"'}, touched=(current.touched,))


def existing(ctx: Context, type_: ResourceType, id_: str) -> Stored | None:
    """The version that a PUT replaces, or None where it may create: ids are global, so a client's own ids are bounded."""
    if not is_id(id_):
        raise BadRequest("The id in the URL is not a FHIR id.", f"{type_.name}.id")
    mine = _UUID.fullmatch(id_) or id_.startswith(f"{ctx.principal.organization}-") or id_ == ctx.principal.organization
    try:
        current = access.found(ctx, type_, id_, "u")
    except NotFound:
        if mine and ctx.store.get(type_.name, id_, EVERYTHING) is not None:
            raise  # there, and hidden
    else:
        access.owned(ctx, current)
        return current
    if not mine:
        raise Invalid(
            f"To create a resource by PUT, give it a UUID (lower case) or an id that begins with {ctx.principal.organization}-.",
            f"{type_.name}.id",
        )
    return None


def check_if_match(request: Request, current: Stored | None) -> None:
    """https://hl7.org/fhir/R4/http.html#concurrency: "If the version id given in the If-Match header does not match,
    the server returns a 412 Precondition Failed"; the store compares again in the statement that writes."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        return
    match = _ETAG.fullmatch(wanted.strip())
    if match is None:
        raise BadRequest('If-Match is W/"version".')
    if current is None or current.version != int(match[1]):
        raise PreconditionFailed("The resource is not at the version of If-Match; read it again.")


def unchanged(resource: Resource, current: Stored) -> bool:
    """A no-op update makes no new version."""
    when = datetime.fromtimestamp(current.ts / 1000, timezone.utc)
    return resource.text(current.id, current.version, when) == current.json


def put(
    ctx: Context, type_: ResourceType, resource: Resource, id_: str, current: Stored | None, method: str,
    owner: str | None = None, base: list[str] | None = None,
) -> Write:  # fmt: skip
    """Add the next version to the changes: rules checked, JSON assembled, index made.

    The text stays as it was sent; what the server concludes from it, it concludes with references as ``Type/id``.
    """
    old: Any = relative(loads(current.json), ctx.base) if current is not None and not current.deleted else None
    data = relative(resource.data, ctx.base)
    wrong = [issue for rule in type_.rules for issue in rule(old, data)]
    if wrong:
        raise Invalid(wrong[0].diagnostics, issues=wrong)
    owner = current.owner if current is not None else owner or ctx.principal.organization
    if base is None and current is not None and few(current.base):
        base = list(current.base)  # what only a few may read stays theirs, whoever writes it
    keys = base if base is not None else type_.base_keys(owner, data)
    pending = ctx.changes.writes.get((type_.name, id_))
    version = pending.expected if pending is not None else current.version if current is not None else 0
    text, entries = resource.text(id_, version + 1, ctx.now), index(type_, data, ctx.base)
    write = Write(type_.name, id_, version, milliseconds(ctx.now), method, owner, keys, text, data, entries)
    if current is not None and pending is None:
        # What was deleted is shared with nobody any more, also when it is written again.
        kept = () if current.deleted else current.grants
        write.generation, write.sealed, write.kept = current.generation, current.sealed, kept
    ctx.changes.add(write)
    return write


# ---------------------------------------------------------------- replies


def written(ctx: Context, request: Request, write: Write, status: int) -> Reply:
    """https://hl7.org/fhir/R4/http.html#ops: Location, ETag, Last-Modified; the body unless return=minimal is preferred."""
    headers = version_headers(write.version, write.ts)
    if status == 201:
        headers["Location"] = f"{ctx.base}/{write.reference}/_history/{write.version}"
    if request.prefers("return=OperationOutcome"):
        said = outcome([Issue("informational", f"{write.type} version {write.version} is stored.", severity="information")])
        return Reply(status, dumps(said), headers, (write.touched,))
    body = "" if request.prefers("return=minimal") else write.json
    return Reply(status, body, headers, (write.touched,))
