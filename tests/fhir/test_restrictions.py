"""A patient's restriction of their record, emergencies, and the log of accesses.

https://hl7.org/fhir/R4/consent.html https://eur-lex.europa.eu/eli/reg/2025/327
"""

from __future__ import annotations

import json

import pytest
from conftest import BASE, assert_outcome, order, patient
from starlette.testclient import TestClient

from auth.principal import Principal
from fhirserver.restrictions import Restrictions

PRIVACY = "http://terminology.hl7.org/CodeSystem/consentscope"


def consent(subject: str, provision: dict, **members) -> dict:
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": PRIVACY, "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": subject},
        "policyRule": {"text": "by the patient's own word"},
        "provision": {"type": "deny"} | provision,
    } | members


def actor(reference: str) -> dict:
    return {"role": {"text": "reads"}, "reference": {"reference": reference}}


@pytest.fixture(scope="module")
def staff(as_, server):
    """Two readers of the hospital, a quality lead, and the hospital's own system."""
    admin = as_("hospital", user="root", roles=("administrator",), scope="user/*.cruds")
    organization = {"resourceType": "Organization", "id": "hospital", "name": "City hospital"}
    assert admin.put("Organization/hospital", json=organization).status_code == 201
    for name in ("anna", "bob"):
        body = {"resourceType": "Practitioner", "id": f"hospital-{name}", "name": [{"family": name}]}
        assert admin.put(f"Practitioner/hospital-{name}", json=body).status_code == 201

    def person(name: str, *roles: str) -> TestClient:
        return as_("hospital", user=name, roles=roles, practitioner=f"hospital-{name}", scope="user/*.cruds")

    return {
        "anna": person("anna", "reader"),
        "bob": person("bob", "reader"),
        "quality": as_("hospital", user="q", roles=("quality",), scope="user/*.cruds"),
        "hospital": as_("hospital"),
    }


@pytest.fixture
def record(created):
    """A patient with an order, a result and a Task."""
    subject = f"Patient/{created(patient())['id']}"
    asked = created(order(subject))
    result = created(
        {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": subject}}
    )
    task = created({"resourceType": "Task", "status": "requested", "intent": "order", "for": {"reference": subject}})
    rows = [subject, *(f"{row['resourceType']}/{row['id']}" for row in (asked, result, task))]
    return subject, rows


def shown(client: TestClient, rows: list[str]) -> list[str]:
    """Which of them a caller sees: by read and by search, which agree."""
    read = [row for row in rows if client.get(row).status_code == 200]
    found = [
        row
        for row in rows
        if client.get(f"{row.partition('/')[0]}?_id={row.partition('/')[2]}&_total=accurate").json()["total"]
    ]
    assert read == found
    return read


def test_an_active_restriction_hides_the_whole_record_from_whom_it_names(staff, record, created):
    subject, rows = record
    assert shown(staff["bob"], rows) == rows
    made = created(consent(subject, {"actor": [actor("Practitioner/hospital-bob")]}))
    assert shown(staff["bob"], rows) == []
    assert shown(staff["anna"], rows) == rows
    assert shown(staff["hospital"], rows) == rows
    hidden = staff["bob"].get(f"Consent/{made['id']}")
    assert hidden.status_code == 404
    for path in (
        f"{subject}/_history",
        f"{subject}/_history/1",
        f"{subject}/$everything",
        f"{subject}/Observation",
        f"{rows[1]}/_history",
    ):
        assert staff["bob"].get(path).status_code == 404, path
    for path in ("Observation?_count=200", "_history?_count=200", "ServiceRequest?_include=*&_count=200", "Task?_count=200"):
        assert subject not in staff["bob"].get(path).text, path
    written = staff["bob"].post(
        "Observation",
        json={"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": subject}},
    )
    missing = staff["bob"].post(
        "Observation",
        json={
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "x"},
            "subject": {"reference": "Patient/00000000-0000-4000-8000-000000000000"},
        },
    )
    assert (written.status_code, written.content) == (422, missing.content)


def test_taking_the_restriction_back_gives_the_record_back(staff, record, created, hospital):
    subject, rows = record
    made = created(consent(subject, {"actor": [actor("Practitioner/hospital-bob")]}))
    assert shown(staff["bob"], rows) == []
    assert hospital.put(f"Consent/{made['id']}", json=made | {"status": "inactive"}).status_code == 200
    assert shown(staff["bob"], rows) == rows
    hospital.put(f"Consent/{made['id']}", json=made)
    assert shown(staff["bob"], rows) == []
    assert hospital.delete(f"Consent/{made['id']}").status_code == 204
    assert shown(staff["bob"], rows) == rows


def test_a_restriction_holds_in_its_period(staff, record, created, server):
    subject, rows = record
    created(consent(subject, {"actor": [actor("Practitioner/hospital-bob")], "period": {"end": "2026-11-24T13:00:00Z"}}))
    assert shown(staff["bob"], rows) == []
    before = server.time
    server.wait(hours=2)
    assert shown(staff["bob"], rows) == rows
    server.time = before


def test_an_exception_is_let_in(staff, record, created):
    subject, rows = record
    nested = [{"type": "permit", "actor": [actor("Practitioner/hospital-anna")]}]
    created(consent(subject, {"actor": [actor("Organization/hospital")], "provision": nested}))
    assert shown(staff["bob"], rows) == []
    assert shown(staff["anna"], rows) == rows


def test_who_objects_to_sharing_is_not_dispatched(staff, created, hospital, as_):
    subject = f"Patient/{created(patient())['id']}"
    asked = created(order(subject, reasonCode=[{"text": "fall"}], code={"text": "CT"}))
    created(consent(subject, {}))
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "destination", "valueCode": "central"}, {"name": "expectImages", "valueBoolean": True}],
    }
    assert_outcome(
        hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=body), 422, "business-rule", "ServiceRequest.subject"
    )
    assert hospital.get(subject).status_code == 200  # the own facility goes on


def test_a_restriction_is_the_patients_own_facilitys_to_record(staff, record, office, hospital):
    subject, rows = record
    refused = office.post("Consent", json=consent(subject, {"actor": [actor("Organization/hospital")]}))
    assert refused.status_code == 422
    assert shown(staff["bob"], rows) == rows


@pytest.mark.parametrize(
    ("provision", "where"),
    [
        ({"class": [{"code": "ImagingStudy"}]}, "Consent.provision.class"),
        ({"purpose": [{"code": "TREAT"}]}, "Consent.provision.purpose"),
        ({"actor": [{"role": {"text": "x"}, "reference": {"display": "Dr Bob"}}]}, "Consent.provision.actor[0].reference"),
        ({"provision": [{"type": "permit"}]}, "Consent.provision.provision[0]"),
        ({"provision": [{"type": "permit", "code": [{"text": "x"}], "actor": [{"role": {"text": "x"}, "reference": {"reference": "Practitioner/hospital-anna"}}]}]}, "Consent.provision.provision[0].code"),
    ],
)  # fmt: skip
def test_what_would_not_be_enforced_is_refused(record, staff, hospital, provision, where):
    assert_outcome(hospital.post("Consent", json=consent(record[0], provision)), 422, "not-supported", where)


def parameters(**given) -> dict:
    rows = [{"name": n, ("valueInteger" if isinstance(v, int) else "valueString"): v} for n, v in given.items()]
    return {"resourceType": "Parameters", "parameter": rows}


@pytest.fixture
def restricted(record, created, staff):
    created(consent(record[0], {"actor": [actor("Practitioner/hospital-bob")]}))
    assert shown(staff["bob"], record[1]) == []
    return record


def test_the_glass_is_broken_with_a_reason_for_a_while_and_reviewed(staff, restricted, server):
    subject, rows = restricted
    reply = staff["bob"].post(
        f"{subject}/$break-glass", json=parameters(reason="Unconscious, bleeding; priors needed", minutes=30)
    )
    assert reply.status_code == 200, reply.text
    task = reply.json()
    assert task["reasonCode"]["text"].startswith("Unconscious")
    assert shown(staff["bob"], rows) == rows
    review = f"Task/{task['id']}"
    assert staff["quality"].get(review).status_code == 200
    assert staff["anna"].get(review).status_code == 404
    closed = staff["quality"].put(review, json=task | {"status": "accepted"})
    assert closed.status_code == 200, closed.text
    assert staff["anna"].get(review).status_code == 404  # also after it was written
    for who, asked in (("quality", f"AuditEvent?entity={review}"), ("hospital", f"AuditEvent?patient={subject}")):
        log = staff[who].get(f"{asked}&_count=200").json()
        assert any(entry["resource"].get("purposeOfEvent") for entry in log["entry"]), who
    for path in (f"AuditEvent?entity={review}", f"Provenance?target={review}"):
        assert "entry" not in staff["anna"].get(path).json()
        assert "entry" not in staff["hospital"].get(path).json()
        assert "entry" in staff["quality"].get(path).json()
    before = server.time
    server.wait(minutes=31)
    assert shown(staff["bob"], rows) == []
    server.time = before


def test_a_review_is_not_forged_or_prolonged(staff, restricted, hospital, server):
    subject, rows = restricted
    task = staff["bob"].post(f"{subject}/$break-glass", json=parameters(reason="Unconscious, bleeding", minutes=5)).json()
    forged = {name: value for name, value in task.items() if name not in ("id", "meta")}
    assert_outcome(hospital.post("Task", json=forged), 422, "business-rule", "Task.code")
    longer = task | {"restriction": {"period": {"end": "2030-01-01T00:00:00Z"}}}
    assert staff["bob"].put(f"Task/{task['id']}", json=longer).status_code == 403
    assert_outcome(staff["quality"].put(f"Task/{task['id']}", json=longer), 422, "business-rule", "Task.restriction")
    plain = hospital.post(
        "Task", json={"resourceType": "Task", "status": "requested", "intent": "order", "for": {"reference": subject}}
    ).json()
    turned = hospital.put(f"Task/{plain['id']}", json=plain | {"code": task["code"], "requester": task["requester"]})
    assert turned.status_code == 422
    before = server.time
    server.wait(minutes=6)
    assert shown(staff["bob"], rows) == []
    server.time = before


@pytest.mark.parametrize(
    ("who", "given", "status", "code"),
    [
        ("anna", {"reason": "no restriction for me"}, 409, "conflict"),
        ("bob", {"reason": "short"}, 422, "invalid"),
        ("bob", {"reason": "long enough a reason", "minutes": 1000}, 422, "invalid"),
        ("hospital", {"reason": "a system is nobody"}, 403, "forbidden"),
        ("quality", {"reason": "no person who treats"}, 403, "forbidden"),
    ],
)
def test_breaking_the_glass_is_refused(staff, restricted, who, given, status, code):
    assert_outcome(staff[who].post(f"{restricted[0]}/$break-glass", json=parameters(**given)), status, code)


def test_what_access_lists_hide_no_glass_opens(staff, as_):
    other = as_("office").post("Patient", json=patient()).json()["id"]
    hidden = staff["bob"].post(f"Patient/{other}/$break-glass", json=parameters(reason="long enough a reason"))
    missing = staff["bob"].post(
        "Patient/00000000-0000-4000-8000-000000000000/$break-glass", json=parameters(reason="long enough a reason")
    )
    assert (hidden.status_code, hidden.content) == (404, missing.content)


def test_the_log_tells_who_saw_the_record(staff, record, as_, server):
    subject, rows = record
    staff["anna"].get(subject)
    staff["anna"].get(rows[2])
    server.installation.store_audit()
    clerk = as_("hospital", user="clerk", roles=("clerk",), scope="user/*.rs")
    told = clerk.get(f"{subject}/$access-log").json()
    entries = [{part["name"]: part for part in row["part"]} for row in told["parameter"]]
    whens = [row["when"]["valueInstant"] for row in entries]
    assert whens == sorted(whens, reverse=True)
    mine = [
        row
        for row in entries
        if row.get("person", {}).get("valueReference", {}).get("reference") == "Practitioner/hospital-anna"
    ]
    assert {row["what"]["valueCode"] for row in mine} == {"read"}
    assert {row["category"]["valueCode"] for row in mine} == {"Patient", "Observation"}
    assert len(clerk.get(f"{subject}/$access-log?_count=1").json()["parameter"]) == 1
    assert "parameter" not in clerk.get(f"{subject}/$access-log?end=2020-01-01").json()
    assert_outcome(clerk.get(f"{subject}/$access-log?_count=0"), 422, "invalid")
    assert_outcome(staff["anna"].get(f"{subject}/$access-log"), 403, "forbidden")
    other = as_("office").get(f"{subject}/$access-log")
    assert other.status_code == 404


# ---------------------------------------------------------------- what an attack found


@pytest.mark.parametrize("subject", [{"display": "Jan"}, {"identifier": {"value": "1"}}, {"reference": "#p"}])
def test_a_restriction_of_nobody_is_refused_and_stops_nothing(hospital, subject, server):
    body = consent("Patient/x", {}) | {"patient": subject}
    assert hospital.post("Consent", json=body).status_code == 422
    row = {"owner": "hospital"} | _planted()
    server.client[server.name].Consent.update_one({"_id": "planted"}, {"$set": row}, upsert=True)
    server.client[server.name].signals.update_one({"_id": "consents"}, {"$inc": {"n": 1}}, upsert=True)
    server.installation.restrictions.refresh()
    assert hospital.get("Patient").status_code == 200
    server.client[server.name].Consent.delete_one({"_id": "planted"})


def _planted() -> dict:
    """One from before restrictions were checked."""
    text = json.dumps(
        {name: value for name, value in consent("", {}).items() if name != "patient"} | {"patient": {"display": "Jan"}}
    )
    tags = {"t": [f"scope={PRIVACY}|patient-privacy"], "acl": ["org/hospital"], "base": ["org/hospital"], "grants": [], "c": []}
    return tags | {"json": text, "v": 1, "ts": 1, "deleted": False, "g": 0, "sealed": False, "o": {}}


def test_absolute_references_restrict_like_relative_ones(staff, record, created):
    subject, rows = record
    body = consent(f"{BASE}/fhir/{subject}", {"actor": [actor(f"{BASE}/fhir/Practitioner/hospital-bob")]})
    created(body)
    assert shown(staff["bob"], rows) == []


@pytest.mark.parametrize("versioned", ["patient", "actor"])
def test_a_reference_to_a_version_is_refused(record, hospital, versioned, staff):
    subject = f"{record[0]}/_history/1" if versioned == "patient" else record[0]
    who = "Practitioner/hospital-bob" + ("/_history/1" if versioned == "actor" else "")
    assert hospital.post("Consent", json=consent(subject, {"actor": [actor(who)]})).status_code == 422


def test_what_refers_absolutely_is_hidden_in_every_version_too(staff, record, created):
    subject, _ = record
    made = created(
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "x"},
            "subject": {"reference": f"{BASE}/fhir/{subject}"},
        }
    )
    created(consent(subject, {"actor": [actor("Practitioner/hospital-bob")]}))
    for path in ("", "/_history", "/_history/1"):
        assert staff["bob"].get(f"Observation/{made['id']}{path}").status_code == 404
    assert made["id"] not in staff["bob"].get("Observation/_history?_count=200").text


def test_what_was_deleted_stays_hidden(staff, record, created, hospital):
    subject, rows = record
    created(consent(subject, {"actor": [actor("Practitioner/hospital-bob")]}))
    observation = rows[2]
    assert hospital.delete(observation).status_code == 204
    for path in ("", "/_history", "/_history/1"):
        assert staff["bob"].get(f"{observation}{path}").status_code == 404
    assert hospital.get(observation).status_code == 410
    assert_outcome(hospital.delete(subject), 409, "conflict")  # the restriction rests on it


def test_what_cannot_say_whose_it_is_is_hidden_where_it_names_the_patient(staff, record, created):
    subject, _ = record
    rows = [
        created({"resourceType": "List", "status": "current", "mode": "working", "entry": [{"item": {"reference": subject}}]}),
        created(
            {"resourceType": "Binary", "contentType": "text/plain", "securityContext": {"reference": subject}, "data": "eA=="}
        ),
    ]
    created(consent(subject, {"actor": [actor("Practitioner/hospital-bob")]}))
    for row in rows:
        assert staff["bob"].get(f"{row['resourceType']}/{row['id']}").status_code == 404
        assert row["id"] not in staff["bob"].get(f"{row['resourceType']}?_count=200").text
        assert staff["anna"].get(f"{row['resourceType']}/{row['id']}").status_code == 200


def test_a_restriction_is_of_the_person_whichever_record_it_is_written_on(staff, created, hospital):
    old = created(patient())
    new = created(patient(link=[{"other": {"reference": f"Patient/{old['id']}"}, "type": "replaces"}]))
    pair = [f"Patient/{row['id']}" for row in (old, new)]
    assert shown(staff["bob"], pair) == pair
    for one in pair:
        made = created(consent(one, {"actor": [actor("Practitioner/hospital-bob")]}))
        assert shown(staff["bob"], pair) == []
        hospital.delete(f"Consent/{made['id']}")


def test_what_looks_like_a_restriction_and_is_none_is_refused(record, hospital, staff, as_):
    turned = {"type": "permit", "provision": [{"type": "deny", "actor": [actor("Practitioner/hospital-bob")]}]}
    assert_outcome(hospital.post("Consent", json=consent(record[0], turned)), 422, "not-supported")
    limited = [{"type": "permit", "actor": [actor("Practitioner/hospital-anna")], "period": {"end": "2020-01-01"}}]
    assert_outcome(hospital.post("Consent", json=consent(record[0], {"provision": limited})), 422, "not-supported")


def test_a_review_that_rejects_ends_the_emergency(staff, restricted):
    subject, rows = restricted
    task = staff["bob"].post(f"{subject}/$break-glass", json=parameters(reason="Unconscious, bleeding")).json()
    assert shown(staff["bob"], rows) == rows
    assert staff["quality"].put(f"Task/{task['id']}", json=task | {"status": "rejected"}).status_code == 200
    assert shown(staff["bob"], rows) == []


def test_who_saw_the_images_is_in_the_log(staff, record, created, server, as_):
    subject, _ = record
    installation = server.installation
    uid = "1.2.3.4.5"
    id_ = installation.derived_id("ImagingStudy", "hospital", uid)
    study = {"resourceType": "ImagingStudy", "id": id_, "status": "available", "subject": {"reference": subject}}
    assert staff["hospital"].put(f"ImagingStudy/{id_}", json=study).status_code == 201
    reader = Principal("viewer", "hospital", (), "anna", frozenset({"reader"}), "hospital-anna")
    installation.images.note(reader, "wado", [("hospital", uid)], "")
    installation.store_audit()
    told = as_("hospital", user="clerk", roles=("clerk",), scope="user/*.rs").get(f"{subject}/$access-log").json()
    rows = [[(part["name"], part.get("valueCode")) for part in row["part"]] for row in told["parameter"]]
    assert any({("what", "wado"), ("category", "ImagingStudy")} <= set(row) for row in rows)


def test_a_restriction_holds_where_its_signal_was_lost(record, created, server, staff):
    """Consents from before they were enforced, or a restored database: what is there counts, not who told of it."""
    subject, _ = record
    created(consent(subject, {"actor": [actor("Practitioner/hospital-bob")]}))
    server.client[server.name].signals.delete_many({})
    fresh = Restrictions(server.installation.store, f"{BASE}/fhir")
    fresh.refresh()
    bob = Principal("x", "hospital", (), "bob", frozenset(), "hospital-bob")
    assert subject in fresh.applied(bob, server.now()).withheld


def test_a_link_that_is_no_merge_is_not_the_same_person(staff, created, hospital):
    other = created(patient())
    one = created(patient(link=[{"other": {"reference": f"Patient/{other['id']}"}, "type": "seealso"}]))
    created(consent(f"Patient/{one['id']}", {"actor": [actor("Practitioner/hospital-bob")]}))
    assert shown(staff["bob"], [f"Patient/{row['id']}" for row in (one, other)]) == [f"Patient/{other['id']}"]


def test_a_merge_by_absolute_reference_is_of_one_person_too(staff, created, hospital):
    old = created(patient())
    new = created(patient(link=[{"other": {"reference": f"{BASE}/fhir/Patient/{old['id']}"}, "type": "replaces"}]))
    created(consent(f"Patient/{new['id']}", {"actor": [actor("Practitioner/hospital-bob")]}))
    assert shown(staff["bob"], [f"Patient/{row['id']}" for row in (old, new)]) == []
