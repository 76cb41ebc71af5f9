"""Writes by narrow scopes: the old and the new state are both within them.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#finer-grained-resource-constraints-using-search-parameters
"""

from __future__ import annotations

import pytest
from conftest import assert_outcome, patient

CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"


def observation(subject: str, category: str = "laboratory", **members) -> dict:
    coded = [{"coding": [{"system": CATEGORY, "code": category}]}]
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "x"},
        "category": coded,
        "subject": {"reference": f"Patient/{subject}"},
    } | members


@pytest.fixture(scope="module")
def two(created):
    return [created(patient())["id"] for _ in range(2)]


@pytest.fixture(scope="module")
def narrow(as_, two):
    """One patient's laboratory results, and nothing else."""
    scope = f"patient/Observation.cruds?category={CATEGORY}|laboratory patient/Patient.rs"
    return as_("hospital", scope=scope, patient=two[0])


def test_what_is_within_is_written(narrow, two):
    made = narrow.post("Observation", json=observation(two[0]))
    assert made.status_code == 201
    id_ = made.json()["id"]
    assert narrow.put(f"Observation/{id_}", json=made.json() | {"status": "amended"}).status_code == 200
    assert narrow.delete(f"Observation/{id_}").status_code == 204


def test_nothing_is_created_beyond(narrow, two, hospital):
    before = hospital.get("Observation?_total=accurate&_count=1").json()["total"]
    assert_outcome(narrow.post("Observation", json=observation(two[0], "vital-signs")), 403, "forbidden")
    assert_outcome(narrow.post("Observation", json=observation(two[1])), 422, "not-found")  # the patient is hidden
    anonymous = {name: value for name, value in observation(two[0]).items() if name != "subject"}
    assert_outcome(narrow.post("Observation", json=anonymous), 403, "forbidden")
    assert_outcome(
        narrow.put("Observation/hospital-x", json=observation(two[0], "vital-signs", id="hospital-x")), 403, "forbidden"
    )
    entry = {"resource": observation(two[0], "vital-signs"), "request": {"method": "POST", "url": "Observation"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert_outcome(narrow.post("", json=bundle), 403, "forbidden")
    assert hospital.get("Observation?_total=accurate&_count=1").json()["total"] == before


def test_nothing_is_moved_out_or_in(narrow, two, created):
    inside, outside = created(observation(two[0])), created(observation(two[0], "vital-signs"))
    moved = inside | {"category": outside["category"]}
    assert_outcome(narrow.put(f"Observation/{inside['id']}", json=moved), 403, "forbidden")
    patch = [{"op": "replace", "path": "/category/0/coding/0/code", "value": "vital-signs"}]
    headers = {"Content-Type": "application/json-patch+json"}
    assert_outcome(narrow.patch(f"Observation/{inside['id']}", json=patch, headers=headers), 403, "forbidden")
    hidden = narrow.put(f"Observation/{outside['id']}", json=outside | {"category": inside["category"]})
    assert hidden.status_code == 404
    assert narrow.delete(f"Observation/{outside['id']}").status_code == 404
    assert narrow.get(f"Observation/{inside['id']}").json()["meta"]["versionId"] == "1"


def test_labels_do_not_move_a_resource_out_of_a_scope_by_label(as_, created, two):
    tag = {"system": "urn:test", "code": "study"}
    made = created(observation(two[0], meta={"tag": [tag]}))
    labelled = as_("hospital", scope="system/Observation.rus?_tag=urn:test|study system/Patient.r")
    body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [tag]}}]}
    assert_outcome(labelled.post(f"Observation/{made['id']}/$meta-delete", json=body), 403, "forbidden")
    assert labelled.get(f"Observation/{made['id']}/$meta").status_code == 200


def test_a_patch_tells_no_more_than_was_sent_to_who_may_not_read(as_, created, two):
    made = created(observation(two[0], note=[{"text": "secret"}]))
    writer = as_("hospital", scope="system/Observation.u system/Patient.r")
    patch = [{"op": "replace", "path": "/status", "value": "amended"}]
    reply = writer.patch(f"Observation/{made['id']}", json=patch, headers={"Content-Type": "application/json-patch+json"})
    assert reply.status_code == 200
    assert "secret" not in reply.text
    assert writer.get(f"Observation/{made['id']}").status_code == 403


def test_conditional_writes_find_what_the_search_scope_reaches(narrow, two, created):
    made = created(observation(two[0], "vital-signs", identifier=[{"system": "urn:t", "value": "9"}]))
    body = observation(two[0], identifier=[{"system": "urn:t", "value": "9"}])
    again = narrow.post("Observation", json=body, headers={"If-None-Exist": "identifier=urn:t|9"})
    assert again.status_code == 201  # the other one is not there for this token
    assert again.json()["id"] != made["id"]


def test_a_task_is_within_the_patient_it_is_for(as_, created, two):
    task = {"resourceType": "Task", "status": "requested", "intent": "order"}
    mine = created(task | {"for": {"reference": f"Patient/{two[0]}"}})
    others = [created(task | {"for": {"reference": f"Patient/{two[1]}"}}), created(task)]
    app = as_("hospital", scope="patient/*.rs", patient=two[0])
    assert app.get(f"Task/{mine['id']}").status_code == 200
    assert [app.get(f"Task/{other['id']}").status_code for other in others] == [404, 404]
    assert [e["resource"]["id"] for e in app.get("Task").json()["entry"]] == [mine["id"]]
    assert app.get("Organization").status_code == 200  # the directory
    assert app.get("Basic").status_code == 200
    assert app.get("Binary").status_code == 403  # whose record it is cannot be told
