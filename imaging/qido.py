"""QIDO-RS: query string -> rows that match and that the caller may see -> DICOM JSON.

PS3.18 section 10.6 and PS3.4 C.2.2.2: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.6.html
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from imaging.attributes import ATTRIBUTES, BY_NAME, INSTANCE, LEVELS, SERIES, STUDY, Attribute
from imaging.index import Index, Row

# (owner, study UID) pairs -> those that the caller may see
See = Callable[[list[tuple[str, str]]], set[tuple[str, str]]]
Json = dict[str, Any]

MAX_RESULTS = 5000
_BATCH = 100
_LONGEST = 1024
_COUNTED = frozenset(
    {"ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"}
)


class QueryError(ValueError):
    """A query that cannot be answered, in words."""


@dataclass(slots=True)
class Asked:
    """A search, understood: what must match, what is to come back, how much."""

    level: str
    match: list[tuple[Attribute, str]] = field(default_factory=list)
    include: set[str] = field(default_factory=set)
    limit: int = MAX_RESULTS
    offset: int = 0
    fuzzy: bool = False
    named: frozenset[str] = frozenset()  # the levels that the path names


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
            asked.include.update(value.split(","))
        elif name == "fuzzymatching":
            asked.fuzzy = value == "true"
        else:
            attribute = BY_NAME.get(name) or BY_NAME.get(name.upper())
            if attribute is None or LEVELS.index(attribute.level) > LEVELS.index(level):
                raise QueryError("An attribute that cannot be searched for at this level.")
            if len(value) > _LONGEST:
                raise QueryError(f"A value to match has at most {_LONGEST} characters.")
            if value:
                asked.match.append((attribute, value))
    asked.limit = min(asked.limit, MAX_RESULTS)
    return asked


def search(asked: Asked, index: Index, see: See, base: str) -> tuple[list[Json], bool]:
    """The page asked for, and whether there is more."""
    found: list[Json] = []
    skipped = 0
    for study, series, instance in _hierarchy(asked, index, see):
        if skipped < asked.offset:
            skipped += 1
            continue
        if len(found) == asked.limit:
            return found, True
        found.append(_answer(asked, base, study, series, instance))
    return found, False


def _hierarchy(asked: Asked, index: Index, see: See) -> Iterator[tuple[Row, Row | None, Row | None]]:
    """Matching rows from the study down to the level asked for."""
    for study in _studies(asked, index, see):
        if asked.level == STUDY:
            yield study, None, None
            continue
        for series in sorted(index.find_series(study["_id"]), key=lambda row: row["uid"]):
            if not _matches(asked, SERIES, series):
                continue
            if asked.level == SERIES:
                yield study, series, None
                continue
            for instance in sorted(index.find_instances(series["_id"]), key=lambda row: (row["number"] or 0, row["uid"])):
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
        low, high = _range(values["StudyDate"])
        return {"q.StudyDate": {**({"$gte": low} if low else {}), **({"$lte": high} if high else {})}}
    return {}


# ---------------------------------------------------------------- matching, PS3.4 C.2.2.2


def _matches(asked: Asked, level: str, row: Row) -> bool:
    return all(
        _match(attribute, value, _value(attribute, row), asked.fuzzy)
        for attribute, value in asked.match
        if attribute.level == level
    )


def _value(attribute: Attribute, row: Row) -> str:
    match attribute.keyword:
        case "ModalitiesInStudy":
            return "\\".join(row["modalities"])
        case "NumberOfStudyRelatedSeries":
            return str(row["seriesCount"])
        case "NumberOfStudyRelatedInstances" | "NumberOfSeriesRelatedInstances":
            return str(row["instances"])
        case "StudyInstanceUID" | "SeriesInstanceUID" | "SOPInstanceUID":
            return str(row["uid"])
        case "SOPClassUID":
            return str(row["class"])
    return str(row["q"].get(attribute.keyword, ""))


def _match(attribute: Attribute, wanted: str, value: str, fuzzy: bool) -> bool:
    if attribute.vr == "UI":  # C.2.2.2.2: list of UID
        return value in re.split(r"[,\\]", wanted)
    if attribute.vr in ("DA", "TM") and "-" in wanted:  # C.2.2.2.5: range
        low, high = _range(wanted)
        return bool(value) and (not low or value >= low) and (not high or value[: len(high)] <= high)
    if attribute.vr == "PN":
        folded, asked = _folded(value), _folded(wanted)
        if fuzzy:  # the beginning of any part of the name
            parts = re.split(r"[\^=\s]+", folded)
            return all(any(part.startswith(word) for part in parts) for word in re.split(r"[\^=\s*]+", asked) if word)
        return any(_like(asked, group.rstrip("^")) for group in (folded, *folded.split("=")))
    return any(_like(wanted, part) for part in value.split("\\"))  # C.2.2.2.1, C.2.2.2.4


def _like(pattern: str, value: str) -> bool:
    """``*`` any run of characters, ``?`` any one; in time that grows with the lengths alone, whatever is asked."""
    wanted, at, given, star, resume = pattern.rstrip("^"), 0, 0, -1, 0
    while given < len(value):
        if at < len(wanted) and wanted[at] == "*":
            star, resume, at = at, given, at + 1
        elif at < len(wanted) and wanted[at] in ("?", value[given]):
            at, given = at + 1, given + 1
        elif star >= 0:
            at, resume = star + 1, resume + 1
            given = resume
        else:
            return False
    return not wanted[at:].strip("*")


def _range(text: str) -> tuple[str, str]:
    low, dash, high = text.partition("-")
    return (low, high) if dash else (low, low)


def _folded(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).replace("ł", "l")


# ---------------------------------------------------------------- answers


def _answer(asked: Asked, base: str, study: Row, series: Row | None, instance: Row | None) -> Json:
    """PS3.18 Tables 10.6.3-3 to -5: the level's attributes, and the identity of those above; others when asked for."""
    rows = {STUDY: study, SERIES: series, INSTANCE: instance}
    answer: Json = {}
    for attribute in ATTRIBUTES:
        row = rows[attribute.level]
        if row is not None and (attribute.level == asked.level or _wanted(attribute, asked)):
            answer[attribute.tag] = {"vr": attribute.vr} | _json_value(attribute, _value(attribute, row))
    url = f"{base}/studies/{study['uid']}"
    if series is not None:
        url += f"/series/{series['uid']}"
    if instance is not None:
        url += f"/instances/{instance['uid']}"
    return answer | {"00081190": {"vr": "UR", "Value": [url]}, "00080056": {"vr": "CS", "Value": ["ONLINE"]}}


def _wanted(attribute: Attribute, asked: Asked) -> bool:
    """What stands above the level asked for comes along where the path does not name it already."""
    if attribute.keyword in ("StudyInstanceUID", "SeriesInstanceUID") or attribute.level not in asked.named:
        return True
    return bool(asked.include & {"all", attribute.keyword, attribute.tag, attribute.tag.lower()})


def _json_value(attribute: Attribute, text: str) -> Json:
    """PS3.18 Annex F.2"""
    if not text:
        return {}
    if attribute.vr == "PN":
        groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False))
        return {"Value": [{name: value for name, value in groups.items() if value}]}
    parts = text.split("\\")
    if attribute.vr in ("IS", "US"):
        numbers = [int(part) for part in parts if re.fullmatch(r"-?\d+", part)]
        return {"Value": numbers} if numbers else {}
    return {"Value": parts}
