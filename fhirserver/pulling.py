"""Earlier studies that are fetched from other archives, for the Tasks of ``$fetch-priors`` whose source has a destination that may be
asked.

A patient is asked for by number and birth date; what does not come back with both is not taken, neither as a study nor as an
instance. What is taken is the facility's, answers no order, and is named in the order's supportingInfo.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from auth.principal import Principal
from fhirserver import agreements, audit, priors, telling, work
from fhirserver.dispatch import retried
from fhirserver.errors import FHIRError
from fhirserver.interactions import put
from fhirserver.jobs import Crew
from fhirserver.messages import Context, Line, Reply
from fhirserver.moments import milliseconds, span
from fhirserver.search.query import plain
from fhirserver.sending import backoff, peer
from fhirserver.sharing import share_again
from fhirserver.store import Store, translated
from fhirserver.validation import Document, built
from fhirserver.versions import EVERYTHING
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from imaging import dataset, stow
from imaging.attributes import STUDY
from imaging.blobs import Blobs, Incoming
from imaging.destinations import Destination, Destinations, Outage
from imaging.index import Index
from imaging.peers import Asked, Found, Peer, Refused, Unavailable

log = logging.getLogger("fhirserver.pulling")

TRIES = 5  # some minutes, until who asked is told that the source cannot be reached
_SETTLED, _EVERY = 60.0, 0.5  # seconds for what a peer sends to our listener


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one Task may fetch."""

    studies: int = 20
    bytes: int = 20 * 1024**3
    instance: int = 2 * 1024**3
    seconds: float = 1800.0


class Pulling:
    """``arrived`` brings a study of a facility up to date, complete; ``room``: whether the disk has any."""

    def __init__(
        self, store: Store, index: Index, blobs: Blobs, destinations: Destinations, new_context: Callable[[str], Context],
        arrived: Callable[[str, str], None], note: Callable[[Line], None], room: Callable[[], bool],
        clock: Callable[[], datetime], bounds: Bounds = Bounds(),
    ) -> None:  # fmt: skip
        self._store, self.index, self.blobs, self._destinations = store, index, blobs, destinations
        self._new_context, self.arrived, self.note, self.room, self.clock = new_context, arrived, note, room, clock
        self.bounds = bounds
        self._crew = Crew(store, "pulling", 4)

    def stop(self) -> None:
        self._crew.stop()

    def step(self) -> None:
        """Begin with the Tasks that can be worked, beside those that are."""
        for task, destination in self.waiting():
            self._crew.begin(task.stored.id, partial(self.work, task.reference, destination))

    def waiting(self) -> list[tuple[Item, Destination]]:
        with translated():
            asked = [one for one in self._destinations.all() if one.queries]
        if not asked:
            return []
        query = plain(
            self._store.types["Task"],
            ("code", f"{coding.TASK_TYPE}|fetch-priors"), ("status", ",".join(sorted(states.OPEN_TASK - {"on-hold"}))),
            ("owner", ",".join(sorted({f"Organization/{one.organization}" for one in asked}))),
        )  # fmt: skip
        found = []
        for row in self._store.search(query, EVERYTHING, 200):
            ctx = self._new_context(row.owner)
            task = work.opened(ctx, row)
            destination = self._destination(ctx, task, asked)
            if destination is not None and (self._ready(destination) or self._late(task)):
                found.append((task, destination))
        return found

    def _destination(self, ctx: Context, task: Item, asked: list[Destination]) -> Destination | None:
        """Of whom is asked: the one at the endpoint that was named before others; of the facility's own, or as it agreed."""
        facility, source = task.stored.owner, work.organization(task.data.get("owner"))
        named = next((one for r in work.inputs(task.data, "endpoint") if (one := work.item(ctx, r.get("reference", "")))), None)
        address = named.data.get("address", "").rstrip("/") if named else None
        mine = [one for one in asked if one.organization == source and _agreed(ctx, facility, one)]
        return min(mine, key=lambda one: (one.url.rstrip("/") != address, one.owner != facility, one.name), default=None)

    def _ready(self, destination: Destination) -> bool:
        with translated():
            outage = self._destinations.outage(destination.name)
        return outage is None or outage.until <= milliseconds(self.clock())

    def _late(self, task: Item) -> bool:
        end = task.data.get("restriction", {}).get("period", {}).get("end")
        return end is not None and span(end)[1] <= milliseconds(self.clock())

    # ------------------------------------------------------------ one Task

    def work(self, reference: str, destination: Destination) -> None:
        """If no other process does."""
        with self._crew.held(reference.removeprefix("Task/")) as ours:
            stored = self._store.get("Task", reference.removeprefix("Task/"), EVERYTHING) if ours is not None else None
            if stored is None or ours is None:
                return
            ctx = self._new_context(stored.owner)
            task = work.opened(ctx, stored)
            if task.status not in states.OPEN_TASK:
                return
            if self._late(task):
                self._end(ctx, reference, [], "It was not answered in time.")
                return
            self._begin(ctx, reference)
            one = _Fetch(self, ctx, task, destination, ours)
            try:
                one.run()
            except Unavailable as error:
                self._out(ctx, task, destination, str(error))
                return
            except Refused as error:
                one.problem = str(error)
            with translated():
                self._destinations.reached(destination.name)
            if ours():
                self._end(ctx, reference, one.there, one.problem)

    def _begin(self, ctx: Context, reference: str) -> None:
        def plan(ctx: Context) -> Reply:
            task = work.item(ctx, reference)
            if task is not None and task.status in states.OPEN_TASK - {"in-progress"}:
                work.change(ctx, task, status="in-progress")
            return Reply(200)

        retried(ctx, "operation", "pull-priors", plan)

    def _out(self, ctx: Context, task: Item, to: Destination, reason: str) -> None:
        with translated():
            before = self._destinations.outage(to.name)
            tries, now = before.tries + 1 if before else 1, milliseconds(self.clock())
            since = before.since if before else now
            self._destinations.failed(to.name, Outage(since, tries, now + int(backoff(tries) * 1000), reason))
        log.warning("%s was not reached (%d in a row): %s", to.name, tries, reason)
        if tries >= TRIES or self._late(task):
            self._end(ctx, task.reference, [], f"The source cannot be asked: {reason}.")

    def _end(self, ctx: Context, reference: str, there: list[str], problem: str) -> None:
        """The Task is answered, and the order names what came; unless either was ended meanwhile."""

        def plan(ctx: Context) -> Reply:
            task = work.item(ctx, reference)
            if task is None or task.status not in states.OPEN_TASK:
                return Reply(200)
            told: Document = {"statusReason": {"text": problem}} if problem else {}
            if there:
                told["output"] = [work.entry("study", {"reference": one}) for one in there]
            status = "completed" if there else "failed"
            if status == "failed" and task.status != "in-progress":  # as the table says
                task = work.written(ctx, work.change(ctx, task, status="in-progress"))
            work.change(ctx, task, None, status=status, **told)
            order = work.item(ctx, task.data["focus"]["reference"])
            if order is not None and order.status in ("active", "on-hold") and there:
                _named(ctx, order, there)
            return Reply(200)

        retried(ctx, "operation", "pull-priors", plan)


class _Fetch:
    """What is fetched for one Task: ``there`` are the studies that came or were here, ``problem`` what did not."""

    def __init__(self, parts: Pulling, ctx: Context, task: Item, source: Destination, ours: Callable[[], bool]) -> None:
        self.parts, self.ctx, self.task, self.source, self.ours = parts, ctx, task, source, ours
        self.order = work.order_of(ctx, task.data)
        self.facility = task.stored.owner
        self.there: list[str] = []
        self.problem = ""
        self.bytes = 0
        self.until = time.monotonic() + parts.bounds.seconds

    def run(self) -> None:
        """Errors: Unavailable, Refused."""
        patient = work.item(self.ctx, self.order.data["subject"].get("reference", ""))
        asked = _asked(patient, self.source) if patient else None
        if patient is None or asked is None:
            raise Refused("The patient has no number and birth date by which the source would know them.")
        if patient.reference in self.ctx.withheld_from(self.source.organization or ""):
            raise Refused("The patient does not allow it.")
        who = Principal("pulling", self.facility)
        self.parts.note(Line(who, audit.QUERY, self.parts.clock(), "0", (patient.stored.touched,), operation=self.source.name))
        with closing(peer(self.source)) as speaking:
            self._all(speaking, asked, patient)

    def _all(self, speaking: Peer, asked: Asked, patient: Item) -> None:
        wanted = self._wanted(speaking.studies(asked))
        if not wanted:
            raise Refused("The source has no earlier study of this patient, by number and birth date.")
        for one in wanted[: self.parts.bounds.studies]:
            self._one(speaking, one, asked, patient)
            if not self.ours():
                return
        if len(wanted) > self.parts.bounds.studies:
            self.problem = f"The source has more; the newest {self.parts.bounds.studies} were fetched."

    def _wanted(self, found: list[Found]) -> list[Found]:
        """Those that are named, else all; not what is to be read itself. Of the same modality first."""
        here = work.answering(self.ctx, self.order)
        mine = {uid(study) for study in here}
        named = {uid(one) for r in work.inputs(self.task.data, "study") if (one := work.item(self.ctx, r.get("reference", "")))}
        modalities = work.modalities(here)
        rows = [one for one in found if dataset.is_uid(one.uid) and one.uid not in mine and (not named or one.uid in named)]
        return sorted(rows, key=lambda one: not one.modalities & modalities)  # the newest first as before

    def _one(self, speaking: Peer, found: Found, asked: Asked, patient: Item) -> None:
        known = work.items(self.ctx, (self.facility,), "ImagingStudy", ("identifier", f"urn:dicom:uid|urn:oid:{found.uid}"))
        if known and not coding.pulled(known[0].data):  # the facility has it itself
            if known[0].data.get("subject", {}).get("reference") == patient.reference:
                self.there.append(known[0].reference)
            return
        if known and known[0].data["subject"].get("reference") != patient.reference:
            self.problem = "A study is known here as another patient's, so it was left."
            return
        taker = _Taker(self, found.uid, asked, patient, known[0].reference if known else "")
        with translated():
            held = frozenset(row.uid for row in self.parts.index.stored(self.facility, found.uid))
        try:
            speaking.retrieve(found.uid, held, taker)
            if taker.elsewhere:
                taker.await_listener()
        finally:  # what came before a cut stays; the rest is fetched when it is tried again
            with translated():
                there = bool(self.parts.index.stored(self.facility, found.uid))
            if there and not taker.strange:
                self.parts.arrived(self.facility, found.uid)
                touched = (taker.announced(), self.facility, (patient.reference,), ())
                who = Principal("pulling", self.facility)
                self.parts.note(Line(who, audit.IMPORT, self.parts.clock(), "0", (touched,), operation=self.source.name))
        if there:
            self.there.append(taker.announced())
        if taker.lost:
            self.problem = f"{taker.lost} instances could not be stored."


class _Taker:
    """Instances of one study, each looked at before it is stored."""

    def __init__(self, fetch: _Fetch, study: str, asked: Asked, patient: Item, known: str) -> None:
        self._fetch, self._study, self._asked, self._patient = fetch, study, asked, patient
        self.elsewhere, self.strange, self.lost = False, False, 0
        self._announced = known

    def moved(self) -> None:
        self.elsewhere = True
        self.announced()

    def receive(self) -> Incoming:
        self._within(0)
        if not self._fetch.parts.room():
            raise Refused("The server's disk is nearly full.")
        return self._fetch.parts.blobs.receive()

    def write(self, incoming: Incoming, chunk: bytes) -> None:
        self._within(len(chunk))
        if incoming.size + len(chunk) > self._fetch.parts.bounds.instance:
            raise Refused("An instance is larger than this server takes.")
        incoming.write(chunk)

    def _within(self, size: int) -> None:
        fetch = self._fetch
        fetch.bytes += size
        if fetch.bytes > fetch.parts.bounds.bytes:
            raise Refused("It is more than may be fetched at once.")
        if time.monotonic() > fetch.until:
            raise Refused("It took longer than it may.")
        if not fetch.ours():
            raise Unavailable("this server is being stopped")

    def take(self, incoming: Incoming) -> None:
        try:
            self._taken(incoming)
        except BaseException:
            incoming.discard()
            raise

    def _taken(self, incoming: Incoming) -> None:
        """Whose it is, its own header says. Errors: Refused for another patient's or another study's."""
        try:
            instance = dataset.parse(incoming.path)
        except dataset.Refused:
            incoming.discard()
            self.lost += 1
            return
        told = instance.attributes[STUDY]
        if instance.study != self._study or not _is(self._asked, told):
            self.strange = True
            raise Refused("The source sent an image that is not of this patient, by number and birth date.")
        self.announced()
        parts, facility = self._fetch.parts, self._fetch.facility
        with translated():
            if isinstance(stow.store(incoming, facility, parts.blobs, parts.index, self._study), dataset.Refused):
                self.lost += 1

    def announced(self) -> str:
        """The study's resource, made before its first image is here: so it is known to be fetched, and whose it is."""
        if self._announced:
            return self._announced
        ctx, fetch = self._fetch.ctx, self._fetch
        id_ = ctx.derived_id("ImagingStudy", fetch.facility, self._study)

        def plan(ctx: Context) -> Reply:
            current = ctx.store.get("ImagingStudy", id_, EVERYTHING)
            if current is None or current.deleted:
                document: Document = {
                    "resourceType": "ImagingStudy",
                    "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{self._study}"}],
                    "status": "registered",
                    "subject": {"reference": self._patient.reference},
                    "extension": [
                        {
                            "url": coding.PULLED_FROM,
                            "valueReference": {"reference": f"Organization/{fetch.source.organization}"},
                        }
                    ],
                }
                put(ctx, ctx.store.types["ImagingStudy"], built(document), id_, current, "PUT" if current else "POST")
            return Reply(200)

        retried(ctx, "operation", "pull-priors", plan)
        self._announced = f"ImagingStudy/{id_}"
        return self._announced

    def await_listener(self) -> None:
        """The peer says that it sent all: until it is here, and whose it is. Errors: Refused."""
        fetch, until, before = self._fetch, time.monotonic() + _SETTLED, -1
        while time.monotonic() < until:
            with translated():
                now = len(fetch.parts.index.stored(fetch.facility, self._study))
            if now and now == before:
                break
            before = now
            time.sleep(_EVERY)
        else:
            raise Refused("What the source sent did not arrive at this server's listener.")
        with translated():
            found = fetch.parts.index.study(fetch.facility, self._study)
        if found is None or not _is(self._asked, found[0].attributes):
            self.strange = True
            with suppress(FHIRError):
                self._taken_back()
            raise Refused("The source sent images that are not of this patient, by number and birth date.")

    def _taken_back(self) -> None:
        def plan(ctx: Context) -> Reply:
            if study := work.item(ctx, self._announced):
                work.save(ctx, study, study.data | {"status": "entered-in-error"})
            return Reply(200)

        retried(self._fetch.ctx, "operation", "pull-priors", plan)


def _is(asked: Asked, told: Mapping[str, str]) -> bool:
    return asked.is_(told.get("PatientID", ""), told.get("PatientBirthDate", ""), told.get("IssuerOfPatientID", ""))


def _agreed(ctx: Context, facility: str, destination: Destination) -> bool:
    """By what the facility itself configured; by what the centre or the source did where both have agreed to share priors."""
    if destination.owner == facility:
        return True
    both = [one for one in (facility, destination.organization) if one]
    known = destination.owner in (ctx.home, destination.organization)
    return known and all(agreements.between(ctx, one, ctx.home).terms.priors_shared for one in both)


def _asked(patient: Item, source: Destination) -> Asked | None:
    """By the numbers that the source is said to know patients by; else by the patient's national number."""
    born = patient.data.get("birthDate", "")
    if source.patient_system:
        rows = patient.data.get("identifier", ())
        number = next((r["value"] for r in rows if r.get("system") == source.patient_system and r.get("value")), None)
    else:
        number = national[1] if (national := priors.national(patient.data)) else None
    return Asked(number, born.replace("-", ""), source.issuer) if number and len(born) == 10 else None


def uid(study: Item) -> str:
    values = (i.get("value", "") for i in study.data.get("identifier", ()) if i.get("system") == "urn:dicom:uid")
    return next(values, "").removeprefix("urn:oid:")


def _named(ctx: Context, order: Item, studies: list[str]) -> None:
    """The order names them, who reads it may see them, and is told."""
    before = order.data.get("supportingInfo", [])
    known = {one.get("reference") for one in before}
    fresh = [{"reference": one} for one in dict.fromkeys(studies) if one not in known]
    if not fresh:
        return
    document = order.data | {"supportingInfo": [*before, *fresh]}
    work.save(ctx, order, document)
    share_again(ctx, Item(order.stored, document))
    t0 = work.coordination(ctx, order)
    if t0 is not None:
        telling.tell_owner(ctx, t0, order.reference, ["supportingInfo"])
