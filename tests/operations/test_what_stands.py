"""What stays so whatever is done beside it: alerts, preliminary reports, second readings, exclusive cover."""

from __future__ import annotations

import base64

import pytest
from conftest import assert_outcome
from operations_conftest import REASON, answered, out, parameters, reader_rows

ALERT = {"category": "acr-2", "finding": {"text": "Subdural haematoma"}}


@pytest.fixture(scope="module")
def alert(network):
    """(CommunicationRequest, Flag, acknowledge Task) of a finding that nobody has answered yet."""
    _, _, _, report, _ = network.reporting()
    told = out(network.reader("anna").post(f"DiagnosticReport/{report['id']}/$notify-critical", json=parameters(**ALERT)))
    flag = network.get(told["ack"]["output"][0]["valueReference"]["reference"])
    return told["request"], flag, told["ack"]


@pytest.mark.parametrize("who", ["centre", "hospital"])
@pytest.mark.parametrize(("number", "status"), [(0, "completed"), (0, "revoked"), (1, "inactive"), (1, "entered-in-error")])
def test_no_plain_write_ends_an_alert(network, alert, who, number, status):
    found, client = alert[number], getattr(network, who)
    path = f"{found['resourceType']}/{found['id']}"
    change = [{"op": "replace", "path": "/status", "value": status}]
    patched = client.patch(path, json=change, headers={"Content-Type": "application/json-patch+json"})
    for reply in (client.put(path, json=found | {"status": status}), patched, client.delete(path)):
        assert_outcome(
            reply, *((409, "conflict") if who == "centre" else (reply.status_code, reply.json()["issue"][0]["code"]))
        )
        assert reply.status_code in (403, 409)
    assert network.get(path) == found
    assert network.get(f"Task/{alert[2]['id']}")["status"] == "requested"


def test_an_alert_is_made_by_its_operation_alone(network, alert):
    request = {name: value for name, value in alert[0].items() if name not in ("id", "meta")}
    assert_outcome(network.centre.post("CommunicationRequest", json=request), 409, "conflict")
    flag = {name: value for name, value in alert[1].items() if name not in ("id", "meta")}
    assert_outcome(network.centre.post("Flag", json=flag), 409, "conflict")
    other = {name: value for name, value in flag.items() if name != "identifier"}
    made = network.centre.post("Flag", json=other)
    assert made.status_code == 201  # a cue that is no alert's
    assert network.centre.put(f"Flag/{made.json()['id']}", json=made.json() | {"status": "inactive"}).status_code == 200


def test_a_preliminary_report_stays_one_while_it_is_read_finally(network):
    """It is not dropped with its order, nor passed on, nor is its final reading a preliminary reader's when it is given back."""
    asked = network.ordered()
    network.images(asked)
    t0 = network.dispatch(asked, readType="preliminary")
    attempt = network.pool(t0)
    fred, anna = network.reader("fred"), network.reader("anna")
    assert fred.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(fred.post(f"Task/{attempt['id']}/$start-report"))
    said = parameters(response=answered(opened["draft"], findings="f", impression="i"))
    assert fred.post(f"DiagnosticReport/{opened['report']['id']}/$publish-preliminary", json=said).status_code == 200
    [final] = [task for task in network.attempts(t0) if task["status"] == "requested"]
    assert anna.post(f"Task/{final['id']}/$claim", json=parameters(start=True)).json()["status"] == "in-progress"
    now = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    revoked = network.hospital.put(f"ServiceRequest/{asked['id']}", json=now | {"status": "revoked"})
    assert_outcome(revoked, 409, "conflict")
    network.centre.post(f"Task/{final['id']}/$release", json=parameters(reason=REASON))
    passed = parameters(organization={"reference": "Organization/office"}, reason=REASON)
    assert_outcome(network.centre.post(f"Task/{t0['id']}/$forward", json=passed), 409, "conflict")
    [again] = [task for task in network.attempts(t0) if task["status"] == "requested"]
    assert anna.post(f"Task/{again['id']}/$claim", json=parameters(start=True)).status_code == 200
    fresh = anna.post(f"Task/{again['id']}/$release", json=parameters(reason=REASON)).json()
    assert network.get(f"Task/{t0['id']}")["businessStatus"]["coding"][0]["code"] == "preliminary-outcome"
    assert_outcome(fred.post(f"Task/{fresh['id']}/$claim", json=parameters(start=True)), 403, "forbidden")
    assert network.get(f"Task/{fresh['id']}")["status"] == "requested"


def test_what_is_passed_on_is_not_read_here_and_comes_back_whole(network, as_):
    """A double reading that is forwarded has no attempt left here; declined there, both are here again."""
    branch = as_("branch")
    body = {"resourceType": "Organization", "id": "branch", "name": "Branch"}
    assert branch.put("Organization/branch", json=body).status_code == 201
    affiliation = {
        "resourceType": "OrganizationAffiliation", "id": "centre-branch", "active": True,
        "organization": {"reference": "Organization/centre"}, "participatingOrganization": {"reference": "Organization/branch"},
    }  # fmt: skip
    network.centre.put("OrganizationAffiliation/centre-branch", json=affiliation)
    _library(network, "urn:fhirserver:agreement", "hospital", b'{"subcontracting":true}')
    asked = network.ordered()
    network.images(asked)
    t0 = network.dispatch(asked, readType="double")
    network.centre.put(f"Task/{t0['id']}", json=network.get(f"Task/{t0['id']}") | {"status": "accepted"})
    assert len(network.attempts(t0)) == 2
    passed = parameters(organization={"reference": "Organization/branch"}, reason=REASON)
    child = network.centre.post(f"Task/{t0['id']}/$forward", json=passed).json()
    here = [t for t in network.attempts(t0) if t["id"] != child["id"]]
    assert {t["status"] for t in here} == {"cancelled"}
    second = parameters(kind="independent")
    assert_outcome(network.centre.post(f"Task/{t0['id']}/$request-second-read", json=second), 409, "conflict")
    declined = branch.post(f"Task/{child['id']}/$respond", json=parameters(response="decline", reason=REASON))
    assert declined.status_code == 200, declined.text
    opened = [t for t in network.attempts(t0) if t["status"] == "requested"]
    assert {t["code"]["coding"][-1]["code"] for t in opened} == {"read", "second-read"}
    assert network.get(f"Task/{t0['id']}")["businessStatus"]["coding"][0]["code"] == "ready-for-assignment"


def test_exclusive_cover_counts_what_is_open_at_another_facility(network):
    """A rule pack's: who reads stat for one facility is not assigned a stat reading of another."""
    _library(network, "urn:fhirserver:assignment-policy", "centre", b'{"url":"urn:x:policy","version":"1","packs":["PL"]}')
    role = reader_rows("emil")[1]
    assert network.centre.put(f"PractitionerRole/{role['id']}", json=role).status_code == 201
    _, first = network.dispatched(priority="stat")
    assert network.assigned(first, "emil")["owner"]["reference"] == "PractitionerRole/centre-emil-hospital"
    number = first["id"][:10]
    person = network.office.post("Patient", json={"resourceType": "Patient", "name": [{"family": "Lis"}]}).json()
    asked = network.office.post("ServiceRequest", json={
        "resourceType": "ServiceRequest", "status": "active", "intent": "order", "priority": "stat",
        "subject": {"reference": f"Patient/{person['id']}"}, "reasonCode": [{"text": "bleeding?"}],
        "identifier": [{"system": "urn:acsn", "value": number}],
    }).json()  # fmt: skip
    study = {
        "resourceType": "ImagingStudy", "status": "available", "subject": {"reference": f"Patient/{person['id']}"},
        "basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}],
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:2.25.7"}],
        "modality": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}],
    }  # fmt: skip
    assert network.office.post("ImagingStudy", json=study).status_code == 201
    second = network.office.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(destination="central")).json()
    inputs = parameters(mode="manual", owner={"reference": "PractitionerRole/centre-emil-office"})
    refused = network.centre.post(f"Task/{second['id']}/$assign", json=inputs)
    [issue] = assert_outcome(refused, 422, "business-rule")
    assert issue["details"]["coding"][0]["code"] == "exclusive-cover"
    assert network.get(f"Task/{second['id']}")["status"] == "requested"


def _library(network, system, value, content):
    library = {
        "resourceType": "Library", "status": "active", "type": {"text": "rules"}, "identifier": [{"system": system, "value": value}],
        "content": [{"contentType": "application/json", "data": base64.b64encode(content).decode()}],
    }  # fmt: skip
    made = network.centre.post("Library", json=library)
    assert made.status_code == 201, made.text


@pytest.mark.parametrize(
    ("path", "inputs"),
    [("$notify-critical", ALERT), ("$retract", {"reason": REASON, "second": {"reference": "Practitioner/centre-bela"}})],
)
def test_an_imported_report_is_no_reading_of_the_network(network, path, inputs):
    subject = network.centre.post("Patient", json={"resourceType": "Patient", "name": [{"family": "Lis"}]}).json()["id"]
    body = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "code": {"text": "CT"},
        "subject": {"reference": f"Patient/{subject}"},
    }
    report = network.centre.post("DiagnosticReport", json=body).json()
    who = network.as_("centre", scope="user/*.cruds", user="dana", roles=("reader", "dispatcher"), practitioner="centre-dora")
    assert_outcome(who.post(f"DiagnosticReport/{report['id']}/{path}", json=parameters(**inputs)), 409, "conflict")
    assert network.get(f"DiagnosticReport/{report['id']}") == report
