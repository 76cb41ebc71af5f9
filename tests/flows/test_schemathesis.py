"""Schemathesis reads the OpenAPI that the server makes of its declarations, and sends what fits it and what does not."""

from __future__ import annotations

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation.modes import GenerationMode

from fhirserver import openapi
from fhirserver.dispatch import ROUTES
from fhirserver.operations import OPERATIONS
from fhirserver.resources import RESOURCE_TYPES

load_all_checks()
CHECKED = [
    CHECKS.get_one(name)
    for name in ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
]
ROWS = tuple((route.method, route.path, route.interaction) for route in ROUTES)
DOCUMENT = json.loads(openapi.document("http://127.0.0.1/fhir", tuple(RESOURCE_TYPES), ROWS, OPERATIONS))
CALLS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]


@pytest.fixture(scope="module")
def schema(running):
    return schemathesis.openapi.from_url(f"{running.url}/fhir/openapi.json")


@pytest.fixture(scope="module")
def authorization(running):
    return {"Authorization": running.client("schemathesis", "hospital").headers["authorization"]}


# What takes nothing cannot be asked wrongly.
WRONGLY = [(m, p) for m, p in CALLS if DOCUMENT["paths"][p][m].get("parameters") or "requestBody" in DOCUMENT["paths"][p][m]]
MODES = [(GenerationMode.POSITIVE, *call) for call in CALLS] + [(GenerationMode.NEGATIVE, *call) for call in WRONGLY]


@pytest.mark.parametrize(("mode", "method", "path"), MODES)
def test_every_answer_is_as_declared(schema, authorization, mode, method, path):
    strategy = schema[path][method].as_strategy(generation_mode=mode)

    @given(strategy)
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def call(case):
        case.call_and_validate(headers=authorization, checks=CHECKED)

    call()


def test_the_document_names_every_route_and_operation():
    paths = DOCUMENT["paths"]
    assert {f"/{route.path}" for route in ROUTES if route.interaction not in ("operation", "openapi")} <= paths.keys()
    assert {f"${operation.code}" for operation in OPERATIONS} == {path.rpartition("/")[2] for path in paths if "$" in path}


def test_the_document_is_openapi_3_1():
    validate(DOCUMENT)


def test_anybody_reads_it(running):
    import httpx

    reply = httpx.get(f"{running.url}/fhir/openapi.json")
    assert (reply.status_code, reply.json()["openapi"]) == (200, "3.1.0")
    assert reply.json() == DOCUMENT | {"servers": [{"url": f"{running.url}/fhir"}]}
