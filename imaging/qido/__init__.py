"""QIDO-RS: query string -> rows that match and that the caller may see -> DICOM JSON.

PS3.18 section 10.6 and PS3.4 C.2.2.2: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.6.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from imaging.attributes import BY_NAME, INSTANCE, SERIES, STUDY
from imaging.index import Index, Row
from imaging.qido.answers import Answers, Json, known, value
from imaging.qido.asked import Asked, QueryError, parse
from imaging.qido.matching import bounds, matches, moments

__all__ = ["Asked", "QueryError", "See", "count", "parse", "search"]

# (owner, study UID) pairs -> those that the caller may see
See = Callable[[list[tuple[str, str]]], set[tuple[str, str]]]

_BATCH = 100


def search(asked: Asked, index: Index, see: See, base: str) -> tuple[list[Json], bool]:
    """The page asked for, and whether there is more."""
    found: list[Json] = []
    answers = Answers(asked, index, base)
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
    whole = asked.level == INSTANCE and (asked.all or any(not known(tag) for tag in asked.include))
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
    values = {attribute.keyword: wanted for attribute, wanted in asked.match if not set(wanted) & set("*?")}
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
        matches(attribute, wanted, value(attribute, row), asked.fuzzy)
        for attribute, wanted in asked.match
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
        all(matches(attribute, wanted, item.get(attribute.keyword, ""), False) for attribute, wanted in asked.requests)
        for item in series.get("requests", ())
    )
