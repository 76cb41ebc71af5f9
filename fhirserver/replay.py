"""Idempotency-Key: a write that is sent again gets the answer it got, and has its effect once.

The answer is written in the transaction of the write itself, so there is no moment between. Keys are compared whole (I10), and
are of one client and user; the same key on another request is refused. They are kept for a day.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from fhirserver.errors import BadRequest, BusinessRule
from fhirserver.messages import Context, Reply, Request
from fhirserver.moments import milliseconds
from fhirserver.validation import Document

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
KEPT = 86_400_000  # milliseconds


@dataclass(frozen=True, slots=True)
class Named:
    """Which request it is, and what was asked in it."""

    id: str
    asked: str

    def row(self, ctx: Context, reply: Reply) -> Document:
        return {
            "_id": self.id,
            "asked": self.asked,
            "status": reply.status,
            "body": reply.body,
            "headers": dict(reply.headers),
            "ts": milliseconds(ctx.now),
        }


def named(ctx: Context, request: Request) -> Named | None:
    """Errors: 400 for what is no key."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise BadRequest("Idempotency-Key is 1 to 255 characters without spaces.")
    whose = ctx.principal
    return Named(
        _digest(whose.organization, whose.client, whose.user or "", key),
        _digest(
            request.method,
            request.path,
            repr(request.query),
            request.body.decode(errors="replace"),
            request.headers.get("if-match", ""),
        ),
    )


def known(ctx: Context, name: Named) -> Reply | None:
    """The answer that this request got before. Errors: 422 where the key was another request's."""
    row = ctx.store.registers.answer(name.id)
    if row is None or row["ts"] < milliseconds(ctx.now) - KEPT:
        return None
    if row["asked"] != name.asked:
        raise BusinessRule("This Idempotency-Key was used for another request.")
    return Reply(row["status"], row["body"], row["headers"])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()
