"""STOW-RS: each part is stored, set aside or refused by itself, and the answer tells every one. DIMSE stores by the same function.

PS3.18 section 10.5 and Annex I: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imaging import dataset
from imaging.blobs import Blobs, Incoming
from imaging.dataset import DATA_SET_MISMATCH, Instance, Refused
from imaging.index import OTHER, PATIENT, Index, Received

# PS3.18 Table I.2-1 and PS3.4 B.2.3: stored, but not as it was sent
WARNING = 0xB000
_SET_ASIDE = {
    OTHER: "Other bytes are stored under this UID and stay; these wait for a decision.",
    PATIENT: "The study of this UID holds the images of another patient; these wait for a decision.",
}


class Kept(NamedTuple):
    """An instance that is stored: no more of it than the answer tells, since a request may hold thousands."""

    study: str
    series: str
    uid: str
    sop_class: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """An instance that is kept, and found by nobody until people decide. ``study``: the one that it concerns."""

    study: str
    uid: str
    sop_class: str
    text: str


Result = Kept | SetAside | Refused


@dataclass(slots=True)
class Outcome:
    """What became of the parts of one request."""

    stored: list[Kept] = field(default_factory=list)
    aside: list[SetAside] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def take(self, result: Result) -> None:
        if isinstance(result, Kept):
            self.stored.append(result)
        elif isinstance(result, SetAside):
            self.aside.append(result)
        else:
            self.refused.append(result)

    @property
    def status(self) -> int:
        """PS3.18 Table 10.5.3-1"""
        if self.stored or self.aside:
            return 202 if self.refused or self.aside else 200
        return 409

    @property
    def studies(self) -> set[str]:
        return {instance.study for instance in self.stored} | {one.study for one in self.aside}


def store(
    incoming: Incoming,
    owner: str,
    blobs: Blobs,
    index: Index,
    study: str | None,
    named: tuple[str, str] | None = None,
) -> Result:
    """One received part. The file is durable before its row is written.

    ``study``: the one that the URL names. ``named``: the class and instance that the request names.
    """
    results: list[Result] = []
    store_all([incoming], owner, blobs, index, study, results.append, named)
    return results[0]


def store_all(
    parts: list[Incoming | Refused],
    owner: str,
    blobs: Blobs,
    index: Index,
    study: str | None,
    take: Callable[[Result], None],
    named: tuple[str, str] | None = None,
) -> None:
    """Parts of one request, some of them refused already: what became of each is told in order. What is raised of one costs those
    after it, not those before."""
    ended: list[Refused | Received] = []
    try:
        for part in parts:
            if isinstance(part, Refused):
                ended.append(part)
                continue
            parsed = _parsed(part, study, named)
            ended.append(parsed if isinstance(parsed, Refused) else Received(parsed, blobs.keep(part), part.size))
    finally:
        kept = [one for one in ended if not isinstance(one, Refused)]
        states = iter(index.add(owner, kept, lambda one, other: _alike(blobs, one, other)))
        for one in ended:
            take(one if isinstance(one, Refused) else _result(one.instance, *next(states)))


def _result(instance: Instance, state: str, concerned: str) -> Result:
    text = _SET_ASIDE.get(state)
    if text:
        return SetAside(concerned, instance.uid, instance.sop_class, text)
    return Kept(instance.study, instance.series, instance.uid, instance.sop_class)


def _parsed(file: Incoming, study: str | None, named: tuple[str, str] | None) -> Instance | Refused:
    try:
        instance = dataset.parse(file.path, file.charset, bytes(file.head), file.size)
        if named is not None and named != (instance.sop_class, instance.uid):
            raise Refused(DATA_SET_MISMATCH, "The data set is not the instance that the request names.", *named)
        if study is not None and instance.study != study:
            raise Refused(DATA_SET_MISMATCH, "StudyInstanceUID is not that of the URL.", instance.sop_class, instance.uid)
    except Refused as refused:
        file.discard()
        return refused
    return instance


def _alike(blobs: Blobs, one: str, other: str) -> bool:
    """The same data set, whoever wrote the file meta information before it: a PACS, or we ourselves for what came by C-STORE."""
    try:
        sizes = [blobs.size(digest) - dataset.data_set_at(blobs.read(digest, ((0, dataset.META),))) for digest in (one, other)]
    except Refused:  # it does not say where its data set begins
        return False
    if sizes[0] != sizes[1]:
        return False
    hashes = set()
    for digest in (one, other):
        hash_ = hashlib.sha256()
        for chunk in blobs.chunks(digest, blobs.size(digest) - sizes[0]):
            hash_.update(chunk)
        hashes.add(hash_.digest())
    return len(hashes) == 1


def response(outcome: Outcome, base: str) -> dict[str, Any]:
    """PS3.18 Table I.1-1: the Store Instances Response Module."""
    body: dict[str, Any] = {}
    if len(outcome.studies) == 1:
        [study] = outcome.studies
        body["00081190"] = {"vr": "UR", "Value": [f"{base}/studies/{study}"]}
    stored = [_referenced(instance, base) for instance in outcome.stored] + [_warned(one) for one in outcome.aside]
    if stored:
        body["00081199"] = {"vr": "SQ", "Value": stored}
    named = [refused for refused in outcome.refused if refused.sop_instance]
    unnamed = [refused for refused in outcome.refused if not refused.sop_instance]
    if named:
        body["00081198"] = {"vr": "SQ", "Value": [_failed(refused) for refused in named]}
    if unnamed:
        body["0008119A"] = {"vr": "SQ", "Value": [_reason(refused) for refused in unnamed]}
    return body


def texts(outcome: Outcome) -> str:
    """For people, in a Warning header: what was wrong, without what was in it."""
    told = [one.text for one in outcome.aside] + [one.text for one in outcome.refused]
    return " ".join(dict.fromkeys(told))


def _uids(sop_class: str, sop_instance: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [sop_class]}, "00081155": {"vr": "UI", "Value": [sop_instance]}}


def _referenced(instance: Kept, base: str) -> dict[str, Any]:
    url = f"{base}/studies/{instance.study}/series/{instance.series}/instances/{instance.uid}"
    return _uids(instance.sop_class, instance.uid) | {"00081190": {"vr": "UR", "Value": [url]}}


def _warned(one: SetAside) -> dict[str, Any]:
    """Without a Retrieve URL: these bytes are not to be had."""
    return _uids(one.sop_class, one.uid) | {"00081196": {"vr": "US", "Value": [WARNING]}}


def _failed(refused: Refused) -> dict[str, Any]:
    return _uids(refused.sop_class, refused.sop_instance) | _reason(refused)


def _reason(refused: Refused) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [refused.reason]}}
