"""SearchParameters that an administrator adds: refused until all is indexed, then like any other; gone when they are retired."""

from __future__ import annotations

import time

import pytest
from conftest import Server, assert_outcome, order, patient

from fhirserver.app import Installation

URL = "http://hospital.example/SearchParameter/"


def declared(code, kind, expression, *base, **members):
    return {
        "resourceType": "SearchParameter", "url": URL + code, "name": code.replace("-", "_"), "status": "active",
        "description": code, "code": code, "base": list(base or ("Patient",)), "type": kind, "expression": expression,
    } | ({"target": ["Patient"]} if kind == "reference" else {}) | members  # fmt: skip


def extension(name, **value):
    return {"url": f"urn:ext:{name}", **value}


# code, kind, expression, what a patient has of it, a query that finds it, one that does not
PARAMETERS = [
    ("insurer", "token", "Patient.extension('urn:ext:insurer').value.ofType(Coding)", extension("insurer", valueCoding={"system": "urn:i", "code": "nfz"}), "urn:i|nfz", "urn:i|zus"),
    ("maiden", "string", "Patient.extension('urn:ext:maiden').value.ofType(string)", extension("maiden", valueString="Łukasiewicz"), "lukas", "kowal"),
    ("seen", "date", "Patient.extension('urn:ext:seen').value.ofType(date)", extension("seen", valueDate="2026-03-04"), "ge2026-03", "lt2026"),
    ("guardian", "reference", "Patient.extension('urn:ext:guardian').value.ofType(Reference)", extension("guardian", valueReference={"reference": "Patient/{guardian}"}), "Patient/{guardian}", "Patient/other"),
    ("visits", "number", "Patient.extension('urn:ext:visits').value.ofType(integer)", extension("visits", valueInteger=7), "gt6", "lt7"),
    ("weight", "quantity", "Patient.extension('urn:ext:weight').value.ofType(Quantity)", extension("weight", valueQuantity={"value": 70, "system": "http://unitsofmeasure.org", "code": "kg"}), "70||kg", "gt70"),
    ("consent-form", "uri", "Patient.extension('urn:ext:form').value.ofType(uri)", extension("form", valueUri="http://forms.example/1"), "http://forms.example/1", "http://forms.example/2"),
]  # fmt: skip


def until_indexed(server: Server, *types: str) -> None:
    end = time.monotonic() + 30
    while any(server.installation.store.types[name].pending for name in types):
        assert time.monotonic() < end, "not indexed in 30 s"
        time.sleep(0.1)


def known(server: Server) -> None:
    """As a second later."""
    server.installation.definitions.refresh()


@pytest.fixture(scope="module")
def administrator(as_):
    return as_("centre", scope="user/*.cruds", user="ada", roles=("administrator",))


@pytest.fixture(scope="module")
def there(server, administrator, created, hospital):
    """A patient from before the parameters, what refusals said meanwhile, one written meanwhile, one after."""
    guardian = created(patient())["id"]

    def person(number):
        rows = [
            row | {k: {"reference": v["reference"].format(guardian=guardian)} for k, v in row.items() if k == "valueReference"}
            for *_, row, _, _ in PARAMETERS
        ]
        return created(patient(extension=rows, identifier=[{"value": f"c-{number}"}]))

    people = [person("before")]
    for code, kind, expression, *_ in PARAMETERS:
        made = administrator.post("SearchParameter", json=declared(code, kind, expression))
        assert made.status_code == 201, made.text
    known(server)
    refused = hospital.get("Patient?insurer=urn:i|nfz")
    metadata = hospital.get("metadata").json()
    people.append(person("meanwhile"))
    until_indexed(server, "Patient")
    people.append(person("after"))
    return {"people": [p["id"] for p in people], "guardian": guardian, "refused": refused, "metadata": metadata}


def served(metadata, type_="Patient"):
    return {p["name"] for r in metadata["rest"][0]["resource"] if r["type"] == type_ for p in r["searchParam"]}


def test_until_it_is_indexed_it_is_refused_with_how_far_it_is(there):
    [issue] = assert_outcome(there["refused"], 400, "not-supported", "insurer")
    assert "is being indexed" in issue["diagnostics"]
    assert " of " in issue["diagnostics"]
    assert "insurer" not in served(there["metadata"])


@pytest.mark.parametrize(("code", "found", "missed"), [(row[0], row[4], row[5]) for row in PARAMETERS])
def test_then_it_finds_what_was_there_before_meanwhile_and_after(hospital, there, code, found, missed):
    def ids(value):
        reply = hospital.get("Patient", params={code: value.format(guardian=there["guardian"])})
        assert reply.status_code == 200, reply.text
        return sorted(e["resource"]["id"] for e in reply.json().get("entry", []))

    assert ids(found) == sorted(there["people"])
    assert ids(missed) == []
    missing = hospital.get(f"Patient?{code}:missing=true&_id={','.join([*there['people'], there['guardian']])}").json()
    assert [e["resource"]["id"] for e in missing["entry"]] == [there["guardian"]]


def test_it_is_told_in_metadata_with_its_url(hospital, there):
    [row] = [
        p
        for r in hospital.get("metadata").json()["rest"][0]["resource"]
        if r["type"] == "Patient"
        for p in r["searchParam"]
        if p["name"] == "insurer"
    ]
    assert row == {"name": "insurer", "type": "token", "definition": URL + "insurer"}


def test_it_chains_includes_and_sorts(hospital, there):
    ids = ",".join(there["people"])
    chained = hospital.get(f"Patient?guardian.family=Nowak&_id={ids}").json()
    assert chained["total"] == 3
    body = hospital.get(f"Patient?_id={there['people'][0]}&_include=Patient:guardian").json()
    assert [e["resource"]["id"] for e in body["entry"] if e["search"]["mode"] == "include"] == [there["guardian"]]
    assert hospital.get(f"Patient?_id={ids}&_sort=-visits").status_code == 200
    reverse = hospital.get(f"Patient?_has:Patient:guardian:insurer=nfz&_id={there['guardian']}").json()
    assert reverse["total"] == 1


def test_every_entry_has_the_stamp_of_how_entries_are_made_now(server, there):
    from fhirserver.search.index import schema

    stamps = {row["schema"] for row in server.installation.store.database["Patient"].find({"deleted": False}, {"schema": 1})}
    assert stamps == {schema(server.installation.store.types["Patient"])}


def test_another_process_serves_it_too(server, there):
    other = Installation(server.settings, server.client[server.name], server.now)
    other.definitions.refresh()
    type_ = other.store.types["Patient"]
    assert {p.code for p in type_.custom} == {row[0] for row in PARAMETERS}
    assert not type_.pending


def test_what_is_changed_is_indexed_again_and_others_are_served_meanwhile(server, administrator, hospital, created, there):
    asked = created(
        order(f"Patient/{there['people'][0]}", requisition={"value": "R-1"}, locationCode=[{"coding": [{"code": "ER"}]}])
    )
    made = administrator.post(
        "SearchParameter", json=declared("where", "token", "ServiceRequest.locationCode", "ServiceRequest")
    ).json()
    known(server)
    until_indexed(server, "ServiceRequest")
    assert hospital.get(f"ServiceRequest?where=ER&_id={asked['id']}").json()["total"] == 1
    changed = administrator.put(f"SearchParameter/{made['id']}", json=made | {"expression": "ServiceRequest.requisition"})
    assert changed.status_code == 200, changed.text
    known(server)
    assert_outcome(hospital.get("ServiceRequest?where=R-1"), 400, "not-supported", "where")
    assert hospital.get("Patient?insurer=nfz").status_code == 200
    until_indexed(server, "ServiceRequest")
    assert hospital.get(f"ServiceRequest?where=R-1&_id={asked['id']}").json()["total"] == 1
    assert hospital.get(f"ServiceRequest?where=ER&_id={asked['id']}").json()["total"] == 0
    retired = administrator.put(f"SearchParameter/{made['id']}", json=changed.json() | {"status": "retired"})
    assert retired.status_code == 200
    known(server)
    [issue] = assert_outcome(hospital.get("ServiceRequest?where=R-1"), 400, "not-supported", "where")
    assert "no search parameter" in issue["diagnostics"]


def test_of_several_types_each_has_its_part_of_the_expression(server, administrator, as_, there):
    two = declared("label", "string", "Location.alias | HealthcareService.comment", "Location", "HealthcareService")
    assert administrator.post("SearchParameter", json=two).status_code == 201
    known(server)
    until_indexed(server, "Location", "HealthcareService")
    centre = as_("centre")
    place = centre.post("Location", json={"resourceType": "Location", "alias": ["Old wing"]}).json()
    service = centre.post("HealthcareService", json={"resourceType": "HealthcareService", "comment": "Old people"}).json()
    assert [e["resource"]["id"] for e in centre.get("Location?label=old").json()["entry"]] == [place["id"]]
    assert [e["resource"]["id"] for e in centre.get("HealthcareService?label=old").json()["entry"]] == [service["id"]]


@pytest.mark.parametrize(
    ("members", "code", "expression"),
    [
        ({"code": "family"}, "duplicate", "SearchParameter.code"),
        ({"code": "Upper"}, "value", "SearchParameter.code"),
        ({"code": "a.b"}, "value", "SearchParameter.code"),
        ({"code": "_x"}, "value", "SearchParameter.code"),
        ({"type": "composite"}, "not-supported", "SearchParameter.type"),
        ({"expression": "Patient.name.exists()"}, "not-supported", "SearchParameter.expression"),
        ({"expression": "Observation.code"}, "not-supported", "SearchParameter.expression"),
        ({"expression": "Patient.nothing"}, "not-supported", "SearchParameter.expression"),
        ({"expression": "Patient.name"}, "invalid", "SearchParameter.expression"),
        ({"expression": "Patient.extension('urn:x').value"}, "invalid", "SearchParameter.expression"),
        ({"expression": None}, "required", "SearchParameter.expression"),
        ({"type": "reference", "expression": "Patient.generalPractitioner"}, "required", "SearchParameter.target"),
        ({"base": ["Resource"]}, "not-supported", "SearchParameter.base[0]"),
        ({"url": "http://hl7.org/fhir/SearchParameter/Patient-mine"}, "invalid", "SearchParameter.url"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(administrator, members, code, expression):
    document = {k: v for k, v in (declared("mine", "token", "Patient.maritalStatus") | members).items() if v is not None}
    assert_outcome(administrator.post("SearchParameter", json=document), 422, code, expression)


def test_two_of_one_code_or_url_are_refused_also_at_the_same_time(server, administrator):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(
                lambda n: administrator.post(
                    "SearchParameter", json=declared("twice", "token", "Patient.maritalStatus", url=f"{URL}twice-{n}")
                ),
                range(4),
            )
        )
    assert sorted(r.status_code for r in replies)[0] == 201
    assert [r.status_code for r in replies].count(201) == 1
    assert {r.status_code for r in replies} <= {201, 409, 422}


def test_a_draft_may_be_anything_and_is_not_served(server, administrator, hospital):
    draft = declared("drafted", "composite", "Patient.exists()", status="draft")
    assert administrator.post("SearchParameter", json=draft).status_code == 201
    known(server)
    assert_outcome(hospital.get("Patient?drafted=1"), 400, "not-supported", "drafted")


def test_the_installations_own_administrators_alone_add_them(as_, hospital):
    document = declared("other", "token", "Patient.maritalStatus")
    assert_outcome(hospital.post("SearchParameter", json=document), 403, "forbidden")
    reader = as_("centre", scope="user/*.cruds", user="rita", roles=("reader",))
    assert_outcome(reader.post("SearchParameter", json=document), 403, "forbidden")


def test_a_type_takes_no_more_indexes_than_a_collection_can_have(server, administrator):
    from fhirserver.definitions import SearchParam
    from fhirserver.search import custom
    from fhirserver.search.index import indexes

    type_ = server.installation.store.types["Encounter"]
    room = (64 - len(indexes(type_))) // 2
    full = custom.extended(type_, tuple(SearchParam(f"d{n}", "date", "Encounter.period") for n in range(room)))
    wrong = list(custom.problems(declared("more", "date", "Encounter.period", "Encounter"), {"Encounter": full}, {}))
    assert [issue.code for issue in wrong] == ["too-costly"]


@pytest.mark.parametrize(
    ("base", "kind", "expression"),
    [
        ("Patient", "quantity", "Patient.deceased.exists() and Patient.deceased != false"),
        ("Location", "string", "Location"),
        ("Location", "string", "(" * 5000),
    ],
)
def test_an_expression_that_ends_nowhere_is_refused(administrator, base, kind, expression):
    document = declared("ends", kind, expression, base)
    assert_outcome(administrator.post("SearchParameter", json=document), 422, "not-supported", "SearchParameter.expression")


@pytest.mark.parametrize("name", ["code", "url"])
def test_an_extension_in_the_place_of_a_name_is_refused(administrator, name):
    document = {k: v for k, v in declared("ext", "token", "Patient.gender").items() if k != name}
    document[f"_{name}"] = {"extension": [{"url": "urn:x", "valueCode": "y"}]}
    assert_outcome(administrator.post("SearchParameter", json=document), 422, "required", f"SearchParameter.{name}")


def test_only_its_url_may_change_too(server, administrator, there):
    [entry] = administrator.get(f"SearchParameter?url={URL}insurer").json()["entry"]
    changed = entry["resource"] | {"url": f"{URL}payer"}
    assert administrator.put(f"SearchParameter/{changed['id']}", json=changed).status_code == 200
    known(server)
    until_indexed(server, "Patient")


def test_a_transaction_of_more_than_there_is_room_for_is_refused(administrator):
    rows = [declared(f"many-{n}", "date", "EpisodeOfCare.period", "EpisodeOfCare") for n in range(40)]
    entries = [{"resource": row, "request": {"method": "POST", "url": "SearchParameter"}} for row in rows]
    reply = administrator.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert_outcome(reply, 422, "too-costly")


def test_what_a_collection_has_no_room_for_is_left_out_and_stops_nothing(server):
    from fhirserver.definitions import SearchParam
    from fhirserver.search import custom
    from fhirserver.search.index import indexes

    type_ = server.installation.store.types["EpisodeOfCare"]
    kept = custom.fitting(type_, tuple(SearchParam(f"d{n}", "date", "EpisodeOfCare.period") for n in range(60)))
    assert len(indexes(custom.extended(type_, kept))) in (62, 63)


def test_what_does_not_fit_with_its_entries_stops_no_other(server, administrator, created, hospital):
    big = created({"resourceType": "Medication", "extension": [extension("big", valueString="x" * 6_000_000)]})
    small = created({"resourceType": "Medication", "extension": [extension("big", valueString="small")]})
    document = declared("big", "token", "Medication.extension('urn:ext:big').value.ofType(string)", "Medication")
    assert administrator.post("SearchParameter", json=document).status_code == 201
    known(server)
    until_indexed(server, "Medication")
    assert [e["resource"]["id"] for e in hospital.get("Medication?big=small").json()["entry"]] == [small["id"]]
    assert hospital.get(f"Medication/{big['id']}").status_code == 200


def test_one_that_was_away_is_indexed_again(server, administrator, created, hospital):
    document = declared("udi", "string", "DeviceDefinition.version", "DeviceDefinition")
    made = administrator.post("SearchParameter", json=document).json()
    known(server)
    until_indexed(server, "DeviceDefinition")
    assert administrator.delete(f"SearchParameter/{made['id']}").status_code == 204
    known(server)
    created({"resourceType": "DeviceDefinition", "version": ["meanwhile"]})
    assert administrator.post("SearchParameter", json=document).status_code == 201
    known(server)
    assert_outcome(hospital.get("DeviceDefinition?udi=mean"), 400, "not-supported", "udi")
    until_indexed(server, "DeviceDefinition")
    assert hospital.get("DeviceDefinition?udi=mean").json()["total"] == 1


def test_one_that_was_shared_while_it_was_looked_at_is_looked_at_again(server, administrator, created, hospital, monkeypatch):
    store = server.installation.store
    made = created({"resourceType": "Specimen", "condition": [{"text": "frozen"}], "type": {"coding": [{"code": "FRZ"}]}})
    real, moved = store.stale, []

    def shared_meanwhile(type_, *rest):
        found = real(type_, *rest)
        if type_ == "Specimen" and found[0] and not moved:
            moved.append(store.database["Specimen"].update_one({"_id": made["id"]}, {"$inc": {"g": 1}}).modified_count)
        return found

    monkeypatch.setattr(store, "stale", shared_meanwhile)
    document = declared("state", "token", "Specimen.condition", "Specimen")
    assert administrator.post("SearchParameter", json=document).status_code == 201
    known(server)
    until_indexed(server, "Specimen")
    assert moved == [1]
    assert hospital.get("Specimen?state:text=frozen").json()["total"] == 1


def test_an_interrupted_pass_goes_on_where_it_was(server, administrator, created, hospital, monkeypatch):
    """Three resources in a batch; after the first batch another process takes over."""
    from fhirserver import reindex
    from fhirserver.reindex import Definitions, Reindexing
    from fhirserver.store import Store

    server.installation.jobs.stop()
    for number in range(8):
        created({"resourceType": "Device", "lotNumber": f"lot-{number}"})
    assert (
        administrator.post("SearchParameter", json=declared("lot", "string", "Device.lotNumber", "Device")).status_code == 201
    )
    monkeypatch.setattr(reindex, "_BATCH", 3)
    now = [1000.0]

    def process():
        store = Store(
            server.client[server.name],
            dict(server.installation.store.types),
            server.installation.store._indexes,
            server.installation.store._entries,
            server.installation.store._clock,
        )
        return Reindexing(store, Definitions(store, "centre"), "http://127.0.0.1:8000/fhir", lambda: now[0])

    first, second = process(), process()
    assert first.step(0.0) is True  # seen, and left to be known everywhere
    now[0] += 4
    batches = []

    def killed_at_the_second(type_, state):
        if type_.name == "Device":
            batches.append(state["after"])
            if len(batches) == 2:
                raise KeyboardInterrupt
        return Reindexing._batch(first, type_, state)

    monkeypatch.setattr(first, "_batch", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        first.step(60.0)
    state = first._store.registers.reindexing()["Device"]
    assert (state["count"], state["ready"]) == (3, [])
    assert str(first.progress()["Device"]) == "3 of 8"
    assert second.step(60.0) is False
    assert second._store.registers.reindexing()["Device"]["after"] == " done"
    known(server)
    assert hospital.get("Device?lot=lot-").json()["total"] == 8
    now[0] += 61  # once more, for what a stalled writer may have left
    server.installation.store.database["Device"].update_one({"t": "lot~lot-3"}, {"$set": {"schema": 2, "t": []}})
    assert second.step(60.0) is False
    assert second.step(60.0) is False
    assert hospital.get("Device?lot=lot-3").json()["total"] == 1


def test_the_command_indexes_shows_how_far_and_ends(
    server, administrator, created, hospital, mongodb_uri, monkeypatch, tmp_path, capsys
):
    """The server's own jobs have stopped, as those of a server that is not running."""
    from fhirserver.__main__ import main

    server.installation.store.database["leases"].delete_many({})
    created({"resourceType": "Substance", "code": {"text": "x"}, "description": "Gadolinium"})
    document = declared("described", "string", "Substance.description", "Substance")
    assert administrator.post("SearchParameter", json=document).status_code == 201
    monkeypatch.setenv("FHIRSERVER_MONGODB_URI", mongodb_uri)
    monkeypatch.setenv("FHIRSERVER_DATABASE", server.name)
    assert main(["reindex", "--data", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "Substance: 0 of 1" in told.err
    assert told.out == "everything is indexed\n"
    known(server)
    assert hospital.get("Substance?described=gado").json()["total"] == 1
