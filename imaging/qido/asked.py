"""A query, understood: what must match, what is to come back, and how much.

PS3.18 section 8.3.4: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_8.3.4.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from imaging.attributes import BY_NAME, LEVELS, REQUEST_ATTRIBUTES, REQUESTS, Attribute
from imaging.qido.matching import moments

MAX_RESULTS = 5000
_LONGEST = 1024
_TAG = re.compile("[0-9A-Fa-f]{8}")
# A date and its time: two ranges are one range of moments (PS3.4 C.2.2.2.5, combined datetime matching)
_MOMENTS = (
    ("StudyDate", "StudyTime"),
    ("SeriesDate", "SeriesTime"),
    ("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
)


class QueryError(ValueError):
    """A query that cannot be answered, in words."""


@dataclass(slots=True)
class Asked:
    """A search, understood: what must match, what is to come back, how much; and what of it is not done (``warnings``)."""

    level: str
    match: list[tuple[Attribute, str]] = field(default_factory=list)
    requests: list[tuple[Attribute, str]] = field(default_factory=list)
    moments: list[tuple[str, str, str, str]] = field(default_factory=list)  # date, time, and the range of both
    include: set[str] = field(default_factory=set)  # tags
    all: bool = False
    limit: int = MAX_RESULTS
    offset: int = 0
    fuzzy: bool = False
    named: frozenset[str] = frozenset()  # the levels that the path names
    warnings: list[str] = field(default_factory=list)


def parse(level: str, pairs: Iterable[tuple[str, str]], fixed: dict[str, str]) -> Asked:
    """Errors: QueryError. An unknown attribute is refused: ignoring it would give a wider answer than was asked for."""
    asked = Asked(level, [(BY_NAME[name], value) for name, value in fixed.items()])
    asked.named = frozenset(BY_NAME[name].level for name in fixed)
    for name, value in pairs:
        if name in ("limit", "offset"):
            if not re.fullmatch("[0-9]{1,9}", value):
                raise QueryError(f"{name} is a whole number.")
            setattr(asked, name, int(value))
        elif name == "includefield":
            _included(asked, value)
        elif name == "fuzzymatching":
            asked.fuzzy = value == "true"
        elif name in ("emptyvaluematching", "multiplevaluematching"):
            if value == "true":
                asked.warnings.append(f"The {name} parameter is not supported. Only literal matching has been performed.")
        else:
            _constrained(asked, name, value)
    asked.limit = min(asked.limit, MAX_RESULTS)
    _combine(asked)
    return asked


def _included(asked: Asked, value: str) -> None:
    for name in value.split(","):
        first = name.split(".")[0]
        known = BY_NAME.get(first) or BY_NAME.get(first.upper())
        if name == "all":
            asked.all = True
        elif known is not None:
            asked.include.add(known.tag)
        elif first in (REQUEST_ATTRIBUTES.keyword, REQUEST_ATTRIBUTES.tag):
            asked.include.add(REQUEST_ATTRIBUTES.tag)
        elif _TAG.fullmatch(first):
            asked.include.add(first.upper())


def _constrained(asked: Asked, name: str, value: str) -> None:
    first, _, rest = name.partition(".")
    request = rest and first in (REQUEST_ATTRIBUTES.keyword, REQUEST_ATTRIBUTES.tag)
    names = {n: a for a in REQUESTS for n in (a.keyword, a.tag)} if request else BY_NAME
    attribute = names.get(rest if request else name) or names.get((rest if request else name).upper())
    if attribute is None or LEVELS.index(attribute.level) > LEVELS.index(asked.level):
        raise QueryError("An attribute that cannot be searched for at this level.")
    if len(value) > _LONGEST:
        raise QueryError(f"A value to match has at most {_LONGEST} characters.")
    if value:
        (asked.requests if request else asked.match).append((attribute, value))


def _combine(asked: Asked) -> None:
    given = {attribute.keyword: value for attribute, value in asked.match}
    for date, time in _MOMENTS:
        if date in given and "-" in given.get(time, ""):
            low, high = moments(given[date], given[time])
            asked.moments.append((date, time, low, high))
            asked.match = [(a, v) for a, v in asked.match if a.keyword != time]
