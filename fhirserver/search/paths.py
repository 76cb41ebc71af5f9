"""SearchParameter.expression -> a plain accessor: resource -> [(FHIR type, value)].

The expressions of R4's parameters have few shapes; each is compiled once. What does not compile is not served.
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
_AS = re.compile(r"\((?P<path>[\w.]+) as (?P<type>\w+)\)(?P<rest>(?:\.[\w()='\s]+)*)")
_FUNCTION = re.compile(r"(?P<path>[\w.]+?)\.(?:as|ofType)\((?P<type>\w+)\)(?P<rest>(?:\.\w+)*)")
_RESOLVE = re.compile(r"(?P<path>[\w.]+)\.where\(resolve\(\) is (?P<type>\w+)\)")
_WHERE = re.compile(r"(?P<path>[\w.]+)\.where\((?P<key>\w+)\s*=\s*'(?P<value>[^']*)'\)(?P<rest>(?:\.\w+)*)")
_PLAIN = re.compile(r"[\w.]+")


@dataclass(frozen=True, slots=True)
class _Step:
    keys: tuple[tuple[str, str], ...]
    keep: Callable[[Any], bool] | None = None


@cache
def compiled(type_: str, expression: str) -> Callable[[dict[str, Any]], list[Value]] | None:
    """None where the expression has a shape that is not known here."""
    paths = [_branch(type_, branch) for branch in expression.split(" | ")]
    if any(path is None for path in paths):
        return None
    return _Accessor(tuple(path for path in paths if path))


@dataclass(frozen=True, slots=True)
class _Accessor:
    paths: tuple[tuple[_Step, ...], ...]

    def __call__(self, resource: dict[str, Any]) -> list[Value]:
        return [value for path in self.paths for value in _follow(resource, path)]


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
    return nodes


def _branch(type_: str, text: str) -> tuple[_Step, ...] | None:
    if match := _AS.fullmatch(text):
        rest = match["rest"]
        return (
            _steps(type_, match["path"] + rest, len(match["path"].split(".")) - 1, match["type"]) if "(" not in rest else None
        )
    if match := _FUNCTION.fullmatch(text):
        return _steps(type_, match["path"] + match["rest"], len(match["path"].split(".")) - 1, match["type"])
    if match := _RESOLVE.fullmatch(text):
        target = match["type"]
        return _steps(type_, match["path"], keep=lambda value: _refers_to(value, target))
    if match := _WHERE.fullmatch(text):
        key, wanted = match["key"], match["value"]
        where = len(match["path"].split(".")) - 1
        return _steps(
            type_, match["path"] + match["rest"], keep=lambda v: isinstance(v, dict) and v.get(key) == wanted, keep_at=where
        )
    if _PLAIN.fullmatch(text):
        return _steps(type_, text)
    return None


def _refers_to(value: Any, target: str) -> bool:
    if not isinstance(value, dict):
        return False
    reference = value.get("reference")
    if isinstance(reference, str):
        return re.search(rf"(^|/){target}/[^/]+(/_history/[^/]+)?$", reference) is not None
    return value.get("type") == target


def _steps(
    type_: str,
    path: str,
    cast_at: int | None = None,
    cast: str | None = None,
    keep: Callable[[Any], bool] | None = None,
    keep_at: int | None = None,
) -> tuple[_Step, ...] | None:
    """The path's steps, each with the JSON keys that its name may have and the types behind them."""
    names = path.split(".")
    if names[0] not in (type_, "Resource", "DomainResource"):
        return None
    owners, steps = [type_], []
    last = len(names) - 1 if keep_at is None else keep_at
    for index, name in enumerate(names[1:], 1):
        keys = [key for owner in owners for key in _keys(owner, name, cast if index == cast_at else None)]
        if not keys:
            return None
        steps.append(_Step(tuple(keys), keep if index == last else None))
        owners = [found for _, found in keys]
    return tuple(steps)


def _keys(owner: str, name: str, cast: str | None) -> list[tuple[str, str]]:
    structure = r4.structure(owner)
    if structure is None:
        return []
    found = [e for e in structure.elements.values() if e.name == name]
    return [(e.key, e.type) for e in found if cast is None or e.type == cast]
