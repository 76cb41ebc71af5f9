"""Nobody sees what is not theirs: each way to read, tried by another facility. Design: access keys on every read."""

from __future__ import annotations

import json

import pytest
from conftest import BASE, assert_outcome, order, patient
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def secret(created):
    """A patient, an order and a report of the hospital's."""
    person = created(patient(identifier=[{"system": "urn:pesel", "value": "44"}]))
    asked = created(order(f"Patient/{person['id']}", identifier=[{"system": "urn:acsn", "value": "S-1"}]))
    report = {"resourceType": "DiagnosticReport", "status": "registered", "code": {"text": "CT"}}
    report |= {"subject": {"reference": f"Patient/{person['id']}"}, "basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}]}
    return {"Patient": person["id"], "ServiceRequest": asked["id"], "DiagnosticReport": created(report)["id"]}


ROUTES = [
    "Patient/{Patient}",
    "Patient/{Patient}/_history",
    "Patient/{Patient}/_history/1",
    "ServiceRequest/{ServiceRequest}",
    "DiagnosticReport/{DiagnosticReport}",
    "Patient/{Patient}/$everything",
    "Patient/{Patient}/$meta",
    "Patient/{Patient}/$validate",
]


@pytest.mark.parametrize("route", ROUTES)
def test_a_hidden_resource_is_answered_like_a_missing_one(office, secret, route):
    hidden = office.get(route.format(**secret))
    missing = office.get(route.format(**dict.fromkeys(secret, "00000000-0000-4000-8000-000000000000")))
    assert hidden.status_code == missing.status_code == 404
    assert hidden.content == missing.content


SEARCHES = [
    "Patient",
    "Patient?_id={Patient}",
    "Patient?identifier=urn:pesel|44",
    "Patient?_summary=count",
    "Patient?_total=accurate",
    "ServiceRequest?subject=Patient/{Patient}",
    "ServiceRequest?subject:Patient.identifier=urn:pesel|44",
    "DiagnosticReport?based-on:ServiceRequest.identifier=urn:acsn|S-1",
    "DiagnosticReport?patient={Patient}&_include=DiagnosticReport:subject",
    "Provenance?target=Patient/{Patient}",
    "Provenance",
    "AuditEvent?entity=Patient/{Patient}",
    "Task",
    "?_type=Patient,ServiceRequest,DiagnosticReport",
    "?_id={Patient}",
    "_history",
    "Patient/_history?_at=2026-11-24",
    "Patient?_has:ServiceRequest:subject:identifier=urn:acsn|S-1",
    "Patient?birthdate:missing=true",
    "Patient?name:contains=a",
    "ServiceRequest?subject:missing=false",
    "ServiceRequest?subject.name=n",
    "Patient?_sort=gender",
    "ServiceRequest?_include=*&_revinclude=*",
    "Patient?_elements=id",
]


@pytest.mark.parametrize("search", SEARCHES)
def test_no_search_finds_another_facilitys_resources(office, secret, search):
    reply = office.get(search.format(**secret))
    assert reply.status_code == 200
    body = reply.json()
    own = [e for e in body.get("entry", []) if any(id_ in str(e["resource"]) for id_ in secret.values())]
    assert own == []
    if "Patient" in search.split("?")[0]:
        assert body.get("total", 0) == 0


@pytest.mark.parametrize("path", ["Patient/{Patient}/ServiceRequest", "Patient/{Patient}/*", "Patient/{Patient}/_history"])
def test_a_hidden_compartment_is_answered_like_a_missing_one(office, secret, path):
    hidden = office.get(path.format(**secret))
    missing = office.get(path.format(Patient="00000000-0000-4000-8000-000000000000"))
    assert (hidden.status_code, hidden.content) == (404, missing.content)


def test_a_patch_criteria_or_conditional_reference_to_what_is_hidden_find_nothing(office, secret):
    rows = {"content": "[]", "headers": {"Content-Type": "application/json-patch+json"}}
    hidden = office.patch(f"Patient/{secret['Patient']}", **rows)
    missing = office.patch("Patient/00000000-0000-4000-8000-000000000000", **rows)
    assert (hidden.status_code, hidden.content) == (404, missing.content)
    assert_outcome(office.patch("Patient?identifier=urn:pesel|44", **rows), 404, "not-found")
    entry = {"resource": order("Patient?identifier=urn:pesel|44"), "request": {"method": "POST", "url": "ServiceRequest"}}
    assert_outcome(office.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": [entry]}), 412, "conflict")


def test_a_provenance_that_a_client_sends_refers_to_nothing_hidden(office, secret):
    said = {"resourceType": "Provenance", "recorded": "2026-11-24T12:00:00Z"}
    for id_ in (secret["Patient"], "00000000-0000-4000-8000-000000000000"):
        agent = {"agent": [{"who": {"reference": f"Patient/{id_}"}}]}
        reply = office.post("Patient", json=patient(), headers={"X-Provenance": json.dumps(said | agent)})
        assert_outcome(reply, 422, "not-found")


def test_an_order_that_refers_to_a_hidden_patient_is_refused_as_for_none(office, secret):
    hidden = office.post("ServiceRequest", json=order(f"Patient/{secret['Patient']}"))
    missing = office.post("ServiceRequest", json=order("Patient/00000000-0000-4000-8000-000000000000"))
    assert hidden.status_code == missing.status_code == 422
    assert hidden.content == missing.content
    in_bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [
        {"resource": order(f"Patient/{secret['Patient']}"), "request": {"method": "POST", "url": "ServiceRequest"}}]}  # fmt: skip
    assert_outcome(office.post("", json=in_bundle), 422, "not-found")
    absolute = office.post("ServiceRequest", json=order(f"{BASE}/fhir/Patient/{secret['Patient']}"))
    assert_outcome(absolute, 422, "not-found")


def test_an_include_brings_nothing_hidden(office, secret, server):
    """Even where a reference to it exists: an old one, from before its target was hidden."""
    own = office.post("Patient", json=patient()).json()
    asked = office.post("ServiceRequest", json=order(f"Patient/{own['id']}")).json()
    swapped = {
        "t": [f"subject=Patient/{secret['Patient']}"],
        "json": str(asked).replace("'", '"').replace(own["id"], secret["Patient"]),
    }
    server.client[server.name].ServiceRequest.update_one({"_id": asked["id"]}, {"$set": swapped})
    found = office.get(f"ServiceRequest?_id={asked['id']}&_include=ServiceRequest:subject").json()
    assert [e["resource"]["resourceType"] for e in found["entry"]] == ["ServiceRequest"]


def test_writes_to_a_hidden_resource_are_answered_like_a_missing_one(office, secret):
    body = patient(id=secret["Patient"])
    assert_outcome(office.put(f"Patient/{secret['Patient']}", json=body), 404, "not-found")
    assert_outcome(office.delete(f"Patient/{secret['Patient']}"), 404, "not-found")


def test_no_token_answers_401(server, secret):
    nobody = TestClient(server.app, base_url=f"{BASE}/fhir/")
    for method, path in [("GET", f"Patient/{secret['Patient']}"), ("GET", "Patient"), ("POST", "Patient"), ("POST", "")]:
        body = {"resourceType": "Bundle", "type": "batch"} if not path else patient()
        reply = nobody.request(method, path, json=body if method == "POST" else None)
        assert_outcome(reply, 401, "login")
        assert reply.headers["www-authenticate"].startswith("Bearer")


def test_an_unknown_or_expired_token_answers_401(server):
    expired = server.auth.issue(server.auth.clients.get("hospital"), None, "system/*.rs", -1)
    for token in ("nonsense", expired):
        reply = TestClient(server.app, base_url=f"{BASE}/fhir/").get("Patient", headers={"Authorization": f"Bearer {token}"})
        assert_outcome(reply, 401, "login")
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]
    basic = TestClient(server.app, base_url=f"{BASE}/fhir/").get("Patient", auth=("hospital", "secret"))
    assert_outcome(basic, 401, "login")


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("system/Patient.r", "GET", "Patient/{Patient}", 200),
        ("system/Patient.r", "GET", "Patient", 403),
        ("system/Patient.s", "GET", "Patient", 200),
        ("system/Patient.s", "GET", "Patient/{Patient}", 403),
        ("system/Patient.rs", "GET", "ServiceRequest/{ServiceRequest}", 403),
        ("system/Patient.rs", "POST", "Patient", 403),
        ("system/Patient.rs", "DELETE", "Patient/{Patient}", 403),
        ("system/*.rs", "GET", "ServiceRequest?subject.identifier=x", 200),
        ("system/ServiceRequest.rs", "GET", "ServiceRequest?subject:Patient.identifier=x", 403),
        ("system/Patient.read", "GET", "Patient", 200),
        ("patient/Patient.rs", "GET", "Patient", 403),
    ],
)
def test_scopes_are_enforced_by_type_and_interaction(as_, secret, scope, method, path, status):
    client = as_("hospital", scope=scope)
    reply = client.request(method, path.format(**secret), json=patient() if method == "POST" else None)
    assert reply.status_code == status, reply.text
    if status == 403:
        assert_outcome(reply, 403, "forbidden")
        assert 'error="insufficient_scope"' in reply.headers["www-authenticate"]


def test_scopes_hold_inside_a_batch_and_on_includes(as_, secret):
    client = as_("hospital", scope="system/ServiceRequest.rs")
    rows = [{"request": {"method": "GET", "url": f"Patient/{secret['Patient']}"}}]
    batch = client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": rows}).json()
    assert batch["entry"][0]["response"]["status"] == "403"
    found = client.get(f"ServiceRequest?_id={secret['ServiceRequest']}&_include=ServiceRequest:subject").json()
    assert [e["resource"]["resourceType"] for e in found["entry"]] == ["ServiceRequest"]


def test_a_draft_is_its_authors_alone(as_, hospital):
    anna = as_("hospital", scope="user/*.cruds", user="anna", roles=("reader",), practitioner="hospital-anna")
    person = {"resourceType": "Practitioner", "id": "hospital-anna"}
    assert hospital.put("Practitioner/hospital-anna", json=person).status_code == 201
    draft = {
        "resourceType": "QuestionnaireResponse",
        "status": "in-progress",
        "author": {"reference": "Practitioner/hospital-anna"},
    }
    made = anna.post("QuestionnaireResponse", json=draft).json()
    assert anna.get(f"QuestionnaireResponse/{made['id']}").status_code == 200
    assert_outcome(hospital.get(f"QuestionnaireResponse/{made['id']}"), 404, "not-found")


def test_the_directory_is_everyones_and_a_privilege_is_the_two_organisations(hospital, office, as_):
    for organization in ("hospital", "office"):
        assert as_(organization).put(
            f"Organization/{organization}", json={"resourceType": "Organization", "id": organization, "name": "x"}
        ).status_code in (200, 201)
    role = {"resourceType": "PractitionerRole", "organization": {"reference": "Organization/hospital"}}
    centre = as_("centre")
    made = centre.post("PractitionerRole", json=role).json()
    assert office.get("Organization/hospital").status_code == 200
    assert hospital.get(f"PractitionerRole/{made['id']}").status_code == 200
    assert_outcome(office.get(f"PractitionerRole/{made['id']}"), 404, "not-found")
    assert_outcome(hospital.put(f"PractitionerRole/{made['id']}", json=made | {"active": False}), 403, "forbidden")


def test_what_is_deleted_is_shared_with_nobody_also_when_it_is_written_again(server, hospital, office, created):
    from fhirserver.errors import Conflict
    from fhirserver.versions import Changes, Grant

    store = server.installation.store
    made = created({"resourceType": "Basic", "code": {"text": "x"}})
    grant = Grant("ServiceRequest/1", "org/office")

    def share():
        changes = Changes()
        changes.share("Basic", made["id"], grant, "hospital")
        store.commit(changes)

    share()
    assert office.get(f"Basic/{made['id']}").status_code == 200
    assert hospital.delete(f"Basic/{made['id']}").status_code == 204
    assert office.get(f"Basic/{made['id']}").status_code == 404
    with pytest.raises(Conflict):
        share()
    assert hospital.put(f"Basic/{made['id']}", json=made).status_code == 201
    assert office.get(f"Basic/{made['id']}").status_code == 404


def test_an_update_and_a_share_at_the_same_time_lose_neither(server, hospital, office, created):
    """The update was planned on grants that were changed before its commit: it is planned again."""
    from fhirserver.versions import Changes, Grant

    store = server.installation.store
    made = created({"resourceType": "Basic", "code": {"text": "x"}})
    real, shared = store.commit, []

    def commit(changes):
        if not shared:
            shared.append(1)
            first = Changes()
            first.share("Basic", made["id"], Grant("ServiceRequest/1", "org/office"), "hospital")
            real(first)
        real(changes)

    store.commit = commit
    try:
        assert hospital.put(f"Basic/{made['id']}", json=made | {"code": {"text": "y"}}).status_code == 200
    finally:
        del store.commit
    assert office.get(f"Basic/{made['id']}").json()["code"] == {"text": "y"}


def test_a_line_that_a_crash_cut_short_stops_no_reading(server, hospital):
    import zlib

    server.installation.store.registers.add_segment({"_id": "torn-1", "data": zlib.compress(b'{"cut sho\n')})
    for path in ("AuditEvent?_count=1", "Provenance?_count=1", "?_type=Patient"):
        assert hospital.get(path).status_code == 200
    assert not server.installation.store.registers.segments()
