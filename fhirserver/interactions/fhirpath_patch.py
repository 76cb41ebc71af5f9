"""FHIRPath Patch: a Parameters resource of operations add, insert, delete, replace, move.

https://hl7.org/fhir/R4/fhirpatch.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fhirserver import r4
from fhirserver.errors import Invalid, Issue
from fhirserver.validation import Document, problems

_MOST, _LONGEST = 1000, 300
_MARK = "__place__"
# What a path may call: it chooses an element, and computes nothing.
_FUNCTIONS = frozenset({"where", "first", "last", "as", "ofType", "extension", "exists", "not", "empty"})
_LAST = re.compile(r"(?P<parent>.+)\.(?P<name>[A-Za-z_]\w*)(?:\[(?P<index>\d{1,4})\])?")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something is: a member of an object, or one of a list in it."""

    holder: Document
    key: str
    index: int | None = None


def patched(document: Document, parameters: Any) -> Document:
    """The document, changed in place. Errors: 422 naming the operation."""
    found = list(problems(parameters, "Parameters")) if isinstance(parameters, dict) else []
    if not isinstance(parameters, dict) or parameters.get("resourceType") != "Parameters" or found:
        raise Invalid(
            "A FHIRPath Patch is a Parameters resource.",
            issues=found or [Issue("structure", "A FHIRPath Patch is a Parameters resource.", "Parameters")],
        )
    operations = parameters.get("parameter", [])
    if len(operations) > _MOST:
        raise Invalid(f"A patch has at most {_MOST} operations.")
    for number, operation in enumerate(operations):
        _Operation(document, number, operation).run()
    return document


class _Operation:
    def __init__(self, document: Document, number: int, parameter: Document) -> None:
        self.document, self.number = document, number
        self.parts: dict[str, Document] = {part["name"]: part for part in parameter.get("part", ())}
        if parameter.get("name") != "operation" or "type" not in self.parts:
            raise self.wrong("It is a parameter named operation with a part named type.")

    def wrong(self, text: str) -> Invalid:
        where = f"Parameters.parameter[{self.number}]"
        return Invalid(text, issues=[Issue("processing", text, where)])

    def run(self) -> None:
        match self.text("type"):
            case "add":
                self.add()
            case "insert":
                self.insert()
            case "delete":
                for place in self.places(self.path(), several=False):
                    _remove(place)
            case "replace":
                self.replace()
            case "move":
                self.move()
            case _:
                raise self.wrong("The type is add, insert, delete, replace or move.")

    # ------------------------------------------------------------ the parts

    def text(self, name: str) -> str:
        part = self.parts.get(name, {})
        found = next((v for k, v in part.items() if k.startswith("value") and isinstance(v, str)), None)
        if found is None:
            raise self.wrong(f"The part {name} is missing.")
        return found

    def number_of(self, name: str) -> int:
        value = self.parts.get(name, {}).get("valueInteger")
        if not isinstance(value, int) or value < 0:
            raise self.wrong(f"The part {name} is a valueInteger of 0 or more.")
        return value

    def path(self) -> str:
        path = self.text("path")
        if len(path) > _LONGEST or not set(re.findall(r"(\w+)\s*\(", path)) <= _FUNCTIONS:
            raise self.wrong(f"A path has at most {_LONGEST} characters and calls {', '.join(sorted(_FUNCTIONS))} alone.")
        return path

    def value(self) -> Document:
        part = self.parts.get("value")
        if part is None:
            raise self.wrong("The part value is missing.")
        return part

    # ------------------------------------------------------------ the operations

    def add(self) -> None:
        [(node, type_)] = self.holders(self.path(), at_most_one=True)
        element = self.element(type_, self.text("name"))
        value = _made(self.value(), element.type)
        if element.many:
            node.setdefault(element.key, []).append(value)
        elif any(key in node for key in self.keys(node, type_, element.name)):
            raise self.wrong("The element is there already and does not repeat; replace it.")
        else:
            node[element.key] = value

    def element(self, type_: str, name: str) -> r4.Element:
        """The element of this name that the value fits."""
        structure = r4.structure(type_)
        elements = [e for e in structure.elements.values() if e.name == name] if structure else []
        if len(elements) > 1:
            suffix = next((key.removeprefix("value") for key in self.value() if key.startswith("value")), "")
            elements = [e for e in elements if e.key == name + suffix]
        if not elements:
            raise self.wrong("There is no element of this name and type here.")
        return elements[0]

    def replace(self) -> None:
        places = self.places(self.path(), several=False)
        if len(places) != 1:
            raise self.wrong("The path leads to no element.")
        [place] = places
        type_ = next(t for node, t in _objects(self.document, self.document["resourceType"]) if node is place.holder)
        structure = r4.structure(type_)
        old = structure.elements.get(place.key) if structure else None
        element = self.element(type_, old.name) if old else None
        value = _made(self.value(), element.type if element else "Element")
        if place.index is not None:
            place.holder[place.key][place.index] = value
            return
        del place.holder[place.key]
        place.holder[element.key if element else place.key] = value

    def insert(self) -> None:
        rows, type_ = self.list_at(self.path())
        index = self.number_of("index")
        if index > len(rows):
            raise self.wrong("The index is beyond the end of the list.")
        rows.insert(index, _made(self.value(), type_))

    def move(self) -> None:
        (rows, _), source, target = self.list_at(self.path()), self.number_of("source"), self.number_of("destination")
        if max(source, target) >= len(rows):
            raise self.wrong("source and destination are places in the list.")
        rows.insert(target, rows.pop(source))

    def list_at(self, path: str) -> tuple[list[Any], str]:
        """The list, and the FHIR type of what is in it."""
        place = next(iter(self.places(path, several=True)), None)
        found = place.holder.get(place.key) if place else None
        if place is None or not isinstance(found, list):
            raise self.wrong("The path is not to a list.")
        type_ = next(t for node, t in _objects(self.document, self.document["resourceType"]) if node is place.holder)
        structure = r4.structure(type_)
        element = structure.elements.get(place.key) if structure else None
        return found, element.type if element else "Element"

    # ------------------------------------------------------------ where a path leads

    def places(self, path: str, *, several: bool) -> list[_Place]:
        """``several``: the list as such; otherwise one element of it."""
        match = _LAST.fullmatch(path)
        if match is None:
            return [self.place_of(node) for node, _ in self.holders(path, at_most_one=not several)]
        found = []
        for node, type_ in self.holders(match["parent"]):
            for key in self.keys(node, type_, match["name"]):
                value = node[key]
                if not isinstance(value, list) or several:
                    found.append(_Place(node, key))
                elif match["index"]:
                    found += [_Place(node, key, int(match["index"]))] if int(match["index"]) < len(value) else []
                else:
                    found += [_Place(node, key, number) for number in range(len(value))]
        if len(found) > 1 and not several:
            raise self.wrong("The path leads to more than one element.")
        return found

    def keys(self, node: Document, type_: str, name: str) -> list[str]:
        structure = r4.structure(type_)
        names = [e.key for e in structure.elements.values() if e.name == name] if structure else [name]
        return [key for key in names if key in node]

    def holders(self, path: str, *, at_most_one: bool = False) -> list[tuple[Document, str]]:
        """(object, FHIR type) of each object that a path leads to. The engine copies what it reads, so each is marked."""
        import fhirpathpy

        nodes = list(_objects(self.document, self.document["resourceType"]))
        for number, (node, _) in enumerate(nodes):
            node[_MARK] = number
        try:
            found = fhirpathpy.evaluate(self.document, path)
        except Exception:  # the engine raises what it likes
            raise self.wrong("The path cannot be understood.") from None
        finally:
            for node, _ in nodes:
                node.pop(_MARK, None)
        if not all(isinstance(one, dict) and _MARK in one for one in found):
            raise self.wrong("The path does not lead to an element that has members.")
        if at_most_one and len(found) != 1:
            raise self.wrong("The path leads to no element." if not found else "The path leads to more than one element.")
        return [nodes[one[_MARK]] for one in found]

    def place_of(self, wanted: Document) -> _Place:
        for node, _ in _objects(self.document, self.document["resourceType"]):
            for key, value in node.items():
                if value is wanted:
                    return _Place(node, key)
                if isinstance(value, list):
                    for number, one in enumerate(value):
                        if one is wanted:
                            return _Place(node, key, number)
        raise self.wrong("The path leads to the resource itself.")


def _objects(node: Document, type_: str) -> Iterator[tuple[Document, str]]:
    """Every object with its FHIR type, the resource first."""
    yield node, type_
    structure = r4.structure(type_)
    for key, value in list(node.items()):
        element = structure.elements.get(key) if structure else None
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                below = one.get("resourceType") or (element.type if element else "Element")
                yield from _objects(one, below)


def _made(part: Document, type_: str) -> Any:
    """``value[x]``, a resource, or parts that make an object of a type of its own."""
    if "resource" in part:
        return part["resource"]
    for key, value in part.items():
        if key.startswith("value"):
            return value
    made: Document = {}
    structure = r4.structure(type_)
    for one in part.get("part", ()):
        elements = [e for e in structure.elements.values() if e.name == one["name"]] if structure else []
        suffix = next((key.removeprefix("value") for key in one if key.startswith("value")), "")
        element = next((e for e in elements if len(elements) == 1 or e.key == one["name"] + suffix), None)
        value = _made(one, element.type if element else "Element")
        if element is not None and element.many:
            made.setdefault(element.key, []).append(value)
        else:
            made[element.key if element else one["name"]] = value
    return made


def _remove(place: _Place) -> None:
    if place.index is not None:
        del place.holder[place.key][place.index]
        if place.holder[place.key]:
            return
    del place.holder[place.key]
