"""What becomes of the parts of a STOW request, and its answer.

PS3.18 section 10.5.3: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.3.html
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from starlette.responses import Response

from auth.principal import Principal
from imaging import stow
from imaging.archive import Archive
from imaging.blobs import Incoming
from imaging.dataset import Refused
from imaging.dicomweb.edge import JSON, NO_ROOM, SECURE, Problem, in_thread

_BEHIND = 16  # parts that wait for those before them to be stored, before no more is received


class Receiving:
    """One request: whose it is, what it says of itself, what became of it. What has ended is stored while more is received."""

    def __init__(self, archive: Archive, principal: Principal, study: str | None) -> None:
        self.archive, self.study, self.outcome = archive, study, stow.Outcome()
        self._principal = principal
        self._ended: list[Incoming | Refused] = []
        self._storing: asyncio.Future[None] | None = None

    async def take(self, part: Incoming | Refused) -> None:
        """Those before it are stored, unless some are; the last one waits for the answer, which the same thread gives."""
        before = bool(self._ended)
        self._ended.append(part)
        if isinstance(part, Incoming) and (before or self._storing is not None):
            part.rest()
        if before and (self._storing is None or self._storing.done() or len(self._ended) > _BEHIND):
            await self._stored()
            last = self._ended.pop()
            self._storing, self._ended = asyncio.ensure_future(in_thread(self._store, self._ended)), [last]

    async def finish(self) -> Response:
        await self._stored()
        return await in_thread(self._last, self._taken())

    async def abandon(self) -> None:
        """After a cut or an error: what has ended is stored, and its studies are told of it."""
        with suppress(Exception):
            await self._stored()
            await in_thread(self._store, self._taken())
        for part in self._taken():
            if isinstance(part, Incoming):
                part.discard()
        await in_thread(_arriving, self.archive, self._principal, self.outcome)

    async def _stored(self) -> None:
        storing, self._storing = self._storing, None
        if storing is not None:
            await storing

    def _taken(self) -> list[Incoming | Refused]:
        parts, self._ended = self._ended, []
        return parts

    def _last(self, parts: list[Incoming | Refused]) -> Response:
        self._store(parts)
        return _answer(self.archive, self._principal, self.outcome)

    def _store(self, parts: list[Incoming | Refused]) -> None:
        archive, owner = self.archive, self._principal.organization
        try:
            stow.store_all(parts, owner, archive.blobs, archive.index, self.study, self.outcome.take)
        except BaseException:
            for part in parts:
                if isinstance(part, Incoming):
                    part.discard()
            raise


def _answer(archive: Archive, principal: Principal, outcome: stow.Outcome) -> Response:
    _arriving(archive, principal, outcome)
    if not outcome.studies and outcome.refused and not archive.room():
        raise Problem(*NO_ROOM)
    if not outcome.studies and not outcome.refused:
        raise Problem(400, "The body has no part.")
    archive.note(principal, "stow", [(principal.organization, uid) for uid in outcome.studies], "")
    headers = dict(SECURE)
    if text := stow.texts(outcome):
        headers["Warning"] = f'299 fhirserver "{text[:500]}"'
    return Response(json.dumps(stow.response(outcome, archive.base)), outcome.status, headers, JSON)


def _arriving(archive: Archive, principal: Principal, outcome: stow.Outcome) -> None:
    for uid in outcome.studies:
        archive.arriving(principal, principal.organization, uid)
