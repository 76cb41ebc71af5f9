"""What is wrong with a call of an operation is said, by its declaration, and leaves every resource as it was.

The tests of one operation run together, as the caller for whom the right call is done: it is, by the last of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import BASE, assert_outcome
from operations_conftest import Network, parameters
from starlette.testclient import TestClient
from unchanged import unchanged
from valid_calls import CALLS, OURS, Valid, key, path

from fhirserver.definitions import Operation, Parameter

OF_EACH_TYPE: dict[str, Any] = {
    "code": "x", "string": "x", "markdown": "x", "canonical": "urn:x", "boolean": True, "integer": 1, "decimal": 0.5,
    "date": "2026-11-24", "dateTime": "2026-11-24", "Coding": {"code": "x"}, "CodeableConcept": {"text": "x"},
    "Reference": {"reference": "Organization/centre"}, "Period": {"start": "2026"},
    "Signature": {
        "type": [{"system": "urn:iso-astm:E1762-95:2013", "code": "1.2.840.10065.1.12.1.1"}],
        "when": "2026-11-24T12:00:00Z", "who": {"reference": "Organization/centre"},
    },
    "ImagingStudy": {"resourceType": "ImagingStudy", "status": "registered", "subject": {"display": "x"}},
    "QuestionnaireResponse": {"resourceType": "QuestionnaireResponse", "status": "in-progress"},
}  # fmt: skip
BASIC = {"resourceType": "Basic", "code": {"text": "x"}}
ELSEWHERE = ("Endpoint/centre-dicomweb", "Questionnaire/centre-head-ct", "Practitioner/centre-anna", "Organization/hospital")


class Sender:
    """Sends what is wrong."""

    def __init__(self, network: Network, operation: Operation, valid: Valid) -> None:
        self.network, self.operation, self.valid = network, operation, valid
        self.client: TestClient = network.as_(**valid.who)
        self.path = path(operation, valid.on)
        self.refusals = ExitStack()  # closed, it says whether they changed anything

    def rows(self, without: str = "", *more: dict[str, Any]) -> list[dict[str, Any]]:
        given = {name: value for name, value in self.valid.inputs.items() if name != without}
        return [*parameters(**given).get("parameter", []), *more]

    def body(self, without: str = "", *more: dict[str, Any]) -> dict[str, Any]:
        rows = self.rows(without, *more)
        return {"resourceType": "Parameters"} | ({"parameter": rows} if rows else {})

    def send(self, without: str = "", *more: dict[str, Any], **headers: str) -> Any:
        return self.client.post(self.path, json=self.body(without, *more), headers=headers)

    def value(self, param: Parameter) -> dict[str, Any]:
        given = self.valid.inputs.get(param.name, OF_EACH_TYPE[param.type])
        return {"name": param.name, key(param.type): given[0] if isinstance(given, list) else given}


@pytest.fixture(scope="module")
def sender(request: pytest.FixtureRequest, network: Network) -> Iterator[Sender]:
    operation = OURS[request.param]
    made = Sender(network, operation, CALLS[operation.id](network))
    with made.refusals as refusals:
        refusals.enter_context(unchanged(network.server))
        yield made


def of(chosen: Callable[[Operation], bool]) -> Any:
    found = [id_ for id_, operation in reversed(OURS.items()) if chosen(operation)]  # the log of accesses while it is short
    return pytest.mark.parametrize("sender", found, indirect=True, scope="module")


def test_each_operation_has_a_call_that_is_right():
    assert set(CALLS) == set(OURS)


@of(lambda operation: any(p.min for p in operation.inputs))
def test_what_is_required_is_required(sender):
    required = [param.name for param in sender.operation.inputs if param.min]
    for name in required:
        issues = assert_outcome(sender.send(name), 422, "required", "Parameters.parameter")
        assert [i["diagnostics"] for i in issues] == [f"The parameter {name} is required."]
    issues = assert_outcome(sender.client.post(sender.path), 422, "required")
    assert len(issues) == len(required), "all that is wrong is told at once"


@of(lambda operation: any(p.max == "1" for p in operation.inputs))
def test_what_is_given_once_is_not_given_twice(sender):
    for param in sender.operation.inputs:
        if param.max == "1":
            twice = sender.send(param.name, sender.value(param), sender.value(param))
            assert_outcome(twice, 422, "structure", f"Parameters.parameter[{len(sender.rows(param.name)) + 1}]")


@of(lambda _: True)
def test_what_is_not_declared_is_not_taken(sender):
    unknown = {"name": "colour", "valueCode": "red"}
    assert_outcome(sender.send("", unknown), 422, "not-supported", f"Parameters.parameter[{len(sender.rows())}]")
    for name in ("Colour", "", " ", sender.operation.code.upper()):
        assert sender.send("", {"name": name, "valueCode": "red"}).status_code == 422


@of(lambda operation: bool(operation.inputs))
def test_another_data_type_is_not_taken(sender):
    """A string is no code, and the other way round."""
    for param in sender.operation.inputs:
        wrong: list[dict[str, Any]] = [
            {"valueCode": "x"} if param.type == "string" else {"valueString": "x"},
            {"valueAddress": {"city": "x"}},
            {"resource": BASIC},
            {"part": [{"name": "x", "valueCode": "x"}]},
        ]
        for value in wrong:
            reply = sender.send(param.name, {"name": param.name} | value)
            assert_outcome(reply, 422, "value", f"Parameters.parameter[{len(sender.rows(param.name))}]")
        assert sender.send(param.name, {"name": param.name}).status_code == 422


@of(lambda operation: any(p.type == "Reference" for p in operation.inputs))
def test_a_reference_is_to_what_is_declared_and_is_there(sender):
    def sent(name: str, reference: str) -> Any:
        return sender.send(name, {"name": name, "valueReference": {"reference": reference}})

    for param in sender.operation.inputs:
        if param.type == "Reference":
            assert_outcome(sent(param.name, f"{(*param.targets, 'Observation')[0]}/{uuid.uuid4()}"), 422, "not-found")
            for other in ELSEWHERE:
                if param.targets and other.split("/")[0] not in param.targets:
                    for way in (other, f"{BASE}/fhir/{other}"):
                        issues = assert_outcome(sent(param.name, way), 422, "value")
                        assert param.targets[0] in issues[0]["diagnostics"]


@of(lambda _: True)
def test_an_operation_has_its_level(sender):
    type_, code = sender.operation.type, sender.operation.code
    other = path(sender.operation, "" if sender.valid.on else f"{type_}/{uuid.uuid4()}")
    for there in (other, f"${code}", f"Location/${code}"):
        assert_outcome(sender.client.post(there, json=sender.body()), 404, "not-found")


@of(lambda operation: operation.affects_state)
def test_what_changes_something_is_not_asked_by_get(sender):
    assert_outcome(sender.client.get(sender.path), 405, "not-supported")
    assert_outcome(sender.client.put(sender.path, json=sender.body()), 405, "not-supported")


@of(lambda operation: "instance" in operation.levels and operation.type != "Practitioner")  # the directory is everybody's
def test_a_foreign_instance_is_answered_like_a_missing_one(sender):
    names = {"organization": "elsewhere", "user": "somebody", "practitioner": "elsewhere-somebody"}
    stranger = sender.network.as_(**{name: names.get(name, value) for name, value in sender.valid.who.items()})
    foreign = stranger.post(sender.path, json=sender.body())
    assert_outcome(foreign, 404, "not-found")
    absent = path(sender.operation, f"{sender.operation.type}/{uuid.uuid4()}")
    for client in (stranger, sender.client):
        assert client.post(absent, json=sender.body()).content == foreign.content


@of(lambda operation: operation.affects_state and "instance" in operation.levels)
def test_a_stale_if_match_answers_412(sender):
    assert_outcome(sender.send(**{"If-Match": 'W/"99"'}), 412, "conflict")
    assert_outcome(sender.send(**{"If-Match": "yesterday"}), 400, "invalid")


@of(lambda _: True)
def test_the_body_is_parameters(sender):
    for body in (BASIC, [], "x", 7):
        assert sender.client.post(sender.path, json=body).status_code in (400, 422), body
    for body in (b"{", b"\xff", b'{"resourceType":"Parameters","parameter":{}}', b'{"resourceType":"Parameters","x":1}'):
        reply = sender.client.post(sender.path, content=body, headers={"Content-Type": "application/fhir+json"})
        assert reply.status_code in (400, 422), body


@of(lambda _: True)
def test_nobody_and_who_has_no_scope_for_it_do_nothing(sender):
    nobody = TestClient(sender.network.server.app, base_url=f"{BASE}/fhir/")
    assert_outcome(nobody.post(sender.path, json=sender.body()), 401, "login")
    narrow = sender.network.as_(**sender.valid.who | {"scope": "system/Location.rs user/Location.rs"})
    assert_outcome(narrow.post(sender.path, json=sender.body()), 403, "forbidden")


@of(lambda operation: operation.affects_state)
def test_a_key_that_is_none_is_refused(sender):
    for key_ in ("", "two words", "x" * 256):
        assert_outcome(sender.send(**{"Idempotency-Key": key_}), 400, "invalid")


@of(lambda _: True)
def test_what_is_right_is_done_and_sent_again_done_once(sender):
    """Each was refused for what was wrong with it and for nothing else. I10: a key is compared whole."""
    sender.refusals.close()
    named = {"Idempotency-Key": f"{sender.operation.id}.5"}
    done = sender.send(**named)
    assert done.status_code == 200, done.text
    if sender.operation.affects_state:
        with unchanged(sender.network.server):
            again = sender.send(**named)
            assert (again.status_code, again.content, again.headers.get("etag")) == (
                200,
                done.content,
                done.headers.get("etag"),
            )
            other = sender.send("", {"name": "colour", "valueCode": "red"}, **named)
            assert_outcome(other, 422, "business-rule")
            assert "Idempotency-Key" in other.json()["issue"][0]["diagnostics"]
            assert (
                sender.send(
                    "", {"name": "colour", "valueCode": "red"}, **{"Idempotency-Key": f"{sender.operation.id}.52"}
                ).status_code
                == 422
            )
