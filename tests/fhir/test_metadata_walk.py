"""/metadata is walked: what it promises of each type is asked for once, and answered as the standard says.

What all types share in code and declaration, conditions and the operations of every type, is asked of each type that has
something of its own, and of a quarter of the others; create, read, vread, update, patch, search, history and delete of each.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from conftest import patient

from fhirserver import r4
from fhirserver.definitions import ResourceType
from fhirserver.operations import OPERATIONS
from fhirserver.resources import RESOURCE_TYPES

JSON_PATCH = {"Content-Type": "application/json-patch+json"}
VALUES = {
    "boolean": True, "integer": 1, "positiveInt": 1, "unsignedInt": 1, "decimal": 1.5, "date": "2026-01-01", "dateTime": "2026-01-01",
    "instant": "2026-01-01T00:00:00Z", "time": "10:00:00", "uri": "urn:x", "url": "http://x.example", "canonical": "http://x.example/x",
    "oid": "urn:oid:1.2", "uuid": "urn:uuid:00000000-0000-4000-8000-000000000000", "id": "x1", "base64Binary": "QQ==", "string": "x",
    "markdown": "x", "code": "x", "xhtml": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>', "Resource": {"resourceType": "Basic", "code": {"text": "x"}},
}  # fmt: skip
# What an invariant or a rule asks for beyond what the tables require.
BEYOND: dict[str, dict[str, Any]] = {
    "Organization": {"name": "x"},
    "SearchParameter": {"status": "draft"},
    "Bundle": {"type": "collection"},
    "ServiceRequest": {"status": "draft"},
    "Task": {"status": "draft"},
    "Group": {"type": "person", "actual": False},
}


def _added(type_: ResourceType) -> list[str]:
    return [repr(getattr(type_, field.name)) for field in fields(type_) if field.name not in ("name", "search")]


_PLAIN = [name for name in sorted(RESOURCE_TYPES) if _added(RESOURCE_TYPES[name]) == _added(RESOURCE_TYPES["Basic"])]
IN_FULL = {*RESOURCE_TYPES} - {*_PLAIN} | {*BEYOND, *_PLAIN[::4]}


def smallest(name: str) -> Any:
    """The required elements and nothing else."""
    if name in VALUES:
        return VALUES[name]
    structure = r4.structure(name)
    assert structure is not None, name
    found: dict[str, Any] = {"resourceType": name} if structure.kind == "resource" else {}
    for _, keys in structure.required:
        element = structure.elements[keys[0]]
        value = sorted(element.codes)[0] if element.codes and element.type == "code" else smallest(element.type)
        if element.codes and element.type == "CodeableConcept":
            value = {"coding": [{"system": element.systems[0], "code": sorted(element.codes)[0]}]}
        found[element.key] = [value] if element.many else value
    if found or structure.kind == "resource":
        return found
    return (
        {"display": "x"}
        if name == "Reference"
        else {"text": "x"}
        if "text" in structure.elements
        else {"extension": [{"url": "urn:x", "valueString": "x"}]}
    )


def whole(name: str, number: int) -> dict[str, Any]:
    """The smallest that is valid, told from others by a tag."""
    return smallest(name) | BEYOND.get(name, {}) | {"meta": {"tag": [{"system": "urn:walk", "code": f"{name}-{number}"}]}}


@pytest.fixture(scope="module")
def client(as_):
    return as_("centre")


@pytest.fixture(scope="module")
def statement(client):
    return client.get("metadata").json()


@pytest.fixture(scope="module")
def promised(statement):
    [rest] = statement["rest"]
    return {row["type"]: row for row in rest["resource"]}


def test_all_of_r4_is_there_and_nothing_else(promised, statement):
    assert set(promised) == set(r4.resource_types()) == set(RESOURCE_TYPES)
    assert statement["patchFormat"] == ["application/json-patch+json", "application/fhir+json"]
    assert statement["format"] == ["application/fhir+json", "json"]


def found(client, type_, **query):
    body = client.get(type_, params=query).json()
    return [entry["resource"]["id"] for entry in body.get("entry", []) if entry["search"]["mode"] == "match"]


@pytest.mark.parametrize("type_", sorted(RESOURCE_TYPES))
def test_a_types_interactions(client, promised, type_):
    row = promised[type_]
    codes = {interaction["code"] for interaction in row["interaction"]}
    reads = {"read", "vread", "history-instance", "history-type", "search-type"}
    assert reads <= codes <= reads | {"create", "update", "patch", "delete"}
    assert (row["conditionalCreate"], row["conditionalUpdate"]) == ("create" in codes, "create" in codes)
    if "create" not in codes:
        assert client.post(type_, json=whole(type_, 0)).status_code == 405
        assert not row["updateCreate"]
        return
    made = client.post(type_, json=whole(type_, 1))
    assert made.status_code == 201, made.text
    id_ = made.json()["id"]
    assert client.get(f"{type_}/{id_}", headers={"Accept": "application/fhir+json"}).json() == made.json()
    assert found(client, type_, _tag=f"urn:walk|{type_}-1") == [id_]
    assert (
        client.get(f"{type_}/{id_}", headers={"If-None-Match": 'W/"1"', "Accept": "application/fhir+json"}).status_code == 304
    )
    _changes(client, type_, id_, made.json())
    if type_ in IN_FULL:
        _more(client, type_, id_, row)
        _conditions(client, type_, row)
    if "delete" in codes:
        assert client.delete(f"{type_}/{id_}").status_code == 204
        assert client.get(f"{type_}/{id_}").status_code == 410
    else:
        assert client.delete(f"{type_}/{id_}").status_code == 409


def _changes(client, type_, id_, made):
    changed = client.put(f"{type_}/{id_}", json=made | {"language": "pl"})
    assert (changed.status_code, changed.json()["language"], changed.json()["meta"]["versionId"]) == (200, "pl", "2"), (
        changed.text
    )
    step = [{"op": "replace", "path": "/language", "value": "en"}]
    patched = client.patch(f"{type_}/{id_}", json=step, headers=JSON_PATCH)
    assert (patched.status_code, patched.json()["language"]) == (200, "en"), patched.text
    assert client.get(f"{type_}/{id_}/_history/2", headers={"Accept": "application/fhir+json"}).json() == changed.json()
    assert [e["resource"]["meta"]["versionId"] for e in client.get(f"{type_}/{id_}/_history").json()["entry"]] == [
        "3",
        "2",
        "1",
    ]


def _more(client, type_, id_, row):
    assert client.get(f"{type_}/_history?_count=1").json()["entry"][0]["resource"]["id"] == id_
    assert row["updateCreate"]
    own = whole(type_, 2) | {"id": f"centre-walk-{type_}"}
    assert client.put(f"{type_}/{own['id']}", json=own).status_code == 201
    assert client.get(f"{type_}/{id_}/$meta").json()["parameter"][0]["valueMeta"]["versionId"] == "3"
    given = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": own}]}
    told = client.post(f"{type_}/$validate", json=given).json()
    assert [issue["severity"] for issue in told["issue"]] == ["information"], told


def _conditions(client, type_, row):
    criteria = f"_tag=urn:walk|{type_}-3"
    first = client.post(type_, json=whole(type_, 3), headers={"If-None-Exist": criteria})
    again = client.post(type_, json=whole(type_, 3), headers={"If-None-Exist": criteria})
    assert (first.status_code, again.status_code, first.json()["id"]) == (201, 200, again.json()["id"])
    updated = client.put(f"{type_}?{criteria}", json=whole(type_, 3) | {"language": "pl"})
    assert (updated.status_code, updated.json()["id"]) == (200, first.json()["id"]), updated.text
    patched = client.patch(f"{type_}?{criteria}", json=[{"op": "remove", "path": "/language"}], headers=JSON_PATCH)
    assert (patched.status_code, "language" in patched.json()) == (200, False), patched.text
    if row["conditionalDelete"] == "single":
        assert client.delete(f"{type_}?{criteria}").status_code == 204
        assert found(client, type_, _tag=f"urn:walk|{type_}-3") == []


@pytest.mark.parametrize("type_", sorted(RESOURCE_TYPES))
def test_a_types_includes(client, promised, type_):
    """All at once, as many as a query may have; each search parameter is asked in test_crud."""
    for name, key in (("_include", "searchInclude"), ("_revinclude", "searchRevInclude")):
        given = promised[type_].get(key, [])
        for start in range(0, len(given), 150):
            reply = client.get(type_, params=[("_count", "1"), *((name, one) for one in given[start : start + 150])])
            assert reply.status_code == 200, reply.text


def test_what_is_promised_of_all(client, statement):
    [rest] = statement["rest"]
    assert {interaction["code"] for interaction in rest["interaction"]} == {
        "transaction",
        "batch",
        "search-system",
        "history-system",
    }
    for kind in ("batch", "transaction"):
        entry = {"resource": patient(), "request": {"method": "POST", "url": "Patient"}}
        body = client.post("", json={"resourceType": "Bundle", "type": kind, "entry": [entry]}).json()
        assert (body["type"], body["entry"][0]["response"]["status"]) == (f"{kind}-response", "201")
    assert client.get("?_type=Patient,Basic&_count=2").json()["type"] == "searchset"
    assert client.get("_history?_count=2").json()["type"] == "history"
    asked = {
        "_id": "x",
        "_lastUpdated": "2026",
        "_profile": "urn:x",
        "_security": "x",
        "_source": "urn:x",
        "_tag": "x",
        "_list": "x",
        "_has": None,
        "_type": "Patient",
    }
    assert {p["name"] for p in rest["searchParam"]} == set(asked)
    for name, value in asked.items():
        path = (
            f"Patient?{name}={value}"
            if name not in ("_has", "_type")
            else "Patient?_has:Observation:patient:code=x"
            if value is None
            else "?_type=Patient"
        )
        assert client.get(path).status_code == 200, name
    assert [compartment.rpartition("/")[2] for compartment in rest["compartment"]] == [
        "patient",
        "practitioner",
        "relatedPerson",
        "encounter",
        "device",
    ]


@pytest.mark.parametrize("type_", ["Patient", "Practitioner", "RelatedPerson", "Encounter", "Device"])
def test_a_promised_compartment(client, type_):
    members = {"RelatedPerson": {"patient": {"display": "x"}}, "Encounter": {"status": "finished", "class": {"code": "AMB"}}}
    made = client.post(type_, json={"resourceType": type_} | members.get(type_, {}))
    assert made.status_code == 201, made.text
    own = {"Patient": "subject", "Encounter": "encounter", "Device": "device"}.get(type_, "performer")
    seen = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "x"},
        own: {"reference": f"{type_}/{made.json()['id']}"},
    }
    if own == "performer":
        seen["performer"] = [seen["performer"]]
    observation = client.post("Observation", json=seen).json()
    for path in ("*", "Observation"):
        body = client.get(f"{type_}/{made.json()['id']}/{path}").json()
        shown = [
            e["resource"]["id"] for e in body["entry"] if e["resource"]["resourceType"] not in ("AuditEvent", "Provenance")
        ]
        assert shown == [observation["id"]]


def test_every_promised_operation_and_parameter_has_a_definition_to_read(client, statement):
    [rest] = statement["rest"]
    rows = [*rest["resource"], rest]
    operations = {o["definition"] for row in rows for o in row.get("operation", [])}
    parameters = {p["definition"] for row in rest["resource"] for p in row.get("searchParam", []) if "definition" in p}
    for type_, wanted in (("OperationDefinition", operations), ("SearchParameter", parameters)):
        urls, url = set(), f"{type_}?_count=1000&_elements=url"
        while url:
            body = client.get(url).json()
            urls |= {entry["resource"]["url"] for entry in body.get("entry", [])}
            url = next((link["url"] for link in body["link"] if link["relation"] == "next"), None)
        assert wanted <= urls, sorted(wanted - urls)[:5]
    assert len(operations) == len(OPERATIONS)
    assert len(parameters) > 1000
