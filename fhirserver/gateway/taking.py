"""C-STORE into the spool: the sender is told of success when the instance is durable here."""

from __future__ import annotations

import logging

from fhirserver.gateway.spool import Spool
from imaging.blobs import Incoming
from imaging.dataset import OUT_OF_RESOURCES
from imaging.dimse.listener import Listener, Place
from imaging.dimse.service import SUCCESS, Service, Status
from imaging.dimse.upperlayer import Peer
from imaging.part10 import Named

log = logging.getLogger("fhirserver.gateway")


def listener(
    spool: Spool, host: str, port: int, title: str | None, allowed: frozenset[str], associations: int, largest: int
) -> Listener:
    """``allowed``: the AE titles that may send; none: all."""
    taking = _Taking(spool, largest)

    def admit(peer: Peer) -> Service | None:
        return taking if not allowed or peer.calling in allowed else None

    return Listener(Place(host, port, title, most=associations), admit)


class _Taking:
    def __init__(self, spool: Spool, largest: int) -> None:
        self._spool, self.largest = spool, largest

    def receive(self) -> Incoming | Status:
        return self._spool.receive() if self._spool.room() else Status(OUT_OF_RESOURCES, "The spool is full; try again later.")

    def store(self, incoming: Incoming, named: Named) -> Status:
        self._spool.keep(incoming, named.uid)
        return Status(SUCCESS)

    def ended(self) -> None:
        """What was kept, was kept."""

    def failed(self, error: Exception) -> Status:
        """Whatever it is, the sender is to try again."""
        log.error("An instance could not be spooled (%s)", type(error).__name__)
        return Status(OUT_OF_RESOURCES, "The instance could not be spooled; try again later.")
