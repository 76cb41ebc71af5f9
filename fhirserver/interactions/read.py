"""read and vread.

https://hl7.org/fhir/R4/http.html#read https://hl7.org/fhir/R4/http.html#vread
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import format_datetime, parsedate_to_datetime

from fhirserver import access
from fhirserver.definitions import ResourceType
from fhirserver.errors import Gone, NotFound
from fhirserver.messages import Context, Reply, Request
from fhirserver.versions import Stored

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


def read(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """Errors: 404, 410. 304 where the caller has it: ``If-None-Match``, else ``If-Modified-Since``."""
    stored = access.found(ctx, type_, id_, "r")
    if stored.deleted:
        raise Gone(f"This {type_.name} was deleted.")
    return _unless_known(request, stored)


def vread(ctx: Context, request: Request, type_: ResourceType, id_: str, version: str) -> Reply:
    """Errors: 404, 410 for the version that a delete made."""
    seen = access.visible(ctx.principal, type_, "r")
    stored = ctx.store.vread(type_.name, id_, int(version), seen) if re.fullmatch("[0-9]{1,9}", version) else None
    if stored is None:
        raise NotFound(f"No {type_.name} has this id and version.")
    if stored.deleted:
        raise Gone(f"This version marks that the {type_.name} was deleted.")
    return reply(200, stored)


def _unless_known(request: Request, stored: Stored) -> Reply:
    """https://hl7.org/fhir/R4/http.html#cread"""
    known, since = request.headers.get("if-none-match"), request.headers.get("if-modified-since")
    if known is not None:
        same = known.strip() == "*" or str(stored.version) in _ETAG.findall(known)
    else:
        same = since is not None and (when := http_date(since)) is not None and stored.ts // 1000 <= when
    if same:
        return Reply(304, "", version_headers(stored.version, stored.ts), (stored.touched,))
    return reply(200, stored)


def http_date(text: str) -> int | None:
    """Seconds since 1970; None for what is no date: "A recipient MUST ignore … if the received field value is not a
    valid HTTP-date"."""
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


def reply(status: int, stored: Stored) -> Reply:
    return Reply(status, stored.json, version_headers(stored.version, stored.ts), (stored.touched,))


def version_headers(version: int, ts: int) -> dict[str, str]:
    when = datetime.fromtimestamp(ts // 1000, timezone.utc)
    return {"ETag": f'W/"{version}"', "Last-Modified": format_datetime(when, usegmt=True)}
