"""How orders come in: $dispatch and $register, and the same said in plain FHIR by systems that know no operation."""

from __future__ import annotations

import uuid

import pytest
from conftest import assert_outcome, order, patient
from operations_conftest import REASON, answered, out, parameters
from unchanged import unchanged
from valid_calls import agreed, centre_named

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


# ---------------------------------------------------------------- $dispatch


def test_the_order_becomes_active_with_its_categories_and_an_accession_number(network):
    person = network.hospital.post("Patient", json=patient()).json()
    bare = order(f"Patient/{person['id']}", status="on-hold", note=[{"text": "fall"}])
    asked = network.hospital.post("ServiceRequest", json=bare).json()
    dispatch(network.hospital, asked)
    now = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert now["status"] == "active"
    assert {c["code"] for concept in now["category"] for c in concept["coding"]} == {"363679005", "RemoteReporting"}
    [number] = now["identifier"]
    assert number["type"]["coding"][0]["code"] == "ACSN"
    assert 1 <= len(number["value"]) <= 16, "as long as DICOM's SH"


def test_what_is_asked_of_the_reader_stands_on_the_task(network):
    asked = network.ordered(bodySite=[{"coding": [{"system": "http://snomed.info/sct", "code": "69536005"}]}])
    inputs = {"readType": "preliminary", "reportLanguage": "pl", "due": "2026-12-01T10:00:00Z"}
    t0 = dispatch(network.hospital, asked, **inputs, reportTemplate=["urn:fhirserver:Questionnaire:head-ct"]).json()
    assert told(t0, "read-type") == ["preliminary"]
    assert told(t0, "report-language") == ["pl"]
    assert told(t0, "report-template") == ["urn:fhirserver:Questionnaire:head-ct"]
    assert told(t0, "facility") == [{"reference": "Organization/hospital"}]
    assert told(t0, "region") == ["69536005"]
    assert t0["restriction"]["period"]["end"] == inputs["due"]
    assert t0["for"] == asked["subject"]


def test_on_site_the_facility_reads_it_itself_and_nothing_is_shared(network):
    asked = network.ordered()
    t0 = dispatch(network.hospital, asked, destination="on-site").json()
    assert t0["owner"] == t0["requester"] == {"reference": "Organization/hospital"}
    for path in (f"Task/{t0['id']}", f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]):
        assert_outcome(network.centre.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("members", "inputs", "status", "code"),
    [
        ({}, {"readType": "twice"}, 422, "business-rule"),
        ({}, {"reportTemplate": ["urn:nothing"]}, 422, "business-rule"),
        ({}, {"destination": "organization", "target": {"reference": "Organization/office"}}, 422, "business-rule"),
        ({}, {"destination": "practitioner", "target": {"reference": "Organization/centre"}}, 422, "business-rule"),
        ({}, {"destination": "practitioner"}, 422, "business-rule"),
        ({}, {"expectImages": False}, 422, "business-rule"),
        ({"reasonCode": []}, {}, 422, "business-rule"),
        ({"subject": {"display": "Jan"}}, {}, 422, "business-rule"),
        ({"status": "completed"}, {}, 409, "conflict"),
        ({"status": "revoked"}, {}, 409, "conflict"),
    ],
)
def test_each_refusal_leaves_the_order_undispatched(network, members, inputs, status, code):
    body = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "reasonCode": [REASON]}
    person = network.hospital.post("Patient", json=patient()).json()
    body |= {"subject": {"reference": f"Patient/{person['id']}"}} | members
    asked = network.hospital.post("ServiceRequest", json={name: value for name, value in body.items() if value}).json()
    with unchanged(network.server):
        assert_outcome(dispatch(network.hospital, asked, **inputs), status, code)


@pytest.mark.parametrize("priority", ["stat", "asap"])
def test_what_cannot_wait_needs_a_telephone_at_which_somebody_answers(network, priority):
    """A finding that cannot wait is told by telephone."""
    silent = centre_named(network, "silent")
    person = silent.post("Patient", json=patient()).json()
    asked = silent.post("ServiceRequest", json=order(f"Patient/{person['id']}", priority=priority, reasonCode=[REASON])).json()
    with unchanged(network.server):
        assert_outcome(dispatch(silent, asked), 422, "business-rule", "ServiceRequest.requester")
    doctor = {"resourceType": "Practitioner", "id": "d", "name": [{"family": "Lis"}]}
    doctor["telecom"] = [{"system": "phone", "value": "+48 600 100 200"}]
    called = silent.put(
        f"ServiceRequest/{asked['id']}", json=asked | {"contained": [doctor], "requester": {"reference": "#d"}}
    ).json()
    assert dispatch(silent, called).status_code == 200


def test_a_staffed_number_in_the_agreement_is_enough(network):
    quiet = centre_named(network, "quiet")
    agreed(network, quiet, "quiet", dutyPhone="+48 22 555 00 00")
    person = quiet.post("Patient", json=patient()).json()
    asked = quiet.post("ServiceRequest", json=order(f"Patient/{person['id']}", priority="stat", reasonCode=[REASON])).json()
    assert dispatch(quiet, asked).status_code == 200


def test_a_facilitys_own_words_and_codes_are_understood(network):
    """EHRs send orders with little coding: the agreement says what their words mean."""
    clinic = centre_named(network, "clinic", telecom=[{"system": "phone", "value": "1"}])
    agreed(
        network, clinic, "clinic", urgencies={"cito": "stat"}, defaults={"priority": "urgent", "language": "pl"},
        codes={"TKG": {"modality": "CT", "region": "head", "template": "urn:fhirserver:Questionnaire:head-ct"}},
    )  # fmt: skip
    person = clinic.post("Patient", json=patient()).json()
    plain = order(
        f"Patient/{person['id']}", note=[{"text": "fall"}], code={"coding": [{"system": "urn:clinic", "code": "TKG"}]}
    )
    for words, priority in (([{"text": "CITO"}], "stat"), ([], "urgent")):
        body = plain | ({"orderDetail": words} if words else {})
        asked = clinic.post("ServiceRequest", json=body).json()
        t0 = dispatch(clinic, asked).json()
        assert t0["priority"] == clinic.get(f"ServiceRequest/{asked['id']}").json()["priority"] == priority
        assert told(t0, "modality") == ["CT"]
        assert told(t0, "region") == ["head"]
        assert told(t0, "report-template") == ["urn:fhirserver:Questionnaire:head-ct"]
        assert told(t0, "report-language") == ["pl"]


# ---------------------------------------------------------------- said in plain FHIR


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


# ---------------------------------------------------------------- $register


def register(client, **inputs):
    return client.post("ImagingStudy/$register", json=parameters(**inputs))


def uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def about(asked) -> dict:
    return {"reference": f"ServiceRequest/{asked['id']}"}


def study(asked, number=None, **members) -> dict:
    return {
        "resourceType": "ImagingStudy",
        "status": "registered",
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{number or uid()}"}],
        "subject": asked["subject"],
    } | members


def test_a_registered_study_is_matched_and_when_it_is_complete_the_clock_starts(network):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    number = uid()
    accession = {"type": {"coding": [{"code": "ACSN"}]}, "value": asked["identifier"][0]["value"]}
    sent = study(asked, number, modality=[{"code": "CT"}])
    sent["identifier"].append(accession)
    first = register(network.hospital, study=sent)
    assert {p["name"]: p["resource"]["id"] for p in first.json()["parameter"]}["order"] == asked["id"]
    assert business(network.get(f"Task/{t0['id']}")) == "awaiting-images"
    endpoint = {"reference": "Endpoint/centre-dicomweb"}
    done = out(register(network.hospital, studyInstanceUid=number, complete=True, endpoint=endpoint))["study"]
    assert (done["id"], done["status"], done["endpoint"]) == (
        first.json()["parameter"][0]["resource"]["id"],
        "available",
        [endpoint],
    )
    now = network.get(f"Task/{t0['id']}")
    assert (business(now), told(now, "modality")) == ("ready-for-assignment", ["CT"])
    assert now["restriction"]["period"]["end"]
    assert network.centre.get(f"ImagingStudy/{done['id']}").status_code == 200
    again = out(register(network.hospital, studyInstanceUid=f"urn:oid:{number}", endpoint=endpoint))["study"]
    assert again == done, "said again it is the same, and stays complete"


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [
        ({}, 400, "invalid"),
        ({"studyInstanceUid": "1.2", "study": {}}, 400, "invalid"),
        ({"studyInstanceUid": "no uid"}, 400, "invalid"),
        ({"studyInstanceUid": "1.02.3"}, 400, "invalid"),
        ({"studyInstanceUid": "1." + "2" * 64}, 400, "invalid"),
        ({"studyInstanceUid": "2.25.7"}, 422, "business-rule"),
    ],
)
def test_what_is_wrong_with_a_registration_is_said(network, inputs, status, code):
    sent = {name: value if value else study(network.ordered()) for name, value in inputs.items()}
    with unchanged(network.server):
        assert_outcome(register(network.hospital, **sent), status, code)


def test_a_study_is_of_one_patient(network):
    asked, other, number = network.ordered(), network.ordered(), uid()
    out(register(network.hospital, studyInstanceUid=number, order=about(asked)))
    with unchanged(network.server):
        assert_outcome(register(network.hospital, study=study(other, number)), 409, "conflict")
        assert_outcome(register(network.hospital, study=study(other), order=about(asked)), 422, "business-rule")
        taken = study(other)
        taken["identifier"].append({"type": {"coding": [{"code": "ACSN"}]}, "value": asked["identifier"][0]["value"]})
        assert_outcome(register(network.hospital, study=taken), 422, "business-rule")


def test_a_registration_tells_nothing_of_another_facility_and_links_nothing_there(network):
    asked = network.ordered()
    own = network.office.post("Patient", json=patient()).json()
    with unchanged(network.server):
        for members in ({"basedOn": [about(asked)]}, {"subject": asked["subject"]}):
            sent = study({"subject": {"reference": f"Patient/{own['id']}"}}) | members
            reply = register(network.office, study=sent)
            assert_outcome(reply, 422, "not-found")
            assert asked["identifier"][0]["value"] not in reply.text
        assert_outcome(register(network.office, studyInstanceUid=uid(), order=about(asked)), 422, "not-found")
        assert_outcome(register(network.reader("anna"), studyInstanceUid=uid()), 403, "forbidden")
