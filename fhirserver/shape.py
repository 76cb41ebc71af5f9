"""``_summary`` and ``_elements``: a part of a resource, marked SUBSETTED.

https://hl7.org/fhir/R4/search.html#summary
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fhirserver import r4
from fhirserver.errors import BadRequest
from fhirserver.messages import Reply
from fhirserver.validation import Document, dumps, loads

_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
SUMMARIES = ("true", "text", "data", "count", "false")
_NAMES = re.compile(r"[\w.]+(,[\w.]+)*")
_ALWAYS = ("resourceType", "id", "meta")


@dataclass(frozen=True, slots=True)
class Shape:
    """``summary`` is true, text, data or empty; ``elements`` are names of top-level elements, a type before them or not."""

    summary: str = ""
    elements: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Shape:
        """Errors: 400 for a summary or a name that is none."""
        given = dict(pairs)
        summary, elements = given.get("_summary", ""), given.get("_elements", "")
        if summary and summary not in SUMMARIES:
            raise BadRequest(f"_summary is one of {', '.join(SUMMARIES)}.", "_summary")
        if elements and not _NAMES.fullmatch(elements):
            raise BadRequest("_elements is a list of element names.", "_elements")
        names = tuple(elements.split(",")) if elements else ()
        return cls(summary if summary in ("true", "text", "data") else "", names) if summary or names else WHOLE

    def shaped(self, text: str) -> str:
        """The JSON of a resource, or the part of it that is asked for."""
        if not self.summary and not self.elements:
            return text
        data = loads(text)
        if data.get("resourceType") == "OperationOutcome":
            return text
        return dumps(self._part(data))

    def _part(self, data: Document) -> Document:
        type_ = data["resourceType"]
        required = _required(type_)
        if self.elements:
            wanted = {name.removeprefix(f"{type_}.").partition(".")[0] for name in self.elements if _concerns(name, type_)}
            kept = _only(data, lambda name: name in wanted or name in required, type_)
        elif self.summary == "text":
            kept = _only(data, lambda name: name == "text" or name in required, type_)
        elif self.summary == "data":
            kept = {key: value for key, value in data.items() if key != "text"}
        else:
            kept = _summarised(data, type_)
        meta = kept.get("meta", {})
        return kept | {"meta": meta | {"tag": [*meta.get("tag", ()), _SUBSETTED]}}


WHOLE = Shape()


def shaped(shape: Shape, reply: Reply) -> Reply:
    """The answer of a single resource in the shape that was asked for."""
    if shape is WHOLE or not reply.body or reply.status >= 300:
        return reply
    return replace(reply, body=shape.shaped(reply.body))


def _concerns(name: str, type_: str) -> bool:
    return not name[:1].isupper() or name.startswith(f"{type_}.")


@cache
def _required(type_: str) -> frozenset[str]:
    """ "… mandatory elements … SHOULD be included"; so they are."""
    structure = r4.structure(type_)
    return frozenset(name for name, _ in structure.required) if structure else frozenset()


def _only(data: Document, keeps: Callable[[str], bool], type_: str) -> Document:
    structure = r4.structure(type_)
    assert structure is not None
    named = {key: element.name for key, element in structure.elements.items()}
    return {key: value for key, value in data.items() if key in _ALWAYS or keeps(named.get(key.lstrip("_"), key))}


def _summarised(data: Any, type_: str) -> Any:
    """The elements that the standard marks as of the summary, at each level."""
    structure = r4.structure(type_)
    if structure is None or not isinstance(data, dict):
        return data
    kept: Document = {}
    for key, value in data.items():
        element = structure.elements.get(key.lstrip("_"))
        if key in _ALWAYS or element is None:
            kept[key] = value
        elif element.summary or element.min:
            backbone = "." in element.type and not key.startswith("_")
            kept[key] = _below(value, element.type) if backbone else value
    return kept


def _below(value: Any, type_: str) -> Any:
    return [_summarised(one, type_) for one in value] if isinstance(value, list) else _summarised(value, type_)
