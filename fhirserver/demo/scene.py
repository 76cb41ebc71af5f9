"""The demo's places, people and acts. What has its own operation is done through it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from auth.principal import Principal
from auth.scopes import parse_all
from fhirserver import work
from fhirserver.app import Installation
from fhirserver.demo.files import FILES, referral_pdf, sample
from fhirserver.dispatch import dispatch
from fhirserver.messages import Request
from fhirserver.validation import Document, dumps
from fhirserver.workflow import coding
from imaging import stow
from imaging.dataset import Refused
from imaging.dataset.files import relabelled

HOSPITAL, OFFICE = "hospital", "office"

# name, facilities, read types, modalities (none: all), licence end
READERS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], str | None], ...] = (
    ("anna", "Anna Zielińska", (HOSPITAL, OFFICE), ("final", "preliminary"), (), None),
    ("bela", "Béla Horváth", (HOSPITAL,), ("final",), ("CT", "MR"), None),
    ("chidi", "Chidi Okafor", (HOSPITAL, OFFICE), ("final",), ("CR", "US"), None),
    ("dorota", "Dorota Wiśniewska", (HOSPITAL,), ("preliminary",), (), None),
    ("emil", "Emil Groß", (OFFICE,), ("final",), (), "2026-06-30"),
)


@dataclass(frozen=True, slots=True)
class Made:
    """What one order of the demo is, for people: the state table's row, in words, and the order."""

    row: str
    state: str
    facility: str
    patient: str
    order: str
    study: str | None


class Actor:
    """Somebody who asks, as over HTTP but in this process."""

    def __init__(self, installation: Installation, principal: Principal) -> None:
        self.installation, self.principal = installation, principal

    def ask(self, method: str, path: str, body: Document | None = None) -> Document:
        path, _, query = path.partition("?")
        pairs = tuple((name, value) for name, _, value in (pair.partition("=") for pair in query.split("&") if pair))
        reply = dispatch(
            self.installation.context(self.principal), Request(method, path, pairs, {}, dumps(body).encode() if body else b"")
        )
        return dict(json.loads(reply.body)) if reply.body else {}

    def post(self, path: str, body: Document) -> Document:
        return self.ask("POST", path, body)

    def put(self, body: Document) -> Document:
        return self.ask("PUT", f"{body['resourceType']}/{body['id']}", body)

    def operate(self, path: str, **inputs: Any) -> Document:
        rows = [{"name": name, f"value{kind}": value} for name, (kind, value) in inputs.items()]
        return self.post(path, {"resourceType": "Parameters", **({"parameter": rows} if rows else {})})


class Demo:
    """The scene and its people."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.home = installation.settings.organization
        self.hospital, self.office, self.centre = (self._actor(o) for o in (HOSPITAL, OFFICE, self.home))
        self.made: list[Made] = []

    def _actor(self, organization: str, reader: str | None = None) -> Actor:
        scopes = parse_all("system/*.cruds user/*.cruds")
        if reader is None:
            return Actor(self.installation, Principal("demo", organization, scopes))
        role = frozenset({"reader"})
        return Actor(self.installation, Principal("demo", organization, scopes, reader, role, f"{self.home}-{reader}"))

    def reader(self, name: str) -> Actor:
        return self._actor(self.home, name)

    # ------------------------------------------------------------ people and places

    def places(self) -> None:
        zone = [{"url": coding.TIMEZONE, "valueCode": "Europe/Warsaw"}]
        defaults = {"url": coding.ORDER_DEFAULTS, "extension": [{"url": "priority", "valueCode": "urgent"}]}
        self.hospital.put(
            {
                "resourceType": "Organization",
                "id": HOSPITAL,
                "active": True,
                "name": "County Hospital",
                "telecom": [{"system": "phone", "value": "+48 22 555 01 01"}],
                "extension": [*zone, defaults],
            }
        )
        self.office.put(
            {
                "resourceType": "Organization",
                "id": OFFICE,
                "active": True,
                "name": "Dr. Lis, family doctor",
                "telecom": [{"system": "phone", "value": "+48 22 555 02 02"}],
                "extension": zone,
            }
        )
        self.hospital.post("Questionnaire", _template())
        for name, full, facilities, read_types, modalities, end in READERS:
            self._reader_rows(name, full, facilities, read_types, modalities, end)

    def _reader_rows(
        self, name: str, full: str, facilities: tuple[str, ...], read_types: tuple[str, ...], modalities: tuple[str, ...], end: str | None
    ) -> None:  # fmt: skip
        given, family = full.split(" ", 1)
        period = {"start": "2020-01-01"} | ({"end": end} if end else {})
        licence = {"code": {"text": "Specialist in radiology"}, "period": period}
        spoken = [{"coding": [{"system": "urn:ietf:bcp:47", "code": code}]} for code in ("pl", "en")]
        self.centre.put({
            "resourceType": "Practitioner", "id": f"{self.home}-{name}", "active": True, "name": [{"family": family, "given": [given]}],
            "qualification": [licence], "communication": spoken,
        })  # fmt: skip
        for facility in facilities:
            self.centre.put({
                "resourceType": "PractitionerRole", "id": f"{self.home}-{name}-{facility}", "active": True,
                "practitioner": {"reference": f"Practitioner/{self.home}-{name}", "display": full},
                "organization": {"reference": f"Organization/{facility}"},
                "code": [{"coding": [{"system": coding.READ_TYPE, "code": code} for code in read_types]}],
                **({"specialty": [{"coding": [{"system": coding.DCM, "code": m} for m in modalities]}]} if modalities else {}),
                "period": {"start": "2025-01-01", "end": "2027-12-31"},
            })  # fmt: skip

    # ------------------------------------------------------------ orders

    def order(
        self, row: str, state: str, person: str, modality: str, priority: str, *, facility: str = HOSPITAL, images: bool = True
    ) -> Document:
        """A patient, an order with its referral, and the study, complete."""
        number = len(self.made) + 1
        actor = self.hospital if facility == HOSPITAL else self.office
        given, family = person.split(" ", 1)
        born = f"{1940 + 3 * number}-0{1 + number % 9}-1{number % 10}"
        identifier: dict[str, str] = {
            "system": f"https://{facility}.example/patients",
            "value": f"{facility[0].upper()}{1000 + number}",
        }
        patient = actor.post(
            "Patient",
            {
                "resourceType": "Patient",
                "identifier": [identifier],
                "name": [{"family": family, "given": [given]}],
                "birthDate": born,
            },
        )
        accession: Document = {
            "type": {"coding": [coding.ACCESSION]},
            "system": f"https://{facility}.example/accessions",
            "value": f"{facility[0].upper()}A{2600 + number}",
        }
        placer = {
            "type": {"coding": [{"system": coding.V2_0203, "code": "PLAC"}]},
            "system": f"https://{facility}.example/orders",
            "value": str(70_000 + number),
        }
        order = actor.post("ServiceRequest", {
            "resourceType": "ServiceRequest", "identifier": [placer, accession], "status": "draft", "intent": "order", "priority": priority,
            "category": [{"coding": [coding.IMAGING]}, {"coding": [coding.service("RemoteReporting")]}],
            "code": {"text": FILES[modality][1]}, "subject": {"reference": f"Patient/{patient['id']}"},
            "requester": {"reference": f"Organization/{facility}"}, "authoredOn": work.timestamp(self.installation.clock() - timedelta(minutes=30)),
            "reasonCode": [{"text": "Headache after a fall; bleeding?" if modality == "CT" else "Please report."}],
            "supportingInfo": [{"reference": self._referral(actor, patient, person, FILES[modality][1])}],
        })  # fmt: skip
        study = (
            self.upload(facility, modality, identifier["value"], f"{family}^{given}", born, accession["value"])
            if images
            else None
        )
        self.made.append(Made(row, state, facility, person, order["id"], study))
        return order

    def _referral(self, actor: Actor, patient: Document, person: str, what: str) -> str:
        pdf = base64.b64encode(referral_pdf(f"Referral: {person}", what)).decode()
        binary = actor.post("Binary", {"resourceType": "Binary", "contentType": "application/pdf", "data": pdf})
        return "DocumentReference/" + str(actor.post("DocumentReference", {
            "resourceType": "DocumentReference", "status": "current", "type": {"coding": [{"system": coding.LOINC, "code": "57133-1", "display": "Referral note"}]},
            "subject": {"reference": f"Patient/{patient['id']}"}, "description": "Scanned referral",
            "content": [{"attachment": {"contentType": "application/pdf", "url": f"Binary/{binary['id']}", "title": "referral.pdf"}}],
        })["id"])  # fmt: skip

    def upload(self, facility: str, modality: str, patient_id: str, name: str, born: str, accession: str) -> str:
        """A real image under the patient's identity, stored as STOW-RS stores it; the study is said complete."""
        spacing = {"PixelSpacing": "0.2\\0.2"} if modality == "CR" else {}  # the file says 0, which viewers make nothing of
        data = relabelled(
            sample(FILES[modality][0]), PatientID=patient_id, PatientName=name, PatientBirthDate=born.replace("-", ""), AccessionNumber=accession,
            SpecificCharacterSet="ISO_IR 192", Modality=modality, StudyDescription=FILES[modality][1], **spacing,
        )  # fmt: skip
        incoming = self.installation.images.blobs.receive()
        incoming.write(data)
        stored = stow.store(incoming, facility, self.installation.images.blobs, self.installation.images.index, None)
        if isinstance(stored, Refused):
            raise RuntimeError(f"The demo's image was refused: {stored.text}")
        self.installation.images.arrivals.arrived(Principal("demo", facility), facility, stored.study)
        self.installation.images.arrivals.update(facility, stored.study, complete=True)
        return stored.study

    # ------------------------------------------------------------ acts

    def dispatched(self, order: Document, facility: str = HOSPITAL, **inputs: Any) -> Document:
        actor = self.hospital if facility == HOSPITAL else self.office
        return actor.operate(f"ServiceRequest/{order['id']}/$dispatch", destination=("Code", "central"), **inputs)

    def to_pool(self, t0: Document) -> Document:
        self.centre.put(self.centre.ask("GET", f"Task/{t0['id']}") | {"status": "accepted"})
        return dict(self.centre.ask("GET", f"Task?part-of=Task/{t0['id']}")["entry"][0]["resource"])

    def assigned(self, t0: Document, reader: str, facility: str = HOSPITAL, *, offer: bool = False) -> Document:
        owner = {"reference": f"PractitionerRole/{self.home}-{reader}-{facility}"}
        answer = self.centre.operate(
            f"Task/{t0['id']}/$assign",
            mode=("Code", "manual"),
            owner=("Reference", owner),
            requireAcceptance=("Boolean", offer),
        )
        return dict(answer["parameter"][0]["resource"])

    def reading(self, t0: Document, reader: str, facility: str = HOSPITAL) -> Document:
        task = self.assigned(t0, reader, facility)
        return self.reader(reader).operate(f"Task/{task['id']}/$claim", start=("Boolean", True))

    def reporting(self, t0: Document, reader: str, facility: str = HOSPITAL) -> tuple[Document, Document, Document]:
        task = self.reading(t0, reader, facility)
        opened = {
            p["name"]: p["resource"] for p in self.reader(reader).operate(f"Task/{task['id']}/$start-report")["parameter"]
        }
        return task, opened["report"], opened["draft"]

    def signed(self, t0: Document, reader: str, facility: str = HOSPITAL) -> Document:
        _, report, draft = self.reporting(t0, reader, facility)
        actor = self.reader(reader)
        actor.put(answered(draft))
        return dict(
            actor.operate(f"DiagnosticReport/{report['id']}/$sign", attest=("Boolean", True))["parameter"][0]["resource"]
        )


def answered(draft: Document, impression: str = "No acute abnormality.") -> Document:
    texts = {
        "findings": "No acute intracranial abnormality. Bones intact.",
        "impression": impression,
        "comparison": "None.",
    }
    return draft | {"item": [{**item, "answer": [{"valueString": texts[item["linkId"]]}]} for item in draft["item"]]}


def _template() -> Document:
    questions = (("comparison", "Comparison"), ("findings", "Findings"), ("impression", "Impression"))
    return {
        "resourceType": "Questionnaire", "url": "https://hospital.example/ct-head", "version": "1", "status": "active", "title": "CT of the head",
        "item": [{"linkId": link, "text": text, "type": "text", "required": True} for link, text in questions],
    }  # fmt: skip
