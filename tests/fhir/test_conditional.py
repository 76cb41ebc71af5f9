"""https://hl7.org/fhir/R4/http.html#ccreate, #cond-update, #cdelete, #cread"""

from __future__ import annotations

import threading

import pytest
from conftest import assert_outcome, patient

SYSTEM = "urn:test:mrn"


def numbered(number: str, **members):
    return patient(identifier=[{"system": SYSTEM, "value": number}], **members)


def asked(number: str) -> str:
    return f"identifier={SYSTEM}|{number}"


def found(client, number: str) -> list:
    return [e["resource"] for e in client.get(f"Patient?{asked(number)}").json().get("entry", [])]


def test_conditional_create_makes_one_and_then_answers_it(hospital):
    first = hospital.post("Patient", json=numbered("1"), headers={"If-None-Exist": asked("1")})
    second = hospital.post("Patient", json=numbered("1", gender="female"), headers={"If-None-Exist": asked("1")})
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    assert len(found(hospital, "1")) == 1


def test_64_concurrent_identical_conditional_creates_make_one_resource(hospital):
    statuses = []

    def create():
        statuses.append(hospital.post("Patient", json=numbered("64"), headers={"If-None-Exist": asked("64")}).status_code)

    threads = [threading.Thread(target=create) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 63 + [201]
    assert len(found(hospital, "64")) == 1


def test_criteria_that_find_several_answer_412(hospital, created):
    for _ in range(2):
        created(numbered("2"))
    assert_outcome(hospital.post("Patient", json=numbered("2"), headers={"If-None-Exist": asked("2")}), 412, "conflict")
    assert_outcome(hospital.put(f"Patient?{asked('2')}", json=numbered("2")), 412, "conflict")
    assert_outcome(hospital.delete(f"Patient?{asked('2')}"), 412, "conflict")
    assert len(found(hospital, "2")) == 2


@pytest.mark.parametrize("criteria", ["", "_count=1", "colour=red"])
def test_criteria_that_choose_nothing_answer_400(hospital, criteria):
    code = "not-supported" if "colour" in criteria else "invalid"
    assert_outcome(hospital.post("Patient", json=patient(), headers={"If-None-Exist": criteria}), 400, code)


def test_conditional_update_creates_updates_and_checks_the_id(hospital):
    made = hospital.put(f"Patient?{asked('3')}", json=numbered("3"))
    assert made.status_code == 201
    again = hospital.put(f"Patient?{asked('3')}", json=numbered("3", gender="female"))
    assert (again.status_code, again.json()["id"], again.json()["gender"]) == (200, made.json()["id"], "female")
    assert_outcome(hospital.put(f"Patient?{asked('3')}", json=numbered("3", id="other")), 400, "invalid", "Patient.id")


def test_conditional_delete_deletes_the_one(hospital, created):
    made = created(numbered("4"))
    assert hospital.delete(f"Patient?{asked('4')}").status_code == 204
    assert_outcome(hospital.get(f"Patient/{made['id']}"), 410, "deleted")
    assert hospital.delete(f"Patient?{asked('4')}").status_code == 204
    assert len(hospital.get(f"Patient/{made['id']}/_history").json()["entry"]) == 2  # no second deletion


def test_what_is_hidden_is_not_found_by_criteria(hospital, office, created):
    created(numbered("5"))
    other = office.post("Patient", json=numbered("5"), headers={"If-None-Exist": asked("5")})
    assert other.status_code == 201
    assert office.delete("Patient?identifier=urn:test:mrn|4").status_code == 204  # as if there were none


def test_conditional_read_answers_304(hospital, created):
    made = created(patient())
    reply = hospital.get(f"Patient/{made['id']}")
    same = hospital.get(f"Patient/{made['id']}", headers={"If-None-Match": reply.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    since = {"If-Modified-Since": reply.headers["last-modified"]}
    assert hospital.get(f"Patient/{made['id']}", headers=since).status_code == 304
    assert hospital.get(f"Patient/{made['id']}", headers={"If-None-Match": 'W/"9"'}).status_code == 200
    assert hospital.get(f"Patient/{made['id']}", headers={"If-Modified-Since": "yesterday"}).status_code == 200


def test_put_with_if_none_match_star_only_creates(hospital, created):
    made = created(patient())
    assert_outcome(hospital.put(f"Patient/{made['id']}", json=made, headers={"If-None-Match": "*"}), 412, "conflict")


def test_a_transaction_settles_conditions_and_conditional_references(hospital, created):
    known = created(numbered("6"))
    order = {"resourceType": "ServiceRequest", "status": "active", "intent": "order"}
    rows = [
        {"fullUrl": "urn:uuid:0a1b2c3d-0000-4000-8000-000000000001", "resource": numbered("6"),
         "request": {"method": "POST", "url": "Patient", "ifNoneExist": asked("6")}},
        {"resource": order | {"subject": {"reference": "urn:uuid:0a1b2c3d-0000-4000-8000-000000000001"}},
         "request": {"method": "POST", "url": "ServiceRequest"}},
        {"resource": order | {"subject": {"reference": f"Patient?{asked('6')}"}}, "request": {"method": "POST", "url": "ServiceRequest"}},
    ]  # fmt: skip
    reply = hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": rows})
    assert reply.status_code == 200, reply.text
    answers = reply.json()["entry"]
    assert [a["response"]["status"] for a in answers] == ["200", "201", "201"]
    assert [a["resource"]["subject"]["reference"] for a in answers[1:]] == [f"Patient/{known['id']}"] * 2
    rows = [
        {
            "resource": order | {"subject": {"reference": f"Patient?{asked('none')}"}},
            "request": {"method": "POST", "url": "ServiceRequest"},
        }
    ]
    refused = hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": rows})
    assert_outcome(refused, 412, "conflict", "Bundle.entry[0]")


def test_conditional_delete_of_nothing_does_not_fail_a_transaction(hospital, created):
    entries = [
        {"request": {"method": "DELETE", "url": f"Patient?{asked('nobody')}"}},
        {"resource": patient(), "request": {"method": "POST", "url": "Patient"}},
    ]
    answer = hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert [entry["response"]["status"][:3] for entry in answer.json()["entry"]] == ["204", "201"]
