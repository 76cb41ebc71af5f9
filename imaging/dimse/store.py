"""C-STORE into the archive: the path of STOW, for a source that is known.

PS3.4 Annex B: https://dicom.nema.org/medical/dicom/current/output/chtml/part04/chapter_B.html
"""

from __future__ import annotations

import errno
import logging
import time
import traceback
from collections.abc import Callable

from auth.principal import Principal
from imaging import stow
from imaging.archive import Archive
from imaging.blobs import Incoming
from imaging.dataset import NOT_AUTHORIZED, OUT_OF_RESOURCES, Refused
from imaging.dimse.service import PROCESSING_FAILURE, SUCCESS, Service, Status
from imaging.dimse.sources import Source, Sources
from imaging.dimse.upperlayer import Peer
from imaging.part10 import Named

log = logging.getLogger("imaging.dimse.store")

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOOK = 5.0  # seconds after which a source is looked up again: an association may last for days
_NOT_KNOWN = Status(NOT_AUTHORIZED, "The source is not registered so any more.")
_NO_ROOM = Status(OUT_OF_RESOURCES, "The server's disk is nearly full; try again later.")
_AWAY = Status(OUT_OF_RESOURCES, "The database cannot be reached; try again later.")


class Storing:
    """Whom the archive takes instances from. ``by_address``: a source may be proven by its address alone."""

    def __init__(self, archive: Archive, sources: Sources, by_address: bool) -> None:
        self._archive, self._sources, self._by_address = archive, sources, by_address

    def admit(self, peer: Peer) -> Service | None:
        def known() -> Source | None:
            return self._sources.known(peer.calling, peer.address, peer.fingerprint, self._by_address)

        source = known()
        return _FromSource(self._archive, source, known) if source else None


class _FromSource:
    """One association's instances."""

    def __init__(self, archive: Archive, source: Source, known: Callable[[], Source | None]) -> None:
        self._archive, self._source, self._known = archive, source, known
        self._look_again = time.monotonic() + _LOOK
        self._principal = Principal(source.title, source.organization)
        self._noted: set[str] = set()
        self.largest = archive.max_part

    def receive(self) -> Incoming | Status:
        if time.monotonic() > self._look_again:
            if self._known() != self._source:
                return _NOT_KNOWN
            self._look_again = time.monotonic() + _LOOK
        return self._archive.blobs.receive() if self._archive.room() else _NO_ROOM

    def store(self, incoming: Incoming, named: Named) -> Status:
        archive, source = self._archive, self._source
        incoming.charset = source.charset
        name = named.sop_class, named.uid
        stored = stow.store(incoming, source.organization, archive.blobs, archive.index, None, name)
        if isinstance(stored, Refused):
            return Status(stored.reason, stored.text)
        owner = source.organization
        archive.arriving(self._principal, owner, stored.study, source.quiet)
        if stored.study not in self._noted:  # a line a study and association, as there is one a study and request of STOW
            archive.note(self._principal, "cstore", [(owner, stored.study)], "")
            self._noted.add(stored.study)
        return Status(stow.WARNING, stored.text) if isinstance(stored, stow.SetAside) else Status(SUCCESS)

    def ended(self) -> None:
        for study in self._noted:
            try:
                self._archive.left(self._source.organization, study)
            except Exception as error:  # it is free by itself in some seconds
                log.warning("A study was not let go (%s)", type(error).__name__)

    def failed(self, error: Exception) -> Status:
        if (isinstance(error, OSError) and error.errno in _FULL) or getattr(error, "status", 0) == 507:
            return _NO_ROOM
        if self._archive.unavailable(error):
            return _AWAY
        log.error("Unexpected %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return Status(PROCESSING_FAILURE, "The server failed.")
