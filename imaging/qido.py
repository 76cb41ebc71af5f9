"""QIDO-RS: query string -> rows that match and that the caller may see -> DICOM JSON.

PS3.18 section 10.6 and PS3.4 C.2.2.2: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.6.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from imaging.attributes import (
    ATTRIBUTES,
    BY_NAME,
    INSTANCE,
    LEVELS,
    REQUEST_ATTRIBUTES,
    REQUESTS,
    SERIES,
    STUDY,
    Attribute,
)
from imaging.index import Index, Row, told
from imaging.matching import bounds, matches, moments

# (owner, study UID) pairs -> those that the caller may see
See = Callable[[list[tuple[str, str]]], set[tuple[str, str]]]
Json = dict[str, Any]

MAX_RESULTS = 5000
_BATCH = 100
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
# What of a study or series is told from one of its instances when it is asked for: patient module, procedure, issuer
_OF_ALL = re.compile("0010....|00081032|00080051")


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


def search(asked: Asked, index: Index, see: See, base: str) -> tuple[list[Json], bool]:
    """The page asked for, and whether there is more."""
    found: list[Json] = []
    answers = _Answers(asked, index, base)
    skipped = 0
    for study, series, instance in _hierarchy(asked, index, see):
        if skipped < asked.offset:
            skipped += 1
            continue
        if len(found) == asked.limit:
            return found, True
        found.append(answers.of(study, series, instance))
    return found, False


def count(asked: Asked, index: Index, see: See) -> int:
    """How many there are, of all pages."""
    return sum(1 for _ in _hierarchy(asked, index, see))


def _hierarchy(asked: Asked, index: Index, see: See) -> Iterator[tuple[Row, Row | None, Row | None]]:
    """Matching rows from the study down to the level asked for."""
    whole = asked.level == INSTANCE and (asked.all or any(not _known(tag) for tag in asked.include))
    for study in _studies(asked, index, see):
        if asked.level == STUDY:
            yield study, None, None
            continue
        for series in sorted(index.find_series(study["_id"]), key=lambda row: row["uid"]):
            if not _matches(asked, SERIES, series) or not _requested(asked, series):
                continue
            if asked.level == SERIES:
                yield study, series, None
                continue
            for instance in index.find_instances(study, series["_id"], whole=whole):
                if _matches(asked, INSTANCE, instance):
                    yield study, series, instance


def _studies(asked: Asked, index: Index, see: See) -> Iterator[Row]:
    """Those that the caller may see, then those that match: what is hidden costs the same whatever is asked of it."""
    batch: list[Row] = []
    for row in index.find_studies(_served_by_index(asked)):
        batch.append(row)
        if len(batch) == _BATCH:
            yield from _seen(asked, batch, see)
            batch = []
    yield from _seen(asked, batch, see)


def _seen(asked: Asked, rows: list[Row], see: See) -> Iterator[Row]:
    allowed = see([(row["owner"], row["uid"]) for row in rows]) if rows else set()
    return (row for row in rows if (row["owner"], row["uid"]) in allowed and _matches(asked, STUDY, row))


def _served_by_index(asked: Asked) -> Row:
    """The one clause that narrows most; all clauses are checked on what it brings."""
    values = {attribute.keyword: value for attribute, value in asked.match if not set(value) & set("*?")}
    for keyword, name in (("StudyInstanceUID", "uid"), ("AccessionNumber", "q.AccessionNumber"), ("PatientID", "q.PatientID")):
        if keyword in values:
            choices = re.split(r"[,\\]", values[keyword]) if keyword == "StudyInstanceUID" else [values[keyword]]
            return {name: {"$in": choices}}
    if "StudyDate" in values:
        low, high = bounds(values["StudyDate"])
        return {"q.StudyDate": {**({"$gte": low} if low else {}), **({"$lte": high} if high else {})}}
    return {}


# ---------------------------------------------------------------- matching


def _matches(asked: Asked, level: str, row: Row) -> bool:
    literal = all(
        matches(attribute, value, _value(attribute, row), asked.fuzzy)
        for attribute, value in asked.match
        if attribute.level == level
    )
    return literal and all(
        low <= _moment(row, date, time) <= high for date, time, low, high in asked.moments if BY_NAME[date].level == level
    )


def _moment(row: Row, date: str, time: str) -> str:
    return moments(row["q"].get(date, ""), row["q"].get(time, ""))[0]


def _requested(asked: Asked, series: Row) -> bool:
    """C.2.2.2.6: one item of the sequence matches in all."""
    return not asked.requests or any(
        all(matches(attribute, value, item.get(attribute.keyword, ""), False) for attribute, value in asked.requests)
        for item in series.get("requests", ())
    )


def _value(attribute: Attribute, row: Row) -> str:
    match attribute.keyword:
        case "ModalitiesInStudy":
            return "\\".join(row["modalities"])
        case "SOPClassesInStudy":
            return "\\".join(row["classes"])
        case "NumberOfStudyRelatedSeries":
            return str(row["seriesCount"])
        case "NumberOfStudyRelatedInstances" | "NumberOfSeriesRelatedInstances":
            return str(row["instances"])
        case "StudyInstanceUID" | "SeriesInstanceUID" | "SOPInstanceUID":
            return str(row["uid"])
        case "SOPClassUID":
            return str(row["class"])
    return str(row["q"].get(attribute.keyword, ""))


# ---------------------------------------------------------------- answers


_BY_LEVEL = {level: tuple(attribute for attribute in ATTRIBUTES if attribute.level == level) for level in LEVELS}


class _Answers:
    """PS3.18 Tables 10.6.3-3 to -5: the level's attributes, and the identity of those above; others when asked for.

    What stands above is told once for all that stand below it.
    """

    def __init__(self, asked: Asked, index: Index, base: str) -> None:
        self._asked, self._index, self._base = asked, index, base
        self._above: tuple[Row | None, Row | None, Json] = (None, None, {})

    def of(self, study: Row, series: Row | None, instance: Row | None) -> Json:
        rows = {STUDY: study, SERIES: series, INSTANCE: instance}
        row = rows[self._asked.level]
        assert row is not None
        above = self._of_those_above(study, series)
        answer = above | _others(self._asked, self._index, study, series, instance) | _told(_BY_LEVEL[self._asked.level], row)
        if self._asked.level == SERIES and row.get("requests"):
            answer[REQUEST_ATTRIBUTES.tag] = _requests(row)
        url = f"{self._base}/studies/{study['uid']}"
        if series is not None:
            url += f"/series/{series['uid']}"
        if instance is not None:
            url += f"/instances/{instance['uid']}"
        return answer | {"00081190": {"vr": "UR", "Value": [url]}, "00080056": {"vr": "CS", "Value": ["ONLINE"]}}

    def _of_those_above(self, study: Row, series: Row | None) -> Json:
        if self._above[0] is study and self._above[1] is series:
            return self._above[2]
        told_: Json = {}
        for level, row in ((STUDY, study), (SERIES, series)):
            if row is not None and LEVELS.index(level) < LEVELS.index(self._asked.level):
                told_ |= _told([a for a in _BY_LEVEL[level] if _wanted(a, self._asked)], row)
        if (
            self._asked.level == INSTANCE
            and series is not None
            and series.get("requests")
            and _wanted(REQUEST_ATTRIBUTES, self._asked)
        ):
            told_[REQUEST_ATTRIBUTES.tag] = _requests(series)
        self._above = (study, series, told_)
        return told_


def _told(attributes: Iterable[Attribute], row: Row) -> Json:
    return {a.tag: {"vr": a.vr} | _json_value(a, _value(a, row)) for a in attributes}


def _requests(series: Row) -> Json:
    return {"vr": "SQ", "Value": [_request(item) for item in series["requests"]]}


def _others(asked: Asked, index: Index, study: Row, series: Row | None, instance: Row | None) -> Json:
    """Attributes beyond the table that were asked for: of the instance, or what all instances say of patient and procedure."""
    if instance is not None:
        if "meta" not in instance:
            return {}
        return {tag: e for tag, e in told(instance).items() if (asked.all or tag in asked.include) and "BulkDataURI" not in e}
    wanted = {tag for tag in asked.include if _OF_ALL.fullmatch(tag) and not _known(tag)}
    if not wanted:
        return {}
    return {tag: e for tag, e in index.sample(study["_id"], None if series is None else series["_id"]).items() if tag in wanted}


def _known(tag: str) -> bool:
    return tag in BY_NAME or tag == REQUEST_ATTRIBUTES.tag


def _wanted(attribute: Attribute, asked: Asked) -> bool:
    """What stands above the level asked for comes along where the path does not name it already."""
    if attribute.keyword in ("StudyInstanceUID", "SeriesInstanceUID") or attribute.level not in asked.named:
        return True
    return asked.all or attribute.tag in asked.include


def _request(item: dict[str, str]) -> Json:
    return {a.tag: {"vr": a.vr} | _json_value(a, item[a.keyword]) for a in REQUESTS if a.keyword in item}


def _json_value(attribute: Attribute, text: str) -> Json:
    """PS3.18 Annex F.2"""
    if not text:
        return {}
    if attribute.vr == "PN":
        names = [zip(("Alphabetic", "Ideographic", "Phonetic"), part.split("="), strict=False) for part in text.split("\\")]
        return {"Value": [{name: value for name, value in groups if value} for groups in names]}
    parts = text.split("\\")
    if attribute.vr in ("IS", "US"):
        numbers = [int(part) for part in parts if re.fullmatch(r"-?\d+", part)]
        return {"Value": numbers} if numbers else {}
    return {"Value": parts}
