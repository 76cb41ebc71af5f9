"""Practitioner/[id]/$check-eligibility: may this reader read this, and until when? It changes nothing."""

from __future__ import annotations

import uuid

import pytest
from conftest import assert_outcome
from operations_conftest import DCM, parameters, reader_rows
from unchanged import unchanged
from valid_calls import agreed

HOSPITAL, OFFICE = {"reference": "Organization/hospital"}, {"reference": "Organization/office"}


def check(client, name, **inputs):
    return client.post(f"Practitioner/centre-{name}/$check-eligibility", json=parameters(**inputs))


def verdict(reply) -> tuple[bool, list[str], str | None]:
    assert reply.status_code == 200, reply.text
    rows = reply.json()["parameter"]
    reasons = [p["valueCoding"] for p in rows if p["name"] == "reason"]
    assert all(one["system"] and one["display"] for one in reasons), "in words too"
    expires = next((p["valueDateTime"] for p in rows if p["name"] == "expires"), None)
    return rows[0]["valueBoolean"], [one["code"] for one in reasons], expires


@pytest.mark.parametrize(
    ("name", "inputs", "eligible", "reasons"),
    [
        ("anna", {"organization": HOSPITAL}, True, []),
        ("anna", {"organization": HOSPITAL, "modality": {"system": DCM, "code": "CT"}}, True, []),
        ("anna", {"organization": OFFICE}, False, ["no-privilege"]),
        ("anna", {"organization": HOSPITAL, "readType": "preliminary"}, False, ["no-read-type-privilege"]),
        ("fred", {"organization": HOSPITAL, "readType": "preliminary"}, True, []),
        ("dora", {"organization": HOSPITAL, "modality": {"code": "CT"}}, False, ["no-modality-privilege"]),
        ("dora", {"organization": HOSPITAL, "modality": {"code": "MR"}}, True, []),
        ("carl", {"organization": HOSPITAL}, False, ["privilege-expired"]),
        ("carl", {"organization": HOSPITAL, "asOf": "2026-01-31"}, True, []),
    ],
)
def test_by_facility_modality_and_kind_of_read(network, name, inputs, eligible, reasons):
    with unchanged(network.server):
        found, why, _ = verdict(check(network.centre, name, **inputs))
    assert (found, why) == (eligible, reasons)


def test_the_facilitys_country_asks_for_a_licence_there(network):
    agreed(network.centre, "office", jurisdiction="PL")
    person, role = reader_rows("gert", facility="office")
    abroad = {"url": "urn:fhirserver:StructureDefinition:jurisdiction", "valueCode": "DE"}
    person["qualification"][0]["extension"] = [abroad]
    for row in (person, role):
        assert network.centre.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    assert verdict(check(network.centre, "gert", organization=OFFICE))[:2] == (False, ["no-licence-in-jurisdiction"])


def test_the_first_of_licence_and_privilege_to_lapse_is_told(network):
    person, role = reader_rows("hana", period={"end": "2027-06-30"})
    person["qualification"][0]["period"]["end"] = "2027-03-31"
    for row in (person, role):
        assert network.centre.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    assert verdict(check(network.centre, "hana", organization=HOSPITAL))[2] == "2027-04-01T00:00:00.000Z"
    assert verdict(check(network.centre, "anna", organization=HOSPITAL))[2] is None


def test_of_a_reading_by_its_task_or_its_attempt(network):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    for task in (t0, attempt):
        about = {"reference": f"Task/{task['id']}"}
        assert verdict(check(network.centre, "anna", task=about))[:2] == (True, [])
        assert verdict(check(network.centre, "dora", task=about))[:2] == (False, ["no-modality-privilege"])
        assert verdict(check(network.centre, "emil", task=about))[:2] == (False, ["no-privilege"])


def test_what_is_wrong_with_the_question_is_said(network):
    _, t0 = network.dispatched()
    about = {"reference": f"Task/{t0['id']}"}
    plain = network.centre.post("Task", json={"resourceType": "Task", "status": "requested", "intent": "order"}).json()
    with unchanged(network.server):
        assert_outcome(check(network.centre, "anna"), 400, "invalid")
        assert_outcome(check(network.centre, "anna", task=about, organization=HOSPITAL), 400, "invalid")
        assert_outcome(check(network.centre, "anna", readType="final"), 400, "invalid")
        assert_outcome(check(network.centre, str(uuid.uuid4()), organization=HOSPITAL), 404, "not-found")
        assert_outcome(check(network.centre, "anna", task={"reference": f"Task/{plain['id']}"}), 422, "business-rule")
        assert_outcome(check(network.office, "anna", task=about), 422, "not-found")  # not theirs to see
        assert_outcome(check(network.reader("anna"), "anna", organization=HOSPITAL), 403, "forbidden")
