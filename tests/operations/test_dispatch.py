"""ServiceRequest/[id]/$dispatch, and the same act as a POSTed Task."""

from __future__ import annotations

import pytest
from conftest import assert_outcome, order, patient
from operations_conftest import parameters

BUSINESS = "urn:fhirserver:CodeSystem:task-business-status"


def business(task) -> str:
    return task["businessStatus"]["coding"][0]["code"]


def test_it_makes_one_coordination_task_and_activates_the_order(network):
    asked = network.ordered(status="draft")
    network.images(asked)
    t0 = network.dispatch(asked, reportLanguage="pl")
    assert (t0["status"], business(t0), t0["priority"]) == ("requested", "ready-for-assignment", "urgent")
    assert t0["owner"] == {"reference": "Organization/centre"}
    assert t0["focus"] == {"reference": f"ServiceRequest/{asked['id']}"}
    assert t0["restriction"]["period"]["end"] > t0["authoredOn"]
    assert network.hospital.get(f"ServiceRequest/{asked['id']}").json()["status"] == "active"
    proof = network.hospital.get(f"Provenance?target=Task/{t0['id']}").json()["entry"]
    assert proof[0]["resource"]["activity"]["coding"][0]["code"] == "dispatch"
    again = network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(destination="central"))
    assert_outcome(again, 409, "duplicate")


def test_it_shares_the_order_its_patient_and_its_studies_and_no_more(network):
    asked, other = network.ordered(), network.ordered()
    network.images(asked)
    assert_outcome(network.centre.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
    t0 = network.dispatch(asked)
    for path in (f"Task/{t0['id']}", f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]):
        assert network.centre.get(path).status_code == 200, path
        assert_outcome(network.office.get(path), 404, "not-found")
    assert network.centre.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["total"] == 1
    for path in (f"ServiceRequest/{other['id']}", other["subject"]["reference"]):
        assert_outcome(network.centre.get(path), 404, "not-found")


def test_images_that_come_later_make_it_ready_and_start_the_clock(network):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    assert business(t0) == "awaiting-images"
    assert "restriction" not in t0
    network.images(asked, complete=False)
    assert business(network.get(f"Task/{t0['id']}")) == "awaiting-images"
    network.server.wait(seconds=20)
    network.server.installation.images.arrivals.settle()
    ready = network.get(f"Task/{t0['id']}")
    assert business(ready) == "ready-for-assignment"
    assert ready["restriction"]["period"]["end"]
    assert network.centre.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["total"] == 1


def test_a_posted_task_is_the_same_act(network):
    asked = network.ordered()
    body = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]},
        "focus": {"reference": f"ServiceRequest/{asked['id']}"},
        "owner": {"reference": "Organization/centre"},
        "restriction": {"period": {"end": "2026-12-01T10:00:00Z"}},
    }
    reply = network.hospital.post("Task", json=body)
    assert reply.status_code == 201
    assert reply.headers["location"].endswith(f"/Task/{reply.json()['id']}/_history/1")
    assert business(reply.json()) == "awaiting-images"
    assert reply.json()["restriction"] == body["restriction"]
    assert network.centre.get(f"ServiceRequest/{asked['id']}").status_code == 200
    assert_outcome(network.hospital.post("Task", json=body), 409, "duplicate")
    assert_outcome(network.office.post("Task", json=body), 422, "not-found")


def test_order_and_task_in_one_transaction(network):
    person, asked = "urn:uuid:00000000-0000-4000-8000-000000000001", "urn:uuid:00000000-0000-4000-8000-000000000002"
    task = {
        "resourceType": "Task", "status": "requested", "intent": "order", "focus": {"reference": asked}, "owner": {"reference": "Organization/centre"},
        "code": {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]},
    }  # fmt: skip
    rows = [
        (patient(), person),
        (order(person, note=[{"text": "fall"}]), asked),
        (task, "urn:uuid:00000000-0000-4000-8000-000000000003"),
    ]
    entries = [{"fullUrl": url, "resource": r, "request": {"method": "POST", "url": r["resourceType"]}} for r, url in rows]
    reply = network.hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert reply.status_code == 200, reply.text
    made = [e["resource"] for e in reply.json()["entry"]]
    assert network.centre.get(f"Task/{made[2]['id']}").json()["focus"] == {"reference": f"ServiceRequest/{made[1]['id']}"}
    stored = network.hospital.get(f"ServiceRequest/{made[1]['id']}").json()
    assert stored["meta"]["versionId"] == "1"
    assert stored["identifier"][0]["type"]["coding"][0]["code"] == "ACSN"


def test_to_another_organisation_only_with_an_agreement(network, as_):
    far = as_("far")
    assert far.put("Organization/far", json={"resourceType": "Organization", "id": "far", "name": "Far"}).status_code == 201
    asked = network.ordered()
    inputs = parameters(destination="organization", target={"reference": "Organization/far"}, expectImages=True)
    assert_outcome(network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=inputs), 422, "business-rule")
    agreement = {
        "resourceType": "OrganizationAffiliation", "active": True,
        "organization": {"reference": "Organization/hospital"}, "participatingOrganization": {"reference": "Organization/far"},
    }  # fmt: skip
    assert network.office.post("OrganizationAffiliation", json=agreement).status_code == 201
    assert_outcome(network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=inputs), 422, "business-rule")
    assert network.hospital.post("OrganizationAffiliation", json=agreement).status_code == 201
    assert network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=inputs).status_code == 200
    assert far.get(f"ServiceRequest/{asked['id']}").status_code == 200
    assert_outcome(network.centre.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")


def test_scanned_referrals_go_with_the_order(network):
    binary = network.hospital.post(
        "Binary", json={"resourceType": "Binary", "contentType": "application/pdf", "data": "QQ=="}
    ).json()
    person = network.hospital.post("Patient", json=patient()).json()
    scan = {
        "resourceType": "DocumentReference", "status": "current", "subject": {"reference": f"Patient/{person['id']}"},
        "content": [{"attachment": {"contentType": "application/pdf", "url": f"Binary/{binary['id']}"}}],
    }  # fmt: skip
    document = network.hospital.post("DocumentReference", json=scan).json()
    asked = network.hospital.post(
        "ServiceRequest",
        json=order(f"Patient/{person['id']}", supportingInfo=[{"reference": f"DocumentReference/{document['id']}"}]),
    ).json()
    network.dispatch(asked, expectImages=True)
    assert network.centre.get(f"DocumentReference/{document['id']}").status_code == 200
    assert network.centre.get(f"Binary/{binary['id']}").status_code == 200
    assert_outcome(network.office.get(f"Binary/{binary['id']}"), 404, "not-found")


@pytest.mark.parametrize(
    ("members", "inputs", "status", "code"),
    [
        ({"reasonCode": [{"text": "x"}]}, {}, 422, "required"),
        ({"reasonCode": [{"text": "x"}]}, {"destination": "moon"}, 422, "invalid"),
        ({"reasonCode": [{"text": "x"}]}, {"destination": "central", "colour": "red"}, 422, "not-supported"),
        ({"reasonCode": [{"text": "x"}]}, {"destination": "central", "expectImages": "yes"}, 422, "value"),
        ({"reasonCode": [{"text": "x"}]}, {"destination": "central"}, 422, "business-rule"),
        ({"reasonCode": [{"text": "x"}]}, {"destination": "organization"}, 422, "business-rule"),
        ({}, {"destination": "central", "expectImages": True}, 422, "business-rule"),
        (
            {"reasonCode": [{"text": "x"}], "status": "revoked"},
            {"destination": "central", "expectImages": True},
            409,
            "conflict",
        ),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(network, members, inputs, status, code):
    person = network.hospital.post("Patient", json=patient()).json()
    asked = network.hospital.post("ServiceRequest", json=order(f"Patient/{person['id']}", **members)).json()
    assert_outcome(network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(**inputs)), status, code)
    assert network.hospital.get(f"ServiceRequest/{asked['id']}").json() == asked
    assert network.hospital.get(f"Task?focus=ServiceRequest/{asked['id']}").json()["total"] == 0


def test_only_the_facility_dispatches_its_order(network, as_):
    asked = network.ordered()
    assert_outcome(
        network.office.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(destination="central")), 404, "not-found"
    )
    network.dispatch(asked, expectImages=True)
    assert_outcome(
        network.centre.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(destination="central")), 403, "forbidden"
    )
    reader = as_("hospital", scope="user/*.cruds", user="nurse", roles=("reader",))
    fresh = network.ordered()
    assert_outcome(
        reader.post(f"ServiceRequest/{fresh['id']}/$dispatch", json=parameters(destination="central", expectImages=True)),
        403,
        "forbidden",
    )
    narrow = as_("hospital", scope="system/ServiceRequest.rs")
    assert_outcome(
        narrow.post(f"ServiceRequest/{fresh['id']}/$dispatch", json=parameters(destination="central")), 403, "forbidden"
    )


def test_a_stale_if_match_answers_412(network):
    asked = network.ordered()
    reply = network.hospital.post(
        f"ServiceRequest/{asked['id']}/$dispatch",
        json=parameters(destination="central", expectImages=True),
        headers={"If-Match": 'W/"9"'},
    )
    assert_outcome(reply, 412, "conflict")


def test_declining_needs_a_reason_and_withdraws_what_was_shared(network):
    asked, t0 = network.dispatched()
    body = network.get(f"Task/{t0['id']}") | {"status": "rejected"}
    assert_outcome(network.centre.put(f"Task/{t0['id']}", json=body), 422, "business-rule", "Task.statusReason")
    assert network.centre.put(f"Task/{t0['id']}", json=body | {"statusReason": {"text": "no capacity"}}).status_code == 200
    assert_outcome(network.centre.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
    assert_outcome(network.centre.get(asked["subject"]["reference"]), 404, "not-found")
    assert network.hospital.get(f"Task/{t0['id']}").json()["statusReason"] == {"text": "no capacity"}
    network.dispatch(asked)
    assert network.centre.get(f"ServiceRequest/{asked['id']}").status_code == 200


def test_ending_one_order_takes_nothing_from_another_on_the_same_patient(network):
    asked = network.ordered()
    second = network.hospital.post(
        "ServiceRequest", json=order(asked["subject"]["reference"], reasonCode=[{"text": "x"}])
    ).json()
    t0 = network.dispatch(asked, expectImages=True)
    network.dispatch(second, expectImages=True)
    body = network.get(f"Task/{t0['id']}") | {"status": "rejected", "statusReason": {"text": "no"}}
    assert network.centre.put(f"Task/{t0['id']}", json=body).status_code == 200
    assert_outcome(network.centre.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
    assert network.centre.get(asked["subject"]["reference"]).status_code == 200


def test_taking_an_order_back_ends_its_work(network):
    asked, t0 = network.dispatched()
    attempt = network.pool(t0)
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"}).status_code == 200
    assert network.get(f"Task/{t0['id']}")["status"] == "cancelled"
    assert network.get(f"Task/{attempt['id']}")["status"] == "cancelled"
    late = network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "active"})
    assert_outcome(late, 422, "business-rule", "ServiceRequest.status")


def test_the_placer_does_not_complete_or_re_address_an_order_that_is_being_read(network):
    asked, _ = network.dispatched()
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert_outcome(
        network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "completed"}), 409, "conflict"
    )
    other = network.hospital.post("Patient", json=patient()).json()
    moved = network.hospital.put(
        f"ServiceRequest/{asked['id']}", json=current | {"subject": {"reference": f"Patient/{other['id']}"}}
    )
    assert_outcome(moved, 422, "business-rule", "ServiceRequest.subject")
