"""https://hl7.org/fhir/R4/http.html#patch, #history; https://hl7.org/fhir/R4/search.html#summary, compartments"""

from __future__ import annotations

import base64
import json
from datetime import datetime, timezone

import pytest
from conftest import assert_outcome, order, patient

from auth.principal import Principal
from fhirserver.errors import InsufficientStorage
from fhirserver.messages import Line
from fhirserver.trail import Trail

JSON_PATCH = {"Content-Type": "application/json-patch+json"}
FHIR = {"Content-Type": "application/fhir+json"}


def operation(**parts):
    named = [{"name": name} | value for name, value in parts.items()]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": named}]}


def of(type_, path, **more):
    return operation(type={"valueCode": type_}, path={"valueString": path}, **more)


def test_json_patch_changes_what_it_names_and_keeps_the_rest(hospital, created):
    made = created(patient(multipleBirthInteger=2))
    rows = [{"op": "replace", "path": "/gender", "value": "female"}, {"op": "add", "path": "/name/0/given/-", "value": "Maria"}]
    reply = hospital.patch(f"Patient/{made['id']}", content=json.dumps(rows), headers=JSON_PATCH)
    assert reply.status_code == 200, reply.text
    assert (reply.json()["gender"], reply.json()["name"][0]["given"]) == ("female", ["Jan", "Maria"])
    assert reply.json()["meta"]["versionId"] == "2"


@pytest.mark.parametrize(
    ("rows", "status", "code"),
    [
        ([{"op": "test", "path": "/gender", "value": "other"}], 422, "processing"),
        ([{"op": "remove", "path": "/nothing"}], 422, "processing"),
        ([{"op": "jump", "path": "/gender"}], 422, "processing"),
        ({"op": "remove"}, 422, "processing"),
        ([{"op": "replace", "path": "/gender", "value": "purple"}], 422, "code-invalid"),
        ([{"op": "replace", "path": "/id", "value": "x"}], 400, "invalid"),
    ],
)
def test_a_patch_that_does_not_apply_changes_nothing(hospital, created, rows, status, code):
    made = created(patient())
    assert_outcome(hospital.patch(f"Patient/{made['id']}", content=json.dumps(rows), headers=JSON_PATCH), status, code)
    assert hospital.get(f"Patient/{made['id']}").json() == made


@pytest.mark.parametrize(
    ("parameters", "changed"),
    [
        (of("replace", "Patient.gender", value={"valueCode": "female"}), {"gender": "female"}),
        (of("delete", "Patient.gender"), {"gender": None}),
        (of("add", "Patient", name={"valueString": "birthDate"}, value={"valueDate": "1970-01-01"}), {"birthDate": "1970-01-01"}),
        (of("insert", "Patient.name[0].given", index={"valueInteger": 0}, value={"valueString": "A"}),
         {"name": [{"family": "Nowak", "given": ["A", "Jan"]}]}),
        (of("replace", "Patient.name.where(family='Nowak').family", value={"valueString": "Nowa"}),
         {"name": [{"family": "Nowa", "given": ["Jan"]}]}),
        (of("add", "Patient", name={"valueString": "contact"}, value={"part": [{"name": "gender", "valueCode": "male"},
            {"name": "name", "valueHumanName": {"family": "X"}}]}), {"contact": [{"gender": "male", "name": {"family": "X"}}]}),
    ],
)  # fmt: skip
def test_fhirpath_patch(hospital, created, parameters, changed):
    made = created(patient())
    reply = hospital.patch(f"Patient/{made['id']}", json=parameters, headers=FHIR)
    assert reply.status_code == 200, reply.text
    assert {name: reply.json().get(name) for name in changed} == changed


def test_a_stale_if_match_of_a_patch_answers_412(hospital, created):
    made = created(patient())
    headers = JSON_PATCH | {"If-Match": 'W/"7"'}
    assert_outcome(hospital.patch(f"Patient/{made['id']}", content="[]", headers=headers), 412, "conflict")


def test_patches_in_a_transaction(hospital, created):
    one, two = created(patient()), created(patient())
    rows = json.dumps([{"op": "replace", "path": "/gender", "value": "other"}]).encode()
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": base64.b64encode(rows).decode()}
    fhirpath = of("replace", "Patient.gender", value={"valueCode": "other"})
    entries = [
        {"resource": resource, "request": {"method": "PATCH", "url": f"Patient/{made['id']}"}}
        for made, resource in ((one, binary), (two, fhirpath))
    ]
    reply = hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert reply.status_code == 200, reply.text
    assert [hospital.get(f"Patient/{made['id']}").json()["gender"] for made in (one, two)] == ["other", "other"]


def test_history_of_a_type_and_of_all_is_paged_and_hidden_from_others(hospital, office, created, server):
    made = created(patient())
    since = hospital.get(f"Patient/{made['id']}").json()["meta"]["lastUpdated"]
    hospital.put(f"Patient/{made['id']}", json=made | {"gender": "female"})
    hospital.delete(f"Patient/{made['id']}")
    for path in ("Patient/_history", "_history"):
        url, seen = f"{path}?_since={since}&_count=2", []
        while url:
            page = hospital.get(url).json()
            seen += [(e["fullUrl"].rpartition("/fhir/")[2], e["request"]["method"]) for e in page.get("entry", [])]
            url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
        mine = [method for what, method in seen if what == f"Patient/{made['id']}"]
        assert mine == ["DELETE", "PUT", "POST"], (path, seen)
        assert made["id"] not in office.get(f"{path}?_since={since}").text


def test_summary_and_elements_are_marked_subsetted(hospital, created):
    made = created(patient(birthDate="1970-01-01", contact=[{"gender": "male", "name": {"family": "X"}}]))
    part = hospital.get(f"Patient/{made['id']}?_elements=birthDate").json()
    assert set(part) == {"resourceType", "id", "meta", "birthDate"}
    assert part["meta"]["tag"][0]["code"] == "SUBSETTED"
    summary = hospital.get(f"Patient?_id={made['id']}&_summary=true").json()["entry"][0]["resource"]
    assert "birthDate" in summary
    assert "contact" not in summary
    assert hospital.get(f"Patient/{made['id']}").json() == made


def test_compartment_and_system_search(hospital, office, created):
    person, other = created(patient()), created(patient())
    mine, theirs = created(order(f"Patient/{person['id']}")), created(order(f"Patient/{other['id']}"))
    found = hospital.get(f"Patient/{person['id']}/ServiceRequest").json()["entry"]
    assert [e["resource"]["id"] for e in found] == [mine["id"]]
    assert mine["id"] in hospital.get(f"Patient/{person['id']}/*").text
    assert theirs["id"] not in hospital.get(f"Patient/{person['id']}/*").text
    assert_outcome(office.get(f"Patient/{person['id']}/*"), 404, "not-found")
    ids = {person["id"], mine["id"]}
    system = hospital.get(f"?_type=Patient,ServiceRequest&_id={','.join(ids)}").json()
    assert {e["resource"]["id"] for e in system["entry"]} == ids


def test_a_merged_patient_is_found_by_each_record_and_the_merge_is_taken_back(hospital, created):
    kept, old = created(patient()), created(patient(identifier=[{"system": "urn:old", "value": "7"}]))
    mine, theirs = created(order(f"Patient/{kept['id']}")), created(order(f"Patient/{old['id']}"))
    link = [{"other": {"reference": f"Patient/{kept['id']}"}, "type": "replaced-by"}]
    assert hospital.put(f"Patient/{old['id']}", json=old | {"link": link, "active": False}).status_code == 200

    def orders(asked):
        return {e["resource"]["id"] for e in hospital.get(f"ServiceRequest?{asked}").json().get("entry", [])}

    both = {mine["id"], theirs["id"]}
    assert orders(f"subject=Patient/{kept['id']}") == both
    assert orders(f"patient={old['id']}") == both
    assert orders("patient.identifier=urn:old|7") == both
    assert hospital.put(f"Patient/{old['id']}", json=old).status_code == 200
    assert orders(f"subject=Patient/{kept['id']}") == {mine["id"]}


def test_x_provenance_stands_beside_the_write(hospital):
    said = {"resourceType": "Provenance", "recorded": "2026-11-24T12:00:00Z", "agent": [{"who": {"display": "Dr. X"}}]}
    made = hospital.post("Patient", json=patient(), headers={"X-Provenance": json.dumps(said)}).json()
    entries = hospital.get(f"Provenance?target=Patient/{made['id']}/_history/1").json()["entry"]
    assert said["agent"] in [entry["resource"]["agent"] for entry in entries]
    assert "CREATE" in [
        e["resource"].get("activity", {}).get("coding", [{}])[0].get("code") for e in entries
    ]  # the server's own
    wrong = hospital.post("Patient", json=patient(), headers={"X-Provenance": '{"resourceType":"Patient"}'})
    assert_outcome(wrong, 422, "invalid")


def test_definitions_are_readable(hospital):
    parameter = hospital.get("SearchParameter/Patient-identifier").json()
    assert (parameter["code"], parameter["type"]) == ("identifier", "token")
    assert hospital.get("OperationDefinition/Task-claim").json()["code"] == "claim"
    assert hospital.get("OperationDefinition?code=claim").json()["total"] == 1


def test_a_shape_that_is_none_answers_400_and_writes_nothing(hospital, created):
    made = created(patient())
    for asked in ("_summary=some", "_elements=a%20b"):
        assert_outcome(hospital.get(f"Patient/{made['id']}?{asked}"), 400, "invalid")
        assert_outcome(hospital.put(f"Patient/{made['id']}?{asked}", json=made | {"gender": "other"}), 400, "invalid")
    assert hospital.get(f"Patient/{made['id']}").json() == made


def test_the_definition_of_a_composite_names_its_parts(hospital):
    composite = hospital.get("SearchParameter/Observation-code-value-quantity").json()
    assert [c["definition"].rpartition("/")[2] for c in composite["component"]] == [
        "clinical-code",
        "Observation-value-quantity",
    ]
    [proof] = hospital.get("Provenance?target=SearchParameter/Observation-code-value-quantity").json().get("entry", [None])[:1]
    assert proof is None  # it is the server's own: its audit is not this caller's


def test_a_full_disk_answers_507_and_the_next_line_is_whole(tmp_path):
    (tmp_path / "full.open").symlink_to("/dev/full")
    trail = Trail(tmp_path)
    trail._file = open(tmp_path / "full.open", "ab", buffering=0)  # noqa: SIM115 - the trail closes it
    line = Line(Principal("c", "hospital"), "read", datetime(2026, 11, 24, tzinfo=timezone.utc), "0")
    with pytest.raises(InsufficientStorage) as full:
        trail.append(line)
    assert full.value.status == 507
    trail.append(line)
    trail._abandon()
    [written] = [path for path in tmp_path.glob("*.closed") if not path.is_symlink()]
    assert Line.read(written.read_bytes().strip()) == line
