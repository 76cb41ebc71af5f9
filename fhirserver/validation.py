"""Bytes -> Resource: JSON, structure, required bindings, reference targets. All problems at once, each with its FHIRPath.

https://hl7.org/fhir/R4/validation.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

from fhirserver import countries, r4
from fhirserver.errors import BadRequest, Invalid, Issue, TooLarge
from fhirserver.invariants import INVARIANTS
from fhirserver.primitives import CHECKS, is_id, is_text

MAX_RESOURCE = 8 * 1024 * 1024
_DEPTH = 64
_PROBLEMS = 100
_LITERAL = re.compile(r"(?:.*/)?([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TEXT_TYPES = frozenset({"string", "markdown"})
_ENCODE = msgspec.json.Encoder(decimal_format="number").encode
_KEPT = msgspec.json.Decoder(float_hook=Decimal).decode
_SPLIT = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """A valid resource: ``data`` to read (decimals as Decimal), ``members`` the JSON text of each member, byte for byte."""

    type: str
    data: Document
    members: dict[str, str]

    @property
    def id(self) -> str | None:
        return self.data.get("id")

    def text(self, id_: str, version: int, when: datetime) -> str:
        """The JSON to store. Only ``id`` and ``meta`` are set; every other member stays as it was sent."""
        meta = self.data.get("meta", {}) | {"versionId": str(version), "lastUpdated": instant(when)}
        rest = "".join(f',"{key}":{value}' for key, value in self.members.items() if key not in ("resourceType", "id", "meta"))
        return f'{{"resourceType":"{self.type}","id":"{id_}","meta":{dumps(meta)}{rest}}}'


def instant(when: datetime) -> str:
    """UTC, to the millisecond: what ``ts`` holds."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"


def dumps(value: Any) -> str:
    """JSON text; a Decimal keeps its digits."""
    return _ENCODE(value).decode()


def loads(body: bytes | str) -> Any:
    """JSON by RFC 8259, strictly: no NaN, no doubled member, decimals kept exactly."""
    try:
        text = body if isinstance(body, str) else body.decode()  # UTF-8, and nothing guessed
        data = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_members)
        if _SURROGATE.search(text):
            dumps(data)  # a lone surrogate is no character: it cannot be stored or sent
        return data
    except (ValueError, RecursionError, ArithmeticError) as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.args[0] if isinstance(error, _StrictError) else "not well-formed JSON in UTF-8" + where
        raise BadRequest(f"The body is {what}.", issues=[Issue("structure", f"The body is {what}.")]) from None


def kept(text: str) -> Any:
    """JSON that the server keeps: it was checked when it came. Decimals exactly, as with ``loads``."""
    return _KEPT(text)


class _StrictError(ValueError):
    pass


def _refuse_constant(_: str) -> NoReturn:
    raise _StrictError("JSON with NaN or Infinity, which JSON does not have")


def _members(pairs: list[tuple[str, Any]]) -> Document:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _StrictError("JSON in which one object has the same member twice")
    return members


def parse(body: bytes, type_: str | None = None) -> Resource:
    """What a client sent, checked whole. ``type_`` is the type that the URL names."""
    if len(body) > MAX_RESOURCE:
        raise TooLarge(f"A resource may hold {MAX_RESOURCE} bytes.")
    return checked(loads(body), body, type_)


def checked(data: Any, body: bytes, type_: str | None = None) -> Resource:
    """Parsed JSON and its text -> Resource, or every problem."""
    if not isinstance(data, dict):
        raise BadRequest("A resource is a JSON object.", issues=[Issue("structure", "A resource is a JSON object.")])
    name = data.get("resourceType")
    if not isinstance(name, str) or not r4.is_resource(name):
        raise BadRequest("resourceType is not the name of an R4 resource type.", "resourceType")
    if type_ and name != type_:
        raise BadRequest(f"The URL is for {type_}, the body is a {name}.", f"{name}")
    found = list(_limited(problems(data, name)))
    if found:
        raise Invalid(found[0].diagnostics, issues=found)
    return Resource(name, data, {key: bytes(raw).decode() for key, raw in _SPLIT(body).items()})


def built(data: Document) -> Resource:
    """A resource that the server made itself: checked like any other."""
    return checked(data, dumps(data).encode())


def rebuilt(text: str, before: Document, after: Document) -> Resource:
    """A stored resource that the server changed: members that it did not touch keep their text, byte for byte."""
    kept = {key: bytes(raw).decode() for key, raw in _SPLIT(text).items()}
    found = list(_limited(problems(after, after["resourceType"])))
    if found:
        raise Invalid(found[0].diagnostics, issues=found)
    members = {key: kept[key] if key in kept and before.get(key) == value else dumps(value) for key, value in after.items()}
    return Resource(after["resourceType"], after, members)


def _limited(found: Iterator[Issue]) -> Iterator[Issue]:
    for number, issue in enumerate(found):
        if number == _PROBLEMS:
            yield Issue("too-long", f"There are more than {_PROBLEMS} problems; the rest is not listed.")
            return
        yield issue


def problems(data: Document, name: str) -> Iterator[Issue]:
    """Every way in which ``data`` is not a resource of type ``name``."""
    structure = r4.structure(name)
    assert structure is not None
    yield from _object(data, structure, name, 0)
    yield from _identified(data, name)
    yield from _contained(data, name)


def _object(value: Any, structure: r4.Structure, path: str, depth: int) -> Iterator[Issue]:
    if not isinstance(value, dict) or not value:
        yield Issue("structure", f"A {structure.name} is a JSON object that is not empty.", path)
        return
    if depth > _DEPTH:
        yield Issue("too-long", f"Nested more than {_DEPTH} deep.", path)
        return
    elements = structure.elements
    for key, item in value.items():
        element = elements.get(key)
        if element is not None:
            yield from _element(item, value, element, path, depth)
        elif key.startswith("_") and (element := elements.get(key[1:])) and element.type in CHECKS:
            yield from _primitive_extension(item, value, element, path, depth)
        elif not (key == "resourceType" and structure.kind == "resource"):
            yield Issue("structure", f"{structure.name} has no element of this name.", f"{path}.{_plain(key)}")
    for name, keys in structure.required:
        if not any(key in value or (f"_{key}" in value and not _needs_value(elements[key], structure)) for key in keys):
            yield Issue("required", f"{name} is required.", f"{path}.{name}")
    for name, keys in structure.choices.items():
        if sum(key in value for key in keys) > 1:
            yield Issue("structure", f"Only one type of {name}[x] may be given.", f"{path}.{name}")
    if structure.name == "Extension":
        yield from _extension(value, path)
    elif structure.name == "Identifier" and (number := countries.wrong(value)):
        yield Issue("value", f"This is not a {number.name}: {number.form}.", f"{path}.value")
    for key, text, holds in INVARIANTS.get(structure.name, ()):
        try:
            met = holds(value)
        except (ValueError, TypeError, AttributeError, KeyError):
            continue  # its parts are wrong, and told for themselves
        if not met:
            yield Issue("invariant", f"{key}: {text}", path)


def _needs_value(element: r4.Element, structure: r4.Structure) -> bool:
    """Where an extension alone does not do: a code that rules and searches read, and what names an extension."""
    return element.codes is not None or structure.name == "Extension"


def _plain(key: str) -> str:
    """A member's name, safe to tell in an error."""
    return key if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", key) else "(a name that FHIR cannot have)"


def _element(item: Any, parent: Document, element: r4.Element, path: str, depth: int) -> Iterator[Issue]:
    where = f"{path}.{element.name}"
    if not element.many:
        yield from _value(item, element, where, depth)
    elif not isinstance(item, list) or not item:
        yield Issue("structure", f"{element.key} is a list that is not empty.", where)
    else:
        siblings = parent.get(f"_{element.key}")
        for index, member in enumerate(item):
            if member is None and isinstance(siblings, list) and index < len(siblings) and siblings[index] is not None:
                continue
            yield from _value(member, element, f"{where}[{index}]", depth)


def _value(value: Any, element: r4.Element, path: str, depth: int) -> Iterator[Issue]:
    check = CHECKS.get(element.type)
    if check is not None:
        if not check(value):
            yield Issue("value", f"This is not a FHIR {element.type}{_hint(element.type, value)}.", path)
        elif element.codes is not None and value not in element.codes:
            allowed = ", ".join(sorted(element.codes)) if len(element.codes) <= 20 else f"{len(element.codes)} codes"
            yield Issue("code-invalid", f"The code is not in the required value set ({allowed}).", path)
        return
    if element.type in ("Resource", "DomainResource"):
        yield from _any_resource(value, path, depth)
        return
    structure = r4.structure(element.type)
    if structure is None:
        yield Issue("structure", f"R4 has no type {element.type}.", path)
        return
    yield from _object(value, structure, path, depth + 1)
    if isinstance(value, dict):
        if element.type == "Reference":
            yield from _reference(value, element, path)
        elif element.codes is not None:
            yield from _bound(value, element, path)


def _hint(type_: str, value: Any) -> str:
    if type_ in ("dateTime", "instant") and isinstance(value, str) and "T" in value:
        return " (a day that exists, hours, minutes and seconds, and a time zone)"
    return " (text that is not empty and has no control characters)" if type_ in _TEXT_TYPES else ""


def _any_resource(value: Any, path: str, depth: int) -> Iterator[Issue]:
    name = value.get("resourceType") if isinstance(value, dict) else None
    structure = r4.structure(name) if isinstance(name, str) and r4.is_resource(name) else None
    if structure is None:
        yield Issue("structure", "A resource whose resourceType R4 has.", path)
        return
    yield from _object(value, structure, path, depth + 1)
    yield from _identified(value, path)
    if not path.rpartition(".")[2].startswith("contained"):
        yield from _contained(value, path)


def _identified(resource: Document, path: str) -> Iterator[Issue]:
    """R4's table has the id of a resource as a string; the text says id."""
    if "id" in resource and not is_id(resource["id"]):
        yield Issue("value", "This is not a FHIR id.", f"{path}.id")


def _primitive_extension(item: Any, parent: Document, element: r4.Element, path: str, depth: int) -> Iterator[Issue]:
    """https://hl7.org/fhir/R4/json.html#primitive"""
    where, structure = f"{path}.{element.name}", r4.structure("Element")
    assert structure is not None
    if not element.many:
        yield from _object(item, structure, where, depth + 1)
        return
    values = parent.get(element.key)
    if not isinstance(item, list) or (isinstance(values, list) and len(values) != len(item)):
        yield Issue("structure", f"_{element.key} is a list as long as {element.key}.", where)
        return
    for index, member in enumerate(item):
        if member is not None:
            yield from _object(member, structure, f"{where}[{index}]", depth + 1)


def _extension(value: Document, path: str) -> Iterator[Issue]:
    has_value = any(key.startswith(("value", "_value")) for key in value)
    if has_value == ("extension" in value):
        yield Issue("invariant", "ext-1: an extension has either extensions or a value.", path)


def _reference(value: Document, element: r4.Element, path: str) -> Iterator[Issue]:
    """https://hl7.org/fhir/R4/references.html"""
    reference = value.get("reference")
    if not any(key in value for key in ("reference", "identifier", "display", "extension", "_reference")):
        yield Issue("invariant", "A reference has a reference, an identifier or a display.", path)
    if not is_text(reference) or element.targets is None or "Resource" in element.targets:
        return
    assert isinstance(reference, str)
    match = _LITERAL.fullmatch(reference)
    named = match[1] if match else value.get("type")
    if isinstance(named, str) and r4.is_resource(named) and named not in element.targets:
        allowed = ", ".join(sorted(element.targets))
        yield Issue("structure", f"This refers to a {named}; allowed here: {allowed}.", f"{path}.reference")
    if match is None and not reference.startswith(("#", "urn:", "http:", "https:")) and "?" not in reference:
        yield Issue("value", "A reference is Type/id, a URL, a urn or #id of a contained resource.", f"{path}.reference")


def _bound(value: Document, element: r4.Element, path: str) -> Iterator[Issue]:
    codings = value.get("coding", []) if element.type == "CodeableConcept" else [value]
    codes = [coding.get("code") for coding in codings if isinstance(coding, dict)]
    if codes and element.codes is not None and not element.codes.intersection(c for c in codes if isinstance(c, str)):
        yield Issue("code-invalid", "The code is not in the required value set.", path)


def _contained(data: Document, path: str) -> Iterator[Issue]:
    contained = data.get("contained")
    if not isinstance(contained, list):
        contained = []
    ids = {c.get("id") for c in contained if isinstance(c, dict)}
    for index, resource in enumerate(contained):
        if isinstance(resource, dict) and not is_id(resource.get("id")):
            yield Issue("required", "A contained resource has an id.", f"{path}.contained[{index}].id")
        if isinstance(resource, dict) and "contained" in resource:
            yield Issue("invariant", "dom-2: a contained resource contains none.", f"{path}.contained[{index}]")
    for where, reference in references(data, path, nested=False):
        if reference.startswith("#") and len(reference) > 1 and reference[1:] not in ids:
            yield Issue("not-found", "No contained resource has this id.", where)


def references(value: Any, path: str, *, nested: bool = True) -> Iterator[tuple[str, str]]:
    """(FHIRPath, Reference.reference) of every literal reference below ``value``, contained resources included.

    ``nested``: also in resources that a Bundle or Parameters holds.
    """
    if isinstance(value, dict):
        reference = value.get("reference")
        if isinstance(reference, str):
            yield f"{path}.reference", reference
        for key, item in value.items():
            if isinstance(item, (dict, list)) and (nested or key != "resource"):
                yield from references(item, f"{path}.{key}", nested=nested)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from references(item, f"{path}[{index}]", nested=nested)
