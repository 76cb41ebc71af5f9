"""Search by brute force: what the server's search is judged by.

Written from the text of https://hl7.org/fhir/R4/search.html and of nothing else: no index, no plan, no code of the server.
Every resource of the type is looked at, its values are taken out by fhirpathpy, and each is held against the question.
Where the standard leaves a choice, the one made here is marked «Choice:».
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from math import inf
from typing import Any, NamedTuple

from fhirpathpy import compile as compile_path
from fhirpathpy.models import models

BASE = "http://127.0.0.1:8000/fhir/"
LOCAL = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.-]{1,64})")
MOMENT = r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
EPOCH, MS, DAY = datetime(1970, 1, 1, tzinfo=timezone.utc), timedelta(milliseconds=1), 86_400_000
PARTS = {
    "HumanName": ("family", "given", "prefix", "suffix", "text"),
    "Address": ("line", "city", "district", "state", "postalCode", "country", "text"),
}
LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d"})
# «code: the system is defined in the value set»: those that the tests ask with a system.
HL7 = "http://hl7.org/fhir/"
IMPLIED = {("Patient", "gender"): "administrative-gender", ("Observation", "status"): "observation-status"}
Resource = dict[str, Any]
Row = Sequence[Any]  # kind, expression, targets, id, components
Cut = tuple[Any, int]  # a place on the line: (x, 0) is right before x, (x, 1) right after it
FIRST, LAST = (-inf, 0), (inf, 0)


class Value(NamedTuple):
    type: str
    data: Any


class Range(NamedTuple):
    low: Cut
    high: Cut


class Oracle:
    def __init__(self, resources: Iterable[Resource], parameters: Mapping[str, Mapping[str, Row]]) -> None:
        self.parameters = parameters
        self.types: dict[str, dict[str, Resource]] = {}
        for resource in resources:
            self.types.setdefault(resource["resourceType"], {})[resource["id"]] = resource
        self._elements: dict[tuple[int, str], list[list[list[Value]]]] = {}

    def search(self, type_: str, query: Sequence[tuple[str, str]]) -> set[str]:
        """The ids that answer, for instance, [("name", "now"), ("_has:Observation:patient:code", "x")]."""
        return {id_ for id_, one in self.types.get(type_, {}).items() if all(self.matches(one, *asked) for asked in query)}

    def matches(self, resource: Resource, name: str, value: str) -> bool:
        if name.startswith("_has:"):
            _, source, reference, rest = name.split(":", 3)
            me, others = f"{resource['resourceType']}/{resource['id']}", self.types.get(source, {}).values()
            return any(me in self.targets(other, reference) and self.matches(other, rest, value) for other in others)
        head, _, rest = name.partition(".")
        code, _, modifier = head.partition(":")
        if rest:
            return any(self.matches(found, rest, value) for found in self._chained(resource, code, modifier, rest))
        if modifier == "missing":
            return bool(self.elements(resource, code)[0][0]) is (value == "false")
        kind, _, _, _, components = self.parameter(resource["resourceType"], code) or ()
        kinds = [part for part, *_ in components or [(kind, "")]]
        alternatives = [split(text, "$") if components else [text] for text in split(value, ",")]
        cases = [list(zip(kinds, row, texts, strict=True)) for row in self.elements(resource, code) for texts in alternatives]
        matched = any(all(KINDS[kind](held, modifier.removeprefix("not"), text) for kind, held, text in case) for case in cases)
        return matched is not (modifier == "not")  # Choice: of all the alternatives; R4 does not say what «,» means there

    def parameter(self, type_: str, code: str) -> Row | None:
        tables = (self.parameters.get(name, {}) for name in (type_, "DomainResource", "Resource"))
        return next((table[code] for table in tables if code in table), None)

    def elements(self, resource: Resource, code: str) -> list[list[list[Value]]]:
        """Of each element that a composite is about, the values of each component; others are about the resource."""
        # Choice: what computes always finds something: Patient.deceased is false, not missing, in who has no ``deceased``.
        type_, key = resource["resourceType"], (id(resource), code)
        if key not in self._elements:
            kind, expression, _, _, components = self.parameter(type_, code) or ()
            rows = components or [(kind, expression.replace("Resource.", f"{type_}."))]
            nodes = evaluate(resource, expression, resource) if components else [resource]
            implied = IMPLIED.get((type_, code))
            self._elements[key] = [[extract(node, part, resource, implied) for _, part, *_ in rows] for node in nodes]
        return self._elements[key]

    def targets(self, resource: Resource, code: str) -> list[str]:
        return [text for value in self.elements(resource, code)[0][0] if LOCAL.fullmatch(text := address(value))]

    def _chained(self, resource: Resource, code: str, modifier: str, name: str) -> list[Resource]:
        """What is referred to, «inside contained resources» too; of several types, those that have the chain's next parameter."""
        inside = {f"#{one['id']}": one for one in resource.get("contained", ())}
        texts = [address(value) for value in self.elements(resource, code)[0][0]]
        found = [inside.get(text) or self.types.get(text.split("/")[0], {}).get(text.split("/")[-1]) for text in texts]
        typed = [one for one in found if one and modifier in ("", one["resourceType"])]
        following = re.split(r"[.:]", name)[0]
        return [one for one in typed if following == "_has" or self.parameter(one["resourceType"], following)]


@cache
def _compiled(expression: str) -> list[Callable[..., list[Any]]]:
    """The members of the union, without what fhirpathpy lacks: «as» of several values, resolve(), types after a union."""
    text = re.sub(r"\(([\w.]+) as (\w+)\)|([\w.]+)\.as\((\w+)\)", r"\1\3.ofType(\2\4)", expression)
    text = text.replace("ofType(DateTime)", "ofType(dateTime)")  # so misspelt in code-value-date
    text = re.sub(r"resolve\(\) is (\w+)", r"reference.matches('(^|/)\1/[^/]+(/_history/[^/]+)?$')", text)
    return [compile_path(path, models["r4"], {"returnRawData": True}) for path in text.split(" | ")]


def evaluate(node: Any, expression: str, resource: Resource) -> list[Any]:
    return [item for path in _compiled(expression) for item in path(node, {"resource": resource})]


def extract(node: Any, expression: str, resource: Resource, implied: str | None = None) -> list[Value]:
    found = [(getattr(one, "path", "boolean"), getattr(one, "data", one)) for one in evaluate(node, expression, resource)]
    values = [Value(*one) for one in found if one[1] is not None]
    return [Value("Coding", {"system": f"{HL7}{implied}", "code": value.data}) if implied else value for value in values]


def split(text: str, separator: str) -> list[str]:
    r"""At each separator that no \ stands before."""
    parts = [""]
    for piece in re.findall(r"\\.|.", text, re.DOTALL):
        parts[-1:] = [parts[-1], ""] if piece == separator else [parts[-1] + piece]
    return parts


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


@cache
def fold(text: str) -> str:
    """Choice: punctuation and space count, though they «should also be ignored». (LETTERS are those that do not decompose.)"""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c)).translate(LETTERS)


def string(values: list[Value], modifier: str, text: str) -> bool:
    parts = [part for v in values for part in ([v.data.get(name) for name in PARTS[v.type]] if v.type in PARTS else [v.data])]
    held = [one for part in parts if part for one in (part if isinstance(part, list) else [part])]
    wanted = unescape(text)
    if modifier == "exact":
        return wanted in held
    return any(fold(wanted) in fold(one) if modifier == "contains" else fold(one).startswith(fold(wanted)) for one in held)


def token(values: list[Value], modifier: str, text: str) -> bool:
    """Choice: codes are case sensitive, as they are «unless the underlying semantics indicate» otherwise; strings are not."""
    parts = [unescape(part) for part in split(text, "|")]
    rows = [(v.type, row) for v in values for row in (v.data.get("coding", []) if v.type == "CodeableConcept" else [v.data])]
    if modifier == "text":  # «either CodeableConcept.text, Coding.display, or Identifier.type.text»
        wholes = [v.data.get("type", {}) if v.type == "Identifier" else v.data for v in values if isinstance(v.data, dict)]
        texts = [whole.get("text") for whole in wholes] + [row.get("display") for _, row in rows if isinstance(row, dict)]
        return string([Value("string", one) for one in texts if one], "", text)
    if modifier == "of-type":
        of_type = [(kind, row.get("value")) for _, row in rows for kind in row.get("type", {}).get("coding", ())]
        return any([kind.get("system"), kind.get("code"), value] == parts for kind, value in of_type)
    if len(parts) > 1 and any(type_ == "code" for type_, _ in rows):
        raise ValueError("a code's system «is defined in the value set»: it is not IMPLIED here")
    return any(_coded(type_, row, parts) for type_, row in rows)


def _coded(type_: str, row: Any, parts: list[str]) -> bool:
    if not isinstance(row, dict):
        row = {"code": str(row).lower() if type_ == "boolean" else str(row)}
    system, code = row.get("system", ""), row.get("code", row.get("value", ""))
    same = code == parts[-1] or (type_ == "string" and code.casefold() == parts[-1].casefold())
    return same if len(parts) == 1 else system == parts[0] and (same or not parts[1])


@cache
def moment(text: str) -> Range:
    """As long as it is imprecise, in milliseconds since 1970; what has no zone is in UTC."""
    *fields, fraction, zone = re.fullmatch(MOMENT, text).groups()  # type: ignore[union-attr]
    numbers = [int(field) for field in fields if field]
    start = datetime(*[*numbers, 1, 1][: max(len(numbers), 3)], tzinfo=timezone.utc)  # type: ignore[misc, arg-type]
    following = (start + timedelta(days=31 if len(numbers) == 2 else 366)).replace(day=1)  # month or year
    low, length = (start - EPOCH) // MS, {3: DAY, 5: 60_000, 6: 1000}.get(len(numbers)) or (following - start) // MS
    if fraction:
        low, length = low + int(fraction[:3].ljust(3, "0")), 10 ** max(3 - len(fraction), 0)
    if zone and zone != "Z":
        low -= (int(zone[1:3]) * 60 + int(zone[4:])) * (60_000 if zone[0] == "+" else -60_000)
    return Range((low, 0), (low + length, 0))


def _times(value: Value) -> list[Range]:
    data = value.data
    match value.type:
        case "instant":  # «a fixed point in time with an interval smaller than the precision of the system»
            return [Range(moment(data).low, (moment(data).low[0], 1))]
        case "Period":
            start, end = (moment(data[end]) if end in data else Range(FIRST, LAST) for end in ("start", "end"))
            return [Range(start.low, end.high)]
        case "Timing":  # «only the outer limits matter»
            bounds = data.get("repeat", {}).get("boundsPeriod")
            spans = [*map(moment, data.get("event", ())), *(_times(Value("Period", bounds)) if bounds else ())]
            return [Range(min(span.low for span in spans), max(span.high for span in spans))] if spans else []
    return [moment(data)]


def date(values: list[Value], _: str, text: str) -> bool:
    prefix, wanted = _prefixed(text)
    asked = low, high = moment(wanted)
    width = max(high[0] - low[0], DAY)  # Choice: what is near a date
    near = Range((low[0] - width, 0), (high[0] + width, 0))
    return _ordered(prefix, near if prefix == "ap" else asked, [span for value in values for span in _times(value)])


def number(values: list[Value], _: str, text: str) -> bool:
    """Choice: 1e2 is [50, 150) by «the number of significant digits», though an example in the standard says [95, 105)."""
    prefix, wanted = _prefixed(text)
    asked = Decimal(wanted)
    half, tenth = Decimal(5).scaleb(int(asked.as_tuple().exponent) - 1), abs(asked) / 10
    before, after = (asked, 0), (asked, 1)
    written, near = Range((asked - half, 0), (asked + half, 0)), Range((asked - tenth, 0), (asked + tenth, 1))
    ranges = {"eq": written, "ne": written, "ap": near, "ge": Range(before, before), "le": Range(after, after)}
    exact = ranges.get(prefix, Range(before, after))  # «treated as if they have arbitrarily high precision»
    return _ordered({"ge": "gt", "le": "lt"}.get(prefix, prefix), exact, [*map(_interval, values)])


def quantity(values: list[Value], _: str, text: str) -> bool:
    """Choice: no conversion between units; «ne» speaks of the values in the unit, too."""
    amount, *unit = split(text, "|")
    return number([value for value in values if not unit or _in_unit(value, *map(unescape, unit))], "", amount)


def _ends(value: Value) -> list[dict[str, Any]]:
    """A Range's low and high, which may be missing; of all else the value itself, twice."""
    data = value.data if isinstance(value.data, dict) else {"value": value.data}
    return [data.get("low", {}), data.get("high", {})] if value.type == "Range" else [data, data]


def _in_unit(value: Value, system: str, code: str) -> bool:
    names = ("code",) if system else ("code", "unit")
    rows = [row for row in _ends(value) if row and system in ("", row.get("system"))]
    return bool(rows) and all(code in ("", *(row.get(name) for name in names)) for row in rows)


def _interval(value: Value) -> Range:
    start, end = _ends(value)
    low, high, sign = start.get("value"), end.get("value"), start.get("comparator", "")
    first = FIRST if low is None or "<" in sign else (low, int(sign == ">"))
    return Range(first, LAST if high is None or ">" in sign else (high, int(sign != "<")))


def _prefixed(text: str) -> tuple[str, str]:
    [(prefix, rest)] = re.findall(r"^(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)$", unescape(text))
    return prefix or "eq", rest


def _ordered(prefix: str, asked: Range, held: list[Range]) -> bool:
    """Choices: «ne» is of a resource that has values, none of which is equal; what is above a range begins at its end."""
    tests: dict[str, Callable[[Range], bool]] = {
        "eq": lambda one: asked.low <= one.low and one.high <= asked.high,
        "gt": lambda one: one.high > asked.high,
        "lt": lambda one: one.low < asked.low,
        "sa": lambda one: one.low >= asked.high,
        "eb": lambda one: one.high <= asked.low,
        "ap": lambda one: one.low < asked.high and one.high > asked.low,
        "ge": lambda one: tests["gt"](one) or tests["eq"](one),
        "le": lambda one: tests["lt"](one) or tests["eq"](one),
    }
    if prefix == "ne":
        return bool(held) and not any(map(tests["eq"], held))
    return any(map(tests[prefix], held))


def address(value: Value) -> str:
    """What a Reference or canonical says, without this server's base. Choice: of whichever version."""
    text = str(value.data.get("reference", "") if value.type == "Reference" else value.data)
    return re.sub(r"/_history/[^/]+$", "", text.removeprefix(BASE))


def reference(values: list[Value], modifier: str, text: str) -> bool:
    if modifier == "identifier":
        held = [Value("Identifier", v.data["identifier"]) for v in values if v.type == "Reference" and "identifier" in v.data]
        return token(held, "", text)
    wanted = unescape(text).removeprefix(BASE)
    pairs = [(found, LOCAL.fullmatch(found)) for found in map(address, values) if found]
    kept = [(found, local) for found, local in pairs if not modifier or (local and local[1] == modifier)]
    return any(found == wanted or bool(local and local[2] == wanted) for found, local in kept)


def uri(values: list[Value], modifier: str, text: str) -> bool:
    """Choice: «left-matches» ends where a part of the path ends."""
    wanted = unescape(text)
    pairs = [(wanted, value.data) if modifier == "above" else (value.data, wanted) for value in values]
    return any(long == short or (modifier and long.startswith(short.rstrip("/") + "/")) for long, short in pairs)


KINDS = {kind.__name__: kind for kind in (date, number, quantity, reference, string, token, uri)}
