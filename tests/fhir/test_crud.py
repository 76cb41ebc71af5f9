"""https://hl7.org/fhir/R4/http.html"""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest
from conftest import BASE, assert_outcome, order, patient

from fhirserver.resources import RESOURCE_TYPES
from fhirserver.search.parameters import parameters


def test_create_answers_201_with_location_etag_last_modified(hospital):
    reply = hospital.post("Patient", json=patient(id="ignored"))
    body = reply.json()
    assert reply.status_code == 201
    assert body["id"] != "ignored"
    assert body["meta"]["versionId"] == "1"
    assert reply.headers["location"] == f"{BASE}/fhir/Patient/{body['id']}/_history/1"
    assert reply.headers["etag"] == 'W/"1"'
    modified = parsedate_to_datetime(reply.headers["last-modified"])
    assert modified.strftime("%Y-%m-%dT%H:%M:%S") == body["meta"]["lastUpdated"][:19]


def test_read_gives_the_bytes_that_were_sent(hospital):
    text = '{"resourceType":"Observation" , "status":"final","code":{"text":"x\\u0142"},\n "valueQuantity":{"value":1.00,"unit":"mm"}}'
    made = hospital.post("Observation", content=text, headers={"Content-Type": "application/fhir+json"})
    assert made.status_code == 201
    read = hospital.get(f"Observation/{made.json()['id']}")
    assert '"valueQuantity":{"value":1.00,"unit":"mm"}' in read.text
    assert '"code":{"text":"x\\u0142"}' in read.text


def test_vread_gives_each_version(hospital, created):
    first = created(patient())
    second = hospital.put(f"Patient/{first['id']}", json=first | {"gender": "female"})
    assert second.status_code == 200
    assert second.headers["etag"] == 'W/"2"'
    assert hospital.get(f"Patient/{first['id']}/_history/1").json()["gender"] == "male"
    assert hospital.get(f"Patient/{first['id']}/_history/2").json()["gender"] == "female"
    assert_outcome(hospital.get(f"Patient/{first['id']}/_history/3"), 404, "not-found")


def test_stale_if_match_answers_412_and_changes_nothing(hospital, created):
    made = created(patient())
    hospital.put(f"Patient/{made['id']}", json=made | {"gender": "female"})
    stale = hospital.put(f"Patient/{made['id']}", json=made | {"gender": "other"}, headers={"If-Match": 'W/"1"'})
    assert_outcome(stale, 412, "conflict")
    assert hospital.get(f"Patient/{made['id']}").json()["gender"] == "female"


def test_if_match_lets_one_of_many_writers_through(hospital, created):
    made = created(patient())

    def write(number: int) -> int:
        changed = made | {"name": [{"family": f"Writer{number}"}]}
        return int(hospital.put(f"Patient/{made['id']}", json=changed, headers={"If-Match": 'W/"1"'}).status_code)

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(write, range(8)))
    assert statuses == [200] + [412] * 7
    assert hospital.get(f"Patient/{made['id']}").json()["meta"]["versionId"] == "2"


def test_update_without_a_change_makes_no_version(hospital, created):
    made = created(patient())
    again = hospital.put(f"Patient/{made['id']}", json=made)
    assert again.status_code == 200
    assert again.headers["etag"] == 'W/"1"'


def test_put_creates_under_a_uuid_or_the_organisations_prefix_alone(hospital):
    for id_ in (str(uuid.uuid4()), "hospital-77"):
        assert hospital.put(f"Patient/{id_}", json=patient(id=id_)).status_code == 201
    assert_outcome(hospital.put("Patient/77", json=patient(id="77")), 422, "invalid", "Patient.id")
    assert_outcome(hospital.put("Patient/office-7", json=patient(id="office-7")), 422, "invalid", "Patient.id")


def test_put_with_another_id_in_the_body_answers_400(hospital, created):
    made = created(patient())
    assert_outcome(hospital.put(f"Patient/{made['id']}", json=patient(id="other")), 400, "invalid", "Patient.id")


def test_deleted_answers_410_and_its_versions_stay(hospital, created):
    made = created(patient())
    gone = hospital.delete(f"Patient/{made['id']}")
    assert gone.status_code == 204
    assert gone.headers["etag"] == 'W/"2"'
    assert_outcome(hospital.get(f"Patient/{made['id']}"), 410, "deleted")
    assert hospital.get(f"Patient/{made['id']}/_history/1").status_code == 200
    assert hospital.delete(f"Patient/{made['id']}").status_code == 204
    back = hospital.put(f"Patient/{made['id']}", json=made)
    assert back.status_code == 201
    assert back.headers["etag"] == 'W/"3"'


def test_a_patient_with_orders_is_not_deleted(hospital, created):
    made = created(patient())
    created(order(f"Patient/{made['id']}"))
    assert_outcome(hospital.delete(f"Patient/{made['id']}"), 409, "conflict")
    assert hospital.get(f"Patient/{made['id']}").status_code == 200


def test_history_lists_newest_first_with_deletes_and_pages(hospital, created):
    made = created(patient())
    hospital.put(f"Patient/{made['id']}", json=made | {"gender": "female"})
    hospital.delete(f"Patient/{made['id']}")
    page = hospital.get(f"Patient/{made['id']}/_history?_count=2").json()
    assert page["type"] == "history"
    assert [e["request"]["method"] for e in page["entry"]] == ["DELETE", "PUT"]
    assert "resource" not in page["entry"][0]
    [following] = [link["url"] for link in page["link"] if link["relation"] == "next"]
    rest = hospital.get(following).json()
    assert [e["response"]["etag"] for e in rest["entry"]] == ['W/"1"']
    assert_outcome(hospital.get("Patient/nobody/_history"), 404, "not-found")


def test_prefer_return_minimal_has_no_body(hospital):
    reply = hospital.post("Patient", json=patient(), headers={"Prefer": "return=minimal"})
    assert reply.status_code == 201
    assert reply.content == b""


def test_every_write_has_its_provenance_and_audit_event(hospital, created):
    made = created(patient())
    proof = hospital.get(f"Provenance?target=Patient/{made['id']}/_history/1").json()
    assert [e["resource"]["activity"]["coding"][0]["code"] for e in proof["entry"]] == ["CREATE"]
    events = hospital.get(f"AuditEvent?entity=Patient/{made['id']}&action=C").json()
    assert [e["resource"]["outcome"] for e in events["entry"]] == ["0"]


def test_reads_are_audited_with_who_and_what(hospital, created, server):
    made = created(patient())
    hospital.get(f"Patient/{made['id']}")
    server.installation.store_audit()
    events = hospital.get(f"AuditEvent?entity=Patient/{made['id']}&action=R").json()["entry"]
    assert [e["resource"]["agent"][0]["who"]["identifier"]["value"] for e in events] == ["hospital"]


def test_reads_inside_a_batch_and_refusals_are_audited_too(hospital, created, server, as_):
    made = created(patient())
    rows = [{"request": {"method": "GET", "url": f"Patient/{made['id']}"}}]
    hospital.post("", json={"resourceType": "Bundle", "type": "batch", "entry": rows})
    narrow = as_("hospital", scope="system/Task.r", user="snoop", roles=("clerk",))
    assert_outcome(narrow.get(f"Patient/{made['id']}"), 403, "forbidden")
    server.installation.store_audit()
    assert hospital.get(f"AuditEvent?entity=Patient/{made['id']}&action=R").json()["total"] == 1
    refused = hospital.get("AuditEvent?outcome=4").json()["entry"]
    assert "snoop@hospital" in [e["resource"]["agent"][0]["who"]["display"] for e in refused]


def test_audit_events_and_provenances_are_not_written_by_clients(hospital, created):
    made = created(patient())
    [event] = hospital.get(f"AuditEvent?entity=Patient/{made['id']}").json()["entry"]
    assert_outcome(hospital.put(f"AuditEvent/{event['resource']['id']}", json=event["resource"]), 405, "not-supported")
    assert_outcome(hospital.delete(f"AuditEvent/{event['resource']['id']}"), 405, "not-supported")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "Nothing/1", 404, "not-found"),
        ("GET", "Patient/does-not-exist", 404, "not-found"),
        ("GET", "a/b/c/d/e", 404, "not-found"),
        ("DELETE", "Patient", 400, "invalid"),
        ("GET", "Task/$nothing", 404, "not-found"),
        ("GET", "Patient/../../etc/passwd", 404, "not-found"),
    ],
)
def test_what_is_not_there_is_told_as_an_outcome(hospital, method, path, status, code):
    assert_outcome(hospital.request(method, path), status, code)


def test_other_formats_are_refused(hospital, created):
    made = created(patient())
    assert_outcome(hospital.get(f"Patient/{made['id']}", headers={"Accept": "application/fhir+xml"}), 406, "not-supported")
    xml = hospital.post("Patient", content=b"<Patient/>", headers={"Content-Type": "application/fhir+xml"})
    assert_outcome(xml, 415, "not-supported")


def test_a_placer_order_number_is_used_once_by_a_facility(hospital, office, created):
    made = created(patient())
    number = {"type": {"coding": [{"code": "PLAC"}]}, "system": "urn:x", "value": "77"}
    created(order(f"Patient/{made['id']}", identifier=[number]))
    again = hospital.post("ServiceRequest", json=order(f"Patient/{made['id']}", identifier=[number]))
    assert_outcome(again, 409, "duplicate")
    theirs = office.post("Patient", json=patient()).json()
    assert office.post("ServiceRequest", json=order(f"Patient/{theirs['id']}", identifier=[number])).status_code == 201


def test_metadata_needs_no_token_and_names_r4(server):
    from starlette.testclient import TestClient

    reply = TestClient(server.app, base_url=BASE).get("/fhir/metadata")
    assert reply.status_code == 200
    body = reply.json()
    assert body["fhirVersion"] == "4.0.1"
    types = {row["type"] for row in body["rest"][0]["resource"]}
    assert {"Patient", "ServiceRequest", "Task", "ImagingStudy", "DiagnosticReport", "Binary", "Bundle"} <= types


def test_metadata_promises_only_searches_that_run(hospital):
    statement = hospital.get("metadata").json()
    values = {"token": "x", "string": "x", "date": "2026", "reference": "Patient/x", "uri": "urn:x", "number": "5"}
    values |= {"quantity": "5||mg", "special": "52.2|21.0|5|km"}
    for row in statement["rest"][0]["resource"]:
        served = parameters(RESOURCE_TYPES[row["type"]])
        for parameter in row.get("searchParam", []):
            kinds = [component.kind for component in served[parameter["name"]].components] or [parameter["type"]]
            value = "$".join(values[kind] for kind in kinds)
            reply = hospital.get(f"{row['type']}?{parameter['name']}={value}&_summary=count")
            assert reply.status_code == 200, (row["type"], parameter["name"], reply.text)


def test_large_numbers_of_members_and_depth_are_answered_not_crashed_on(hospital):
    deep = "[" * 3000 + "]" * 3000
    bodies = [
        f'{{"resourceType":"Patient","x":{deep}}}',
        json.dumps({"resourceType": "Patient"} | {f"x{i}": 1 for i in range(500)}),
    ]
    for body in bodies:
        reply = hospital.post("Patient", content=body, headers={"Content-Type": "application/fhir+json"})
        assert reply.status_code in (400, 422)
        assert reply.json()["resourceType"] == "OperationOutcome"


def test_head_tells_the_length_that_get_has(hospital, created):
    path = f"Patient/{created(patient())['id']}"
    got, head = hospital.get(path), hospital.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", got.headers["etag"])
    assert int(head.headers["content-length"]) == len(got.content)
