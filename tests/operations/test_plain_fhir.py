"""The acts of the network said in plain FHIR, by systems that know no operation: POST, PUT and PATCH of Task and order."""

from __future__ import annotations

import uuid

import pytest
from conftest import assert_outcome
from operations_conftest import REASON, answered, parameters
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


def posted(network, asked, **members):
    body = {"resourceType": "Task", "status": "requested", "intent": "order", "code": FULFILL}
    body |= {"focus": {"reference": f"ServiceRequest/{asked['id']}"}, "owner": {"reference": "Organization/centre"}}
    return network.hospital.post("Task", json=body | members)


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"owner": {"reference": "Organization/office"}}, 422, "business-rule"),
        ({"owner": {"display": "the centre"}}, 422, "business-rule"),
        ({"focus": {"reference": f"ServiceRequest/{uuid.uuid4()}"}}, 422, "not-found"),
        ({"input": [{"type": {"coding": [{"system": TASK_TYPE, "code": "report-template"}]}, "valueCanonical": "urn:no"}]}, 422, "business-rule"),
        ({"status": "done"}, 422, "code-invalid"),
    ],
)  # fmt: skip
def test_a_posted_task_is_refused_as_its_operation_is(network, members, status, code):
    asked = network.ordered()
    with unchanged(network.server):
        assert_outcome(posted(network, asked, **members), status, code)


def test_what_a_posted_task_says_of_the_servers_own_is_not_believed(network):
    """I8: clocks are ours, whatever a client's clock says; and nobody reads it before it was given to them."""
    asked = network.ordered()
    forged = [
        {"type": {"coding": [{"system": TASK_TYPE, "code": kind}]}, name: value}
        for kind, name, value in (
            ("clock-start", "valueDateTime", "1999-01-01T00:00:00Z"),
            ("paused-since", "valueDateTime", "1999-01-01T00:00:00Z"),
            ("escalated", "valueInteger", 99),
            ("facility", "valueReference", {"reference": "Organization/office"}),
            ("modality", "valueCode", "XX"),
        )
    ]
    t0 = posted(
        network, asked, input=forged, authoredOn="1999-01-01", lastModified="2099-01-01", requester={"reference": "Organization/office"},
        executionPeriod={"start": "1999-01-01"}, businessStatus={"text": "delivered"}, priority="stat",
    ).json()  # fmt: skip
    assert t0["authoredOn"][:10] == t0["lastModified"][:10] == "2026-11-24"
    assert "executionPeriod" not in t0
    assert business(t0) == "awaiting-images"
    assert t0["requester"] == {"reference": "Organization/hospital"}
    assert t0["priority"] == "urgent", "the order's"
    assert told(t0, "facility") == [{"reference": "Organization/hospital"}]
    assert not [
        i for i in t0["input"] if i["type"]["coding"][0]["code"] in ("clock-start", "paused-since", "escalated", "modality")
    ]


def patched(client, path, **values):
    steps = [{"op": "add", "path": f"/{name}", "value": value} for name, value in values.items()]
    return client.patch(path, json=steps, headers={"Content-Type": "application/json-patch+json"})


def test_a_patch_of_the_status_runs_the_same_table(network):
    _, t0 = network.dispatched()
    taken = patched(network.centre, f"Task/{t0['id']}", status="accepted")
    assert taken.status_code == 200, taken.text
    [attempt] = network.attempts(t0)
    anna, path = network.reader("anna"), f"Task/{attempt['id']}"
    with unchanged(network.server):
        for status in ("completed", "failed", "draft", "entered-in-error", "on-hold"):
            assert_outcome(patched(anna, path, status=status), 422, "business-rule")
        assert_outcome(patched(anna, path, owner={"reference": "Practitioner/centre-bela"}), 422, "business-rule")
        assert_outcome(patched(network.reader("carl"), path, status="accepted"), 403, "forbidden")
        assert_outcome(patched(network.office, path, status="accepted"), 404, "not-found")
    assert patched(anna, path, status="accepted").json()["owner"] == {"reference": "PractitionerRole/centre-anna-hospital"}
    assert patched(anna, path, status="in-progress").json()["executionPeriod"]["start"][:10] == "2026-11-24"
    assert business(network.get(f"Task/{t0['id']}")) == "reading"
    fhirpath = row_of_patch("Task.status", "failed")
    assert_outcome(anna.patch(path, json=fhirpath), 422, "business-rule", "Task.statusReason")
    given = patched(anna, path, status="failed", statusReason=REASON)
    assert given.status_code == 200, given.text
    assert sorted(a["status"] for a in network.attempts(t0)) == ["failed", "requested"]


def row_of_patch(path, value):
    parts = [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": path},
        {"name": "value", "valueCode": value},
    ]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}


def test_a_plain_write_of_a_stale_version_answers_412(network):
    asked, t0 = network.dispatched()
    stale = {"If-Match": 'W/"99"'}
    order_ = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    with unchanged(network.server):
        taken = network.centre.put(f"Task/{t0['id']}", json=t0 | {"status": "accepted"}, headers=stale)
        assert_outcome(taken, 412, "conflict")
        steps = [{"op": "replace", "path": "/status", "value": "accepted"}]
        kind = {"Content-Type": "application/json-patch+json"}
        assert_outcome(network.centre.patch(f"Task/{t0['id']}", json=steps, headers=stale | kind), 412, "conflict")
        raised = network.hospital.put(f"ServiceRequest/{asked['id']}", json=order_ | {"priority": "stat"}, headers=stale)
        assert_outcome(raised, 412, "conflict")


def test_in_a_transaction_the_same_acts_are_done_or_none_is(network):
    (_, one), (_, other) = network.dispatched(), network.dispatched()

    def sent(**statuses: str):
        rows = [(one, statuses["one"]), (other, statuses["other"])]
        entries = [
            {"resource": t0 | {"status": to}, "request": {"method": "PUT", "url": f"Task/{t0['id']}"}} for t0, to in rows
        ]
        return network.centre.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})

    with unchanged(network.server):
        assert_outcome(sent(one="accepted", other="completed"), 422, "business-rule")
        assert_outcome(sent(one="accepted", other="rejected"), 422, "business-rule")  # without a reason
    assert sent(one="accepted", other="accepted").status_code == 200
    assert [len(network.attempts(t0)) for t0 in (one, other)] == [1, 1]


# ---------------------------------------------------------------- row 12a: what the placer does to an order that is worked on


def changed(network, asked, **members):
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    return network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | members)


def heard(network, t0) -> list[str]:
    found = network.centre.get("Communication?category=order-changed&_count=100").json().get("entry", [])
    about = {"reference": f"Task/{t0['id']}"}
    return [e["resource"]["payload"][0]["contentString"] for e in found if about in e["resource"]["about"]]


def test_a_new_clinical_question_is_told_to_the_reader_by_element_and_not_by_content(network):
    asked, t0, attempt = network.started()
    assert changed(network, asked, reasonCode=[{"text": "allergic to contrast"}]).status_code == 200
    [text] = heard(network, t0)
    assert "reasonCode" in text
    assert "allergic" not in text
    assert network.get(f"Task/{attempt['id']}")["status"] == "in-progress"


def test_an_order_put_on_hold_is_told_and_comes_back(network):
    asked, t0, _, report, draft = network.reporting()
    anna = network.reader("anna")
    assert changed(network, asked, status="on-hold").status_code == 200
    assert len(heard(network, t0)) == 1
    sign = parameters(attest=True, response=answered(draft, findings="f", impression="i"))
    with unchanged(network.server):
        assert_outcome(anna.post(f"DiagnosticReport/{report['id']}/$sign", json=sign), 409, "conflict")
    assert changed(network, asked, status="active").status_code == 200
    assert len(heard(network, t0)) == 2


@pytest.mark.parametrize("status", ["revoked", "entered-in-error"])
def test_an_order_taken_back_while_it_is_read_ends_the_reading_and_what_it_gave(network, status):
    asked, t0, attempt, report, draft = network.reporting()
    assert changed(network, asked, status=status).status_code == 200
    done = network.get(f"Task/{attempt['id']}")
    assert (done["status"], done["statusReason"]["coding"][0]["code"]) == ("failed", "cancelled-by-placer")
    assert network.get(f"Task/{t0['id']}")["status"] == "failed"
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "cancelled"
    assert network.reader("anna").get(f"QuestionnaireResponse/{draft['id']}").json()["status"] == "stopped"
    assert_outcome(network.centre.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
    assert_outcome(network.centre.get(asked["subject"]["reference"]), 404, "not-found")


def test_once_a_preliminary_report_is_out_an_order_is_not_taken_back_silently(network):
    asked, _, _, report, draft = network.reporting()
    inputs = parameters(response=answered(draft, findings="f", impression="i"))
    anna = network.reader("anna")
    assert anna.post(f"DiagnosticReport/{report['id']}/$publish-preliminary", json=inputs).status_code == 200
    with unchanged(network.server):
        assert_outcome(changed(network, asked, status="revoked"), 409, "conflict")


def test_a_stale_active_never_opens_a_completed_order_again(network):
    asked, _, _, report, draft = network.reporting()
    stale = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    sign = parameters(attest=True, response=answered(draft, findings="f", impression="i"))
    assert network.reader("anna").post(f"DiagnosticReport/{report['id']}/$sign", json=sign).status_code == 200
    with unchanged(network.server):
        again = network.hospital.put(f"ServiceRequest/{asked['id']}", json=stale)
        assert_outcome(again, 422, "business-rule", "ServiceRequest.status")
        assert_outcome(network.hospital.delete(f"ServiceRequest/{asked['id']}"), 409, "conflict")
        assert_outcome(dispatch(network.hospital, asked), 409, "conflict")
