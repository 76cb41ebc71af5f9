"""What a DICOM header says, in FHIR: ImagingStudy and Patient.

https://hl7.org/fhir/R4/imagingstudy-mappings.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhirserver import countries
from fhirserver.messages import Context
from fhirserver.primitives import is_date
from fhirserver.validation import Document, loads
from fhirserver.versions import EVERYTHING
from fhirserver.workflow import coding
from imaging.study import Series, Study

_CONTEXT_GROUP_29 = frozenset(
    [
        "AR",
        "BI",
        "BMD",
        "CR",
        "CT",
        "DG",
        "DX",
        "ECG",
        "EPS",
        "ES",
        "GM",
        "HC",
        "IO",
        "IVOCT",
        "IVUS",
        "LEN",
        "LS",
        "MG",
        "MR",
        "NM",
        "OAM",
        "OCT",
        "OP",
        "OPM",
        "OPT",
        "OPV",
        "OT",
        "PT",
        "PX",
        "RF",
        "RG",
        "RTIMAGE",
        "SM",
        "SRF",
        "TG",
        "US",
        "VA",
        "XA",
        "XC",
    ]
)
_SEX = {"M": "male", "F": "female", "O": "other"}


def patient_of(study: Study) -> Document:
    """A Patient from a DICOM header."""
    attributes = study.attributes
    document: Document = {"resourceType": "Patient"}
    if number := attributes.get("PatientID"):
        system = attributes.get("IssuerOfPatientID") or coding.facility_system(study.owner, "patient")
        identifier = {
            "system": re.sub(r"\s", "_", system) if ":" in system else coding.facility_system(study.owner, "patient"),
            "value": number,
        }
        # A header's mistyped number must not lose the study.
        document["identifier"] = [identifier | ({"use": "temp"} if countries.wrong(identifier) else {})]
    if human := human_name(attributes.get("PatientName", "")):
        document["name"] = [human]
    if sex := _SEX.get(attributes.get("PatientSex", "")):
        document["gender"] = sex
    if born := birth_date(study):
        document["birthDate"] = born
    return document if len(document) > 1 else document | {"name": [{"text": "Unknown"}]}


def human_name(text: str) -> Document:
    """PS3.5 6.2.1: family^given^middle^prefix^suffix, the first group."""
    parts = [part.strip() for part in text.split("=")[0].split("^")] + [""] * 5
    family, given, middle, prefix, suffix = parts[:5]
    human: Document = {"family": family} if family else {}
    if names := [n for n in (given, middle) if n]:
        human["given"] = names
    return human | ({"prefix": [prefix]} if prefix else {}) | ({"suffix": [suffix]} if suffix else {})


def birth_date(study: Study) -> str | None:
    return date(study.attributes.get("PatientBirthDate", ""))


def imaging_study(ctx: Context, study: Study, patient: str, orders: list[str], status: str, endpoint: str) -> Document:
    """https://hl7.org/fhir/R4/imagingstudy-mappings.html"""
    document: Document = {
        "resourceType": "ImagingStudy",
        "identifier": [
            {"system": "urn:dicom:uid", "value": f"urn:oid:{study.uid}"},
            *(accession_identifier(study, a.number, a.issuer) for a in study.accessions),
        ],
        "status": status,
        "modality": [{"system": coding.DCM, "code": code} for code in modalities(study)],
        "subject": {"reference": patient},
        "started": _started(ctx, study.owner, study.attributes, "StudyDate", "StudyTime"),
        "basedOn": [{"reference": order} for order in orders],
        "referrer": _named(study.attributes.get("ReferringPhysicianName")),
        "endpoint": [{"reference": f"Endpoint/{endpoint}"}],
        "numberOfSeries": len(study.series),
        "numberOfInstances": sum(len(series.instances) for series in study.series),
        "description": _clean(study.attributes.get("StudyDescription")),
        "series": [_series(ctx, study.owner, series) for series in study.series],
    }
    return _without_empty(document)


def _series(ctx: Context, owner: str, series: Series) -> Document:
    modality = series.attributes.get("Modality", "OT")
    body_site, laterality = series.attributes.get("BodyPartExamined"), series.attributes.get("Laterality", "")
    sides = {"L": "7771000", "R": "24028007"}
    return _without_empty({
        "uid": series.uid,
        "number": _unsigned(series.attributes.get("SeriesNumber")),
        "modality": {"system": coding.DCM, "code": modality if re.fullmatch(r"[A-Z0-9]+", modality) else "OT"},
        "description": _clean(series.attributes.get("SeriesDescription")),
        "numberOfInstances": len(series.instances),
        "bodySite": {"display": _clean(body_site)} if _clean(body_site) else None,
        "laterality": {"system": coding.SNOMED, "code": sides[laterality]} if laterality in sides else None,
        "started": _started(ctx, owner, series.attributes, "SeriesDate", "SeriesTime"),
        "instance": [
            _without_empty({
                "uid": instance.uid,
                "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{instance.sop_class}"},
                "number": instance.number if instance.number is not None and 0 <= instance.number < 2**31 else None,
                "title": _clean(instance.title),
            })
            for instance in series.instances
        ],
    })  # fmt: skip


def modalities(study: Study) -> list[str]:
    """Those of CID 29 alone: SR, PR, KO, SEG are not acquisitions."""
    return sorted({m for s in study.series if (m := s.attributes.get("Modality")) in _CONTEXT_GROUP_29})


def accession_identifier(study: Study, number: str, issuer: str) -> Document:
    """The system is the facility's, or the issuer that the header names."""
    system = (
        issuer
        if re.fullmatch(r"(urn:|https?:)\S+", issuer)
        else f"urn:oid:{issuer}"
        if re.fullmatch(r"[0-2](\.\d+)+", issuer)
        else None
    )
    return {
        "type": {"coding": [coding.ACCESSION]},
        "system": system or coding.facility_system(study.owner, "accession"),
        "value": number,
    }


def _started(ctx: Context, owner: str, attributes: Mapping[str, str], date_name: str, time_name: str) -> str | None:
    """With a time only where its zone is known, from the header or the facility: "a time zone SHALL be populated"."""
    day = date(attributes.get(date_name, ""))
    clock = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d)?([0-5]\d)?(\.\d{1,6})?", attributes.get(time_name, "").replace(":", ""))
    if day is None or clock is None:
        return day
    zone = _zone(ctx, owner, attributes)
    if zone is None:
        return day
    when = datetime.fromisoformat(f"{day}T{clock[1]}:{clock[2] or '00'}:{clock[3] or '00'}").replace(tzinfo=zone)
    return when.isoformat()


def _zone(ctx: Context, owner: str, attributes: Mapping[str, str]) -> Any:
    if offset := re.fullmatch(r"([+-])(0\d|1[0-4])([0-5]\d)", attributes.get("TimezoneOffsetFromUTC", "")):
        minutes = int(offset[2]) * 60 + int(offset[3])
        return timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))
    stored = ctx.store.get("Organization", owner, EVERYTHING)
    extensions = loads(stored.json).get("extension", ()) if stored and not stored.deleted else ()
    named = next((e.get("valueCode") for e in extensions if e["url"] == coding.TIMEZONE), None)
    try:
        return ZoneInfo(named) if named else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


def date(text: str) -> str | None:
    """DICOM DA -> FHIR date."""
    digits = text.replace(".", "").replace("-", "")
    day = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
    return day if len(digits) == 8 and is_date(day) else None


def _named(person: str | None) -> Document | None:
    human = human_name(person or "")
    text = " ".join([*human.get("prefix", ()), *human.get("given", ()), human.get("family", "")]).strip()
    return {"display": text} if text else None


def _clean(text: str | None) -> str | None:
    cleaned = re.sub(r"[\x00-\x1f\ud800-\udfff]+", " ", text or "").strip()
    return cleaned or None


def _unsigned(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch("[0-9]{1,9}", text) else None


def _without_empty(document: Document) -> Document:
    return {key: value for key, value in document.items() if value not in (None, [], {})}
