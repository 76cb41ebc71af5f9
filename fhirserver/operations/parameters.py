"""Parameters in, Parameters out, by an operation's declaration.

https://hl7.org/fhir/R4/operations.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fhirserver import r4
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Invalid, Issue
from fhirserver.messages import Reply, Request
from fhirserver.primitives import CHECKS
from fhirserver.search.query import GENERAL
from fhirserver.search.reference import local
from fhirserver.validation import dumps, loads, problems
from fhirserver.versions import Stored, Write

# What an operation gives back for each out parameter: a resource just written, a value, or a list of them
Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Typed:
    """A value of a data type: ``Typed("Canonical", "urn:x|1")``."""

    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Parts:
    """A parameter of parts, by name: each a value as an operation gives it back."""

    rows: Mapping[str, Any]


def read(operation: Operation, request: Request) -> dict[str, Any]:
    """The inputs by name: a list where ``max`` is ``*``. Errors: 422 with every parameter that is wrong."""
    given = _from_query(operation, request) + _from_body(operation, request)
    declared = {p.name: p for p in operation.inputs}
    wrong = [
        Issue("not-supported", "The operation has no parameter of this name.", f"Parameters.parameter[{i}]")
        for i, n, _ in given
        if n not in declared
    ]
    inputs: dict[str, Any] = {}
    for param in operation.inputs:
        found = [(place, value) for place, name, value in given if name == param.name]
        wrong += _check(param, found)
        if param.max == "*":
            inputs[param.name] = [value for _, value in found]
        elif found:
            inputs[param.name] = found[0][1]
    if wrong:
        raise Invalid(wrong[0].diagnostics, issues=wrong)
    return inputs


def _from_query(operation: Operation, request: Request) -> list[tuple[int, str, Any]]:
    types = {p.name: p.type for p in operation.inputs}
    convert = {
        "boolean": lambda v: {"true": True, "false": False}.get(v, v),
        "integer": lambda v: int(v) if re.fullmatch("[0-9]{1,9}", v) else v,
    }
    pairs = [(name, value) for name, value in request.query if name not in GENERAL]
    return [
        (i, name, convert.get(types.get(name, ""), _reference(types.get(name)))(value)) for i, (name, value) in enumerate(pairs)
    ]


def _reference(type_: str | None) -> Any:
    return (lambda value: {"reference": value}) if type_ == "Reference" else (lambda value: value)


def _from_body(operation: Operation, request: Request) -> list[tuple[int, str, Any]]:
    if not request.body:
        return []
    data = loads(request.body)
    if not isinstance(data, dict) or data.get("resourceType") != "Parameters":
        single = next((p for p in operation.inputs if p.type == "Resource" or r4.is_resource(p.type)), None)
        if single is None or not isinstance(data, dict) or (not single.as_sent and data.get("resourceType") != single.type):
            wrong = "The body is a Parameters resource" + (f" or a {single.type}." if single else ".")
            raise Invalid(wrong, issues=[Issue("structure", wrong, "Parameters")])
        if not single.as_sent and (found := list(problems(data, single.type))):
            raise Invalid(found[0].diagnostics, issues=found)
        return [(0, single.name, data)]
    as_sent = {p.name for p in operation.inputs if p.as_sent}
    found = list(problems(_without(data, as_sent), "Parameters"))
    if found:
        raise Invalid(found[0].diagnostics, issues=found)
    types = {p.name: p.type for p in operation.inputs}
    return [(i, p["name"], _value(p, types.get(p["name"], ""))) for i, p in enumerate(data.get("parameter", []))]


def _without(data: dict[str, Any], as_sent: set[str]) -> dict[str, Any]:
    """The Parameters without the resources that the operation itself checks."""
    rows = data.get("parameter")
    if not as_sent or not isinstance(rows, list):
        return data
    stub = {"resourceType": "Basic", "code": {"text": "as sent"}}
    checked = [
        row | {"resource": stub} if isinstance(row, dict) and "resource" in row and str(row.get("name")) in as_sent else row
        for row in rows
    ]
    return data | {"parameter": checked}


def _value(parameter: dict[str, Any], type_: str) -> Any:
    """None for what is given as another data type than the one that is declared: a string is no code."""
    if type_ == "Resource" or r4.is_resource(type_):
        return parameter.get("resource")
    return parameter.get(f"value{type_[:1].upper()}{type_[1:]}")


def _check(param: Parameter, found: list[tuple[int, Any]]) -> list[Issue]:
    if len(found) < param.min:
        return [Issue("required", f"The parameter {param.name} is required.", "Parameters.parameter")]
    if param.max != "*" and len(found) > int(param.max):
        return [Issue("structure", f"The parameter {param.name} is given once.", f"Parameters.parameter[{found[1][0]}]")]
    return [
        Issue("value", f"The parameter {param.name} is a {param.type}.", f"Parameters.parameter[{place}]")
        for place, value in found
        if not _fits(param.type, value)
    ]


def targeted(params: Iterable[Parameter], inputs: Mapping[str, Any], base: str) -> None:
    """Errors: 422 for a reference to a resource of another type than those that are declared."""
    for param in params:
        given = inputs[param.name]
        for one in given if isinstance(given, list) else [given]:
            target = local(one.get("reference", ""), base)
            if param.targets and target is not None and target[0] not in param.targets:
                text = f"The parameter {param.name} is a reference to {' or '.join(param.targets)}."
                raise Invalid(text, issues=[Issue("value", text, "Parameters.parameter")])


def _fits(type_: str, value: Any) -> bool:
    if type_ in CHECKS:
        return CHECKS[type_](value)
    if type_ == "Resource":
        return isinstance(value, dict)
    if r4.is_resource(type_):
        return isinstance(value, dict) and value.get("resourceType") == type_
    return isinstance(value, dict) and "resourceType" not in value


def answer(operation: Operation, result: Result | Reply, shows: Callable[[Write], bool]) -> Reply:
    """A single ``return`` that is a resource is the body itself: "the Parameters resource … is not used".

    Of a list the caller is told what they may see.
    """
    if isinstance(result, Reply):
        return result
    result = {name: _shown(value, shows) if isinstance(value, list) else value for name, value in result.items()}
    writes = [one for value in result.values() for one in (value if isinstance(value, list) else [value])]
    touched = tuple(write.touched for write in writes if isinstance(write, (Write, Stored)))
    if set(result) == {"return"} and isinstance(result["return"], (Write, Stored)):
        return Reply(200, result["return"].json, {"ETag": f'W/"{result["return"].version}"'}, touched)
    if set(result) == {"return"} and isinstance(result["return"], dict):
        return Reply(200, dumps(result["return"]), touched=touched)
    rows = ",".join(row for name, value in result.items() for row in _rows(name, value))
    return Reply(200, f'{{"resourceType":"Parameters","parameter":[{rows}]}}', touched=touched)


def _shown(values: list[Any], shows: Callable[[Write], bool]) -> list[Any]:
    return [one for one in values if not isinstance(one, Write) or shows(one)]


def _rows(name: str, value: Any) -> list[str]:
    if isinstance(value, Parts):
        plain = [row for n, v in value.rows.items() for row in _plain(n, v)]
        return [dumps({"name": name, "part": plain})]
    if isinstance(value, Typed):
        return [f'{{"name":"{name}","value{value.type}":{dumps(value.value)}}}']
    if isinstance(value, list):
        return [row for one in value for row in _rows(name, one)]
    if isinstance(value, (Write, Stored)):
        return [f'{{"name":"{name}","resource":{value.json}}}']
    if isinstance(value, bool):
        return [f'{{"name":"{name}","valueBoolean":{dumps(value)}}}']
    return [f'{{"name":"{name}","resource":{dumps(value)}}}'] if value is not None else []


def _plain(name: str, value: Any) -> list[dict[str, Any]]:
    """A part as JSON has it; parts hold values, and resources that the server made."""
    if isinstance(value, Typed):
        return [{"name": name, f"value{value.type}": value.value}]
    if isinstance(value, list):
        return [row for one in value for row in _plain(name, one)]
    if isinstance(value, bool):
        return [{"name": name, "valueBoolean": value}]
    return [{"name": name, "resource": value}] if value is not None else []
