"""Whatever is sent, the answer is an OperationOutcome below 500."""

from __future__ import annotations

import pytest
from conftest import BASE, assert_outcome, order, patient
from starlette.testclient import TestClient

JSON = {"Content-Type": "application/fhir+json"}


@pytest.mark.parametrize(
    "path",
    ["Patient?_count=%C2%B2", "Patient?_count=-1", "Patient?_count=" + "9" * 5000, "Patient?name=%ff", "Patient?birthdate=0001", "Patient?birthdate=ge9999-12-31",
     "Patient?_cursor=%00", "Patient?" + "&".join(["name=x"] * 300), "Patient?identifier=" + "|" * 50, "Patient?name=" + "%F0%9F%98%80" * 200,
     "Patient/x/_history?_count=%C2%B2", "Patient/x/_history/99999999999999999999", "Patient?_sort=-", "Patient?_include=:::", "ServiceRequest?subject:Patient._count=1"],
)  # fmt: skip
def test_strange_queries(hospital, path):
    reply = hospital.get(path)
    assert reply.status_code in (200, 400, 404), reply.text
    assert reply.json()["resourceType"] in ("Bundle", "OperationOutcome")


@pytest.mark.parametrize(
    "body",
    [
        '{"resourceType":"Patient"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"resourceType":"Patient"}',
        b'{"resourceType":"Patient","multipleBirthInteger":1e9999999999999999999}',
        b'{"resourceType":"Patient","name":[{"family":"\\ud800"}]}',
        b'{"resourceType":"Patient","\\ud800":1}',
    ],
)
@pytest.mark.parametrize("path", ["Patient", ""])
def test_strange_json(hospital, body, path):
    reply = hospital.post(path, content=body, headers=JSON)
    assert reply.status_code in (400, 422), reply.text


@pytest.mark.parametrize(
    ("change", "expression"),
    [
        ({"_status": {"extension": [{"url": "urn:x", "valueCode": "y"}]}, "status": None}, "ServiceRequest.status"),
        ({"extension": [{"_url": {"id": "x"}, "valueString": "y"}]}, "ServiceRequest.extension[0].url"),
    ],
)
def test_what_rules_read_is_there(hospital, created, change, expression):
    body = {k: v for k, v in (order(f"Patient/{created(patient())['id']}") | change).items() if v is not None}
    assert_outcome(hospital.post("ServiceRequest", json=body), 422, "required", expression)


@pytest.mark.parametrize(
    "members",
    [
        {"name": [{"given": [None, "Jan"], "_given": [{"id": "a"}, None]}]},
        {"text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml"><!-- a comment -->x</div>'}},
        {"_birthDate": {"extension": [{"url": "urn:x", "valueDateTime": "1970-01-01T10:00:00.1234567890123Z"}]}},
        {"deceasedDateTime": "2026-11-24T23:59:60Z"},
        {"contained": [{"resourceType": "Organization", "id": "o", "name": "x"}], "managingOrganization": {"reference": "#o"}},
    ],
)
def test_unusual_but_valid_patients_are_taken(hospital, members):
    reply = hospital.post("Patient", json={"resourceType": "Patient"} | members)
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize(
    ("resource", "expression"),
    [
        (patient(telecom=[{"value": "1"}]), "Patient.telecom[0]"),
        (patient(contact=[{"gender": "male"}]), "Patient.contact[0]"),
        (patient(photo=[{"data": "QQ=="}]), "Patient.photo[0]"),
        (patient(name=[{"family": "x", "period": {"start": "2026-02", "end": "2026-01"}}]), "Patient.name[0].period"),
        ({"resourceType": "Organization"}, "Organization"),
        ({"resourceType": "Bundle", "type": "document"}, "Bundle"),
        (patient(text={"status": "generated", "div": "<div>no namespace</div>"}), "Patient.text.div"),
        (patient(text={"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml"> </div>'}), "Patient.text.div"),
        (patient(id="a_b"), "Patient.id"),
    ],
)
def test_invariants_are_kept(hospital, resource, expression):
    reply = hospital.post(resource["resourceType"], json=resource)
    assert reply.status_code == 422, reply.text
    assert expression in [e for issue in reply.json()["issue"] for e in issue.get("expression", ())]


def test_a_document_bundle_refers_within_itself(hospital):
    url = "urn:uuid:00000000-0000-4000-8000-000000000001"
    composition = {
        "resourceType": "Composition", "status": "final", "type": {"text": "x"}, "date": "2026", "title": "x",
        "author": [{"reference": url}],
    }  # fmt: skip
    body = {
        "resourceType": "Bundle", "type": "document", "identifier": {"value": "1"}, "timestamp": "2026-11-24T10:00:00Z",
        "entry": [{"fullUrl": "urn:uuid:00000000-0000-4000-8000-000000000002", "resource": composition}, {"fullUrl": url, "resource": {"resourceType": "Organization", "name": "x"}}],
    }  # fmt: skip
    assert hospital.post("Bundle", json=body).status_code == 201


@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize("url", ["", "/", "metadata", "Patient/x/y/z", "\ud800"])
def test_strange_entries(hospital, kind, url):
    import json

    row = {"resource": patient(), "request": {"method": "POST", "url": url}}
    body = json.dumps({"resourceType": "Bundle", "type": kind, "entry": [row]})
    reply = hospital.post("", content=body, headers=JSON)
    assert reply.status_code in (200, 400, 404, 405, 422), reply.text
    if reply.status_code == 200:
        assert int(reply.json()["entry"][0]["response"]["status"]) in range(400, 500)


@pytest.mark.parametrize("authorization", ["Basic /zr/", "Basic x", "Bearer", "Basic " + "A" * 9000])
def test_strange_credentials_at_the_token_endpoint(server, authorization):
    http = TestClient(server.app, base_url=BASE)
    reply = http.post(
        "/auth/token",
        data={"grant_type": "client_credentials", "scope": "system/*.rs"},
        headers={"Authorization": authorization},
    )
    assert (reply.status_code, reply.json()["error"]) == (401, "invalid_client")


def test_search_by_last_updated_alternatives_and_own_urls(hospital, created):
    person = created(patient())
    asked = created(order(f"Patient/{person['id']}"))
    assert hospital.get("Patient?_lastUpdated=lt2020,ge2026").json()["total"] >= 1
    found = hospital.get(f"ServiceRequest?subject={BASE}/fhir/Patient/{person['id']}").json()
    assert [e["resource"]["id"] for e in found["entry"]] == [asked["id"]]


def test_an_organisations_id_is_no_beginning_of_anothers(server):
    with pytest.raises(ValueError, match="cannot be told from"):
        server.auth.clients.add("x", "system/*.rs", secret="s", organization="hospital-east")
