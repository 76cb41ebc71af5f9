"""What is fetched for one Task of ``$fetch-priors``: the patient's studies at a source, each instance looked at before it is stored.

A patient is asked for by number and birth date; what does not come back with both is not taken, neither as a study nor as an
instance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime

from auth.principal import Principal
from fhirserver import audit, priors, work
from fhirserver.dispatch import retried
from fhirserver.errors import FHIRError
from fhirserver.interactions import put
from fhirserver.messages import Context, Line, Reply
from fhirserver.sending import peer
from fhirserver.store import translated
from fhirserver.validation import Document, built
from fhirserver.versions import EVERYTHING
from fhirserver.work import Item
from fhirserver.workflow import coding
from imaging import dataset, stow
from imaging.attributes import STUDY
from imaging.blobs import Blobs, Incoming
from imaging.index import Index
from imaging.peers import Asked, Found, Peer, Refused, Unavailable
from imaging.peers.destinations import Destination

_SETTLED, _EVERY = 60.0, 0.5  # seconds for what a peer sends to our listener


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one Task may fetch."""

    studies: int = 20
    bytes: int = 20 * 1024**3
    instance: int = 2 * 1024**3
    seconds: float = 1800.0


@dataclass(slots=True)
class Parts:
    """What is needed to fetch. ``arrived`` brings a study of a facility up to date, complete or not yet; ``note`` is the audit
    trail; ``room``: whether the disk has any."""

    index: Index
    blobs: Blobs
    arrived: Callable[[str, str, bool], None]
    note: Callable[[Line], None]
    room: Callable[[], bool]
    clock: Callable[[], datetime]
    bounds: Bounds = Bounds()


class Ended(Refused):
    """Nothing more is fetched: a bound was reached, or the source is not to be trusted."""


class Fetch:
    """What is fetched for one Task: ``there`` are the studies that came or were here, ``problem`` what did not."""

    def __init__(
        self, parts: Parts, ctx: Context, task: Item, order: Item, source: Destination, ours: Callable[[], bool]
    ) -> None:  # fmt: skip
        self.parts, self.ctx, self.task, self.source, self.ours = parts, ctx, task, source, ours
        self.order = order
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
            try:
                self._one(speaking, one, asked, patient)
            except Ended:
                raise
            except Refused as error:  # of this study: the others may come
                self.problem = str(error)
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
        whole = False
        try:
            speaking.retrieve(found.uid, held, taker)
            if taker.elsewhere:
                taker.await_listener()
            whole = True
        finally:  # what came before a cut stays; the rest is fetched when it is tried again
            with translated():
                there = bool(self.parts.index.stored(self.facility, found.uid))
            if there and not taker.strange:
                self.parts.arrived(self.facility, found.uid, whole)
                touched = (taker.announced(), self.facility, (patient.reference,), ())
                who = Principal("pulling", self.facility)
                self.parts.note(Line(who, audit.IMPORT, self.parts.clock(), "0", (touched,), operation=self.source.name))
        if there:
            self.there.append(taker.announced())
        else:
            self.problem = "The source gave nothing of a study."
        if taker.lost:
            self.problem = f"{taker.lost} instances could not be stored."


class _Taker:
    """Instances of one study, each looked at before it is stored."""

    def __init__(self, fetch: Fetch, study: str, asked: Asked, patient: Item, known: str) -> None:
        self._fetch, self._study, self._asked, self._patient = fetch, study, asked, patient
        self.elsewhere, self.strange, self.lost = False, False, 0
        self._announced = known

    def moved(self) -> None:
        self.elsewhere = True
        self.announced()

    def receive(self) -> Incoming:
        self._within(0)
        if not self._fetch.parts.room():
            raise Ended("The server's disk is nearly full.")
        return self._fetch.parts.blobs.receive()

    def write(self, incoming: Incoming, chunk: bytes) -> None:
        self._within(len(chunk))
        if incoming.size + len(chunk) > self._fetch.parts.bounds.instance:
            raise Ended("An instance is larger than this server takes.")
        incoming.write(chunk)

    def _within(self, size: int) -> None:
        fetch = self._fetch
        fetch.bytes += size
        if fetch.bytes > fetch.parts.bounds.bytes:
            raise Ended("It is more than may be fetched at once.")
        if time.monotonic() > fetch.until:
            raise Ended("It took longer than it may.")
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
            raise Ended("The source sent an image that is not of this patient, by number and birth date.")
        self.announced()
        parts, facility = self._fetch.parts, self._fetch.facility
        with translated():
            if not isinstance(stow.store(incoming, facility, parts.blobs, parts.index, self._study), stow.Kept):
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
            raise Ended("The source sent images that are not of this patient, by number and birth date.")

    def _taken_back(self) -> None:
        def plan(ctx: Context) -> Reply:
            if study := work.item(ctx, self._announced):
                work.save(ctx, study, study.data | {"status": "entered-in-error"})
            return Reply(200)

        retried(self._fetch.ctx, "operation", "pull-priors", plan)


def _is(asked: Asked, told: Mapping[str, str]) -> bool:
    return asked.is_(told.get("PatientID", ""), told.get("PatientBirthDate", ""), told.get("IssuerOfPatientID", ""))


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
