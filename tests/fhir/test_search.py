"""https://hl7.org/fhir/R4/search.html"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import BASE, assert_outcome, order, patient

from fhirserver.moments import span
from fhirserver.resources import RESOURCE_TYPES, served
from fhirserver.search.clause import Clause, either, joined
from fhirserver.search.parameters import parameters
from fhirserver.search.query import parse
from fhirserver.search.string import fold
from fhirserver.versions import EVERYTHING


@pytest.fixture(scope="module")
def people(created):
    rows = {
        "nowak": patient(name=[{"family": "Nowak", "given": ["Łucja"]}], birthDate="1970-05-02", gender="female",
                         identifier=[{"system": "urn:pesel", "value": "70050212345"}]),
        "grosz": patient(name=[{"family": "Groß", "given": ["Jörg"]}], birthDate="1970-05", gender="male",
                         identifier=[{"value": "plain"}]),
        "kowal": patient(name=[{"family": "Kowal"}], birthDate="1980", active=True,
                         identifier=[{"system": "urn:pesel", "value": "80"}, {"system": "urn:other", "value": "70050212345"}]),
    }  # fmt: skip
    return {name: created(row)["id"] for name, row in rows.items()}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("name=now", {"nowak"}),
        ("name=LUC", {"nowak"}),
        ("family=gross", {"grosz"}),
        ("family=Gro%C3%9F", {"grosz"}),
        ("family=owak", set()),
        ("family:exact=Nowak", {"nowak"}),
        ("family:exact=nowak", set()),
        ("family=nowak,kowal", {"nowak", "kowal"}),
        ("identifier=70050212345", {"nowak", "kowal"}),
        ("identifier=urn:pesel|70050212345", {"nowak"}),
        ("identifier=urn:pesel|", {"nowak", "kowal"}),
        ("identifier=|plain", {"grosz"}),
        ("identifier=urn:pesel|80,urn:pesel|70050212345", {"nowak", "kowal"}),
        ("gender=female", {"nowak"}),
        ("gender:not=female", {"grosz", "kowal"}),
        ("active=true", {"kowal"}),
        ("birthdate=1970-05-02", {"nowak"}),
        ("birthdate=1970-05", {"nowak", "grosz"}),
        ("birthdate=1970", {"nowak", "grosz"}),
        ("birthdate=eq1980", {"kowal"}),
        ("birthdate=1980-01", set()),
        ("birthdate=ge1970-05-03", {"grosz", "kowal"}),
        ("birthdate=gt1970-05", {"kowal"}),
        ("birthdate=sa1970-05-31", {"kowal"}),
        ("birthdate=lt1970-05-02", {"grosz"}),
        ("birthdate=le1970-05-02", {"nowak", "grosz"}),
        ("birthdate=eb1970-06-01", {"nowak", "grosz"}),
        ("birthdate=ne1970-05-02", {"grosz", "kowal"}),
        ("birthdate=ap1970-05-02", {"nowak", "grosz"}),
        ("birthdate=ge1970&birthdate=lt1980", {"nowak", "grosz"}),
        ("name=nowak&gender=female&birthdate=1970", {"nowak"}),
        ("name=nowak&gender=male", set()),
        ("family=now\\,ak", set()),
    ],
)
def test_a_parameter_finds_what_the_standard_says(hospital, people, asked, found):
    ids = {e["resource"]["id"] for e in hospital.get(f"Patient?{asked}").json().get("entry", [])}
    assert {name for name, id_ in people.items() if id_ in ids} == found


def test_post_search_is_the_same_as_get(hospital, people):
    form = hospital.post("Patient/_search", data={"family": "nowak", "_count": "5"}).json()
    assert [e["resource"]["id"] for e in form["entry"]] == [people["nowak"]]
    assert form["link"][0]["url"] == f"{BASE}/fhir/Patient?family=nowak&_count=5"


def test_id_and_last_updated(hospital, people):
    assert hospital.get(f"Patient?_id={people['nowak']},{people['kowal']}").json()["total"] == 2
    assert hospital.get("Patient?_lastUpdated=lt2026").json()["total"] == 0
    assert hospital.get("Patient?_lastUpdated=ge2026-11-24&_lastUpdated=lt2027").json()["total"] == 3


@pytest.mark.parametrize(
    "asked",
    ["colour=red", "name:below=x", "_text=x", "_content=x", "_filter=x", "_sort=colour", "_list=$current-problems"],
)
def test_what_is_not_served_answers_400(hospital, asked):
    assert_outcome(hospital.get(f"Patient?{asked}"), 400, "not-supported")


@pytest.mark.parametrize(
    "asked",
    [
        "birthdate=tomorrow",
        "birthdate=2026-02-30",
        "_count=many",
        "_include=Patient",
        "identifier=",
        "_id=a%20b",
        "_include=Patient:nobody",
    ],
)
def test_a_value_that_is_none_answers_400(hospital, asked):
    assert_outcome(hospital.get(f"Patient?{asked}"), 400, "invalid")


def test_lenient_handling_warns_and_tells_the_truth_in_the_self_link(hospital, people):
    reply = hospital.get("Patient?colour=red&family=nowak", headers={"Prefer": "handling=lenient"}).json()
    assert reply["link"][0]["url"] == f"{BASE}/fhir/Patient?family=nowak"
    matches = [e["resource"]["id"] for e in reply["entry"] if e["search"]["mode"] == "match"]
    [warning] = [e["resource"] for e in reply["entry"] if e["search"]["mode"] == "outcome"]
    assert matches == [people["nowak"]]
    assert warning["issue"][0]["severity"] == "warning"


def test_pages_show_each_resource_once_in_order(hospital, created):
    made = [
        created(order(f"Patient/{created(patient())['id']}", authoredOn=f"2026-01-{day:02}"))["id"] for day in (5, 3, 9, 1, 7)
    ]
    undated = created(order(f"Patient/{created(patient())['id']}"))["id"]
    url, seen = "ServiceRequest?_sort=authored&_count=2", []
    while url:
        page = hospital.get(url).json()
        seen += [e["resource"]["id"] for e in page["entry"]]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
    assert seen == [made[3], made[1], made[0], made[4], made[2], undated]
    down = hospital.get("ServiceRequest?_sort=-authored").json()
    assert [e["resource"]["id"] for e in down["entry"]] == seen[::-1]


def test_a_page_link_is_good_for_its_search_and_caller_alone(hospital, office, people):
    page = hospital.get("Patient?_count=1").json()
    [following] = [link["url"] for link in page["link"] if link["relation"] == "next"]
    [cursor] = parse_qs(urlsplit(following).query)["_cursor"]
    assert_outcome(office.get(following), 400, "invalid", "_cursor")
    assert_outcome(hospital.get("Patient", params={"gender": "male", "_cursor": cursor}), 400, "invalid")
    assert_outcome(hospital.get("Patient?_cursor=forged"), 400, "invalid")


def test_priority_sorts_by_urgency_not_by_letters(hospital, created):
    subject = f"Patient/{created(patient())['id']}"
    for priority in ("routine", "stat", "urgent", "asap"):
        created(order(subject, priority=priority))
    rows = hospital.get(f"ServiceRequest?subject={subject}&_sort=priority").json()["entry"]
    assert [e["resource"]["priority"] for e in rows] == ["stat", "asap", "urgent", "routine"]


def test_chain_and_includes_in_one_search(hospital, created):
    person = created(patient())
    asked = created(order(f"Patient/{person['id']}", identifier=[{"system": "urn:acsn", "value": "A-1"}]))
    report = {"resourceType": "DiagnosticReport", "status": "registered", "code": {"text": "CT"}}
    report |= {"subject": {"reference": f"Patient/{person['id']}"}, "basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}]}
    made = created(report)
    found = hospital.get(
        "DiagnosticReport?based-on:ServiceRequest.identifier=urn:acsn|A-1&_include=DiagnosticReport:subject&_include=DiagnosticReport:based-on"
    ).json()
    assert [(e["resource"]["id"], e["search"]["mode"]) for e in found["entry"]] == [
        (made["id"], "match"),
        (person["id"], "include"),
        (asked["id"], "include"),
    ]
    back = hospital.get(
        f"Patient?_id={person['id']}&_revinclude=ServiceRequest:subject&_revinclude=DiagnosticReport:subject"
    ).json()
    assert {e["resource"]["id"] for e in back["entry"]} == {person["id"], asked["id"], made["id"]}
    assert back["total"] == 1
    assert_outcome(hospital.get("ServiceRequest?subject.colour=x"), 400, "invalid")


def test_reference_search_takes_id_typed_id_and_url(hospital, created):
    person = created(patient())
    asked = created(order(f"Patient/{person['id']}"))
    for value in (person["id"], f"Patient/{person['id']}"):
        assert hospital.get(f"ServiceRequest?patient={value}").json()["entry"][0]["resource"]["id"] == asked["id"]
    assert hospital.get(f"ServiceRequest?subject:Patient={person['id']}").json()["total"] == 1
    assert hospital.get(f"ServiceRequest?subject:Group={person['id']}").json()["total"] == 0
    absolute = created(order(f"{BASE}/fhir/Patient/{person['id']}"))
    found = hospital.get(f"ServiceRequest?subject=Patient/{person['id']}").json()
    assert absolute["id"] in {e["resource"]["id"] for e in found["entry"]}


def test_totals(hospital, people):
    assert hospital.get("Patient?family=nowak&_summary=count").json()["total"] >= 1
    page = hospital.get("Patient?_count=1&_total=accurate").json()
    assert page["total"] > 1
    assert len(page["entry"]) == 1
    assert "total" not in hospital.get("Patient?_count=1").json()


def test_a_deleted_resource_is_not_found(hospital, created):
    made = created(patient(name=[{"family": "Vanished"}]))
    hospital.delete(f"Patient/{made['id']}")
    assert hospital.get("Patient?family=vanished").json()["total"] == 0


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("1970", 0, 365 * 86_400_000),
        ("1970-02", 31 * 86_400_000, 59 * 86_400_000),
        ("1970-01-01", 0, 86_400_000),
        ("1970-01-01T00:00:01Z", 1000, 2000),
        ("1970-01-01T01:00:00.5+01:00", 500, 600),
        ("1970-01-01T00:00:00.123456Z", 123, 124),
    ],
)
def test_a_date_is_as_long_as_it_is_imprecise(text, low, high):
    assert span(text) == (low, high)


@pytest.mark.parametrize(
    ("text", "folded"), [("Łódź", "lodz"), ("ß", "ss"), ("ÅNGSTRÖM", "angstrom"), ("İ", "i"), ("Ørsted", "orsted")]
)
def test_letters_are_folded(text, folded):
    assert fold(text) == folded


def test_a_chain_that_forks_into_too_many_lookups_is_refused(hospital):
    assert_outcome(hospital.get("AuditEvent?entity.patient.general-practitioner.organization.partof.name=x"), 400, "too-costly")


def test_alternatives_that_are_tags_are_one_clause():
    """A top-level ``$or`` is a scan on the embedded server."""
    assert either([Clause({"t": "a=1"}, 1), Clause({"t": {"$in": ["b=2", "b=3"]}}, 2)]).flat == {
        "t": {"$in": ["a=1", "b=2", "b=3"]}
    }


def test_the_setting_narrows_the_types():
    assert {"Patient", "Task", "Account"} <= set(served("Account"))
    assert "Claim" not in served("Account")
    assert set(served("")) == set(RESOURCE_TYPES)
    with pytest.raises(ValueError, match="Nothing"):
        served("Nothing")


def test_the_parts_of_a_composite_hold_of_one_element(hospital, created):
    code = {"coding": [{"system": "urn:c", "code": "a"}]}
    parts = [{"code": code, "valueQuantity": {"value": 5, "unit": "mg"}},
             {"code": {"coding": [{"code": "b"}]}, "valueQuantity": {"value": 9, "unit": "mg"}}]  # fmt: skip
    made = created({"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "component": parts})
    for value, found in (("a$5||mg", True), ("urn:c|a$gt4", True), ("a$9||mg", False), ("b$lt9", False)):
        reply = hospital.get("Observation", params={"component-code-value-quantity": value})
        assert reply.status_code == 200, reply.text
        assert [e["resource"]["id"] for e in reply.json().get("entry", [])] == ([made["id"]] if found else []), value


SAMPLES = {
    "token": "x", "string": "x", "date": "ge2026", "reference": "Patient/x", "uri": "urn:x", "number": "5", "quantity": "5||mg",
}  # fmt: skip


def sample(parameter):
    if parameter.kind == "composite":
        return "$".join(SAMPLES[component.kind] for component in parameter.components)
    return SAMPLES[parameter.kind]


@pytest.mark.parametrize("name", sorted(RESOURCE_TYPES))
def test_each_parameters_first_stage_uses_an_index(server, name):
    """As the database plans it: the clause that leads the query, alone, does not scan the collection.

    (The embedded server's explain does not show that it takes one clause of several; MongoDB's planner does.)
    """
    type_ = RESOURCE_TYPES[name]
    server.installation.store.prepare(name)
    for code, parameter in parameters(type_).items():
        if parameter.kind != "special":
            asked = parse(type_, [(code, sample(parameter))])
            plan = str(server.installation.store.explain(asked, EVERYTHING))
            assert "IXSCAN" in plan, (name, code, plan)
            assert "COLLSCAN" not in plan, (name, code, plan)


@pytest.mark.parametrize(
    ("flat", "expected"),
    [
        ({"t": "status=active"}, {"t": "status=active"}),
        (
            {"t": {"$gte": "family~no", "$lt": "family~no\uffff"}},
            {"t": {"$elemMatch": {"$gte": "family~no", "$lt": "family~no\uffff"}}},
        ),
        ({"d.birthdate.l": {"$gte": 1, "$lt": 2}}, {"d.birthdate": {"$elemMatch": {"l": {"$gte": 1, "$lt": 2}}}}),
        ({"d.birthdate.h": {"$gte": 1}}, {"d.birthdate.h": {"$gte": 1}}),
        (
            {"$or": [{"q.x.l": {"$gt": 1, "$lte": 2}}, {"t": "a"}]},
            {"$or": [{"q.x": {"$elemMatch": {"l": {"$gt": 1, "$lte": 2}}}}, {"t": "a"}]},
        ),
        ({"_id": {"$in": ["a"]}}, {"_id": {"$in": ["a"]}}),
    ],
)
def test_for_mongodb_both_bounds_of_a_range_are_asked_of_one_element(flat, expected):
    assert joined(flat, "tdq") == expected
    assert joined(flat, "") == flat


def test_a_date_of_which_there_is_one_is_looked_for_in_the_column_to_sort_by():
    from fhirserver.search.parameters import single_dates

    assert single_dates(RESOURCE_TYPES["Patient"]) == {"birthdate"}
    assert single_dates(RESOURCE_TYPES["Task"]) == {"authored-on", "due"}
    query = parse(RESOURCE_TYPES["Patient"], [("birthdate", "1970")])
    assert set(query.stages()[0]) == {"o.birthdate"}


@pytest.mark.parametrize(
    "asked",
    ["name=now", "birthdate=1970", "birthdate=ge1970&birthdate=lt1980", "birthdate=1970,1980", "name=nowak,gro&gender=male"],
)
def test_and_that_finds_the_same(server, hospital, people, asked):
    store = server.installation.store

    def found():
        return sorted(e["resource"]["id"] for e in hospital.get(f"Patient?{asked}").json().get("entry", []))

    flat = found()
    store.__dict__["joins"] = "tdq"
    try:
        assert found() == flat != []
    finally:
        del store.__dict__["joins"]


def test_a_place_that_is_none_is_refused(hospital):
    for value in ("a", "", "1", "1|2|3|4|5", "|||"):
        assert hospital.get("Location", params={"near": value}).status_code == 400
