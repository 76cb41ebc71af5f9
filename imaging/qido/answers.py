"""Rows that match -> the DICOM JSON that is told of them.

PS3.18 Tables 10.6.3-3 to -5 and Annex F: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.6.3.3.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from imaging.attributes import ATTRIBUTES, BY_NAME, INSTANCE, LEVELS, REQUEST_ATTRIBUTES, REQUESTS, SERIES, STUDY, Attribute
from imaging.index import Index, Row, told
from imaging.qido.asked import Asked

Json = dict[str, Any]

# What of a study or series is told from one of its instances when it is asked for: patient module, procedure, issuer
_OF_ALL = re.compile("0010....|00081032|00080051")


_BY_LEVEL = {level: tuple(attribute for attribute in ATTRIBUTES if attribute.level == level) for level in LEVELS}


class Answers:
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
    return {a.tag: {"vr": a.vr} | _json_value(a, value(a, row)) for a in attributes}


def _requests(series: Row) -> Json:
    return {"vr": "SQ", "Value": [_request(item) for item in series["requests"]]}


def _others(asked: Asked, index: Index, study: Row, series: Row | None, instance: Row | None) -> Json:
    """Attributes beyond the table that were asked for: of the instance, or what all instances say of patient and procedure."""
    if instance is not None:
        if "meta" not in instance:
            return {}
        return {tag: e for tag, e in told(instance).items() if (asked.all or tag in asked.include) and "BulkDataURI" not in e}
    wanted = {tag for tag in asked.include if _OF_ALL.fullmatch(tag) and not known(tag)}
    if not wanted:
        return {}
    return {tag: e for tag, e in index.sample(study["_id"], None if series is None else series["_id"]).items() if tag in wanted}


def known(tag: str) -> bool:
    """Whether rows hold it, without their metadata."""
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


def value(attribute: Attribute, row: Row) -> str:
    """As text, several with backslashes between."""
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
