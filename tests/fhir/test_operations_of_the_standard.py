"""$validate, $meta, $everything, $match, by what R4 says of each."""

from __future__ import annotations

import pytest
from conftest import BASE, assert_outcome, order, patient

PESEL = "urn:oid:2.16.840.1.113883.3.4424.1.1.616"
JSON = {"Content-Type": "application/fhir+json"}


def parameters(**given):
    rows = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            resource = isinstance(one, dict) and "resourceType" in one
            kind = (
                "resource"
                if resource
                else "valueMeta"
                if isinstance(one, dict)
                else "valueBoolean"
                if isinstance(one, bool)
                else "valueCode"
            )
            rows.append({"name": name, kind: one})
    return {"resourceType": "Parameters", "parameter": rows}


def issues(reply):
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["resourceType"] == "OperationOutcome"
    return [(i["severity"], i["code"], (i.get("expression") or [None])[0]) for i in body["issue"]]


FINE = [("information", "informational", None)]


# ---------------------------------------------------------------- $validate


def test_validate_takes_the_resource_as_the_body_or_in_parameters(hospital):
    assert issues(hospital.post("Patient/$validate", json=patient())) == FINE
    assert issues(hospital.post("Patient/$validate", json=parameters(resource=patient()))) == FINE


def test_validate_tells_every_problem_and_answers_200(hospital):
    bad = patient(gender="m", birthDate="1970-13-01")
    expected = [("error", "code-invalid", "Patient.gender"), ("error", "value", "Patient.birthDate")]
    assert issues(hospital.post("Patient/$validate", json=bad)) == expected
    assert issues(hospital.post("Patient/$validate", json=parameters(resource=bad, mode="create"))) == expected


def test_validate_of_another_type_than_the_url(hospital):
    assert issues(hospital.post("Patient/$validate", json={"resourceType": "Organization", "name": "x"}))[0][:2] == (
        "error",
        "invalid",
    )


def test_validate_for_create_looks_at_references_and_keeps_nothing(hospital, created):
    before = hospital.get("ServiceRequest?_summary=count").json()["total"]
    gone = order("Patient/11111111-1111-4111-8111-111111111111")
    assert issues(hospital.post("ServiceRequest/$validate?mode=create", json=gone)) == [
        ("error", "not-found", "ServiceRequest.subject.reference")
    ]
    assert issues(hospital.post("ServiceRequest/$validate", json=gone)) == FINE  # without a mode, of itself alone
    whole = order(f"Patient/{created(patient())['id']}")
    assert issues(hospital.post("ServiceRequest/$validate?mode=create", json=whole)) == FINE
    assert hospital.get("ServiceRequest?_summary=count").json()["total"] == before


def test_validate_for_create_finds_a_business_identifier_that_is_taken(hospital, created):
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PLAC"}]}
    number = [{"type": kind, "system": "urn:placer", "value": "taken-1"}]
    whole = order(f"Patient/{created(patient())['id']}", identifier=number)
    created(whole)
    assert hospital.post("ServiceRequest", json=whole).status_code == 409
    assert issues(hospital.post("ServiceRequest/$validate?mode=create", json=whole))[0][:2] == ("error", "duplicate")


def test_validate_for_update_runs_the_rules_of_the_change(hospital, created):
    asked = created(order(f"Patient/{created(patient())['id']}", status="completed"))
    back = asked | {"status": "draft"}
    path = f"ServiceRequest/{asked['id']}/$validate"
    refused = hospital.put(f"ServiceRequest/{asked['id']}", json=back)
    assert refused.status_code >= 400
    told = issues(hospital.post(f"{path}?mode=update", json=back))
    assert [(i["severity"], i["code"], (i.get("expression") or [None])[0]) for i in refused.json()["issue"]] == told
    assert issues(hospital.post(f"{path}?mode=update", json=asked)) == FINE
    assert hospital.get(f"ServiceRequest/{asked['id']}").json()["meta"]["versionId"] == "1"


def test_validate_for_delete_says_whether_it_would_be_deleted(hospital, created):
    person = created(patient())
    path = f"Patient/{person['id']}/$validate?mode=delete"
    assert issues(hospital.post(path)) == FINE
    created(order(f"Patient/{person['id']}"))
    assert issues(hospital.post(path))[0][:2] == ("error", "conflict")
    assert hospital.get(f"Patient/{person['id']}").status_code == 200


def test_validate_of_what_is_stored(hospital, created):
    assert issues(hospital.get(f"Patient/{created(patient())['id']}/$validate")) == FINE


def test_validate_for_a_write_that_the_caller_may_not_make(as_, hospital, created):
    reader = as_("hospital", scope="system/*.rs")
    assert issues(reader.post("Patient/$validate?mode=create", json=patient()))[0][:2] == ("error", "forbidden")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("Patient/$validate?mode=update", 400, "invalid"),
        ("Patient/$validate?mode=guess", 422, "invalid"),
        ("Patient/$validate?profile=http://example.org/p", 400, "not-supported"),
        ("Patient/11111111-1111-4111-8111-111111111111/$validate", 404, "not-found"),
        ("Patient/$validate?unknown=1", 422, "not-supported"),
    ],
)
def test_errors_of_validate(hospital, path, status, code):
    assert_outcome(hospital.post(path, json=patient()), status, code)


def test_validate_without_a_resource(hospital):
    assert_outcome(hospital.post("Patient/$validate"), 422, "invalid", "Parameters.parameter")


def test_a_hidden_resource_is_validated_like_a_missing_one(office, created):
    person = created(patient())
    assert_outcome(office.post(f"Patient/{person['id']}/$validate?mode=delete"), 404, "not-found")


# ---------------------------------------------------------------- $meta

A, B = {"system": "urn:tags", "code": "a", "display": "A"}, {"system": "urn:tags", "code": "b"}


def the_meta(reply):
    assert reply.status_code == 200, reply.text
    rows = reply.json().get("parameter", [])
    return rows[0]["valueMeta"] if rows else {}


def test_meta_add_unites_and_makes_one_version(hospital, created):
    person = created(patient(birthDate="1970-01-01", meta={"tag": [A]}))
    path = f"Patient/{person['id']}"
    given = {
        "tag": [{"system": "urn:tags", "code": "a"}, B],
        "profile": ["urn:p"],
        "security": [{"system": "urn:s", "code": "R"}],
    }
    meta = the_meta(hospital.post(f"{path}/$meta-add", json=parameters(meta=given)))
    assert meta["tag"] == [A, B]  # the display of what was there stays
    assert (meta["profile"], meta["security"], meta["versionId"]) == (["urn:p"], given["security"], "2")
    assert the_meta(hospital.get(f"{path}/$meta")) == meta == hospital.get(path).json()["meta"]
    assert [e["resource"]["id"] for e in hospital.get("Patient?_tag=urn:tags|b").json()["entry"]] == [person["id"]]
    again = the_meta(hospital.post(f"{path}/$meta-add", json=parameters(meta=given)))
    assert again["versionId"] == "2"
    assert hospital.get(path).json() | {"meta": 0} == person | {"meta": 0}


def test_meta_delete_takes_away_what_is_named(hospital, created):
    person = created(patient(meta={"tag": [A, B], "profile": ["urn:p"]}))
    meta = the_meta(
        hospital.post(f"Patient/{person['id']}/$meta-delete", json=parameters(meta={"tag": [A], "profile": ["urn:p"]}))
    )
    assert (meta["tag"], "profile" in meta, meta["versionId"]) == ([B], False, "2")
    same = the_meta(hospital.post(f"Patient/{person['id']}/$meta-delete", json=parameters(meta={"tag": [A]})))
    assert same["versionId"] == "2"


def test_meta_keeps_the_text_of_all_else(hospital):
    text = '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":1.00},"meta":{"tag":[{"code":"t"}]}}'
    made = hospital.post("Observation", content=text, headers=JSON)
    id_ = made.json()["id"]
    assert hospital.post(f"Observation/{id_}/$meta-add", json=parameters(meta={"tag": [B]})).status_code == 200
    assert '"value":1.00}' in hospital.get(f"Observation/{id_}").text


def test_meta_of_a_type_and_of_all_is_what_the_caller_may_see(hospital, office, created):
    created(
        {
            "resourceType": "Flag",
            "status": "active",
            "code": {"text": "x"},
            "subject": {"reference": f"Patient/{created(patient())['id']}"},
            "meta": {"tag": [B]},
        }
    )
    office.post(
        "Basic", json={"resourceType": "Basic", "code": {"text": "x"}, "meta": {"tag": [{"system": "urn:office", "code": "o"}]}}
    )
    assert the_meta(hospital.get("Flag/$meta"))["tag"] == [B]
    assert the_meta(hospital.get("Basic/$meta")) == {}
    assert B in the_meta(hospital.get("$meta"))["tag"]
    assert {"system": "urn:office", "code": "o"} not in the_meta(hospital.get("$meta"))["tag"]
    assert the_meta(office.get("Flag/$meta")) == {}


def test_errors_of_meta(hospital, office, created):
    person = created(patient())
    assert_outcome(hospital.post(f"Patient/{person['id']}/$meta-add"), 422, "required")
    assert_outcome(hospital.get(f"Patient/{person['id']}/$meta-add"), 405, "not-supported")
    assert_outcome(office.get(f"Patient/{person['id']}/$meta"), 404, "not-found")
    assert_outcome(office.post(f"Patient/{person['id']}/$meta-add", json=parameters(meta={"tag": [A]})), 404, "not-found")
    assert_outcome(
        hospital.post(f"Patient/{person['id']}/$meta-add", json=parameters(meta={"tag": [A]}), headers={"If-Match": 'W/"7"'}),
        412,
        "conflict",
    )
    assert hospital.delete(f"Patient/{person['id']}").status_code == 204
    assert_outcome(hospital.get(f"Patient/{person['id']}/$meta"), 410, "deleted")
    assert_outcome(hospital.post("OperationDefinition/x/$meta-add", json=parameters(meta={"tag": [A]})), 404, "not-found")


# ---------------------------------------------------------------- $everything


@pytest.fixture(scope="module")
def record(created, hospital):
    """A patient with orders, observations of three times, one without, an encounter, and somebody else's."""
    person, other = created(patient()), created(patient())
    who = created({"resourceType": "Organization", "name": "Ward"})
    subject = {"reference": f"Patient/{person['id']}"}
    encounter = created(
        {
            "resourceType": "Encounter",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": subject,
            "serviceProvider": {"reference": f"Organization/{who['id']}"},
            "period": {"start": "2026-03-01", "end": "2026-03-02"},
        }
    )
    seen = [
        created(
            {
                "resourceType": "Observation",
                "status": "final",
                "code": {"text": "x"},
                "subject": subject,
                "encounter": {"reference": f"Encounter/{encounter['id']}"},
            }
            | when
        )
        for when in (
            {"effectiveDateTime": "2025-05-05"},
            {"effectiveDateTime": "2026-03-01"},
            {"effectiveDateTime": "2026-09-09"},
            {},
        )
    ]
    asked = created(order(f"Patient/{person['id']}", authoredOn="2026-03-01"))
    created(order(f"Patient/{other['id']}"))
    return {"person": person, "who": who, "encounter": encounter, "seen": seen, "asked": asked}


def walked(client, url):
    """All pages: (matches, included), each once."""
    matches, included, pages = [], [], 0
    while url:
        body = client.get(url).json()
        assert body["resourceType"] == "Bundle", body
        assert body["type"] == "searchset"
        for entry in body.get("entry", []):
            (matches if entry["search"]["mode"] == "match" else included).append(
                f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
            )
        url = next((link["url"] for link in body["link"] if link["relation"] == "next"), None)
        pages += 1
    return matches, included, pages


def references(*resources):
    return sorted(f"{r['resourceType']}/{r['id']}" for r in resources)


def test_everything_is_the_compartment_and_what_it_refers_to(hospital, record):
    matches, included, _ = walked(hospital, f"Patient/{record['person']['id']}/$everything")
    assert sorted(matches) == references(record["person"], record["encounter"], *record["seen"], record["asked"])
    assert included == references(record["who"])


def test_everything_by_pages_loses_and_repeats_nothing(hospital, record):
    matches, _, pages = walked(hospital, f"Patient/{record['person']['id']}/$everything?_count=2")
    assert pages == 3
    assert len(matches) == len(set(matches)) == 7
    assert matches[0] == f"Patient/{record['person']['id']}"


def test_everything_of_a_time_of_care(hospital, record):
    person = record["person"]
    matches, _, _ = walked(hospital, f"Patient/{person['id']}/$everything?start=2026-02-01&end=2026-04-01&_count=3")
    assert sorted(matches) == references(person, record["encounter"], record["seen"][1], record["seen"][3], record["asked"])


def test_everything_of_types(hospital, record):
    path = f"Patient/{record['person']['id']}/$everything"
    matches, included, _ = walked(hospital, f"{path}?_type=Observation,ServiceRequest&_count=2")
    assert (sorted(matches), included) == (references(*record["seen"], record["asked"]), [])
    body = hospital.post(
        path, json={"resourceType": "Parameters", "parameter": [{"name": "_type", "valueString": "Encounter"}]}
    ).json()
    assert [e["resource"]["id"] for e in body["entry"]] == [record["encounter"]["id"]]


def test_everything_since_a_change(hospital, record, server):
    since = server.now().isoformat().replace("+00:00", "Z")
    changed = record["seen"][0] | {"status": "amended"}
    assert hospital.put(f"Observation/{changed['id']}", json=changed).status_code == 200
    matches, _, _ = walked(hospital, f"Patient/{record['person']['id']}/$everything?_since={since}")
    assert sorted(matches) == references(record["person"], changed)


def test_everything_of_merged_records_is_one(hospital, created):
    stays = created(patient())
    old = created(patient(link=[{"other": {"reference": f"Patient/{stays['id']}"}, "type": "replaced-by"}]))
    first, second = created(order(f"Patient/{stays['id']}")), created(order(f"Patient/{old['id']}"))
    for id_ in (stays["id"], old["id"]):
        matches, _, _ = walked(hospital, f"Patient/{id_}/$everything")
        assert sorted(matches) == references(stays, old, first, second)


def test_errors_of_everything(hospital, office, record, as_):
    path = f"Patient/{record['person']['id']}/$everything"
    assert_outcome(office.get(path), 404, "not-found")
    assert_outcome(hospital.get(f"{path}?_type=Nothing"), 422, "invalid")
    assert_outcome(hospital.get(f"{path}?_count=0"), 422, "invalid")
    assert_outcome(hospital.get(f"{path}?start=x"), 422, "value")
    assert_outcome(hospital.get(f"{path}?_cursor=x"), 400, "invalid")
    assert_outcome(hospital.get("Observation/x/$everything"), 404, "not-found")
    narrow = as_("hospital", scope="system/Patient.rs system/ServiceRequest.rs")
    matches, included, _ = walked(narrow, path)
    assert (sorted(matches), included) == (references(record["person"], record["asked"]), [])


# ---------------------------------------------------------------- $match


@pytest.fixture(scope="module")
def people(created):
    """Twins, and their father of the same name as one of them."""
    home = [{"postalCode": "30-001"}]
    jan = patient(
        name=[{"family": "Żółw", "given": ["Jan"]}],
        birthDate="1990-05-05",
        identifier=[{"system": PESEL, "value": "90050500018"}],
        address=home,
    )
    piotr = patient(
        name=[{"family": "Żółw", "given": ["Piotr"]}],
        birthDate="1990-05-05",
        identifier=[{"system": PESEL, "value": "90050500032"}],
        address=home,
    )
    father = patient(name=[{"family": "Żółw", "given": ["Jan"]}], birthDate="1960-01-01", address=home)
    return [created(one) for one in (jan, piotr, father)]


def matched(client, asked, **more):
    body = client.post("Patient/$match", json=parameters(resource=asked, **more) if more else asked).json()
    assert body["type"] == "searchset", body
    rows = body.get("entry", [])
    assert body["total"] == len(rows)
    scores = [row["search"]["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    return [(row["resource"]["id"], row["search"]["extension"][0]["valueCode"]) for row in rows]


def test_match_by_number_and_name_is_certain(hospital, people):
    asked = {"resourceType": "Patient", "identifier": [{"system": PESEL, "value": "90050500018"}], "name": [{"family": "ZOLW"}]}
    assert matched(hospital, asked) == [(people[0]["id"], "certain")]
    assert matched(hospital, asked, onlyCertainMatches=True) == [(people[0]["id"], "certain")]


def test_match_by_name_birth_date_and_gender_is_probable_and_never_certain(hospital, people):
    asked = {
        "resourceType": "Patient",
        "name": [{"family": "Żółw", "given": ["Jan"]}],
        "birthDate": "1990-05-05",
        "gender": "male",
        "address": [{"postalCode": "30-001"}],
    }
    found = matched(hospital, asked)
    assert found[0] == (people[0]["id"], "probable")
    assert people[2]["id"] not in dict(found)  # the father
    assert dict(found).get(people[1]["id"]) in (None, "possible")  # the twin
    assert matched(hospital, asked, onlyCertainMatches=True) == []


def test_two_personal_numbers_are_two_people(hospital, people):
    asked = {k: v for k, v in people[0].items() if k not in ("id", "meta")} | {
        "identifier": [{"system": PESEL, "value": "90050500056"}]
    }
    assert people[0]["id"] not in dict(matched(hospital, asked))


def test_match_sees_what_the_caller_sees(office, people):
    asked = {"resourceType": "Patient", "identifier": [{"system": PESEL, "value": "90050500018"}]}
    assert matched(office, asked) == []


def test_match_counts(hospital, people):
    asked = {"resourceType": "Patient", "name": [{"family": "Żółw", "given": ["Jan"]}], "birthDate": "1990-05-05"}
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "resource", "resource": asked}, {"name": "count", "valueInteger": 1}],
    }
    assert hospital.post("Patient/$match", json=body).json()["total"] == 1


def test_errors_of_match(hospital):
    assert_outcome(
        hospital.post("Patient/$match", json={"resourceType": "Patient", "gender": "male"}), 422, "invalid", "Patient"
    )
    assert_outcome(hospital.post("Patient/$match", json={"resourceType": "Group"}), 422, "structure", "Parameters")
    assert_outcome(
        hospital.post("Patient/$match", json={"resourceType": "Patient", "gender": "x"}), 422, "code-invalid", "Patient.gender"
    )
    assert_outcome(hospital.post("Patient/$match"), 422, "required")


# ---------------------------------------------------------------- where they are told


def test_the_standards_operations_are_declared_by_the_standards_urls(hospital):
    resources = {r["type"]: r for r in hospital.get("metadata").json()["rest"][0]["resource"]}
    told = {o["name"]: o["definition"] for o in resources["Patient"]["operation"]}
    hl7 = "http://hl7.org/fhir/OperationDefinition"
    ours = {name: told.pop(name) for name in ("break-glass", "access-log")}
    assert all(url.startswith(f"{BASE}/fhir/OperationDefinition/Patient-") for url in ours.values())
    assert told == {
        "validate": f"{hl7}/Resource-validate", "meta": f"{hl7}/Resource-meta", "meta-add": f"{hl7}/Resource-meta-add",
        "meta-delete": f"{hl7}/Resource-meta-delete", "everything": f"{hl7}/Patient-everything", "match": f"{hl7}/Patient-match",
    }  # fmt: skip
    assert hospital.get(f"OperationDefinition?url={hl7}/Resource-validate").json()["total"] == 1
    assert [o["name"] for o in hospital.get("metadata").json()["rest"][0]["operation"]] == ["meta"]


# ---------------------------------------------------------------- what a review found


def test_validate_of_what_is_sent_needs_no_scope_to_read(as_):
    writer = as_("hospital", scope="system/Patient.c")
    assert issues(writer.post("Patient/$validate?mode=create", json=patient())) == FINE
    assert_outcome(writer.get("Patient/11111111-1111-4111-8111-111111111111/$validate"), 403, "forbidden")


def test_validate_for_update_finds_a_business_identifier_that_is_taken(hospital, created):
    def numbered(value):
        kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PLAC"}]}
        return order(f"Patient/{created(patient())['id']}", identifier=[{"type": kind, "system": "urn:placer", "value": value}])

    first, second = created(numbered("upd-1")), created(numbered("upd-2"))
    taken = second | {"identifier": first["identifier"]}
    path = f"ServiceRequest/{second['id']}/$validate?mode=update"
    assert issues(hospital.post(path, json=taken))[0][:2] == ("error", "duplicate")
    assert issues(hospital.post(path, json=second)) == FINE


def test_a_parameter_of_another_data_type_is_refused(hospital, created):
    body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueCoding": B}]}
    assert_outcome(
        hospital.post(f"Patient/{created(patient())['id']}/$meta-add", json=body), 422, "value", "Parameters.parameter[0]"
    )


def test_a_transaction_does_not_change_a_resource_and_its_labels_apart(hospital, created):
    person = created(patient())
    path = f"Patient/{person['id']}"
    labels = {"resource": parameters(meta={"tag": [B]}), "request": {"method": "POST", "url": f"{path}/$meta-add"}}
    for other in (
        {"resource": person | {"active": True}, "request": {"method": "PUT", "url": path}},
        {"request": {"method": "DELETE", "url": path}},
    ):
        reply = hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": [labels, other]})
        assert_outcome(reply, 400, "invalid")
    assert hospital.get(path).json() == person


def test_one_that_is_certain_is_one_whatever_the_count(hospital, created):
    number = [{"system": "urn:twice", "value": "1"}]
    two = [created(patient(name=[{"family": "Certain"}], identifier=number)) for _ in range(2)]
    asked = {"resourceType": "Patient", "identifier": number, "name": [{"family": "Certain"}]}
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "resource", "resource": asked},
            {"name": "count", "valueInteger": 1},
            {"name": "onlyCertainMatches", "valueBoolean": True},
        ],
    }
    assert hospital.post("Patient/$match", json=body).json()["total"] == 0
    merged = two[1] | {"active": False, "link": [{"other": {"reference": f"Patient/{two[0]['id']}"}, "type": "replaced-by"}]}
    assert hospital.put(f"Patient/{two[1]['id']}", json=merged).status_code == 200
    assert matched(hospital, asked, onlyCertainMatches=True) == [(two[0]["id"], "certain")]


def test_match_by_too_much_is_refused(hospital):
    many = [{"system": "urn:x", "value": str(n)} for n in range(40)]
    assert_outcome(
        hospital.post("Patient/$match", json={"resourceType": "Patient", "identifier": many}), 422, "invalid", "Patient"
    )


def test_everything_brings_nobody_else_along_and_survives_a_large_group(hospital, created):
    who, other = created(patient()), created(patient(name=[{"family": "Stranger"}]))
    members = [{"entity": {"reference": f"Patient/{one['id']}"}} for one in (who, other)]
    group = created({"resourceType": "Group", "type": "person", "actual": True, "member": members})
    entries = [{"item": {"reference": f"Organization/{one}"}} for one in _organizations(hospital, 1050)]
    long = created(
        {
            "resourceType": "List",
            "status": "current",
            "mode": "working",
            "subject": {"reference": f"Patient/{who['id']}"},
            "entry": entries,
        }
    )
    matches, included, _ = walked(hospital, f"Patient/{who['id']}/$everything")
    trail = ("AuditEvent/", "Provenance/")  # a job makes them meanwhile
    assert sorted(one for one in matches if not one.startswith(trail)) == references(who, group, long)
    assert included == []


def _organizations(hospital, number):
    ids = []
    for size in (1000, number - 1000):
        entry = {
            "resource": {"resourceType": "Organization", "name": "x"},
            "request": {"method": "POST", "url": "Organization"},
        }
        reply = hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": [entry] * size})
        assert reply.status_code == 200, reply.text
        ids += [row["response"]["location"].split("/Organization/")[1].split("/")[0] for row in reply.json()["entry"]]
    return ids
