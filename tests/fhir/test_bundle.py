"""https://hl7.org/fhir/R4/http.html#transaction"""

from __future__ import annotations

import uuid

import pytest
from conftest import assert_outcome, order, patient


def bundle(*entries, kind="transaction"):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def entry(method, url, resource=None, full_url=None, **request):
    row = {"request": {"method": method, "url": url} | request}
    return row | ({"resource": resource} if resource else {}) | ({"fullUrl": full_url} if full_url else {})


PERSON = "urn:uuid:11111111-1111-1111-1111-111111111111"


def test_a_transaction_creates_all_and_links_its_entries(hospital):
    reply = hospital.post("", json=bundle(
        entry("POST", "ServiceRequest", order(PERSON), "urn:uuid:22222222-2222-2222-2222-222222222222"),
        entry("POST", "Patient", patient(), PERSON),
        entry("GET", "Patient?gender=male"),
    ))  # fmt: skip
    assert reply.status_code == 200
    first, second, third = reply.json()["entry"]
    assert [row["response"]["status"] for row in (first, second, third)] == ["201", "201", "200"]
    assert first["resource"]["subject"]["reference"] == f"Patient/{second['resource']['id']}"
    assert second["resource"]["id"] in {e["resource"]["id"] for e in third["resource"]["entry"]}
    assert hospital.get(f"ServiceRequest/{first['resource']['id']}").status_code == 200
    proof = hospital.get(f"Provenance?target=Patient/{second['resource']['id']}").json()["entry"]
    assert len(proof[0]["resource"]["target"]) == 2


def test_a_broken_entry_refuses_the_whole_bundle_and_is_named(hospital):
    before = hospital.get("Patient?_summary=count").json()["total"]
    reply = hospital.post("", json=bundle(entry("POST", "Patient", patient()), entry("POST", "Patient", patient(gender="x"))))
    assert_outcome(reply, 422, "code-invalid", "Bundle.entry[1].resource.gender")
    assert hospital.get("Patient?_summary=count").json()["total"] == before


def test_a_reference_to_no_entry_refuses_the_bundle(hospital):
    reply = hospital.post(
        "", json=bundle(entry("POST", "ServiceRequest", order("urn:uuid:33333333-3333-3333-3333-333333333333")))
    )
    assert_outcome(reply, 422, "not-found", "Bundle.entry[0].resource.subject.reference")


def test_if_match_counts_inside_a_transaction(hospital, created):
    made, other = created(patient()), created(patient())
    stale = hospital.post("", json=bundle(
        entry("PUT", f"Patient/{other['id']}", other | {"gender": "other"}),
        entry("PUT", f"Patient/{made['id']}", made | {"gender": "other"}, ifMatch='W/"9"'),
    ))  # fmt: skip
    assert_outcome(stale, 412, "conflict", "Bundle.entry[1]")
    assert hospital.get(f"Patient/{other['id']}").json()["gender"] == "male"


def test_a_delete_and_its_recreation_do_not_meet(hospital, created):
    made = created(patient())
    twice = bundle(entry("DELETE", f"Patient/{made['id']}"), entry("PUT", f"Patient/{made['id']}", made))
    assert_outcome(hospital.post("", json=twice), 400, "invalid", "Bundle.entry[1]")


def test_a_batch_answers_each_entry_by_itself(hospital, created):
    made = created(patient())
    reply = hospital.post("", json=bundle(
        entry("GET", f"Patient/{made['id']}"), entry("POST", "Patient", patient(gender="x")), entry("POST", "Patient", patient()),
        entry("DELETE", f"Patient/{made['id']}"), kind="batch",
    ))  # fmt: skip
    assert [row["response"]["status"] for row in reply.json()["entry"]] == ["200", "422", "201", "204"]
    assert reply.json()["entry"][1]["response"]["outcome"]["issue"][0]["code"] == "code-invalid"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"resourceType": "Bundle", "type": "collection"}, 400, "invalid"),
        ({"resourceType": "Patient"}, 400, "invalid"),
        (bundle({"resource": patient()}), 422, "required"),
        (bundle({"request": {"method": "PLAY", "url": "Patient"}}), 422, "value"),
        (bundle({"request": {"method": "POST", "url": "Patient"}}), 422, "required"),
        (bundle("x"), 422, "required"),
        (bundle(entry("POST", "Nothing", patient())), 404, "not-found"),
        (bundle(entry("POST", "Patient", patient(), ifNoneExist="colour=x")), 400, "not-supported"),
        (bundle(*[entry("POST", "Patient", patient())] * 1001), 413, "too-long"),
    ],
)
def test_a_bundle_that_is_none_is_refused(hospital, body, status, code):
    before = hospital.get("Patient?_summary=count").json()["total"]
    assert_outcome(hospital.post("", json=body), status, code)
    assert hospital.get("Patient?_summary=count").json()["total"] == before


def test_an_identity_that_is_an_identifier_value_stays_as_sent(hospital):
    same = {"system": "urn:ietf:rfc:3986", "value": PERSON}
    reply = hospital.post("", json=bundle(entry("POST", "Patient", patient(identifier=[same]), PERSON)))
    assert reply.json()["entry"][0]["resource"]["identifier"] == [same]


def test_the_order_of_puts_that_refer_to_each_other_does_not_matter(hospital, office):
    subject, asked = str(uuid.uuid4()), str(uuid.uuid4())
    rows = [
        entry("PUT", f"ServiceRequest/{asked}", order(f"Patient/{subject}", id=asked)),
        entry("PUT", f"Patient/{subject}", patient(id=subject)),
    ]
    reply = hospital.post("", json=bundle(*rows))
    assert reply.status_code == 200, reply.text
    assert hospital.get(f"ServiceRequest/{asked}").json()["subject"]["reference"] == f"Patient/{subject}"
    stolen = [rows[1], entry("POST", "ServiceRequest", order(f"Patient/{subject}"))]  # another organisation's: hidden
    assert office.post("", json=bundle(*stolen)).status_code == 404


def test_two_criteria_that_find_one_resource_answer_400(hospital):
    made = hospital.post("Patient", json=patient(identifier=[{"system": "urn:two", "value": "1"}])).json()
    body = {name: value for name, value in made.items() if name not in ("id", "meta")}
    rows = [entry("PUT", "Patient?identifier=urn:two|1", body), entry("PUT", f"Patient/{made['id']}", made)]
    assert_outcome(hospital.post("", json=bundle(*rows)), 400, "invalid", "Bundle.entry[1]")


def test_a_patch_without_a_resource_and_a_conditional_reference_outside_a_transaction_are_refused(hospital):
    assert_outcome(hospital.post("", json=bundle(entry("PATCH", "Patient/$x"))), 422, "required")
    assert_outcome(hospital.post("ServiceRequest", json=order("Patient?identifier=urn:two|1")), 422, "not-found")
