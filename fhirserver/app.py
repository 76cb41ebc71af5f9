"""The composition root: the only file that sees everything. ``create_app`` builds each part once and hands it on."""

from __future__ import annotations

import gc
import hmac
import logging
import secrets
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from pymongo import MongoClient
from pymongo.database import Database
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
from fhirserver import agreements, health, imagery, replay, rest, scoped, timers, trail
from fhirserver.dispatch import dispatch, retried
from fhirserver.errors import InvalidToken, Unavailable
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
from fhirserver.reindex import Definitions, Reindexing
from fhirserver.resources import served
from fhirserver.restrictions import Restrictions
from fhirserver.room import Room
from fhirserver.search.index import index, indexes
from fhirserver.search.reference import relative
from fhirserver.settings import Settings
from fhirserver.store import Store, translated
from fhirserver.templates import templates
from fhirserver.timers import Timers
from fhirserver.validation import dumps, loads
from fhirserver.versions import EVERYTHING, Changes
from imaging import dicomweb
from imaging.archive import Archive

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
        given = imagery.Given(
            self.context,
            self.restricted,
            self.authenticate_images,
            self.trail.append,
            lambda: self.seal,
            self.derived_id,
            clock,
        )
        self.images = imagery.Images(settings, database, self.store, self.room, given)
        self.timers = Timers(self.store, lambda owner: self.context(Principal("timer", owner)), clock)
        self.definitions = Definitions(self.store, settings.organization)
        self.restrictions = Restrictions(self.store, base)
        self.store.signalled = self.refresh
        self.reindexing = Reindexing(self.store, self.definitions, base)
        self.jobs = Jobs(
            self.store,
            (
                Job("audit", 5.0, self.store_audit, shared=False),
                *self.images.jobs(),
                Job("timers", 1.0, self.timers.ring),
                Job("lapsing", 3600.0, self.announce_lapsing),
                Job("trail", 15.0, lambda: trail.of_writes(self.store)),
                Job("definitions", 1.0, self.refresh, shared=False),
                Job("reindexing", 1.0, self.reindexing.step, due=self.reindexing.due),
                Job("claims", 3600.0, lambda: self.store.drop_claims(milliseconds(clock()) - 3_600_000)),
                Job("answers", 3600.0, lambda: self.store.drop_answers(milliseconds(clock()) - replay.KEPT)),
            ),
        )
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
            self.images.prepare()
        self.refresh()
        self.trail.adopt()
        self._found_home()

    def refresh(self) -> None:
        """What other processes signal: search parameters that were added, restrictions."""
        self.definitions.refresh()
        self.restrictions.refresh()

    def close(self) -> None:
        self.images.stop()
        self.jobs.stop()
        self.images.decoders.close()
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
        waiting = [("", float(self.trail.waiting()))]
        yield "fhirserver_audit_files_waiting", "Files of audit lines that are not in the database yet", "", waiting
        yield from self.images.gauges()
        try:
            self.store.ping()
            progress = self.reindexing.progress()
            sending = list(self.images.sending.gauges())
        except Unavailable:
            yield "fhirserver_database_up", "Whether the database answers", "", [("", 0.0)]
            return
        yield "fhirserver_database_up", "Whether the database answers", "", [("", 1.0)]
        share = [(name, one.done / one.total if one.total else 0.0) for name, one in progress.items()]
        yield "fhirserver_reindexing_ratio", "Share of a type's resources that was looked at", "type", share
        yield from sending

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

    def restricted(self, principal: Principal) -> Principal:
        """With what patients keep from them."""
        return self.restrictions.applied(principal, self.clock())

    def authenticate_images(self, header: str | None, cookies: str | None) -> Principal:
        """By a token, or else by the pass of a viewer."""
        with translated():
            principal = self.passes.holder(cookies) if header is None else bearer.authenticate(self.auth, header)
        self.restrictions.current()
        return self.restricted(principal)

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
            has_images=lambda principal, uid: bool(self.images.copies(principal, uid)),
            instances=self.images.instances,
        )

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
            take_from_quarantine=self.images.take_from_quarantine,
        )

    def derived_id(self, *parts: str) -> str:
        """The same each time, and not to be guessed without this installation's secret."""
        if self._secret is None:
            self._secret = self.auth.key("ids", secrets.token_bytes(32))
        digest = hmac.digest(self._secret, "|".join(parts).encode(), "sha256")
        return str(uuid.UUID(bytes=digest[:16], version=4))


class _Application(FastAPI):
    """What is below /fhir and /dicomweb is answered before the framework's own middlewares; all is observed."""

    fhir: rest.Handle
    archive: Archive
    origins: Callable[[], frozenset[str]]

    def build_middleware_stack(self) -> ASGIApp:
        images = viewer.OwnPages(dicomweb.Edge(super().build_middleware_stack(), self.archive))
        return Observed(CORS(rest.Edge(images, self.fhir), self.origins))


def create_app(
    settings: Settings, database: Database[dict[str, Any]], clock: Clock = now, crashes: Callable[[], int] = int
) -> FastAPI:
    """The ASGI application over one database. ``crashes`` counts those of an embedded database."""
    installation = Installation(settings, database, clock)
    shown = installation.viewer()
    installation.images.listen()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(installation.prepare)
        if not shown.dist.installed:
            log.info("The image viewer is not installed (fhirserver viewer install): images open as plain pages")
        installation.jobs.start()
        if installation.images.listener:
            installation.images.listener.start()
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
        app, installation.server, installation.records(), lambda: installation.seal, installation.images.unavailable
    )
    app.origins = installation.auth.clients.origins
    app.fhir = rest.install(app, installation.authenticate, installation.context)
    app.archive = installation.images.archive()
    viewer.install(app, pages, shown)
    app.include_router(health.router(installation.store, crashes, installation.gauges, settings.metrics_token))
    app.include_router(home.router(settings.base, settings.data_dir / "demo.json"))
    return app


__all__ = ["Installation", "connect", "create_app"]
