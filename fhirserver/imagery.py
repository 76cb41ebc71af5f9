"""The archive in an installation: its parts, what it is given of the record, and its background work.

``app`` makes one and hands it on; what a DICOMweb or DIMSE edge needs of it is its ``archive``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import ConnectionFailure

from auth.keys import Seal
from auth.principal import Principal
from fhirserver.arrivals import Arrivals
from fhirserver.errors import Conflict, Unavailable
from fhirserver.fetching import Parts
from fhirserver.jobs import Job
from fhirserver.messages import Context, Line
from fhirserver.metrics import Gauge
from fhirserver.moments import milliseconds
from fhirserver.pulling import Pulling
from fhirserver.room import Room
from fhirserver.sending import Sending
from fhirserver.settings import Settings
from fhirserver.store import Store, translated
from fhirserver.versions import EVERYTHING, Touched
from imaging import blobs, deciding, keeping, qido
from imaging.archive import Archive
from imaging.attributes import INSTANCE
from imaging.decoding import Decoders
from imaging.dimse.listener import Listener, Place, client_certificates, loopback
from imaging.dimse.sources import Sources
from imaging.dimse.store import Storing
from imaging.index import Index
from imaging.peers.deliveries import Deliveries
from imaging.peers.destinations import Destinations

log = logging.getLogger("fhirserver.imagery")

_DAY = 86_400.0
_REMEMBERED, _MOST = 60.0, 10_000


@dataclass(frozen=True, slots=True)
class Given:
    """What the archive is given: ``context`` acts for a Principal; ``restricted`` is that Principal with what patients withhold."""

    context: Callable[[Principal], Context]
    restricted: Callable[[Principal], Principal]
    authenticate: Callable[[str | None, str | None], Principal]
    note: Callable[[Line], None]
    seal: Callable[[], Seal]
    derived_id: Callable[..., str]
    clock: Callable[[], datetime]


class Images:
    """The parts of one archive."""

    def __init__(self, settings: Settings, database: Database[dict[str, Any]], store: Store, room: Room, given: Given) -> None:
        self._settings, self._store, self._room, self._given = settings, store, room, given
        self.index = Index(database)
        self.blobs = blobs.opened(settings.blobs, settings.blob_dir, settings.s3_endpoint)
        self.decoders = Decoders()
        self.sources = Sources(database)
        self.listener: Listener | None = None
        self.destinations = Destinations(database, given.seal)
        self.deliveries = Deliveries(database)
        self.sending = Sending(
            store,
            self.index,
            self.blobs,
            self.destinations,
            self.deliveries,
            self.decoders,
            self._acting("sending"),
            given.note,
            given.clock,
        )
        self.arrivals = Arrivals(
            store,
            self.index,
            self._acting("archive"),
            given.clock,
            settings.study_quiet_seconds,
            self._resume,
            self.sending.consider,
        )
        parts = Parts(self.index, self.blobs, self._pulled, given.note, room.enough, given.clock)
        self.pulling = Pulling(store, self.destinations, self._acting("pulling"), parts, self.sending.back)
        self._studies: dict[tuple[str, str], tuple[float, Touched]] = {}

    def _acting(self, name: str) -> Callable[[str], Context]:
        """For a facility, by this part of the server."""
        return lambda owner: self._given.context(Principal(name, owner))

    def jobs(self) -> tuple[Job, ...]:
        return (
            Job("studies", 0.5, self.arrivals.settle),
            Job("sending", 1.0, self.sending.step, shared=False),
            Job("pulling", 2.0, self.pulling.step, shared=False),
            Job("uploads", 3600.0, self.sweep_uploads, shared=False),
            Job("marks", 600.0, self.mark),
            Job("orphans", 21_600.0, self._sweep_orphans),
        )

    def prepare(self) -> None:
        self.index.prepare()
        self.sources.prepare()
        self.deliveries.prepare()
        self.up()  # what is wrong with the store of the bytes is in the log from the start

    def stop(self) -> None:
        """Before the jobs end."""
        if self.listener:
            self.listener.stop()
        self.sending.stop()
        self.pulling.stop()

    def gauges(self) -> Iterator[Gauge]:
        if self.listener and self.listener.owns:
            yield "fhirserver_dicom_associations", "DICOM associations", "", [("", float(self.listener.associations))]
        yield "fhirserver_images_up", "Whether the store of the images' bytes answers", "", [("", float(self.up()))]

    def listen(self) -> None:
        """For modalities, where a port is set. Error: ValueError where the settings would take images from anyone."""
        settings = self._settings
        if settings.dimse_port is None:
            return
        tls = None
        if settings.dimse_tls_cert:
            if not (settings.dimse_tls_key and settings.dimse_tls_ca):
                raise ValueError("FHIRSERVER_DIMSE_TLS_CERT needs FHIRSERVER_DIMSE_TLS_KEY and FHIRSERVER_DIMSE_TLS_CA")
            tls = client_certificates(settings.dimse_tls_cert, settings.dimse_tls_key, settings.dimse_tls_ca)
        elif not (settings.dimse_by_address or loopback(settings.dimse_host)):
            raise ValueError(
                "an AE title proves nothing: on an address beyond loopback set FHIRSERVER_DIMSE_TLS_CERT, _KEY and _CA, "
                "or FHIRSERVER_DIMSE_BY_ADDRESS where sources may be proven by their addresses alone"
            )
        place = Place(settings.dimse_host, settings.dimse_port, settings.dimse_ae_title, tls, settings.dimse_associations)
        self.listener = Listener(place, Storing(self.archive(), self.sources, settings.dimse_by_address).admit)

    def _pulled(self, owner: str, uid: str, whole: bool) -> None:
        """Instances of an earlier study were fetched."""
        self.arrivals.update(owner, uid, complete=whole)

    def sweep_uploads(self) -> None:
        with self._there():
            self.blobs.sweep(time.time() - _DAY)

    def sweep_orphans(self, *, force: bool = False) -> list[blobs.Kept]:
        """Files that no row names, when they are a day old. Errors: NotSweptError, where they seem to be something else."""
        with translated(), self._there():
            return keeping.sweep(self.index, self.blobs, time.time() - _DAY, force=force)

    def mark(self) -> None:
        with translated(), self._there():
            keeping.mark(self.index, self.blobs)

    def _sweep_orphans(self) -> None:
        try:
            removed = self.sweep_orphans()
        except keeping.NotSweptError as error:
            log.warning("Images without a row: %s", error)
            return
        if removed:
            log.info("Removed %d images' files that no row names", len(removed))

    def up(self) -> bool:
        try:
            self.blobs.marked()
        except blobs.Away:
            return False
        return True

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Errors: Unavailable, where the store of the images is away."""
        try:
            yield
        except blobs.Away as error:
            raise Unavailable(str(error)) from None

    def unavailable(self, error: Exception) -> bool:
        return isinstance(error, (Unavailable, ConnectionFailure, blobs.Away))

    def note(self, principal: Principal, interaction: str, rows: list[tuple[str, str]], query: str) -> None:
        touched = tuple(self._touched_study(owner, uid) for owner, uid in dict.fromkeys(rows))
        self._given.note(Line(principal, "read", self._given.clock(), "0", touched, query, interaction))

    def _touched_study(self, owner: str, uid: str) -> Touched:
        """The study and whose it is, as it was a minute ago at most: each frame of a series asks."""
        until, known = self._studies.get((owner, uid), (0.0, None))
        if known is None or until < time.monotonic():
            id_ = self._given.derived_id("ImagingStudy", owner, uid)
            rows = self._store.fetch("ImagingStudy", [id_], EVERYTHING)
            known = rows[0].touched if rows else (f"ImagingStudy/{id_}", owner, (), ())
            if len(self._studies) > _MOST:
                self._studies.clear()
            self._studies[owner, uid] = (time.monotonic() + (_REMEMBERED if rows else 0.0), known)
        return known

    def archive(self) -> Archive:
        return Archive(
            blobs=self.blobs,
            index=self.index,
            decoders=self.decoders,
            base=f"{self._settings.base}/dicomweb",
            max_request=self._settings.max_upload_bytes,
            max_part=self._settings.max_part_bytes,
            authenticate=self._given.authenticate,
            see=self.arrivals.see,
            arrived=self.arrivals.arrived,
            arriving=self.arrivals.arriving,
            left=self.arrivals.left,
            note=self.note,
            unavailable=self.unavailable,
            room=self._room.enough,
        )

    def copies(self, principal: Principal, uid: str) -> set[tuple[str, str]]:
        with translated():
            owners = self.index.owners(uid)
        applied = self._given.restricted(principal)
        return self.arrivals.see(applied, "r", [(owner, uid) for owner in owners]) if owners else set()

    def instances(self, principal: Principal, uid: str) -> list[dict[str, Any]]:
        """A study's, as a search for them tells them to this caller."""
        applied = self._given.restricted(principal)
        asked = qido.parse(INSTANCE, [("StudyInstanceUID", uid)], {})
        with translated():
            found, _ = qido.search(asked, self.index, lambda rows: self.arrivals.see(applied, "s", rows), "")
        return found

    def take_from_quarantine(self, owner: str, study: str, replace: bool, task: str, is_about: Callable[[str], bool]) -> None:
        try:
            with translated(), self._there():
                now = milliseconds(self._given.clock())
                deciding.decided(owner, study, replace, task, is_about, self.blobs, self.index, now)
        except deciding.Outdated:
            raise Conflict("More of this study was sent again since: there is a newer Task about all of it.") from None
        except deciding.DecidedOtherwise:
            raise Conflict("This was decided otherwise already, and that is being done.") from None
        except deciding.PartlyResent:
            raise Conflict("Not every image of the study was sent again for the other patient, and for no third one.") from None
        except deciding.Unreadable:
            raise Conflict("A file that was set aside cannot be read; fhirserver check-images names it.") from None

    def _resume(self, owner: str, study: str) -> None:
        """A move that a process did not end."""
        with self._there():
            deciding.resumed(owner, study, self.blobs, self.index, milliseconds(self._given.clock()))
