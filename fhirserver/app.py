"""The composition root: the only file that sees everything. ``create_app`` builds each part once and hands it on."""

from __future__ import annotations

import gc
import hmac
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConnectionFailure
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from auth import bearer, routes
from auth.cors import CORS
from auth.keys import Seal, new_seal_key
from auth.passes import Passes
from auth.principal import Principal
from auth.records import Records
from auth.scopes import parse, parse_all
from auth.server import Event, Server
from auth.store import AuthStore
from fhirserver import agreements, health, replay, rest, scoped, timers, trail
from fhirserver.arrivals import Arrivals
from fhirserver.dispatch import dispatch, retried
from fhirserver.errors import Conflict, InvalidToken, Unavailable
from fhirserver.fetching import Parts
from fhirserver.jobs import Job, Jobs
from fhirserver.launching import Launching
from fhirserver.messages import Context, Line, Reply, Request
from fhirserver.metrics import Gauge
from fhirserver.moments import milliseconds
from fhirserver.observed import Observed
from fhirserver.pages import home
from fhirserver.pages.viewer import edge as viewer
from fhirserver.pages.viewer.ohif import Dist
from fhirserver.pages.viewer.opening import Opening
from fhirserver.pulling import Pulling
from fhirserver.reindex import Definitions, Reindexing
from fhirserver.resources import served
from fhirserver.restrictions import Restrictions
from fhirserver.room import Room
from fhirserver.search.index import index, indexes
from fhirserver.search.reference import relative
from fhirserver.sending import Sending
from fhirserver.settings import Settings
from fhirserver.store import Store, translated
from fhirserver.templates import templates
from fhirserver.timers import Timers
from fhirserver.validation import dumps, loads
from fhirserver.versions import EVERYTHING, Changes, Touched
from imaging import blobs, dicomweb, keeping, qido, stow
from imaging.archive import Archive
from imaging.attributes import INSTANCE
from imaging.cstore import Storing
from imaging.decoding import Decoders
from imaging.deliveries import Deliveries
from imaging.destinations import Destinations
from imaging.index import Index
from imaging.listener import Listener, Place, client_certificates, loopback
from imaging.sources import Sources

log = logging.getLogger("fhirserver.app")

Clock = Callable[[], datetime]

_DAY = 86_400.0


def now() -> datetime:
    """UTC, to the millisecond: the precision that is stored and told."""
    when = datetime.now(timezone.utc)
    return when.replace(microsecond=when.microsecond // 1000 * 1000)


def connect(uri: str) -> MongoClient[dict[str, Any]]:
    return MongoClient(uri, serverSelectionTimeoutMS=3000, connectTimeoutMS=3000, socketTimeoutMS=60_000, maxPoolSize=64)


class Installation:
    """The parts of one running server."""

    def __init__(self, settings: Settings, database: Database[dict[str, Any]], clock: Clock = now) -> None:
        logging.getLogger("authlib").setLevel(logging.INFO)  # its debug lines hold tokens
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings hold values of patients' data sets
        self.settings = settings
        self.clock = clock
        self.database = database
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.blob_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.room = Room((settings.data_dir, settings.blob_dir), settings.disk_reserve_bytes)
        types = served(settings.resource_types)
        base = f"{settings.base}/fhir"
        self.store = Store(
            database,
            types,
            indexes,
            lambda type_, text: index(type_, relative(loads(text), base), base),
            lambda: milliseconds(clock()),
            self.room.require,
        )
        self.auth = AuthStore(database, settings.organization)
        self.trail = trail.Trail(settings.data_dir / "audit")
        self.server = Server(self.auth, settings.base, self.grantable, self.note_event)
        self.passes = Passes(self.auth, settings.base.startswith("https://"))
        self.launching = Launching(self.context)
        self.index = Index(database)
        self.blobs = blobs.opened(settings.blobs, settings.blob_dir, settings.s3_endpoint)
        self.decoders = Decoders()
        self.sources = Sources(database)
        self.listener: Listener | None = None
        self.destinations = Destinations(database, lambda: self.seal)
        self.deliveries = Deliveries(database)
        self.sending = Sending(
            self.store, self.index, self.blobs, self.destinations, self.deliveries,
            lambda owner: self.context(Principal("sending", owner)), self.trail.append, clock,
        )  # fmt: skip
        self.arrivals = Arrivals(
            self.store, self.index, lambda owner: self.context(Principal("archive", owner)), clock, settings.study_quiet_seconds,
            self.sending.consider,
        )  # fmt: skip
        self.pulling = Pulling(
            self.store, self.destinations, lambda owner: self.context(Principal("pulling", owner)),
            Parts(self.index, self.blobs, self.pulled, self.trail.append, self.room.enough, clock), self.sending.back,
        )  # fmt: skip
        self.timers = Timers(self.store, lambda owner: self.context(Principal("timer", owner)), clock)
        self.definitions = Definitions(self.store, settings.organization)
        self.restrictions = Restrictions(self.store, base)
        self.store.signalled = self.refresh
        self.reindexing = Reindexing(self.store, self.definitions, base)
        self.jobs = Jobs(
            self.store,
            (
                Job("audit", 5.0, self.store_audit, shared=False),
                Job("studies", 0.5, self.arrivals.settle),
                Job("sending", 1.0, self.sending.step, shared=False),
                Job("pulling", 2.0, self.pulling.step, shared=False),
                Job("timers", 1.0, self.timers.ring),
                Job("lapsing", 3600.0, self.announce_lapsing),
                Job("trail", 15.0, lambda: trail.of_writes(self.store)),
                Job("uploads", 3600.0, self.sweep_uploads, shared=False),
                Job("marks", 600.0, self.mark_images),
                Job("orphans", 21_600.0, self._sweep_orphans),
                Job("definitions", 1.0, self.refresh, shared=False),
                Job("reindexing", 1.0, self.reindexing.step, due=self.reindexing.due),
                Job("claims", 3600.0, lambda: self.store.drop_claims(milliseconds(clock()) - 3_600_000)),
                Job("answers", 3600.0, lambda: self.store.drop_answers(milliseconds(clock()) - replay.KEPT)),
            ),
        )
        self._studies: dict[tuple[str, str], tuple[float, Touched]] = {}
        self._seal: Seal | None = None
        self._secret: bytes | None = None

    @property
    def seal(self) -> Seal:
        if self._seal is None:
            self._seal = Seal(self.auth.key("seal", new_seal_key()))
        return self._seal

    def prepare(self) -> None:
        """Before the first request: indexes, the installation's own Organization, audit files that a crash left."""
        with translated():
            self.auth.prepare()
            self.index.prepare()
            self.sources.prepare()
            self.deliveries.prepare()
        self._images_up()  # what is wrong with their store is in the log from the start
        self.refresh()
        self.trail.adopt()
        self._found_home()

    def refresh(self) -> None:
        """What other processes signal: search parameters that were added, restrictions."""
        self.definitions.refresh()
        self.restrictions.refresh()

    def listen(self) -> None:
        """For modalities, where a port is set. Error: ValueError where the settings would take images from anyone."""
        settings = self.settings
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

    def close(self) -> None:
        if self.listener:
            self.listener.stop()
        self.sending.stop()
        self.pulling.stop()
        self.jobs.stop()
        self.decoders.close()
        self.store_audit()

    def store_audit(self) -> None:
        self.trail.store_segments(self.store)

    def gauges(self) -> Iterator[Gauge]:
        """What is so now, for /metrics; what the database says is left out while it is away."""
        yield "fhirserver_disk_free_bytes", "Room on the data folder's disk", "", [("", float(self.room.free))]
        yield (
            "fhirserver_disk_reserve_bytes",
            "With less room writes are answered 507",
            "",
            [("", float(self.settings.disk_reserve_bytes))],
        )
        if self.listener and self.listener.owns:
            yield "fhirserver_dicom_associations", "DICOM associations", "", [("", float(self.listener.associations))]
        waiting = [("", float(self.trail.waiting()))]
        yield "fhirserver_audit_files_waiting", "Files of audit lines that are not in the database yet", "", waiting
        yield "fhirserver_images_up", "Whether the store of the images' bytes answers", "", [("", float(self._images_up()))]
        try:
            self.store.ping()
            progress = self.reindexing.progress()
            sending = list(self.sending.gauges())
        except Unavailable:
            yield "fhirserver_database_up", "Whether the database answers", "", [("", 0.0)]
            return
        yield "fhirserver_database_up", "Whether the database answers", "", [("", 1.0)]
        share = [(name, one.done / one.total if one.total else 0.0) for name, one in progress.items()]
        yield "fhirserver_reindexing_ratio", "Share of a type's resources that was looked at", "type", share
        yield from sending

    def pulled(self, owner: str, uid: str, whole: bool) -> None:
        """Instances of an earlier study were fetched."""
        self.arrivals.update(owner, uid, complete=whole)

    def sweep_uploads(self) -> None:
        with self._images():
            self.blobs.sweep(time.time() - _DAY)

    def sweep_orphans(self, *, force: bool = False) -> list[blobs.Kept]:
        """Files that no row names, when they are a day old. Errors: NotSweptError, where they seem to be something else."""
        with translated(), self._images():
            return keeping.sweep(self.index, self.blobs, time.time() - _DAY, force=force)

    def mark_images(self) -> None:
        with translated(), self._images():
            keeping.mark(self.index, self.blobs)

    def _sweep_orphans(self) -> None:
        try:
            removed = self.sweep_orphans()
        except keeping.NotSweptError as error:
            log.warning("Images without a row: %s", error)
            return
        if removed:
            log.info("Removed %d images' files that no row names", len(removed))

    def _images_up(self) -> bool:
        try:
            self.blobs.marked()
        except blobs.Away:
            return False
        return True

    @contextmanager
    def _images(self) -> Iterator[None]:
        """Errors: Unavailable, where the store of the images is away."""
        try:
            yield
        except blobs.Away as error:
            raise Unavailable(str(error)) from None

    def announce_lapsing(self) -> None:
        """Of the privileges that each organisation gave, in the time that its policy names."""
        for owner in timers.granting(self.store):
            of_owner = self.context(Principal("timer", owner))
            days = agreements.assigning(of_owner, owner).lapsing_days

            def plan(ctx: Context, days: int = days) -> Reply:
                timers.announce_lapsing(ctx, days)
                return Reply(200)

            retried(of_owner, "operation", "announce-lapsing", plan)

    def grantable(self, text: str) -> bool:
        """Whether a scope is about something that is served, in a way that is enforced."""
        scope = parse(text)
        return scope is not None and scoped.grantable(scope, self.store.types)

    def note_event(self, event: Event) -> None:
        """Login, consent, token, refusal: https://hl7.org/fhir/R4/auditevent.html"""
        principal = Principal(event.client, event.organization, (), event.user, frozenset(), event.practitioner)
        outcome = "4" if event.refused else "0"
        self.trail.append(Line(principal, trail.SECURITY, self.clock(), outcome, operation=event.what))

    def records(self) -> Records:
        return Records(self.launching.context, self.launching.choices, self.launching.accesses)

    def unavailable(self, error: Exception) -> bool:
        return isinstance(error, (Unavailable, ConnectionFailure, blobs.Away))

    def note_images(self, principal: Principal, interaction: str, rows: list[tuple[str, str]], query: str) -> None:
        touched = tuple(self._touched_study(owner, uid) for owner, uid in dict.fromkeys(rows))
        self.trail.append(Line(principal, "read", self.clock(), "0", touched, query, interaction))

    def _touched_study(self, owner: str, uid: str) -> Touched:
        """The study and whose it is, as it was a minute ago at most: each frame of a series asks."""
        until, known = self._studies.get((owner, uid), (0.0, None))
        if known is None or until < time.monotonic():
            id_ = self.derived_id("ImagingStudy", owner, uid)
            rows = self.store.fetch("ImagingStudy", [id_], EVERYTHING)
            known = rows[0].touched if rows else (f"ImagingStudy/{id_}", owner, (), ())
            if len(self._studies) > 10_000:
                self._studies.clear()
            self._studies[owner, uid] = (time.monotonic() + (60.0 if rows else 0.0), known)
        return known

    def archive(self) -> Archive:
        return Archive(
            blobs=self.blobs,
            index=self.index,
            decoders=self.decoders,
            base=f"{self.settings.base}/dicomweb",
            max_request=self.settings.max_upload_bytes,
            max_part=self.settings.max_part_bytes,
            authenticate=self.authenticate_images,
            see=self.arrivals.see,
            arrived=self.arrivals.arrived,
            arriving=self.arrivals.arriving,
            left=self.arrivals.left,
            note=self.note_images,
            unavailable=self.unavailable,
            room=self.room.enough,
        )

    def authenticate_images(self, header: str | None, cookies: str | None) -> Principal:
        """By a token, or else by the pass of a viewer."""
        with translated():
            principal = self.passes.holder(cookies) if header is None else bearer.authenticate(self.auth, header)
        self.restrictions.current()
        return self.restrictions.applied(principal, self.clock())

    def viewer(self) -> viewer.Parts:
        prefix = urlsplit(self.settings.base).path
        dist = Dist(self.settings.data_dir, prefix)
        return viewer.Parts(
            base=self.settings.base,
            prefix=prefix,
            passes=self.passes,
            dist=dist,
            opening=Opening(self.context),
            authenticate=self.authenticate,
            has_images=lambda principal, uid: bool(self._copies(principal, uid)),
            instances=self._instances,
        )

    def _copies(self, principal: Principal, uid: str) -> set[tuple[str, str]]:
        with translated():
            rows = self.index.copies(uid)
        applied = self.restrictions.applied(principal, self.clock())
        return self.arrivals.see(applied, "r", [(row["owner"], row["uid"]) for row in rows]) if rows else set()

    def _instances(self, principal: Principal, uid: str) -> list[dict[str, Any]]:
        """A study's, as a search for them tells them to this caller."""
        applied = self.restrictions.applied(principal, self.clock())
        asked = qido.parse(INSTANCE, [("StudyInstanceUID", uid)], {})
        with translated():
            found, _ = qido.search(asked, self.index, lambda rows: self.arrivals.see(applied, "s", rows), "")
        return found

    def _found_home(self) -> None:
        """The installation's own Organization exists, so that orders can be addressed to it."""
        home = self.settings.organization
        principal = Principal("fhirserver", home, parse_all("system/*.cruds"))
        self.store.prepare("Organization")
        if self.store.get("Organization", home, EVERYTHING) is None:
            document = {"resourceType": "Organization", "id": home, "active": True, "name": self.settings.organization_name}
            request = Request("PUT", f"Organization/{home}", body=dumps(document).encode())
            dispatch(self.context(principal), request)
        for template in templates():  # to begin with; a facility's own of the same URL goes before
            id_ = f"{home}-{template['url'].rpartition(':')[2]}"
            self.store.prepare("Questionnaire")
            if self.store.get("Questionnaire", id_, EVERYTHING) is None:
                request = Request("PUT", f"Questionnaire/{id_}", body=dumps(template | {"id": id_}).encode())
                dispatch(self.context(principal), request)

    def authenticate(self, header: str | None) -> Principal:
        try:
            with translated():
                return bearer.authenticate(self.auth, header)
        except bearer.InvalidToken:
            raise InvalidToken("The access token is unknown or expired; get a new one.") from None

    def context(self, principal: Principal) -> Context:
        self.definitions.current()
        self.restrictions.current()
        now = self.clock()
        return Context(
            store=self.store,
            principal=self.restrictions.applied(principal, now),
            now=now,
            base=f"{self.settings.base}/fhir",
            new_id=lambda: str(uuid.uuid4()),
            changes=Changes(),
            seal=lambda content: self.seal.close(content),
            unseal=lambda sealed: self.seal.open(sealed),
            home=self.settings.organization,
            note=self.trail.append,
            derived_id=self.derived_id,
            withheld_from=lambda organization: self.restrictions.withheld_from(organization, now),
            take_from_quarantine=self.take_from_quarantine,
        )

    def take_from_quarantine(self, owner: str, study: str, replace: bool) -> bool:
        try:
            with translated():
                moved = stow.decided(owner, study, replace, self.blobs, self.index)
                self.index.mark(owner, study, milliseconds(self.clock()))
        except stow.PartlyResent:
            raise Conflict("Not every image of the study was sent again for the other patient.") from None
        return moved

    def derived_id(self, *parts: str) -> str:
        """The same each time, and not to be guessed without this installation's secret."""
        if self._secret is None:
            self._secret = self.auth.key("ids", secrets.token_bytes(32))
        digest = hmac.digest(self._secret, "|".join(parts).encode(), "sha256")
        return str(uuid.UUID(bytes=digest[:16], version=4))


class _Application(FastAPI):
    """What is below /fhir is answered before the framework's own middlewares; all is observed."""

    fhir: rest.Handle
    origins: Callable[[], frozenset[str]]

    def build_middleware_stack(self) -> ASGIApp:
        return Observed(CORS(rest.Edge(viewer.OwnPages(super().build_middleware_stack()), self.fhir), self.origins))


def create_app(
    settings: Settings, database: Database[dict[str, Any]], clock: Clock = now, crashes: Callable[[], int] = int
) -> FastAPI:
    """The ASGI application over one database. ``crashes`` counts those of an embedded database."""
    installation = Installation(settings, database, clock)
    shown = installation.viewer()
    installation.listen()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(installation.prepare)
        if not shown.dist.installed:
            log.info("The image viewer is not installed (fhirserver viewer install): images open as plain pages")
        installation.jobs.start()
        if installation.listener:
            installation.listener.start()
        gc.collect()
        gc.freeze()  # what is there at the start stays: the collector need not look at it at each of its rounds
        yield
        await run_in_threadpool(installation.close)

    # Traces and logs of requests would hold search values, which are patient data.
    private: TelemetryConfig = {"tracing": False, "logs": False}
    app = _Application(
        title="fhirserver", lifespan=lifespan, telemetry=private, openapi_url=None, docs_url=None, redoc_url=None
    )
    app.state.installation = installation
    # In the order of how often they are asked for: the router tries one after the other.
    pages = routes.install(
        app, installation.server, installation.records(), lambda: installation.seal, installation.unavailable
    )
    app.origins = installation.auth.clients.origins
    app.fhir = rest.install(app, installation.authenticate, installation.context)
    dicomweb.install(app, installation.archive())
    viewer.install(app, pages, shown)
    app.include_router(health.router(installation.store, crashes, installation.gauges, settings.metrics_token))
    app.include_router(home.router(settings.base, settings.data_dir / "demo.json"))
    return app


__all__ = ["Installation", "connect", "create_app"]
