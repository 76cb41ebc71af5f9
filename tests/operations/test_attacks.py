"""Ways in which a report, a right or a reader could go wrong: each was tried once, and is now shut."""

from __future__ import annotations

import io
import uuid

import pydicom
import pytest
from conftest import BASE, assert_outcome, order, patient
from operations_conftest import answered, out, parameters, reader_rows
from pydicom.data import get_testdata_file
from starlette.testclient import TestClient

TASK_TYPE = "urn:fhirserver:CodeSystem:task-type"
FULFILL = {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]}


def kind(code: str) -> dict:
    return {"coding": [{"system": TASK_TYPE, "code": code}]}


def sign(client, report, **inputs):
    return client.post(f"DiagnosticReport/{report['id']}/$sign", json=parameters(**({"attest": True} | inputs)))


# ---------------------------------------------------------------- forged work


@pytest.mark.parametrize("code", ["coordinate", "read", "second-read", "arbitration", "reconcile"])
def test_a_network_task_is_not_made_by_put_nor_by_renaming_a_plain_one(network, code):
    id_ = str(uuid.uuid4())
    body = {
        "resourceType": "Task",
        "id": id_,
        "status": "in-progress",
        "intent": "order",
        "code": kind(code),
        "partOf": [{"display": "x"}],
    }
    assert_outcome(network.centre.put(f"Task/{id_}", json=body), 422, "business-rule", "Task.code")
    plain = network.centre.post("Task", json={"resourceType": "Task", "status": "requested", "intent": "order"}).json()
    assert_outcome(
        network.centre.put(f"Task/{plain['id']}", json=plain | {"code": kind(code)}), 422, "business-rule", "Task.code"
    )


def test_a_coordination_task_is_posted_not_put(network):
    asked, id_ = network.ordered(), str(uuid.uuid4())
    body = {
        "resourceType": "Task", "id": id_, "status": "requested", "intent": "order", "code": FULFILL,
        "focus": {"reference": f"ServiceRequest/{asked['id']}"}, "owner": {"reference": "Organization/centre"},
    }  # fmt: skip
    assert_outcome(network.hospital.put(f"Task/{id_}", json=body), 422, "business-rule", "Task.code")
    del body["id"]
    absolute = body | {"focus": {"reference": f"{BASE}/fhir/ServiceRequest/{asked['id']}"}}
    assert network.hospital.post("Task", json=absolute).json()["businessStatus"]["coding"][0]["code"] == "awaiting-images"
    assert_outcome(network.hospital.post("Task", json=body), 409, "duplicate")


def test_what_was_signed_is_not_rewritten_or_deleted(network):
    *_, report, draft = network.reporting()
    anna = network.reader("anna")
    result = out(sign(anna, report, response=answered(draft, findings="f", impression="No bleeding.")))
    document = network.get(f"Bundle/{result['document']['id']}")
    listed = network.get(f"DocumentReference?related=ServiceRequest/{report['basedOn'][0]['reference'].split('/')[1]}")[
        "entry"
    ][0]["resource"]
    for resource in (document, listed, network.get(f"QuestionnaireResponse/{draft['id']}")):
        path = f"{resource['resourceType']}/{resource['id']}"
        for client in (anna, network.reader("bela"), network.centre):
            assert_outcome(client.put(path, json=resource | {"language": "pl"}), 409, "conflict")
            assert_outcome(client.delete(path), 409, "conflict")
        assert network.get(path) == resource


def test_a_draft_stays_its_authors_also_when_it_was_signed(network):
    *_, report, draft = network.reporting()
    anna = network.reader("anna")
    saved = anna.put(f"QuestionnaireResponse/{draft['id']}", json=answered(draft, impression="Unsigned thought."))
    assert saved.status_code == 200
    out(sign(anna, report, response=answered(draft, impression="Signed.")))
    assert_outcome(network.centre.get(f"QuestionnaireResponse/{draft['id']}/_history/2"), 404, "not-found")
    shown = network.centre.get(f"QuestionnaireResponse/{draft['id']}/_history").json()["entry"]
    assert [e["resource"]["meta"]["versionId"] for e in shown] == ["3"]
    assert anna.get(f"QuestionnaireResponse/{draft['id']}/_history/2").status_code == 200


def test_the_contract_is_not_written_away_nor_the_draft_deleted(network):
    *_, draft = network.reporting()
    anna = network.reader("anna")
    for name in ("author", "subject", "basedOn", "identifier"):
        without = {k: v for k, v in draft.items() if k != name}
        assert_outcome(
            anna.put(f"QuestionnaireResponse/{draft['id']}", json=without),
            422,
            "business-rule",
            f"QuestionnaireResponse.{name}",
        )
    swapped = draft | {"questionnaire": "https://elsewhere.example/easy"}
    assert_outcome(
        anna.put(f"QuestionnaireResponse/{draft['id']}", json=swapped),
        422,
        "business-rule",
        "QuestionnaireResponse.questionnaire",
    )
    assert_outcome(anna.delete(f"QuestionnaireResponse/{draft['id']}"), 409, "conflict")


def test_nobody_gives_a_privilege_to_themselves(network, as_):
    carl = network.reader("carl")
    for path in ("PractitionerRole/centre-carl-hospital", "Practitioner/centre-carl", "Organization/centre"):
        current = network.get(path)
        current.pop("period", None)
        assert_outcome(carl.put(path, json=current | {"active": True}), 403, "forbidden")
    new = reader_rows("carl")[1] | {"id": str(uuid.uuid4())}
    assert_outcome(carl.put(f"PractitionerRole/{new['id']}", json=new), 403, "forbidden")
    admin = as_("centre", scope="user/*.cruds", user="root", roles=("administrator",))
    assert admin.put(f"PractitionerRole/{new['id']}", json=new | {"active": False}).status_code == 201


def test_a_preliminary_reader_signs_nothing_final(network):
    asked = network.ordered()
    network.images(asked)
    t0 = network.dispatch(asked, readType="preliminary")
    attempt = network.assigned(t0, "fred")
    fred = network.reader("fred")
    fred.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
    opened = out(fred.post(f"Task/{attempt['id']}/$start-report"))
    issues = assert_outcome(sign(fred, opened["report"], response=answered(opened["draft"], impression="i")), 403, "forbidden")
    assert issues[0]["details"]["coding"][0]["code"] == "no-read-type-privilege"


def test_a_changed_order_is_looked_at_again_before_it_is_signed(network):
    asked, _, attempt, report, draft = network.reporting()
    anna, body = network.reader("anna"), answered(draft, impression="i")
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    changed = network.hospital.put(
        f"ServiceRequest/{asked['id']}", json=current | {"reasonCode": [{"text": "allergy to contrast"}]}
    ).json()
    assert_outcome(sign(anna, report, response=body), 409, "conflict")
    assert anna.post(f"Task/{attempt['id']}/$claim").status_code == 200
    held = network.hospital.put(f"ServiceRequest/{asked['id']}", json=changed | {"status": "on-hold"}).json()
    assert_outcome(sign(anna, report, response=body), 409, "conflict")
    network.hospital.put(f"ServiceRequest/{asked['id']}", json=held | {"status": "active"})
    assert sign(anna, report, response=body).status_code == 200


def test_an_order_with_a_contained_requester_is_signed(network):
    doctor = {"resourceType": "Practitioner", "id": "p", "name": [{"family": "Lis"}]}
    *_, report, draft = network.reporting(contained=[doctor], requester={"reference": "#p"})
    assert sign(network.reader("anna"), report, response=answered(draft, impression="i")).status_code == 200


# ---------------------------------------------------------------- rights


def test_taking_an_order_back_takes_back_what_it_gave_whatever_it_says_now(network):
    person = network.hospital.post("Patient", json=patient()).json()
    scan = {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{person['id']}"},
        "content": [{"attachment": {"title": "x"}}],
    }
    first, second = (network.hospital.post("DocumentReference", json=scan).json()["id"] for _ in range(2))
    named = [{"reference": f"DocumentReference/{first}"}]
    asked = network.hospital.post("ServiceRequest", json=order(f"Patient/{person['id']}", supportingInfo=named)).json()
    network.dispatch(asked, expectImages=True)
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    now = network.hospital.put(
        f"ServiceRequest/{asked['id']}", json=current | {"supportingInfo": [{"reference": f"DocumentReference/{second}"}]}
    ).json()
    assert network.centre.get(f"DocumentReference/{second}").status_code == 200, "what is added later goes along"
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=now | {"status": "revoked"}).status_code == 200
    for path in (
        f"ServiceRequest/{asked['id']}",
        f"Patient/{person['id']}",
        f"DocumentReference/{first}",
        f"DocumentReference/{second}",
    ):
        assert_outcome(network.centre.get(path), 404, "not-found")


def test_a_hidden_target_is_answered_like_a_missing_one(network):
    asked = network.hospital.post(
        "ServiceRequest",
        json=order(f"Patient/{network.hospital.post('Patient', json=patient()).json()['id']}", note=[{"text": "x"}]),
    ).json()
    hidden = {"reference": "PractitionerRole/centre-emil-office"}
    missing = {"reference": f"PractitionerRole/{uuid.uuid4()}"}
    replies = [
        network.hospital.post(
            f"ServiceRequest/{asked['id']}/$dispatch",
            json=parameters(destination="practitioner", target=target, expectImages=True),
        )
        for target in (hidden, missing)
    ]
    assert replies[0].status_code == replies[1].status_code == 422
    assert replies[0].content == replies[1].content


def test_a_reader_is_offered_only_what_they_may_read(network):
    asked = network.ordered()
    for name, status in (("carl", 422), ("anna", 200)):
        target = {"reference": f"PractitionerRole/centre-{name}-hospital"}
        reply = network.hospital.post(
            f"ServiceRequest/{asked['id']}/$dispatch",
            json=parameters(destination="practitioner", target=target, expectImages=True),
        )
        assert reply.status_code == status, reply.text
    t0 = reply.json()
    assert network.centre.put(f"Task/{t0['id']}", json=t0 | {"status": "accepted"}).status_code == 200
    assert [a["owner"] for a in network.attempts(t0)] == [{"reference": "PractitionerRole/centre-anna-hospital"}]


def test_an_operation_shows_its_caller_what_they_may_see(network):
    asked, t0 = network.dispatched(priority="routine")
    network.assigned(t0)
    body = parameters(priority="stat", reason={"text": "worse"})
    reply = network.hospital.post(f"ServiceRequest/{asked['id']}/$prioritize", json=body)
    assert reply.status_code == 200
    assert "centre-anna" not in reply.text
    assert [p["resource"]["id"] for p in reply.json()["parameter"] if p["name"] == "task"] == [t0["id"]]


def test_audit_events_tell_each_organisation_of_its_own(network):
    asked, _ = network.dispatched()
    office_patient = network.office.post("Patient", json=patient()).json()
    theirs = network.office.post("ServiceRequest", json=order(f"Patient/{office_patient['id']}", note=[{"text": "x"}])).json()
    done = network.office.post(
        f"ServiceRequest/{theirs['id']}/$dispatch", json=parameters(destination="central", expectImages=True)
    )
    assert done.status_code == 200
    network.centre.get(
        f"ServiceRequest?_id={asked['id']},{theirs['id']}&_include=ServiceRequest:subject&_lastUpdated=ge2020-01-07"
    )
    network.server.installation.store_audit()
    events = network.office.get("AuditEvent?_count=200").json()
    assert theirs["id"] in str(events)
    assert asked["id"] not in str(events)
    own = network.centre.get("AuditEvent?_count=500").json()
    queries = [entity["query"] for e in own["entry"] for entity in e["resource"].get("entity", ()) if "query" in entity]
    assert queries
    assert not any(
        "query" in entity
        for e in events["entry"]
        for entity in e["resource"].get("entity", ())
        if e["resource"]["agent"][0]["who"]["display"] == "centre"
    )


# ---------------------------------------------------------------- interference


def study(accession: str, patient_id: str) -> bytes:
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.AccessionNumber, dataset.PatientID, dataset.PatientName = accession, patient_id, "Secret^Name"
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue()


def upload(network, data: bytes):
    headers = {"Content-Type": "application/dicom", "Authorization": network.hospital.headers["Authorization"]}
    reply = TestClient(network.server.app, base_url=BASE).post("/dicomweb/studies", content=data, headers=headers)
    assert reply.status_code == 200, reply.text
    uid = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    return network.hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{uid}").json()["entry"][0]["resource"]


def test_ids_of_what_a_study_makes_cannot_be_guessed_or_taken(network):
    made = upload(network, study("", "G-1"))
    names = [
        f"{kind}|hospital|{made['identifier'][0]['value'].removeprefix('urn:oid:')}"
        for kind in ("ImagingStudy", "ServiceRequest")
    ]
    for space in (uuid.NAMESPACE_OID, uuid.NAMESPACE_URL, uuid.UUID("6f0e5bd5-6d7c-5d3e-9a63-5c7a1d1b2f10")):
        assert made["id"] not in [str(uuid.uuid5(space, name)) for name in names]
    assert uuid.UUID(made["id"]).version == 4


def test_another_facilitys_many_orders_do_not_hide_the_right_one(network):
    subject = f"Patient/{network.office.post('Patient', json=patient()).json()['id']}"
    rows = [
        {"resource": order(subject, identifier=[{"value": "FLOOD-1"}]), "request": {"method": "POST", "url": "ServiceRequest"}}
    ] * 60
    assert network.office.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": rows}).status_code == 200
    person = network.hospital.post("Patient", json=patient(identifier=[{"value": "F-1"}])).json()
    asked = network.hospital.post(
        "ServiceRequest", json=order(f"Patient/{person['id']}", identifier=[{"value": "FLOOD-1"}])
    ).json()
    assert upload(network, study("FLOOD-1", "F-1"))["basedOn"] == [{"reference": f"ServiceRequest/{asked['id']}"}]


def test_another_organisations_template_of_the_same_url_is_not_taken(network):
    url = f"https://centre.example/{uuid.uuid4()}"
    fake = {
        "resourceType": "Questionnaire",
        "url": url,
        "status": "active",
        "item": [{"linkId": "impression", "type": "text", "text": "HIJACK"}],
    }
    assert network.office.post("Questionnaire", json=fake).status_code == 201
    asked = network.ordered()
    body = parameters(destination="central", expectImages=True)
    body["parameter"].append({"name": "reportTemplate", "valueCanonical": url})
    assert_outcome(network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=body), 422, "business-rule")


@pytest.mark.parametrize(
    "value",
    [
        {"valueCodeableConcept": {"text": "x"}},
        {"_valueCode": {"extension": [{"url": "urn:x", "valueCode": "y"}]}},
        {"valueCode": "final"},
    ],
)
def test_a_strange_input_of_one_order_does_not_break_the_pool(network, value):
    asked = network.ordered()
    network.images(asked)
    task = {
        "resourceType": "Task", "status": "requested", "intent": "order", "code": FULFILL, "owner": {"reference": "Organization/centre"},
        "focus": {"reference": f"ServiceRequest/{asked['id']}"}, "input": [{"type": kind("read-type"), **value}],
    }  # fmt: skip
    t0 = network.hospital.post("Task", json=task)
    assert t0.status_code == 201, t0.text
    attempt = network.pool(t0.json())
    found = network.reader("anna").get("Task/$worklist?view=pool")
    assert attempt["id"] in [e["resource"]["id"] for e in found.json()["entry"]]
    assert network.reader("anna").post(f"Task/{attempt['id']}/$claim").status_code == 200


def test_the_centre_does_not_postpone_its_own_deadline(network):
    asked, t0 = network.dispatched()
    late = {"resourceType": "Parameters", "parameter": [
        {"name": "priority", "valueCode": "urgent"}, {"name": "reason", "valueCodeableConcept": {"text": "x"}}, {"name": "due", "valueDateTime": "2099-01-01"},
    ]}  # fmt: skip
    assert_outcome(network.centre.post(f"ServiceRequest/{asked['id']}/$prioritize", json=late), 422, "business-rule")
    assert network.get(f"Task/{t0['id']}")["restriction"] == t0["restriction"]


# ---------------------------------------------------------------- the same act by each road


def test_an_order_after_its_study_is_matched_and_the_draft_taken_back(network):
    number = uuid.uuid4().hex[:8]
    made = upload(network, study(f"L{number}", f"LP{number}"))
    draft = made["basedOn"][0]["reference"]
    person = network.hospital.get(made["subject"]["reference"]).json()
    asked = network.hospital.post(
        "ServiceRequest", json=order(f"Patient/{person['id']}", identifier=[{"value": f"L{number}"}], note=[{"text": "x"}])
    ).json()
    network.server.installation.images.arrivals.settle()
    now = network.hospital.get(f"ImagingStudy/{made['id']}").json()
    assert now["basedOn"] == [{"reference": f"ServiceRequest/{asked['id']}"}]
    assert network.hospital.get(draft).json()["status"] == "revoked"


def test_a_study_linked_by_hand_goes_where_its_order_went_and_stays_linked(network):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    made = upload(network, study("", "HAND-1"))
    linked = made | {"basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}], "note": [{"text": "linked by the clerk"}]}
    assert_outcome(
        network.hospital.put(f"ImagingStudy/{made['id']}", json=linked), 422, "business-rule", "ImagingStudy.basedOn"
    )
    linked["subject"] = asked["subject"]
    assert network.hospital.put(f"ImagingStudy/{made['id']}", json=linked).status_code == 200
    assert network.centre.get(f"ImagingStudy/{made['id']}").status_code == 200
    network.server.wait(seconds=20)
    network.server.installation.images.arrivals.settle()
    now = network.centre.get(f"ImagingStudy/{made['id']}").json()
    assert (now["basedOn"], now["note"]) == (linked["basedOn"], linked["note"])
    assert network.get(f"Task/{t0['id']}")["businessStatus"]["coding"][0]["code"] == "ready-for-assignment"


def test_the_deadline_reaches_a_pool_that_waited_for_images(network):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    attempt = network.pool(t0)
    assert network.reader("anna").post(f"Task/{attempt['id']}/$claim").status_code == 200
    network.images(asked)
    ready = network.get(f"Task/{t0['id']}")
    assert ready["businessStatus"]["coding"][0]["code"] == "assigned"
    assert network.get(f"Task/{attempt['id']}")["restriction"] == ready["restriction"]


def test_a_put_sent_again_makes_no_version_and_a_note_is_added(network):
    _, t0 = network.dispatched()
    network.pool(t0)
    current = network.get(f"Task/{t0['id']}")
    again = network.centre.put(f"Task/{t0['id']}", json=current)
    assert (again.status_code, again.json()) == (200, current)
    noted = network.hospital.put(f"Task/{t0['id']}", json=current | {"note": [{"text": "patient is waiting"}]})
    assert noted.json()["note"] == [{"text": "patient is waiting"}]


def test_a_task_may_stand_before_its_order_in_a_transaction(network):
    person, asked = f"urn:uuid:{uuid.uuid4()}", f"urn:uuid:{uuid.uuid4()}"
    task = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": FULFILL,
        "focus": {"reference": asked},
        "owner": {"reference": "Organization/centre"},
    }
    rows = [(task, None), (order(person, note=[{"text": "x"}]), asked), (patient(), person)]
    entries = [
        {**({"fullUrl": u} if u else {}), "resource": r, "request": {"method": "POST", "url": r["resourceType"]}}
        for r, u in rows
    ]
    reply = network.hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert reply.status_code == 200, reply.text
    assert reply.json()["entry"][0]["resource"]["businessStatus"]


def test_an_ehrs_own_urls_in_a_transaction_are_resolved(network):
    rows = [
        {
            "fullUrl": "http://ehr.example/fhir/Patient/123",
            "resource": patient(id="123"),
            "request": {"method": "POST", "url": "Patient"},
        },
        {
            "fullUrl": "http://ehr.example/fhir/ServiceRequest/9",
            "resource": order("Patient/123"),
            "request": {"method": "POST", "url": "ServiceRequest"},
        },
        {"resource": order("http://ehr.example/fhir/Patient/123"), "request": {"method": "POST", "url": "ServiceRequest"}},
    ]
    made = [
        e["resource"]
        for e in network.hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": rows}).json()[
            "entry"
        ]
    ]
    assert made[1]["subject"] == made[2]["subject"] == {"reference": f"Patient/{made[0]['id']}"}


def test_roles_hold_on_every_road(network, as_):
    asked, t0 = network.dispatched()
    nurse = as_("hospital", scope="user/*.cruds", user="nurse2", roles=("reader",))
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert_outcome(nurse.put(f"ServiceRequest/{asked['id']}", json=current | {"priority": "stat"}), 403, "forbidden")
    assert_outcome(nurse.put(f"Task/{t0['id']}", json=t0 | {"status": "cancelled"}), 403, "forbidden")


def test_the_patient_of_a_released_order_does_not_change(network):
    asked, *_ = network.reporting()
    other = network.hospital.post("Patient", json=patient()).json()
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    moved = network.hospital.put(
        f"ServiceRequest/{asked['id']}", json=current | {"subject": {"reference": f"Patient/{other['id']}"}}
    )
    assert_outcome(moved, 422, "business-rule", "ServiceRequest.subject")


def test_every_version_written_in_a_transaction_has_a_provenance(network):
    asked, _ = network.dispatched(priority="routine")
    person = network.hospital.get(asked["subject"]["reference"]).json()
    rows = [
        {
            "resource": parameters(priority="stat", reason={"text": "x"}),
            "request": {"method": "POST", "url": f"ServiceRequest/{asked['id']}/$prioritize"},
        },
        {"resource": person | {"active": True}, "request": {"method": "PUT", "url": f"Patient/{person['id']}"}},
    ]
    assert network.hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": rows}).status_code == 200
    for target in (f"Patient/{person['id']}/_history/2", f"ServiceRequest/{asked['id']}/_history/2"):
        assert network.hospital.get(f"Provenance?target={target}").json()["total"] == 1, target


def test_the_servers_own_versions_keep_the_digits(network):
    text = '"quantityQuantity":{"value":1.0E2,"unit":"x"}'
    person = network.hospital.post("Patient", json=patient()).json()
    head = '{"resourceType":"ServiceRequest","status":"draft","intent":"order","note":[{"text":"x"}],'
    body = head + text + ',"subject":{"reference":"Patient/' + person["id"] + '"}}'
    asked = network.hospital.post("ServiceRequest", content=body, headers={"Content-Type": "application/fhir+json"}).json()
    network.dispatch(asked, expectImages=True)
    stored = network.hospital.get(f"ServiceRequest/{asked['id']}")
    assert stored.json()["status"] == "active"
    assert text in stored.text


# ---------------------------------------------------------------- what is said in another's words


def test_a_code_of_another_system_makes_no_network_task(network):
    asked, t0 = network.dispatched()
    twin = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": "urn:elsewhere", "code": "coordinate"}]},
        "focus": {"reference": f"ServiceRequest/{asked['id']}"},
    }
    assert network.hospital.post("Task", json=twin).status_code == 201
    assert_outcome(
        network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(destination="central")),
        409,
        "duplicate",
    )
    attempt = network.pool(t0)
    assert attempt["partOf"] == [{"reference": f"Task/{t0['id']}"}]


def test_an_earlier_study_is_not_the_images_that_are_awaited(network):
    earlier = network.ordered()
    network.images(earlier)
    prior = network.hospital.get(f"ImagingStudy?based-on=ServiceRequest/{earlier['id']}").json()["entry"][0]["resource"]
    named = [{"reference": f"ImagingStudy/{prior['id']}"}]
    asked = network.hospital.post(
        "ServiceRequest", json=order(earlier["subject"]["reference"], supportingInfo=named, reasonCode=[{"text": "growing?"}])
    ).json()
    t0 = network.dispatch(asked, expectImages=True)
    assert t0["businessStatus"]["coding"][0]["code"] == "awaiting-images"


def test_nobody_plants_a_draft(network):
    *_, report, draft = network.reporting()
    planted = {k: v for k, v in draft.items() if k not in ("id", "meta")}
    for client in (network.office, network.hospital, network.reader("bela")):
        assert_outcome(
            client.post("QuestionnaireResponse", json=planted), 422, "business-rule", "QuestionnaireResponse.identifier"
        )
    assert_outcome(
        network.reader("anna").put(f"QuestionnaireResponse/{draft['id']}", json=draft | {"status": "completed"}),
        422,
        "business-rule",
        "QuestionnaireResponse.status",
    )
    out(sign(network.reader("anna"), report, response=answered(draft, impression="Done.")))


def test_what_was_there_before_it_was_shared_is_not_shared(network):
    asked = network.ordered(note=[{"text": "for the ward only"}])
    path = f"ServiceRequest/{asked['id']}"
    current = network.hospital.get(path).json()
    del current["note"]
    assert network.hospital.put(path, json=current).status_code == 200
    network.images(asked)
    network.dispatch(asked)
    assert network.centre.get(path).status_code == 200
    assert_outcome(network.centre.get(f"{path}/_history/1"), 404, "not-found")
    assert "for the ward only" not in network.centre.get(f"{path}/_history").text


def test_an_unlinked_study_goes_back(network):
    asked = network.ordered()
    network.dispatch(asked, expectImages=True)
    made = upload(network, study("", "BACK-1"))
    path = f"ImagingStudy/{made['id']}"
    linked = made | {"basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}], "subject": asked["subject"]}
    assert network.hospital.put(path, json=linked).status_code == 200
    assert network.centre.get(path).status_code == 200
    assert network.hospital.put(path, json=linked | {"basedOn": made["basedOn"], "subject": made["subject"]}).status_code == 200
    assert network.centre.get(path).status_code == 404


def test_a_reading_given_back_before_the_images_still_awaits_them(network):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    attempt = network.pool(t0)
    anna = network.reader("anna")
    assert anna.post(f"Task/{attempt['id']}/$claim").status_code == 200
    back = network.get(f"Task/{attempt['id']}") | {"status": "cancelled", "statusReason": {"text": "not my part of the body"}}
    assert anna.put(f"Task/{attempt['id']}", json=back).status_code == 200
    assert network.get(f"Task/{t0['id']}")["businessStatus"]["coding"][0]["code"] == "awaiting-images"


def test_notes_of_the_other_party_stay(network):
    _, t0 = network.dispatched()
    network.pool(t0)
    path = f"Task/{t0['id']}"
    noted = network.hospital.put(path, json=network.get(path) | {"note": [{"text": "patient is waiting"}]})
    assert noted.status_code == 200
    rewritten = network.get(path) | {"note": [{"text": "all is well"}]}
    assert_outcome(network.centre.put(path, json=rewritten), 422, "business-rule", "Task.note")


# ---------------------------------------------------------------- the same reference in other words

HERE = f"{BASE}/fhir"


def test_references_by_this_servers_own_url_are_understood(network):
    asked = network.ordered()
    path = f"ServiceRequest/{asked['id']}"
    whole = asked | {"subject": {"reference": f"{HERE}/{asked['subject']['reference']}"}}
    assert network.hospital.put(path, json=whole).status_code == 200
    fulfil = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]},
        "focus": {"reference": f"{HERE}/{path}"},
        "owner": {"reference": f"{HERE}/Organization/centre"},
    }
    t0 = network.hospital.post("Task", json=fulfil)
    assert t0.status_code == 201, t0.text
    assert network.hospital.get(path).json()["subject"] == whole["subject"]  # as it was sent
    assert network.centre.get(asked["subject"]["reference"]).status_code == 200
    network.images(asked)
    assert network.get(f"Task/{t0.json()['id']}")["businessStatus"]["coding"][0]["code"] == "ready-for-assignment"
    attempt = network.pool(t0.json())
    anna = network.reader("anna")
    assert anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(anna.post(f"Task/{attempt['id']}/$start-report"))
    done = out(sign(anna, opened["report"], response=answered(opened["draft"], impression="Nothing new.")))
    assert done["report"]["status"] == "final"


def test_a_study_linked_and_unlinked_by_this_servers_own_url_goes_back(network):
    asked = network.ordered()
    network.dispatch(asked, expectImages=True)
    made = upload(network, study("", "BACK-2"))
    path = f"ImagingStudy/{made['id']}"
    linked = made | {
        "basedOn": [{"reference": f"{HERE}/ServiceRequest/{asked['id']}"}],
        "subject": {"reference": f"{HERE}/{asked['subject']['reference']}"},
    }
    assert network.hospital.put(path, json=linked).status_code == 200
    assert network.centre.get(path).status_code == 200
    assert network.hospital.put(path, json=linked | {"basedOn": made["basedOn"], "subject": made["subject"]}).status_code == 200
    assert network.centre.get(path).status_code == 404


def test_an_unlinked_study_that_the_order_still_names_stays(network):
    asked = network.ordered()
    made = upload(network, study("", "BACK-3"))
    path, order_path = f"ImagingStudy/{made['id']}", f"ServiceRequest/{asked['id']}"
    linked = made | {"basedOn": [{"reference": order_path}], "subject": asked["subject"]}
    assert network.hospital.put(path, json=linked).status_code == 200
    named = network.hospital.get(order_path).json() | {"supportingInfo": [{"reference": path}]}
    assert network.hospital.put(order_path, json=named).status_code == 200
    network.dispatch(asked, expectImages=True)
    current = network.hospital.get(path).json()
    del current["basedOn"]
    assert network.hospital.put(path, json=current).status_code == 200
    assert network.centre.get(path).status_code == 200


def test_a_privilege_given_by_this_servers_own_url_counts(network):
    person, role = reader_rows("gina")
    role["organization"] = {"reference": f"{HERE}/Organization/hospital"}
    role["practitioner"] = {"reference": f"{HERE}/Practitioner/centre-gina"}
    for row in (person, role):
        assert network.centre.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    assert network.hospital.get(f"PractitionerRole/{role['id']}").status_code == 200
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    assert network.reader("gina").post(f"Task/{attempt['id']}/$claim").status_code == 200
