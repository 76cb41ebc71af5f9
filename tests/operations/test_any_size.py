"""A one-doctor office without any centre, and an installation that assigns by itself."""

from __future__ import annotations

import base64
import json
import uuid

import pytest
from conftest import order, patient
from operations_conftest import answered, out, parameters, reader_rows


def library(facility: str, **terms) -> dict:
    data = base64.b64encode(json.dumps(terms).encode()).decode()
    return {
        "resourceType": "Library",
        "status": "active",
        "type": {"text": "agreement"},
        "identifier": [{"system": "urn:fhirserver:agreement", "value": facility}],
        "content": [{"contentType": "application/json", "data": data}],
    }


def test_a_one_doctor_office_reads_its_own_studies(network, as_):
    doctor = as_("office", scope="user/*.cruds", user="lis", roles=("reader", "clerk"), practitioner="office-lis")
    [person, role] = reader_rows("x", facility="office")
    person |= {"id": "office-lis"}
    role |= {"id": "office-lis-own", "practitioner": {"reference": "Practitioner/office-lis"}}
    for row in (person, role):
        assert network.office.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    who = doctor.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": uuid.uuid4().hex}])).json()
    asked = doctor.post("ServiceRequest", json=order(f"Patient/{who['id']}", reasonCode=[{"text": "cough"}])).json()
    uid = {"name": "studyInstanceUid", "valueString": "1.2.826.0.1.3680043.8.498.77"}
    link = {"name": "order", "valueReference": {"reference": f"ServiceRequest/{asked['id']}"}}
    done = {"name": "complete", "valueBoolean": True}
    said = doctor.post("ImagingStudy/$register", json={"resourceType": "Parameters", "parameter": [uid, link, done]})
    assert said.status_code == 200, said.text
    t0 = doctor.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(destination="on-site"))
    assert t0.status_code == 200, t0.text
    accepted = network.office.put(f"Task/{t0.json()['id']}", json=t0.json() | {"status": "accepted"})
    assert accepted.status_code == 200, accepted.text
    [row] = doctor.get("Task/$worklist?view=pool").json()["entry"][:1]
    attempt = row["resource"]
    assert doctor.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).json()["status"] == "in-progress"
    opened = out(doctor.post(f"Task/{attempt['id']}/$start-report"))
    body = parameters(attest=True, response=answered(opened["draft"], findings="Clear.", impression="No pneumonia."))
    assert out(doctor.post(f"DiagnosticReport/{opened['report']['id']}/$sign", json=body))["report"]["status"] == "final"
    assert doctor.get(f"ServiceRequest/{asked['id']}").json()["status"] == "completed"
    for outsider in (network.centre, network.hospital):
        assert outsider.get(f"DiagnosticReport/{opened['report']['id']}").status_code == 404


@pytest.fixture
def by_itself(network):
    made = network.centre.post("Library", json=library("hospital", autoAssign=True))
    assert made.status_code == 201, made.text
    yield
    gone = network.centre.put(f"Library/{made.json()['id']}", json=made.json() | {"status": "retired"})
    assert gone.status_code == 200


def test_where_it_is_agreed_a_reading_is_assigned_as_soon_as_its_images_are_there(network, by_itself):
    _, t0 = network.dispatched()
    assert network.server.installation.timers.ring() >= 1
    [attempt] = network.attempts(t0)
    assert attempt["status"] == "accepted"
    assert attempt["owner"]["reference"] in ("PractitionerRole/centre-anna-hospital", "PractitionerRole/centre-bela-hospital")
    now = network.get(f"Task/{t0['id']}")
    assert (now["status"], now["businessStatus"]["coding"][0]["code"]) == ("accepted", "assigned")
    assert network.server.installation.timers.ring() == 0
    decisions = [
        e["resource"]
        for e in network.get(f"Provenance?target=Task/{attempt['id']}").get("entry", [])
        if "contained" in e["resource"]
    ]
    assert [d["agent"][0]["onBehalfOf"]["reference"] for d in decisions] == ["Organization/centre"]
    assert network.hospital.get(f"Provenance/{decisions[0]['id']}").status_code == 404


def test_where_nobody_may_it_is_in_the_pool(network, by_itself):
    """Dora alone reads MR; of CT by a language that nobody writes there is still somebody, so the licences are taken away."""
    people = [network.get(f"Practitioner/centre-{name}") for name in ("anna", "bela")]
    for person in people:
        network.centre.put(f"Practitioner/{person['id']}", json=person | {"active": False})
    _, t0 = network.dispatched()
    network.server.installation.timers.ring()
    for person in people:
        network.centre.put(f"Practitioner/{person['id']}", json=person)
    [attempt] = network.attempts(t0)
    assert (attempt["status"], attempt["owner"]["reference"]) == ("requested", "Organization/centre")
