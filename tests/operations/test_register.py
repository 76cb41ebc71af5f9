"""ImagingStudy/$register: a study that is kept elsewhere, or is complete; matched to its order like an upload."""

from __future__ import annotations

import uuid

import pytest
from conftest import assert_outcome, patient
from operations_conftest import out, parameters
from unchanged import unchanged

TASK_TYPE = "urn:fhirserver:CodeSystem:task-type"
FULFILL = {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]}


def business(task) -> str:
    return task["businessStatus"]["coding"][0]["code"]


def told(task, kind) -> list:
    rows = [i for i in task["input"] if i["type"]["coding"][0]["code"] == kind]
    return [next(value for name, value in one.items() if name.startswith("value")) for one in rows]


def dispatch(client, asked, **inputs):
    body = parameters(**({"destination": "central", "expectImages": True} | inputs))
    return client.post(f"ServiceRequest/{asked['id']}/$dispatch", json=body)


def register(client, **inputs):
    return client.post("ImagingStudy/$register", json=parameters(**inputs))


def uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def about(asked) -> dict:
    return {"reference": f"ServiceRequest/{asked['id']}"}


def study(asked, number=None, **members) -> dict:
    return {
        "resourceType": "ImagingStudy",
        "status": "registered",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{number or uid()}"}],
        "subject": asked["subject"],
    } | members


ENDPOINT = {
    "resourceType": "Endpoint",
    "status": "active",
    "connectionType": {"code": "dicom-wado-rs"},
    "payloadType": [{"text": "DICOM"}],
    "address": "https://pacs.hospital.example/dicomweb",
}


def test_a_registered_study_is_matched_and_when_it_is_complete_the_clock_starts(network):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    number = uid()
    accession = {"type": {"coding": [{"code": "ACSN"}]}, "value": asked["identifier"][0]["value"]}
    sent = study(asked, number, modality=[{"code": "CT"}])
    sent["identifier"].append(accession)
    first = register(network.hospital, study=sent)
    assert {p["name"]: p["resource"]["id"] for p in first.json()["parameter"]}["order"] == asked["id"]
    assert business(network.get(f"Task/{t0['id']}")) == "awaiting-images"
    made = network.hospital.post("Endpoint", json=ENDPOINT)
    assert made.status_code == 201, made.text
    endpoint = {"reference": f"Endpoint/{made.json()['id']}"}
    done = out(register(network.hospital, studyInstanceUid=number, complete=True, endpoint=endpoint))["study"]
    assert (done["id"], done["status"], done["endpoint"]) == (
        first.json()["parameter"][0]["resource"]["id"],
        "available",
        [endpoint],
    )
    now = network.get(f"Task/{t0['id']}")
    assert (business(now), told(now, "modality")) == ("ready-for-assignment", ["CT"])
    assert now["restriction"]["period"]["end"]
    assert network.centre.get(f"ImagingStudy/{done['id']}").status_code == 200
    again = out(register(network.hospital, studyInstanceUid=f"urn:oid:{number}", endpoint=endpoint))["study"]
    assert again == done, "said again it is the same, and stays complete"


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [
        ({}, 400, "invalid"),
        ({"studyInstanceUid": "1.2", "study": {}}, 400, "invalid"),
        ({"studyInstanceUid": "no uid"}, 400, "invalid"),
        ({"studyInstanceUid": "1.02.3"}, 400, "invalid"),
        ({"studyInstanceUid": "1." + "2" * 64}, 400, "invalid"),
        ({"studyInstanceUid": "2.25.7"}, 422, "business-rule"),
    ],
)
def test_what_is_wrong_with_a_registration_is_said(network, inputs, status, code):
    sent = {name: value if value else study(network.ordered()) for name, value in inputs.items()}
    with unchanged(network.server):
        assert_outcome(register(network.hospital, **sent), status, code)


def test_a_study_is_of_one_patient(network):
    asked, other, number = network.ordered(), network.ordered(), uid()
    out(register(network.hospital, studyInstanceUid=number, order=about(asked)))
    with unchanged(network.server):
        assert_outcome(register(network.hospital, study=study(other, number)), 409, "conflict")
        assert_outcome(register(network.hospital, study=study(other), order=about(asked)), 422, "business-rule")
        taken = study(other)
        taken["identifier"].append({"type": {"coding": [{"code": "ACSN"}]}, "value": asked["identifier"][0]["value"]})
        assert_outcome(register(network.hospital, study=taken), 422, "business-rule")


def test_a_registration_tells_nothing_of_another_facility_and_links_nothing_there(network):
    asked = network.ordered()
    own = network.office.post("Patient", json=patient()).json()
    with unchanged(network.server):
        for members in ({"basedOn": [about(asked)]}, {"subject": asked["subject"]}):
            sent = study({"subject": {"reference": f"Patient/{own['id']}"}}) | members
            reply = register(network.office, study=sent)
            assert_outcome(reply, 422, "not-found")
            assert asked["identifier"][0]["value"] not in reply.text
        assert_outcome(register(network.office, studyInstanceUid=uid(), order=about(asked)), 422, "not-found")
        assert_outcome(register(network.reader("anna"), studyInstanceUid=uid()), 403, "forbidden")
