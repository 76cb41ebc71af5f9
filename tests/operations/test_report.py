"""Task/[id]/$start-report and DiagnosticReport/[id]/$sign: the contract is enforced, everything closes at once."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import assert_outcome
from operations_conftest import answered, out, parameters


def template(**members):
    return {
        "resourceType": "Questionnaire",
        "url": "https://hospital.example/ct-head",
        "version": "1",
        "status": "active",
        "item": [
            {"linkId": "comparison", "text": "Comparison", "type": "text", "required": True},
            {"linkId": "findings", "text": "Findings", "type": "text", "required": True},
            {"linkId": "impression", "text": "Impression", "type": "text", "required": True},
        ],
    } | members


def sign(client, report, **inputs):
    return client.post(f"DiagnosticReport/{report['id']}/$sign", json=parameters(**({"attest": True} | inputs)))


def test_a_report_opens_registered_and_empty_with_a_draft_for_its_author_alone(network):
    _, _, attempt, report, draft = network.reporting()
    assert (report["status"], report.get("conclusion"), report.get("presentedForm")) == ("registered", None, None)
    assert network.hospital.get(f"DiagnosticReport/{report['id']}").json()["status"] == "registered"
    assert draft["status"] == "in-progress"
    assert [i["linkId"] for i in draft["item"]] == ["findings", "impression"]
    for nobody in (network.hospital, network.centre, network.reader("bela"), network.office):
        assert_outcome(nobody.get(f"QuestionnaireResponse/{draft['id']}"), 404, "not-found")
    again = out(network.reader("anna").post(f"Task/{attempt['id']}/$start-report"))
    assert again["report"]["id"] == report["id"]
    outputs = {o["type"]["coding"][0]["code"] for o in network.get(f"Task/{attempt['id']}")["output"]}
    assert outputs == {"report", "draft"}


def test_signing_closes_report_attempt_task_and_order_at_once(network):
    asked, t0, attempt, report, draft = network.reporting()
    anna = network.reader("anna")
    saved = anna.put(
        f"QuestionnaireResponse/{draft['id']}", json=answered(draft, findings="No bleeding.", impression="Normal <head> CT.")
    )
    assert saved.status_code == 200
    result = out(sign(anna, report))
    final = network.hospital.get(f"DiagnosticReport/{report['id']}").json()
    assert final == result["report"]
    assert (final["status"], final["conclusion"]) == ("final", "Normal <head> CT.")
    assert "Normal &lt;head&gt; CT." in base64.b64decode(final["presentedForm"][0]["data"]).decode()
    assert final["issued"]
    assert network.get(f"Task/{attempt['id']}")["status"] == "completed"
    done = network.hospital.get(f"Task/{t0['id']}").json()
    assert (done["status"], done["businessStatus"]["coding"][0]["code"]) == ("completed", "delivered")
    assert done["output"][0]["valueReference"] == {"reference": f"DiagnosticReport/{report['id']}"}
    assert network.hospital.get(f"ServiceRequest/{asked['id']}").json()["status"] == "completed"
    proof = network.hospital.get(f"Provenance?target=DiagnosticReport/{report['id']}&_count=1").json()["entry"][0]["resource"]
    assert proof["activity"]["coding"][0]["code"] == "sign"
    assert proof["agent"][0]["who"]["reference"] == "Practitioner/centre-anna"


def test_the_document_is_frozen_and_listed_for_exchanges(network):
    asked, _, _, report, draft = network.reporting()
    result = out(sign(network.reader("anna"), report, response=answered(draft, findings="f", impression="i")))
    document = network.hospital.get(f"Bundle/{result['document']['id']}").json()
    assert document["type"] == "document"
    kinds = [e["resource"]["resourceType"] for e in document["entry"]]
    assert kinds == [
        "Composition", "DiagnosticReport", "Patient", "ServiceRequest", "ImagingStudy", "PractitionerRole", "Organization", "Practitioner",
    ]  # fmt: skip
    composition = document["entry"][0]["resource"]
    assert composition["identifier"] == document["entry"][1]["resource"]["identifier"][0]
    assert document["identifier"]["value"] == composition["identifier"]["value"] + ".1"
    assert [s["title"] for s in composition["section"]] == ["findings", "impression"]
    listed = network.hospital.get(f"DocumentReference?subject={asked['subject']['reference']}&status=current").json()["entry"]
    assert [e["resource"]["content"][0]["attachment"]["url"] for e in listed] == [f"Bundle/{document['id']}"]
    assert network.office.get(f"DocumentReference?subject={asked['subject']['reference']}").json()["total"] == 0
    assert_outcome(network.office.get(f"Bundle/{document['id']}"), 404, "not-found")


def test_the_facilitys_template_is_enforced_item_by_item(network):
    assert network.hospital.post("Questionnaire", json=template()).status_code == 201
    asked = network.ordered()
    network.images(asked)
    body = parameters(destination="central")
    body["parameter"].append({"name": "reportTemplate", "valueCanonical": "https://hospital.example/ct-head|1"})
    t0 = network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=body).json()
    attempt = network.assigned(t0)
    anna = network.reader("anna")
    anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
    other = {"resourceType": "Parameters", "parameter": [{"name": "template", "valueCanonical": "https://elsewhere.example/x"}]}
    assert_outcome(anna.post(f"Task/{attempt['id']}/$start-report", json=other), 422, "business-rule")
    opened = out(anna.post(f"Task/{attempt['id']}/$start-report"))
    report, draft = opened["report"], opened["draft"]
    assert [i["linkId"] for i in draft["item"]] == ["comparison", "findings", "impression"]
    reply = sign(anna, report, response=answered(draft, findings="only findings"))
    issues = assert_outcome(reply, 422, "required")
    assert [i["expression"][0] for i in issues][:2] == [
        "QuestionnaireResponse.item.where(linkId='comparison')",
        "QuestionnaireResponse.item.where(linkId='impression')",
    ]
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "registered"
    assert sign(anna, report, response=answered(draft, comparison="none", findings="f", impression="i")).status_code == 200


def test_a_template_that_cannot_be_found_is_said_when_the_order_is_dispatched(network):
    asked = network.ordered()
    body = parameters(destination="central", expectImages=True)
    body["parameter"].append({"name": "reportTemplate", "valueCanonical": "https://hospital.example/none"})
    assert_outcome(network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=body), 422, "business-rule")


def test_only_the_reader_in_progress_opens_and_signs(network):
    _, t0 = network.dispatched()
    attempt = network.assigned(t0)
    anna = network.reader("anna")
    assert_outcome(anna.post(f"Task/{attempt['id']}/$start-report"), 409, "conflict")
    anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
    assert_outcome(network.reader("bela").post(f"Task/{attempt['id']}/$start-report"), 403, "forbidden")
    assert_outcome(network.centre.post(f"Task/{attempt['id']}/$start-report"), 403, "forbidden")
    assert_outcome(network.office.post(f"Task/{attempt['id']}/$start-report"), 404, "not-found")
    assert_outcome(anna.post(f"Task/{t0['id']}/$start-report"), 422, "business-rule")
    opened = out(anna.post(f"Task/{attempt['id']}/$start-report"))
    good = answered(opened["draft"], impression="i")
    assert_outcome(sign(network.reader("bela"), opened["report"], response=good), 403, "forbidden")
    assert_outcome(sign(network.hospital, opened["report"], response=good), 403, "forbidden")
    assert_outcome(sign(network.office, opened["report"], response=good), 404, "not-found")


@pytest.mark.parametrize(
    ("inputs", "headers", "status", "code"),
    [
        ({"attest": False}, {}, 422, "business-rule"),
        ({"alertCategory": "acr-1"}, {}, 422, "business-rule"),
        ({}, {}, 422, "required"),
        ({}, {"If-Match": 'W/"9"'}, 412, "conflict"),
    ],
)
def test_what_keeps_a_report_from_being_signed(network, inputs, headers, status, code):
    *_, report, _ = network.reporting()
    body = parameters(**({"attest": True} | inputs))
    assert_outcome(
        network.reader("anna").post(f"DiagnosticReport/{report['id']}/$sign", json=body, headers=headers), status, code
    )
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "registered"


def test_a_privilege_that_ended_meanwhile_forbids_signing(network):
    *_, report, draft = network.reporting("bela")
    role = network.get("PractitionerRole/centre-bela-hospital")
    ended = role | {"period": {"end": "2026-01-01"}}
    assert network.centre.put("PractitionerRole/centre-bela-hospital", json=ended).status_code == 200
    try:
        issues = assert_outcome(
            sign(network.reader("bela"), report, response=answered(draft, impression="i")), 403, "forbidden"
        )
        assert issues[0]["details"]["coding"][0]["code"] == "privilege-expired"
    finally:
        current = network.get("PractitionerRole/centre-bela-hospital")
        del current["period"]
        assert network.centre.put("PractitionerRole/centre-bela-hospital", json=current).status_code == 200


def test_signing_twice_at_once_signs_once(network):
    *_, report, draft = network.reporting()
    anna, body = network.reader("anna"), answered(draft, impression="i")
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(reply.status_code for reply in pool.map(lambda _: sign(anna, report, response=body), range(4)))
    assert statuses == [200, 409, 409, 409]
    assert network.get(f"DiagnosticReport/{report['id']}")["meta"]["versionId"] == "2"


def test_reports_of_the_network_change_through_operations_alone(network):
    *_, report, _ = network.reporting()
    for client in (network.centre, network.reader("anna")):
        reply = client.put(f"DiagnosticReport/{report['id']}", json=report | {"status": "final", "conclusion": "forged"})
        assert_outcome(reply, 409, "conflict")
    assert_outcome(network.centre.delete(f"DiagnosticReport/{report['id']}"), 409, "conflict")
    forged = {k: v for k, v in report.items() if k != "id"}
    assert_outcome(network.centre.post("DiagnosticReport", json=forged), 409, "conflict")


def test_imported_reports_are_created_as_they_are_and_only_move_forward(network):
    person = network.hospital.post("Patient", json={"resourceType": "Patient"}).json()
    body = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "CT"},
        "subject": {"reference": f"Patient/{person['id']}"},
    }
    made = network.hospital.post("DiagnosticReport", json=body).json()
    assert made["status"] == "final"
    late = network.hospital.put(f"DiagnosticReport/{made['id']}", json=made | {"status": "preliminary"})
    assert_outcome(late, 422, "business-rule", "DiagnosticReport.status")
    assert_outcome(sign(network.reader("anna"), made), 404, "not-found")
    assert network.hospital.put(f"DiagnosticReport/{made['id']}", json=made | {"status": "corrected"}).status_code == 200


def test_the_order_cannot_be_taken_back_into_the_past(network):
    """Revoking while it is read fails the attempt and cancels the open report; nobody signs it any more."""
    asked, t0, attempt, report, draft = network.reporting()
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"}).status_code == 200
    assert network.get(f"Task/{attempt['id']}")["status"] == "failed"
    assert network.get(f"Task/{t0['id']}")["status"] == "failed"
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "cancelled"
    assert_outcome(sign(network.reader("anna"), report, response=answered(draft, impression="i")), 409, "conflict")
