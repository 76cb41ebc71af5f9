"""STOW-RS: each part is stored or refused by itself, and the answer tells every one.

PS3.18 section 10.5 and Annex I: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from imaging import dataset
from imaging.blobs import Blobs, Incoming
from imaging.dataset import DATA_SET_MISMATCH, DUPLICATE_INSTANCE, Instance, Refused
from imaging.index import OTHER, PATIENT, Index

_REFUSALS = {
    OTHER: (DUPLICATE_INSTANCE, "Other bytes are stored under this UID; they stay."),
    PATIENT: (DATA_SET_MISMATCH, "The study of this UID holds the images of another patient."),
}


@dataclass(slots=True)
class Outcome:
    """What became of the parts of one request."""

    stored: list[Instance] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    @property
    def status(self) -> int:
        """PS3.18 Table 10.5.3-1"""
        if not self.refused:
            return 200
        return 202 if self.stored else 409

    @property
    def studies(self) -> set[str]:
        return {instance.study for instance in self.stored}


def store(
    incoming: Incoming,
    owner: str,
    blobs: Blobs,
    index: Index,
    study: str | None,
    named: tuple[str, str] | None = None,
    charset: str | None = None,
) -> Instance | Refused:
    """One received part. ``study``: the one that the URL names; ``named``: the class and instance that the request names;
    ``charset``: of a data set that does not tell its own. The file is durable before its row is written."""
    try:
        instance = dataset.parse(incoming.path, charset)
        if named is not None and named != (instance.sop_class, instance.uid):
            raise Refused(DATA_SET_MISMATCH, "The data set is not the instance that the request names.", *named)
        if study is not None and instance.study != study:
            raise Refused(DATA_SET_MISMATCH, "StudyInstanceUID is not that of the URL.", instance.sop_class, instance.uid)
    except Refused as refused:
        incoming.discard()
        return refused
    size, digest = incoming.size, blobs.keep(incoming)
    told = _REFUSALS.get(index.add(owner, instance, digest, size))
    return Refused(*told, instance.sop_class, instance.uid) if told else instance


def response(outcome: Outcome, base: str) -> dict[str, Any]:
    """PS3.18 Table I.1-1: the Store Instances Response Module."""
    body: dict[str, Any] = {}
    if len(outcome.studies) == 1:
        [study] = outcome.studies
        body["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{study}"]}
    if outcome.stored:
        body["00081199"] = {"vr": "SQ", "Value": [_referenced(instance, base) for instance in outcome.stored]}
    named = [refused for refused in outcome.refused if refused.sop_instance]
    unnamed = [refused for refused in outcome.refused if not refused.sop_instance]
    if named:
        body["00081198"] = {"vr": "SQ", "Value": [_failed(refused) for refused in named]}
    if unnamed:
        body["0008119A"] = {"vr": "SQ", "Value": [_reason(refused) for refused in unnamed]}
    return body


def texts(refused: Iterable[Refused]) -> str:
    """For people, in a Warning header: what was wrong, without what was in it."""
    return " ".join(dict.fromkeys(one.text for one in refused))


def _uids(sop_class: str, sop_instance: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [sop_class]}, "00081155": {"vr": "UI", "Value": [sop_instance]}}


def _referenced(instance: Instance, base: str) -> dict[str, Any]:
    url = f"{base}/studies/{instance.study}/series/{instance.series}/instances/{instance.uid}"
    return _uids(instance.sop_class, instance.uid) | {"00081190": {"vr": "UR", "Value": [url]}}


def _failed(refused: Refused) -> dict[str, Any]:
    return _uids(refused.sop_class, refused.sop_instance) | _reason(refused)


def _reason(refused: Refused) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [refused.reason]}}
