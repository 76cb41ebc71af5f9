"""Bad input of each kind has a clear answer; and of thousands of malformed requests none is a 5xx, none changes anything quietly."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

import pytest
from conftest import assert_outcome, order, patient
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fhirserver import r4
from fhirserver.operations import OPERATIONS
from fhirserver.search import KINDS

JSON = {"Content-Type": "application/fhir+json"}
EACH = 2500 if "FHIRSERVER_SOAK_STEPS" in os.environ else 500


# ---------------------------------------------------------------- each kind


def nested(depth: int) -> bytes:
    inner = '{"url":"urn:x","valueString":"x"}'
    for _ in range(depth):
        inner = f'{{"url":"urn:x","extension":[{inner}]}}'
    return f'{{"resourceType":"Patient","extension":[{inner}]}}'.encode()


@pytest.mark.parametrize(
    ("body", "status", "code", "expression"),
    [
        (nested(40), 201, None, None),
        (nested(70), 422, "too-long", None),
        (b'{"resourceType":"Patient","extension":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "structure", None),
        (b'{"resourceType":"Patient","gender":"male","gender":"female"}', 400, "structure", None),
        (b'{"resourceType":"Patient","name":[{"family":"A","family":"B"}]}', 400, "structure", None),
        (b'{"resourceType":"Patient","name":[{"family":"A\x00B"}]}', 400, "structure", None),
        (b'{"resourceType":"Patient","name":[{"family":"A\\u0000B"}]}', 422, "value", "Patient.name[0].family"),
        (b'{"resourceType":"Patient","name":[{"family":"A\xffB"}]}', 400, "structure", None),
        (b'{"resourceType":"Patient","name":[{"family":"\xc3\x28"}]}', 400, "structure", None),
        (b'{"resourceType":"Patient","name":[{"family":"\\ud83d"}]}', 400, "structure", None),
        (b'{"resourceType":"Patient","name":[{"family":"\\udc00\\ud800"}]}', 400, "structure", None),
        (b'{"resourceType":"Patient","name":[{"family":"\\ud83d\\ude00"}]}', 201, None, None),
        (b'{"resourceType":"Patient","multipleBirthInteger":NaN}', 400, "structure", None),
        (b'{"resourceType":"Patient","multipleBirthInteger":1.0}', 422, "value", "Patient.multipleBirth"),
        (b'{"resourceType":"Patient","name":[]}', 422, "structure", "Patient.name"),
        (b'{"resourceType":"Patient","name":null}', 422, "structure", "Patient.name"),
        (b'{"resourceType":"Patient","active":"true"}', 422, "value", "Patient.active"),
        (b'["resourceType","Patient"]', 400, "structure", None),
        (b'"Patient"', 400, "structure", None),
        (b"", 400, "structure", None),
    ],
    ids=lambda value: value[:40].decode("latin1") if isinstance(value, bytes) else None,
)
def test_a_body_of_this_kind(hospital, body, status, code, expression):
    before = hospital.get("Patient?_summary=count").json()["total"]
    reply = hospital.post("Patient", content=body, headers=JSON)
    if status == 201:
        assert reply.status_code == 201, reply.text
        sent = json.loads(body)
        assert {k: v for k, v in reply.json().items() if k in sent} == sent
    else:
        assert_outcome(reply, status, code, expression)
        assert hospital.get("Patient?_summary=count").json()["total"] == before


@pytest.mark.parametrize(
    "digits",
    [
        "1234567890123456789012345678901234567890",
        "0.1234567890123456789012345678901234567890",
        "12345678901234567890.12345678901234567890",
        "1.00",
        "-0.0",
        "1E-40",
        "9.9e30",
    ],
)
def test_a_decimal_of_forty_digits_comes_back_as_sent_and_is_found(hospital, digits):
    body = f'{{"resourceType":"Observation","status":"final","code":{{"text":"x"}},"valueQuantity":{{"value":{digits},"unit":"u-{digits}"}}}}'
    made = hospital.post("Observation", content=body, headers=JSON)
    assert made.status_code == 201, made.text
    assert f'"value":{digits},' in hospital.get(f"Observation/{made.json()['id']}").text
    found = hospital.get("Observation", params={"value-quantity": f"{digits}||u-{digits}"}).json()
    assert [e["resource"]["id"] for e in found["entry"]] == [made.json()["id"]]


def test_ten_megabytes_are_413_and_seven_are_taken(hospital):
    def photo(size):
        return patient(photo=[{"contentType": "image/jpeg", "data": "QUFB" * (size // 4)}])

    assert_outcome(hospital.post("Patient", json=photo(10_000_000)), 413, "too-long")
    made = hospital.post("Patient", json=photo(7_000_000))
    assert made.status_code == 201
    assert hospital.get(f"Patient/{made.json()['id']}").json() == made.json()


def test_seventy_megabytes_are_413_whatever_they_are(hospital):
    assert_outcome(hospital.post("Patient", content=bytes(70 * 1024 * 1024), headers=JSON), 413, "too-long")


def bundle(rows: int) -> dict[str, Any]:
    entry = {"resource": {"resourceType": "Basic", "code": {"text": "x"}}, "request": {"method": "POST", "url": "Basic"}}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [entry] * rows}


def test_a_thousand_entries_are_taken_and_one_more_is_413(hospital):
    assert_outcome(hospital.post("", json=bundle(1001)), 413, "too-long", "Bundle.entry")
    assert hospital.get("Basic?_summary=count").json()["total"] == 0
    reply = hospital.post("", json=bundle(1000), headers={"Prefer": "return=minimal"})
    assert reply.status_code == 200, reply.text
    assert [e["response"]["status"] for e in reply.json()["entry"]] == ["201"] * 1000
    assert hospital.get("Basic?_summary=count").json()["total"] == 1000


def test_a_wrong_entry_among_a_thousand_is_named_and_nothing_is_kept(hospital):
    body = bundle(999)
    before = hospital.get("Basic?_summary=count").json()["total"]
    body["entry"].insert(700, {"resource": {"resourceType": "Basic"}, "request": {"method": "POST", "url": "Basic"}})
    assert_outcome(hospital.post("", json=body), 422, "required", "Bundle.entry[700].resource.code")
    assert hospital.get("Basic?_summary=count").json()["total"] == before


# ---------------------------------------------------------------- ten thousand

TYPES = ("Patient", "ServiceRequest", "Observation", "Task", "DiagnosticReport", "ImagingStudy", "SearchParameter", "Bundle")
NAMES = sorted(
    {code for type_ in TYPES for code in r4.search_parameters(type_)}
    | {
        "_id",
        "_lastUpdated",
        "_has",
        "_sort",
        "_include",
        "_revinclude",
        "_count",
        "_summary",
        "_elements",
        "_total",
        "_cursor",
        "_list",
        "_type",
        "_filter",
    }
)
MODIFIERS = sorted({m for kind in KINDS.values() for m in kind.MODIFIERS} | {"missing", "Patient", "iterate", "nothing", ""})
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
odd = st.sampled_from(
    [
        "",
        "|",
        "||",
        "a|b|c",
        "\\",
        "\\,",
        ",",
        "$",
        "a$b",
        "ge",
        "ge2026",
        "2026-13",
        "0000",
        "9999-12-31T23:59:60Z",
        "1e999",
        "1e-999",
        "NaN",
        "-",
        "%",
        "\x00",
        "ł",
        "İ",
        "😀",
        "Patient/1",
        "Patient/",
        "http://[",
        "urn:uuid:",
        "*",
        "true",
        "null",
        "'",
        '"',
        "$where",
        "{}",
        "Patient:x:y:z",
        "_has:Observation:patient:code",
        "9" * 400,
    ]
)
value = odd | text
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | value
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["extension", "url", "reference", "value", "coding", "code", "resourceType", "id", "valueString"])
            | text,
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
ids = st.sampled_from(["1", "x" * 65, "11111111-1111-4111-8111-111111111111", "hospital-1", "..", "%00"]) | text
VALID: tuple[dict[str, Any], ...] = (
    patient(identifier=[{"system": "urn:x", "value": "1"}], birthDate="1970-01-01", telecom=[{"system": "phone", "value": "1"}]),
    order("Patient/1", code={"coding": [{"system": "http://loinc.org", "code": "1"}]}, authoredOn="2026-01-01"),
    {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueQuantity": {"value": 1, "unit": "kg"}, "component": [{"code": {"text": "y"}, "valueInteger": 1}]},
    {"resourceType": "Task", "status": "requested", "intent": "order", "code": {"coding": [{"code": "fulfill"}]}, "focus": {"reference": "ServiceRequest/1"}, "for": {"reference": "Patient/1"}},
    {"resourceType": "SearchParameter", "url": "urn:x", "name": "x", "status": "active", "description": "x", "code": "x", "base": ["Patient"], "type": "token", "expression": "Patient.gender"},
    {"resourceType": "Bundle", "type": "transaction", "entry": [{"fullUrl": "urn:uuid:1", "resource": patient(), "request": {"method": "POST", "url": "Patient"}}]},
    {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": [{"name": "type", "valueCode": "add"}, {"name": "path", "valueString": "Patient"}, {"name": "name", "valueString": "active"}, {"name": "value", "valueBoolean": True}]}]},
)  # fmt: skip


@st.composite
def broken(draw) -> bytes:
    """A resource with some of it replaced, doubled or cut; or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    data = json.loads(json.dumps(draw(st.sampled_from(VALID))))
    for _ in range(draw(st.integers(1, 3))):
        node = data
        while isinstance(node, (dict, list)) and node and draw(st.booleans()):
            key = draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
            if not isinstance(node[key], (dict, list)) or not node[key]:
                break
            node = node[key]
        if isinstance(node, dict):
            node[draw(st.sampled_from(sorted(node) or ["x"]) | text)] = draw(documents)
        elif isinstance(node, list):
            node.append(draw(documents))
    body = json.dumps(data, ensure_ascii=draw(st.booleans())).encode()
    match draw(st.integers(0, 7)):
        case 0:
            place = draw(st.integers(0, len(body)))
            return (
                body[:place]
                + draw(st.sampled_from([b"\x00", b"\xff", b"\\ud800", b'"', b",", b"1e9999", b"[[[["]))
                + body[place:]
            )
        case 1:
            return body[: draw(st.integers(0, len(body)))]
        case 2:
            return body[:-1] + b"," + body[1:]
        case _:
            return body


name = (
    st.builds(
        lambda n, m, rest: f"{n}{':' + m if m else ''}{rest}",
        st.sampled_from(NAMES),
        st.sampled_from(MODIFIERS),
        st.sampled_from(["", "", "", ".name", ".subject.name", ".x"]),
    )
    | text
)
queries = st.lists(st.tuples(name, value), max_size=3)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["If-Match", "If-None-Match", "If-None-Exist", "If-Modified-Since", "Prefer", "X-Provenance", "Accept", "Content-Type"]
    ),
    st.sampled_from(
        [
            'W/"1"',
            'W/"x"',
            "*",
            "identifier=1",
            "name=",
            "=",
            "return=minimal",
            "return=x,handling=lenient",
            "{}",
            '{"resourceType":"Provenance"}',
            "application/json-patch+json",
            "application/fhir+json",
            "text/html",
            "Thu, 01 Jan 1970",
            "\x7f",
            "",
        ]
    ),
    max_size=2,
)
ENDS = ("", "/_history", "/_history/1", "/_search", "/*", "/Observation", *(f"/${o.code}" for o in OPERATIONS))
paths = st.builds(
    lambda t, i, e: f"{t}{'/' + i if i else ''}{e}",
    st.sampled_from([*TYPES, "Nothing", "", "metadata"]),
    st.just("") | ids,
    st.sampled_from(ENDS),
)


@pytest.mark.parametrize("round_", range(4))
def test_thousands_of_malformed_requests(hospital, round_):
    """2,000, the same each time; with ``make soak`` 10,000."""
    tally = {"asked": 0, "refused": 0}

    @seed(round_)
    @settings(max_examples=EACH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "PURGE"]), paths, queries, HEADERS, broken())
    def ask(method, path, query, headers, body):
        sends = method in ("POST", "PUT", "PATCH")
        given_headers = ({"Content-Type": "application/fhir+json"} if sends else {}) | headers
        reply = hospital.request(
            method,
            quote(path.lstrip("/"), safe="/$*"),
            params=query,
            headers={k: v.encode("latin1") for k, v in given_headers.items()},
            content=body if sends else None,
        )
        tally["asked"] += 1
        assert reply.status_code < 500, (reply.status_code, reply.text)
        if reply.status_code >= 400 and method != "HEAD":
            tally["refused"] += 1
            assert_outcome(reply, reply.status_code, reply.json()["issue"][0]["code"])

    ask()
    assert tally["asked"] >= EACH
    assert tally["refused"] > EACH * 0.6


def test_what_was_refused_left_nothing(server, hospital):
    """After all of that each collection's current resources are those of its history."""
    store = server.installation.store
    for type_ in store.kept():
        current = {f"{type_}/{d['_id']}/{d['v']}" for d in store.database[type_].find({}, {"v": 1})}
        last: dict[str, int] = {}
        for row in store.history.find({"type": type_}, {"rid": 1, "v": 1}):
            last[row["rid"]] = max(last.get(row["rid"], 0), row["v"])
        assert current == {f"{rid}/{v}" for rid, v in last.items()}
