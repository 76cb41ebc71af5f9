"""Binary in its own content type: what is not asked for as FHIR is given, and may be sent, as it is.

https://hl7.org/fhir/R4/binary.html#rest
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode

from fhirserver.errors import BadRequest, UnsupportedMediaType
from fhirserver.validation import Document, dumps, loads

_MEDIA = re.compile(r"""[\w.+-]{1,80}/[\w.+-]{1,80}(?: ?; ?[\w.+-]{1,40}=(?:[\w.+:/-]{1,80}|"[\w .+:/=-]{1,80}"))*""", re.ASCII)
# What the content may be, it runs nothing here and is no page of ours.
HEADERS = {"Content-Disposition": "attachment", "Content-Security-Policy": "sandbox; default-src 'none'"}


def wrapped(media: str, content: bytes, id_: str, context: str | None) -> bytes:
    """A Binary of what was sent. Errors: 400 for a context that is no reference, 415 for a content type that is none."""
    if not _MEDIA.fullmatch(media):
        raise UnsupportedMediaType("A Binary is sent with its Content-Type, or as application/fhir+json.")
    if context is not None and (not context.isprintable() or " " in context):
        raise BadRequest("X-Security-Context is a reference.", "Binary.securityContext")
    document: Document = {"resourceType": "Binary"} | ({"id": id_} if id_ else {}) | {"contentType": media}
    if context is not None:
        document["securityContext"] = {"reference": context}
    return dumps(document | ({"data": b64encode(content).decode()} if content else {})).encode()


def unwrapped(text: str) -> tuple[bytes, str, dict[str, str]]:
    """(content, its type, headers) of a stored Binary."""
    document = loads(text)
    context = document.get("securityContext", {}).get("reference")
    told = context and context.isascii() and context.isprintable()
    headers = HEADERS | ({"X-Security-Context": context} if told else {})
    media = document.get("contentType", "")
    return b64decode(document.get("data", "")), media if _MEDIA.fullmatch(media) else "application/octet-stream", headers
