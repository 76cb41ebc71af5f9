"""A hospital, a one-doctor office, a reading centre, readers with different privileges, and an order with its images."""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass
from typing import Any

import pydicom
import pytest
from conftest import BASE, As, order, patient
from pydicom.data import get_testdata_file
from starlette.testclient import TestClient

from fhirserver.operations import OPERATIONS

READ_TYPE = "urn:fhirserver:CodeSystem:read-type"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
REASON = {"text": "because"}
_TEXTS = frozenset({"code", "string", "markdown", "canonical", "date", "dateTime"})


def parameters(**values: Any) -> dict[str, Any]:
    """Python values -> a Parameters resource, each as the data type that an operation declares for this name."""
    rows = [
        {"name": name, _key(name, one): one}
        for name, value in values.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    return {"resourceType": "Parameters"} | ({"parameter": rows} if rows else {})


def _key(name: str, value: Any) -> str:
    declared = [p.type for operation in OPERATIONS for p in operation.inputs if p.name == name]
    if isinstance(value, dict) and "resourceType" in value:
        return "resource"
    if isinstance(value, dict):
        complex_ = (type_ for type_ in declared if type_[0].isupper() and type_ != "Reference")
        type_ = "Reference" if "reference" in value else next(complex_, "CodeableConcept")
    elif isinstance(value, str):
        type_ = next((type_ for type_ in declared if type_ in _TEXTS), "code")
    else:
        type_ = {bool: "boolean", int: "integer"}.get(type(value), "decimal")
    return f"value{type_[0].upper()}{type_[1:]}"


def out(reply: Any) -> dict[str, Any]:
    """A Parameters answer by name."""
    assert reply.status_code == 200, reply.text
    return {row["name"]: row["resource"] for row in reply.json()["parameter"]}


@dataclass
class Network:
    server: Any
    as_: As
    hospital: TestClient
    office: TestClient
    centre: TestClient

    def reader(self, name: str) -> TestClient:
        return self.as_("centre", scope="user/*.cruds", user=name, roles=("reader",), practitioner=f"centre-{name}")

    def ordered(self, **members: Any) -> dict[str, Any]:
        """A patient, an order and a head CT that has been quiet for long enough."""
        number = uuid.uuid4().hex[:10]
        person = self.hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": f"P{number}"}])).json()
        members = {
            "reasonCode": [{"text": "bleeding?"}],
            "identifier": [{"system": "urn:acsn", "value": f"A{number}"}],
            "priority": "urgent",
        } | members
        asked = self.hospital.post("ServiceRequest", json=order(f"Patient/{person['id']}", **members))
        assert asked.status_code == 201, asked.text
        return dict(asked.json())

    def images(self, asked: dict[str, Any], *, complete: bool = True, patient: str = "") -> None:
        dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset.AccessionNumber = asked["identifier"][0]["value"]
        dataset.PatientID = patient or "P" + dataset.AccessionNumber[1:]
        file = io.BytesIO()
        pydicom.dcmwrite(file, dataset)
        headers = {"Content-Type": "application/dicom", "Authorization": self.hospital.headers["Authorization"]}
        sent = TestClient(self.server.app, base_url=BASE).post("/dicomweb/studies", content=file.getvalue(), headers=headers)
        assert sent.status_code == 200, sent.text
        if complete:
            self.server.wait(seconds=20)
            self.server.installation.images.arrivals.settle()

    def dispatch(self, asked: dict[str, Any], **inputs: Any) -> dict[str, Any]:
        reply = self.hospital.post(
            f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(**({"destination": "central"} | inputs))
        )
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def dispatched(self, **members: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        asked = self.ordered(**members)
        self.images(asked)
        return asked, self.dispatch(asked)

    def pool(self, t0: dict[str, Any]) -> dict[str, Any]:
        """The centre takes it; the attempt is in the pool."""
        accepted = self.centre.put(f"Task/{t0['id']}", json=self.get(f"Task/{t0['id']}") | {"status": "accepted"})
        assert accepted.status_code == 200, accepted.text
        [attempt] = self.attempts(t0)
        return attempt

    def assigned(self, t0: dict[str, Any], name: str = "anna") -> dict[str, Any]:
        inputs = parameters(mode="manual", owner={"reference": f"PractitionerRole/centre-{name}-hospital"})
        return dict(out(self.centre.post(f"Task/{t0['id']}/$assign", json=inputs))["task"])

    def started(self, name: str = "anna", **members: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """(order, T0, attempt in progress)"""
        asked, t0 = self.dispatched(**members)
        attempt = self.assigned(t0, name)
        reply = self.reader(name).post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
        assert reply.status_code == 200, reply.text
        return asked, t0, dict(reply.json())

    def reporting(
        self, name: str = "anna", **members: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        """(order, T0, attempt, report, draft)"""
        asked, t0, attempt = self.started(name, **members)
        opened = out(self.reader(name).post(f"Task/{attempt['id']}/$start-report"))
        return asked, t0, attempt, opened["report"], opened["draft"]

    def signed(self, name: str = "anna", **members: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """(order, T0, final report)"""
        asked, t0, _, report, draft = self.reporting(name, **members)
        said = answered(draft, findings="No bleeding.", impression="Normal.")
        body = parameters(attest=True, response=said)
        return asked, t0, out(self.reader(name).post(f"DiagnosticReport/{report['id']}/$sign", json=body))["report"]

    def person(self, organization: str, role: str, name: str | None = None) -> TestClient:
        """Somebody in a role, who is a Practitioner where they are named."""
        who = f"{organization}-{name}" if name else None
        return self.as_(
            organization, scope="user/*.cruds", user=f"{who or organization}-{role}", roles=(role,), practitioner=who
        )

    def get(self, path: str) -> dict[str, Any]:
        reply = self.centre.get(path)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def attempts(self, t0: dict[str, Any]) -> list[dict[str, Any]]:
        return [e["resource"] for e in self.get(f"Task?part-of=Task/{t0['id']}&_sort=_lastUpdated").get("entry", [])]


def answered(draft: dict[str, Any], **texts: str) -> dict[str, Any]:
    """The draft with its questions answered."""
    items = [{"linkId": name, "answer": [{"valueString": text}]} for name, text in texts.items()]
    return draft | {"item": items}


def reader_rows(name: str, facility: str = "hospital", read_type: str = "final", **members: Any) -> list[dict[str, Any]]:
    licence = {"code": {"text": "licence"}, "period": {"start": "2020-01-01"}}
    person = {
        "resourceType": "Practitioner",
        "id": f"centre-{name}",
        "name": [{"family": name.title()}],
        "qualification": [licence],
    }
    role = {
        "resourceType": "PractitionerRole",
        "id": f"centre-{name}-{facility}",
        "practitioner": {"reference": f"Practitioner/centre-{name}"},
        "organization": {"reference": f"Organization/{facility}"},
        "code": [{"coding": [{"system": READ_TYPE, "code": read_type}]}],
    } | members
    return [person, role]


@pytest.fixture(scope="module")
def network(server: Any, as_: As, hospital: TestClient, office: TestClient) -> Network:
    centre = as_("centre")
    for name, client in (("hospital", hospital), ("office", office)):
        body = {
            "resourceType": "Organization",
            "id": name,
            "name": name.title(),
            "telecom": [{"system": "phone", "value": "+48 22 555 01 01"}],
        }
        assert client.put(f"Organization/{name}", json=body).status_code == 201
    rows = [
        *reader_rows("anna"),
        *reader_rows("bela"),
        *reader_rows("carl", period={"end": "2026-01-31"}),
        *reader_rows("dora", specialty=[{"coding": [{"system": DCM, "code": "MR"}]}]),
    ]
    rows += reader_rows("emil", facility="office")
    rows += reader_rows("fred", read_type="preliminary")
    for row in rows:
        assert centre.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    return Network(server, as_, hospital, office, centre)
