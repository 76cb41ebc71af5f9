"""A study as the archive tells the outside about it: plain values, no DICOM library's types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accession:
    """An accession number and who issued it; a study may answer several."""

    number: str
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    uid: str
    sop_class: str
    number: int | None
    title: str | None


@dataclass(frozen=True, slots=True)
class Series:
    """``attributes`` by keyword, as text."""

    uid: str
    attributes: Mapping[str, str]
    instances: tuple[StoredInstance, ...]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An instance that was sent under a UID of other bytes, or in a study of another patient. ``why``: other, patient."""

    uid: str
    digest: str
    why: str


@dataclass(frozen=True, slots=True)
class Study:
    """``owner`` is the organisation whose credential stored it. ``quarantined``: what was sent for it and waits for a decision.
    ``moved``: people replaced its images by those of another patient, and the record has not followed yet."""

    owner: str
    uid: str
    attributes: Mapping[str, str]
    accessions: tuple[Accession, ...]
    series: tuple[Series, ...]
    quarantined: tuple[Quarantined, ...] = ()
    moved: bool = False


def named(digests: Iterable[str]) -> str:
    """What was set aside of a study, in one text."""
    return "|".join(sorted(digests))
