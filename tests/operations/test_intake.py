"""ServiceRequest/[id]/$dispatch: release an order for reading, and say where."""

from __future__ import annotations

import pytest
from conftest import assert_outcome, order, patient
from operations_conftest import REASON, parameters
from unchanged import unchanged
from valid_calls import agreed, centre_named

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


def test_the_order_becomes_active_with_its_categories_and_an_accession_number(network):
    person = network.hospital.post("Patient", json=patient()).json()
    bare = order(f"Patient/{person['id']}", status="on-hold", note=[{"text": "fall"}])
    asked = network.hospital.post("ServiceRequest", json=bare).json()
    dispatch(network.hospital, asked)
    now = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert now["status"] == "active"
    assert {c["code"] for concept in now["category"] for c in concept["coding"]} == {"363679005", "RemoteReporting"}
    [number] = now["identifier"]
    assert number["type"]["coding"][0]["code"] == "ACSN"
    assert 1 <= len(number["value"]) <= 16, "as long as DICOM's SH"


def test_what_is_asked_of_the_reader_stands_on_the_task(network):
    asked = network.ordered(bodySite=[{"coding": [{"system": "http://snomed.info/sct", "code": "69536005"}]}])
    inputs = {"readType": "preliminary", "reportLanguage": "pl", "due": "2026-12-01T10:00:00Z"}
    t0 = dispatch(network.hospital, asked, **inputs, reportTemplate=["urn:fhirserver:Questionnaire:head-ct"]).json()
    assert told(t0, "read-type") == ["preliminary"]
    assert told(t0, "report-language") == ["pl"]
    assert told(t0, "report-template") == ["urn:fhirserver:Questionnaire:head-ct"]
    assert told(t0, "facility") == [{"reference": "Organization/hospital"}]
    assert told(t0, "region") == ["69536005"]
    assert t0["restriction"]["period"]["end"] == inputs["due"]
    assert t0["for"] == asked["subject"]


def test_on_site_the_facility_reads_it_itself_and_nothing_is_shared(network):
    asked = network.ordered()
    t0 = dispatch(network.hospital, asked, destination="on-site").json()
    assert t0["owner"] == t0["requester"] == {"reference": "Organization/hospital"}
    for path in (f"Task/{t0['id']}", f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]):
        assert_outcome(network.centre.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("members", "inputs", "status", "code"),
    [
        ({}, {"readType": "twice"}, 422, "business-rule"),
        ({}, {"reportTemplate": ["urn:nothing"]}, 422, "business-rule"),
        ({}, {"destination": "organization", "target": {"reference": "Organization/office"}}, 422, "business-rule"),
        ({}, {"destination": "practitioner", "target": {"reference": "Organization/centre"}}, 422, "business-rule"),
        ({}, {"destination": "practitioner"}, 422, "business-rule"),
        ({}, {"expectImages": False}, 422, "business-rule"),
        ({"reasonCode": []}, {}, 422, "business-rule"),
        ({"subject": {"display": "Jan"}}, {}, 422, "business-rule"),
        ({"status": "completed"}, {}, 409, "conflict"),
        ({"status": "revoked"}, {}, 409, "conflict"),
    ],
)
def test_each_refusal_leaves_the_order_undispatched(network, members, inputs, status, code):
    body = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "reasonCode": [REASON]}
    person = network.hospital.post("Patient", json=patient()).json()
    body |= {"subject": {"reference": f"Patient/{person['id']}"}} | members
    asked = network.hospital.post("ServiceRequest", json={name: value for name, value in body.items() if value}).json()
    with unchanged(network.server):
        assert_outcome(dispatch(network.hospital, asked, **inputs), status, code)


@pytest.mark.parametrize("priority", ["stat", "asap"])
def test_what_cannot_wait_needs_a_telephone_at_which_somebody_answers(network, priority):
    """A finding that cannot wait is told by telephone."""
    silent = centre_named(network, "silent")
    person = silent.post("Patient", json=patient()).json()
    asked = silent.post("ServiceRequest", json=order(f"Patient/{person['id']}", priority=priority, reasonCode=[REASON])).json()
    with unchanged(network.server):
        assert_outcome(dispatch(silent, asked), 422, "business-rule", "ServiceRequest.requester")
    doctor = {"resourceType": "Practitioner", "id": "d", "name": [{"family": "Lis"}]}
    doctor["telecom"] = [{"system": "phone", "value": "+48 600 100 200"}]
    called = silent.put(
        f"ServiceRequest/{asked['id']}", json=asked | {"contained": [doctor], "requester": {"reference": "#d"}}
    ).json()
    assert dispatch(silent, called).status_code == 200


def test_a_staffed_number_in_the_agreement_is_enough(network):
    quiet = centre_named(network, "quiet")
    agreed(quiet, "quiet", dutyPhone="+48 22 555 00 00")
    person = quiet.post("Patient", json=patient()).json()
    asked = quiet.post("ServiceRequest", json=order(f"Patient/{person['id']}", priority="stat", reasonCode=[REASON])).json()
    assert dispatch(quiet, asked).status_code == 200


def test_a_facilitys_own_words_and_codes_are_understood(network):
    """EHRs send orders with little coding: the agreement says what their words mean."""
    clinic = centre_named(network, "clinic", telecom=[{"system": "phone", "value": "1"}])
    agreed(
        clinic, "clinic", urgencies={"cito": "stat"}, defaults={"priority": "urgent", "language": "pl"},
        codes={"TKG": {"modality": "CT", "region": "head", "template": "urn:fhirserver:Questionnaire:head-ct"}},
    )  # fmt: skip
    person = clinic.post("Patient", json=patient()).json()
    plain = order(
        f"Patient/{person['id']}", note=[{"text": "fall"}], code={"coding": [{"system": "urn:clinic", "code": "TKG"}]}
    )
    for words, priority in (([{"text": "CITO"}], "stat"), ([], "urgent")):
        body = plain | ({"orderDetail": words} if words else {})
        asked = clinic.post("ServiceRequest", json=body).json()
        t0 = dispatch(clinic, asked).json()
        assert t0["priority"] == clinic.get(f"ServiceRequest/{asked['id']}").json()["priority"] == priority
        assert told(t0, "modality") == ["CT"]
        assert told(t0, "region") == ["head"]
        assert told(t0, "report-template") == ["urn:fhirserver:Questionnaire:head-ct"]
        assert told(t0, "report-language") == ["pl"]


@pytest.mark.parametrize(
    ("born", "child"),
    [
        ("2008-11-25", True),
        ("2008-11-24", False),
        ("2008-12", True),
        ("2008-11", False),
        ("2008", False),
        ("2015", True),
        (None, False),
    ],
)
def test_those_under_eighteen_go_to_paediatric_readers_before_others(network, born, child):
    person = network.hospital.post("Patient", json=patient(**({"birthDate": born} if born else {}))).json()
    asked = network.hospital.post("ServiceRequest", json=order(f"Patient/{person['id']}", reasonCode=[REASON])).json()
    assert (told(dispatch(network.hospital, asked).json(), "specialty") == ["paediatric-radiology"]) == child
