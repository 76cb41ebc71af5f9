"""https://hl7.org/fhir/R4/validation.html: every problem, each with its FHIRPath."""

from __future__ import annotations

from decimal import Decimal

import pytest
from conftest import assert_outcome, order, patient

from fhirserver.errors import FHIRError
from fhirserver.primitives import CHECKS, is_xhtml
from fhirserver.validation import dumps, loads, parse

GOOD = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": {"reference": "Patient/1"}}


@pytest.mark.parametrize(
    ("change", "code", "expression"),
    [
        ({"status": None}, "value", "ServiceRequest.status"),
        ({"status": "bogus"}, "code-invalid", "ServiceRequest.status"),
        ({"priority": "cito"}, "code-invalid", "ServiceRequest.priority"),
        ({"authoredOn": "2026-02-30"}, "value", "ServiceRequest.authoredOn"),
        ({"authoredOn": "2026-11-24T10:00:00"}, "value", "ServiceRequest.authoredOn"),
        ({"colour": "red"}, "structure", "ServiceRequest.colour"),
        ({"subject": {"reference": "Practitioner/1"}}, "structure", "ServiceRequest.subject.reference"),
        ({"subject": {}}, "structure", "ServiceRequest.subject"),
        ({"code": {"coding": {"code": "x"}}}, "structure", "ServiceRequest.code.coding"),
        ({"identifier": []}, "structure", "ServiceRequest.identifier"),
        ({"note": [{"text": "a"}, {"time": "2026"}]}, "required", "ServiceRequest.note[1].text"),
        ({"occurrenceDateTime": "2026", "occurrencePeriod": {"start": "2026"}}, "structure", "ServiceRequest.occurrence"),
        ({"asNeededBoolean": "true"}, "value", "ServiceRequest.asNeeded"),
        ({"text": {"status": "generated", "div": "<div><script>x</script></div>"}}, "value", "ServiceRequest.text.div"),
        ({"supportingInfo": [{"reference": "#nobody"}]}, "not-found", "ServiceRequest.supportingInfo[0].reference"),
        ({"contained": [{"resourceType": "Patient"}]}, "required", "ServiceRequest.contained[0].id"),
        ({"contained": [{"resourceType": "Nothing", "id": "a"}]}, "structure", "ServiceRequest.contained[0]"),
        ({"extension": [{"valueString": "x"}]}, "required", "ServiceRequest.extension[0].url"),
        ({"extension": [{"url": "urn:x"}]}, "invariant", "ServiceRequest.extension[0]"),
        ({"_status": {"unknown": 1}}, "structure", "ServiceRequest.status.unknown"),
        ({"quantityQuantity": {"value": "1"}}, "value", "ServiceRequest.quantity.value"),
        ({"meta": {"tag": [{"code": " "}]}}, "value", "ServiceRequest.meta.tag[0].code"),
    ],
)
def test_a_problem_is_told_with_its_place(change, code, expression):
    with pytest.raises(FHIRError) as caught:
        parse(dumps(GOOD | change).encode(), "ServiceRequest")
    assert (code, expression) in [(i.code, i.expression) for i in caught.value.issues]


def test_all_problems_are_told_at_once_and_nothing_is_written(hospital):
    bad = GOOD | {"status": "bogus", "priority": "cito", "authoredOn": "2026-02-30", "colour": 1}
    del bad["intent"]
    issues = assert_outcome(hospital.post("ServiceRequest", json=bad), 422, "code-invalid")
    assert len(issues) == 5
    assert hospital.get("ServiceRequest?_summary=count").json()["total"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"Patient"',
        b'{"resourceType":"Patient","active":NaN}',
        b'{"resourceType":"Patient","active":true,"active":false}',
        b'{"resourceType":"Patient","birthDate":"\xff"}',
        b'{"resourceType":"Patient","x":' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_not_json_answers_400(hospital, body):
    assert_outcome(hospital.post("Patient", content=body, headers={"Content-Type": "application/json"}), 400, "structure")


def test_the_wrong_resource_type_answers_400(hospital):
    assert_outcome(hospital.post("Patient", json=GOOD), 400, "invalid")
    assert_outcome(hospital.post("Patient", json={"resourceType": "Nothing"}), 400, "invalid", "resourceType")


def test_a_resource_over_8_megabytes_answers_413(hospital):
    assert_outcome(hospital.post("Patient", json=patient(name=[{"text": "x" * 9_000_000}])), 413, "too-long")


def test_no_patient_data_in_error_texts(hospital):
    bad = patient(birthDate="Kowalska-1970", name=[{"family": ["Kowalska"]}], Kowalska="Kowalska Anna")
    reply = hospital.post("Patient", json=bad)
    assert reply.status_code == 422
    assert "Anna" not in reply.text
    assert "1970" not in reply.text


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        ("date", ["2026", "2026-02", "2024-02-29"], ["26", "2026-2", "2026-13", "2023-02-29", "0000", 2026]),
        ("dateTime", ["2026-11-24T10:00:00Z", "2026-11-24T10:00:00.123+01:00"], ["2026-11-24T10:00", "2026-11-24T25:00:00Z"]),
        ("instant", ["2026-11-24T10:00:00.1Z"], ["2026-11-24"]),
        ("boolean", [True, False], ["true", 1]),
        ("positiveInt", [1], [0, -1, "1", True, 2**31]),
        ("decimal", [1, Decimal("1.00")], ["1", True]),
        ("id", ["a.B-9"], ["", "a b", "x" * 65, "a/b"]),
        ("code", ["a b"], [" a", "a  b", ""]),
        ("string", ["a\nb"], ["", "   ", "a\x00", "\ud800"]),
        ("base64Binary", ["QQ=="], ["Q", "===="]),
        ("oid", ["urn:oid:1.2.3"], ["1.2.3"]),
        ("time", ["10:00:00"], ["10:00", "24:00:00"]),
    ],
)
def test_primitives_are_what_the_standard_says(type_, good, bad):
    assert all(CHECKS[type_](value) for value in good)
    assert not any(CHECKS[type_](value) for value in bad)


@pytest.mark.parametrize(
    ("div", "safe"),
    [
        ('<div xmlns="http://www.w3.org/1999/xhtml"><p>a&nbsp;b</p></div>', True),
        ("<div><p onclick='x'>a</p></div>", False),
        ("<div><a href=' java\nscript:x'>a</a></div>", False),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><div>&a;</div>", False),
        ("<div><iframe/></div>", False),
        ("<div>", False),
        ("<p>a</p>", False),
    ],
)
def test_a_narrative_runs_nothing(div, safe):
    assert is_xhtml(div) is safe


def test_decimals_keep_their_digits():
    assert dumps(loads('{"a":1.00,"b":0.010,"c":12345678901234567890.5}')) == '{"a":1.00,"b":0.010,"c":12345678901234567890.5}'


def test_references_to_nothing_are_refused_by_place(hospital):
    reply = hospital.post("ServiceRequest", json=order("Patient/nobody"))
    assert_outcome(reply, 422, "not-found", "ServiceRequest.subject.reference")
