"""SearchParameter.expression -> a plain accessor: resource -> [(FHIR type, value)].

The expressions of search parameters have few shapes: paths, ``as``, ``ofType``, ``where`` with one equation or
``resolve() is``, ``extension('url')``, ``[n]``. Each is compiled once; what does not compile is not served.
https://hl7.org/fhir/R4/searchparameter.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fhirserver import r4

Value = tuple[str, Any]
Keep = Callable[[Any], bool]
# What FHIRPath says of a whole resource that no path can: by its text.
_WRITTEN: dict[str, Callable[[dict[str, Any]], list[Value]]] = {
    "Patient.deceased.exists() and Patient.deceased != false": lambda patient: [
        ("boolean", patient.get("deceasedBoolean", "deceasedDateTime" in patient))
    ],
}
_SEGMENT = re.compile(
    r"(?P<name>\w+)(?:\[(?P<nth>\d+)\])?$"
    r"|where\(resolve\(\) is (?P<target>\w+)\)$"
    r"|where\((?P<key>\w+)\s*=\s*'(?P<wanted>[^']*)'\)$"
    r"|extension\('(?P<url>[^']*)'\)$"
    r"|(?:as|ofType)\((?P<type>\w+)\)$"
)
_AS = re.compile(r"\((?P<path>[^()]+) as (?P<type>\w+)\)(?P<rest>\..+)?")


@dataclass(frozen=True, slots=True)
class _Step:
    """JSON keys and the FHIR types behind them; then the values to keep, or the one of a number."""

    keys: tuple[tuple[str, str], ...]
    keep: Keep | None = None
    nth: int | None = None


@dataclass(frozen=True, slots=True)
class Accessor:
    """``ends`` are the elements where the paths end; empty for what is written by hand."""

    paths: tuple[tuple[_Step, ...], ...]
    ends: tuple[r4.Element, ...]

    def __call__(self, node: dict[str, Any]) -> list[Value]:
        return [value for path in self.paths for value in _follow(node, path)]


@cache
def compiled(type_: str, expression: str) -> Callable[[dict[str, Any]], list[Value]] | None:
    """None where the expression has a shape that is not known here. ``type_`` may be a backbone element's path."""
    if expression in _WRITTEN:
        return _WRITTEN[expression]
    found = [_branch(type_, _without_root(type_, branch.strip())) for branch in expression.split(" | ")]
    if any(branch is None for branch in found):
        return None
    branches = [branch for branch in found if branch]
    return Accessor(tuple(steps for steps, _ in branches), tuple(end for _, ends in branches for end in ends))


def is_single(type_: str, expression: str) -> bool:
    """Whether it finds one value at most: one path, no list on it."""
    return " | " not in expression and _is_single(type_, _without_root(type_, expression))


def _is_single(owner: str, text: str) -> bool:
    for name in re.findall(r"(?:^|\.)(\w+)(?=\.|$)", text):
        elements = _elements(owner, name)
        if not elements or any(e.many for e in elements):
            return False
        owner = elements[0].type
    return "(" not in text


def ends(type_: str, expression: str) -> tuple[r4.Element, ...]:
    """The elements at which an expression ends."""
    accessor = compiled(type_, expression)
    return accessor.ends if isinstance(accessor, Accessor) else ()


def _without_root(type_: str, text: str) -> str:
    return re.sub(rf"^(\(*)(?:{re.escape(type_)}|Resource|DomainResource|%resource)(?:\.|$)", r"\1", text)


def _follow(resource: dict[str, Any], path: tuple[_Step, ...]) -> Iterable[Value]:
    nodes: list[Value] = [("", resource)]
    for step in path:
        found: list[Value] = []
        for _, node in nodes:
            if not isinstance(node, dict):
                continue
            for key, type_ in step.keys:
                item = node.get(key)
                if isinstance(item, list):
                    found += [(type_, one) for one in item if one is not None]
                elif item is not None:
                    found.append((type_, item))
        nodes = [value for value in found if step.keep(value[1])] if step.keep else found
        if step.nth is not None:
            nodes = nodes[step.nth : step.nth + 1]
    return nodes


def _branch(owner: str, text: str) -> tuple[tuple[_Step, ...], list[r4.Element]] | None:
    if match := _AS.fullmatch(text):
        text = f"{match['path']}.as({match['type']}){match['rest'] or ''}"
    owners, steps, ends = [owner], list[_Step](), list[r4.Element]()
    for segment in _segments(text):
        match = _SEGMENT.fullmatch(segment)
        if match is None:
            return None
        if match["name"] or match["url"]:
            ends = [e for one in owners for e in _elements(one, match["name"] or "extension")]
            keep = _equals("url", match["url"]) if match["url"] else None
            steps.append(_Step(tuple((e.key, e.type) for e in ends), keep, int(match["nth"]) if match["nth"] else None))
        elif not steps:
            return None
        elif match["type"]:
            ends = [e for e in ends if e.type.lower() == match["type"].lower()]
            steps[-1] = _Step(tuple((e.key, e.type) for e in ends), steps[-1].keep, steps[-1].nth)
        elif steps[-1].keep is not None:
            return None
        else:
            keep = _refers_to(match["target"]) if match["target"] else _equals(match["key"], match["wanted"])
            steps[-1] = _Step(steps[-1].keys, keep)
        if not ends:
            return None
        owners = [e.type for e in ends]
    return tuple(steps), ends


def _segments(text: str) -> list[str]:
    """Split at the dots outside brackets and quotes."""
    return re.findall(r"(?:[^.('\[]|\((?:[^()']|'[^']*'|\([^()]*\))*\)|\[\d+\])+", text)


def _equals(key: str, wanted: str) -> Keep:
    return lambda value: isinstance(value, dict) and value.get(key) == wanted


def _refers_to(target: str) -> Keep:
    literal = re.compile(rf"(^|/){target}/[^/]+(/_history/[^/]+)?$")

    def keep(value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        reference = value.get("reference")
        return literal.search(reference) is not None if isinstance(reference, str) else value.get("type") == target

    return keep


def _elements(owner: str, name: str) -> list[r4.Element]:
    structure = r4.structure(owner)
    return [e for e in structure.elements.values() if e.name == name] if structure else []
