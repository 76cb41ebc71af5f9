"""DiagnosticReport.status only moves forward (I4), and a late lower one never overwrites a higher one (I9): by any plain write.

https://hl7.org/fhir/R4/valueset-diagnostic-report-status.html
"""

from __future__ import annotations

import json

import pytest
from conftest import assert_outcome, patient
from unchanged import unchanged

from fhirserver.workflow import states


@pytest.fixture(scope="module")
def subject(network):
    return {"reference": f"Patient/{network.hospital.post('Patient', json=patient()).json()['id']}"}


STATUSES = [status for status in states.DIAGNOSTIC_REPORT if status]
FORWARD = {"Content-Type": "application/json-patch+json"}


def patched(status):
    return json.dumps([{"op": "replace", "path": "/status", "value": status}])


def test_no_plain_write_moves_the_status_of_a_report_made_here(network):
    """Of one that is open and of one that is signed: in no direction, by nobody."""
    _, _, final = network.signed()
    *_, registered, _ = network.reporting()
    clients = (network.centre, network.reader("anna"), network.hospital)
    with unchanged(network.server):
        for number, report in enumerate((registered, final)):
            rows = [report | {"status": new} for new in STATUSES if new != report["status"]]
            asked = {"method": "PUT", "url": f"DiagnosticReport/{report['id']}"}
            body = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": row, "request": asked} for row in rows]}
            for client in clients[number : number + 2]:
                answers = client.post("", json=body).json()["entry"]
                assert {entry["response"]["status"] for entry in answers} == {"409"}
                reply = client.patch(asked["url"], content=patched("amended"), headers=FORWARD)
                assert_outcome(reply, 409, "conflict")


@pytest.mark.parametrize("old", STATUSES)
def test_the_status_of_an_imported_report_moves_as_the_table_says(network, subject, old):
    """By PUT and by PATCH; a late lower status never overwrites a higher one."""
    body = {"resourceType": "DiagnosticReport", "code": {"text": "CT"}, "subject": subject}
    first = old if old in states.DIAGNOSTIC_REPORT[None] else "final"
    rows = [{"resource": body | {"status": first}, "request": {"method": "POST", "url": "DiagnosticReport"}} for _ in STATUSES]
    made = network.hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": rows}).json()["entry"]
    for new, entry in zip(STATUSES, made, strict=True):
        path = entry["response"]["location"].partition("/_history")[0].rpartition("/fhir/")[2]
        if first != old:
            assert network.hospital.put(path, json=body | {"id": path.partition("/")[2], "status": old}).status_code == 200
        allowed = new == old or new in states.DIAGNOSTIC_REPORT[old]
        reply = network.hospital.patch(path, content=patched(new), headers=FORWARD)
        if not allowed:
            assert_outcome(reply, 422, "business-rule", "DiagnosticReport.status")
            reply = network.hospital.put(path, json=body | {"id": path.partition("/")[2], "status": new})
            assert_outcome(reply, 422, "business-rule", "DiagnosticReport.status")
        assert network.hospital.get(path).json()["status"] == (new if allowed else old)
