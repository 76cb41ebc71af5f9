"""A DICOM study arrived -> ImagingStudy, matched to its order by facility, accession and patient.

A study that no order answers makes a draft order for a clerk to confirm; one whose patient does not agree with its order
is kept to its facility and put in a reconcile Task. https://hl7.org/fhir/R4/imagingstudy.html#dicom-mapping
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fhirserver import work
from fhirserver.interactions import put, unchanged
from fhirserver.messages import Context, Reply
from fhirserver.primitives import is_date
from fhirserver.validation import Document, built, loads
from fhirserver.versions import EVERYTHING, Grant, Stored, owned_by
from fhirserver.work import Item
from fhirserver.workflow import coding, deadlines, states
from fhirserver.workflow.matching import Candidate, Match, match
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


def arrived(ctx: Context, study: Study, complete: bool) -> Reply:
    """Plan all that follows from a study's arrival into ``ctx.changes``. ``ctx`` acts for the study's own facility."""
    current = _current(ctx, study)
    known: Document = loads(current.json) if current and not current.deleted else {}
    found = _matched(ctx, study)
    patient = found.patient or known.get("subject", {}).get("reference") or _patient(ctx, study)
    orders = _orders(ctx, study, patient, found, known)
    status = "available" if complete or known.get("status") == "available" else "registered"
    resource = built(known | imaging_study(ctx, study, patient, orders, status))
    id_ = current.id if current else ctx.derived_id("ImagingStudy", study.owner, study.uid)
    if current is None or current.deleted or not unchanged(resource, current):
        put(ctx, ctx.store.types["ImagingStudy"], resource, id_, current, "PUT" if current else "POST")
    if found.conflicting and not orders:
        _reconcile(ctx, study, id_, patient, found)
    for order in orders:
        follow_order(ctx, study.owner, order, id_, status)
    return Reply(200, touched=((f"ImagingStudy/{id_}", study.owner),))


def _orders(ctx: Context, study: Study, patient: str, found: Match, known: Document) -> list[str]:
    """Those that match and those that people linked; where there is none, a draft made of the study itself."""
    draft = f"ServiceRequest/{ctx.derived_id('ServiceRequest', study.owner, study.uid)}"
    linked = [reference["reference"] for reference in known.get("basedOn", ()) if "reference" in reference]
    orders = list(dict.fromkeys([*(order for order in linked if order != draft), *found.orders]))
    if orders:
        if draft in linked:
            _superseded(ctx, draft)
        return orders
    return [] if found.conflicting else [_draft_order(ctx, study, patient)]


def _superseded(ctx: Context, draft: str) -> None:
    """The study's own order came after all: the draft that stood for it is taken back, unless a clerk confirmed it."""
    found = work.item(ctx, draft)
    if found is not None and found.status == "draft":
        work.save(ctx, found, found.data | {"status": "revoked"})


def _current(ctx: Context, study: Study) -> Stored | None:
    """The study's resource, a deleted one too."""
    rows = work.items(ctx, (study.owner,), "ImagingStudy", ("identifier", f"urn:dicom:uid|urn:oid:{study.uid}"))
    return rows[0].stored if rows else _own(ctx, study, "ImagingStudy", ctx.derived_id("ImagingStudy", study.owner, study.uid))


def _own(ctx: Context, study: Study, type_: str, id_: str) -> Stored | None:
    return ctx.store.get(type_, id_, owned_by(study.owner))


# ---------------------------------------------------------------- order and patient


def _matched(ctx: Context, study: Study) -> Match:
    if not study.accessions:
        return Match()
    found = work.identified(ctx, study.owner, "ServiceRequest", *(accession.number for accession in study.accessions))
    rows = [row for row in found if row.status in ("draft", "active", "on-hold", "completed")]
    candidates = [c for row in rows if (c := _candidate(ctx, row, study))]
    return match(study.attributes.get("PatientID", ""), birth_date(study), candidates)


def _candidate(ctx: Context, order: Item, study: Study) -> Candidate | None:
    if order.stored.id == ctx.derived_id("ServiceRequest", study.owner, study.uid):
        return None  # the draft that this study itself made
    reference = order.data["subject"].get("reference", "")
    patient = work.item(ctx, reference) if reference.startswith("Patient/") else None
    if patient is None:
        return Candidate(order.reference, reference, frozenset(), None)
    ids = frozenset(i["value"] for i in patient.data.get("identifier", ()) if "value" in i)
    return Candidate(order.reference, reference, ids, patient.data.get("birthDate"))


def _patient(ctx: Context, study: Study) -> str:
    """The facility's patient of this id, or a new one from the header. Never by name, never another facility's."""
    number, born = study.attributes.get("PatientID", ""), birth_date(study)
    if number:
        rows = work.identified(ctx, study.owner, "Patient", number)
        same = [row for row in rows if not born or row.data.get("birthDate") in (None, born)]
        if len(same) == 1:
            return same[0].reference
    issuer = study.attributes.get("IssuerOfPatientID", "")
    id_ = ctx.derived_id("Patient", study.owner, issuer, number, born or "", "" if number else study.uid)
    stored = _own(ctx, study, "Patient", id_)
    if stored is None or stored.deleted:
        put(ctx, ctx.store.types["Patient"], built(patient_of(study)), id_, stored, "POST" if stored is None else "PUT")
    return f"Patient/{id_}"


def patient_of(study: Study) -> Document:
    """A Patient from a DICOM header."""
    attributes = study.attributes
    document: Document = {"resourceType": "Patient"}
    if number := attributes.get("PatientID"):
        system = attributes.get("IssuerOfPatientID") or coding.facility_system(study.owner, "patient")
        document["identifier"] = [
            {
                "system": re.sub(r"\s", "_", system) if ":" in system else coding.facility_system(study.owner, "patient"),
                "value": number,
            }
        ]
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


def _draft_order(ctx: Context, study: Study, patient: str) -> str:
    """From the header and the facility's defaults, for a clerk to confirm."""
    id_ = ctx.derived_id("ServiceRequest", study.owner, study.uid)
    stored = _own(ctx, study, "ServiceRequest", id_)
    if stored is None or stored.deleted:
        defaults = facility_defaults(ctx, study.owner)
        description = study.attributes.get("StudyDescription") or " ".join(_modalities(study)) or "Imaging"
        document: Document = {
            "resourceType": "ServiceRequest",
            "status": "draft",
            "intent": "order",
            "category": [
                {"coding": [coding.IMAGING]},
                {"coding": [coding.service(defaults.get("category", "RemoteReporting"))]},
            ],
            "priority": defaults.get("priority", "routine"),
            "code": {"text": description},
            "subject": {"reference": patient},
            "requester": {"reference": f"Organization/{study.owner}"},
            "authoredOn": ctx.now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        if study.accessions:
            document["identifier"] = [_accession(study, a.number, a.issuer) for a in study.accessions]
        put(ctx, ctx.store.types["ServiceRequest"], built(document), id_, stored, "POST" if stored is None else "PUT")
    return f"ServiceRequest/{id_}"


def facility_defaults(ctx: Context, facility: str) -> dict[str, str]:
    """What the facility's Organization says of orders that come without their own words: priority, category."""
    stored = ctx.store.get("Organization", facility, EVERYTHING)
    extensions = loads(stored.json).get("extension", ()) if stored and not stored.deleted else ()
    defaults: Document = next((e for e in extensions if e["url"] == coding.ORDER_DEFAULTS), {})
    return {e["url"]: e["valueCode"] for e in defaults.get("extension", ()) if "valueCode" in e}


def follow_order(ctx: Context, facility: str, reference: str, study_id: str, status: str) -> None:
    """Who reads the order reads the study; and images that are there make its coordination Task ready for assignment."""
    order = work.item(ctx, reference)
    if order is None or order.stored.type != "ServiceRequest" or order.stored.owner != facility:
        return
    for grant in order.stored.grants:
        if grant["order"] == order.reference:
            ctx.changes.share("ImagingStudy", study_id, Grant(grant["order"], grant["key"], grant["until"]), facility)
    ctx.changes.guard(order.stored)  # a dispatch at this moment and this arrival do not miss each other
    t0 = work.coordination(ctx, order) if status == "available" else None
    if t0 is None or coding.business_status(t0.data) != states.AWAITING_IMAGES:
        return
    taken = any(attempt.status == "accepted" for attempt in work.open_attempts(ctx, t0))
    business = work.business(states.ASSIGNED if taken else states.READY_FOR_ASSIGNMENT)
    end = None if "restriction" in t0.data else work.timestamp(deadlines.due(t0.data.get("priority", "routine"), ctx.now))
    work.reschedule(ctx, t0, end, businessStatus=business)


def _reconcile(ctx: Context, study: Study, study_id: str, patient: str, found: Match) -> None:
    id_ = ctx.derived_id("reconcile", study.owner, study.uid)
    if _own(ctx, study, "Task", id_) is not None:
        return
    document = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": coding.concept(coding.TASK_TYPE, "reconcile"),
        "description": "The study's accession number is that of an order for another patient; link it, correct it or reject it.",
        "focus": {"reference": f"ImagingStudy/{study_id}"},
        "for": {"reference": patient},
        "authoredOn": ctx.now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "requester": {"reference": f"Organization/{study.owner}"},
        "owner": {"reference": f"Organization/{study.owner}"},
        "input": [{"type": {"text": "order"}, "valueReference": {"reference": order}} for order in found.conflicting],
    }
    put(ctx, ctx.store.types["Task"], built(document), id_, None, "POST")


# ---------------------------------------------------------------- ImagingStudy


def imaging_study(ctx: Context, study: Study, patient: str, orders: list[str], status: str) -> Document:
    """https://hl7.org/fhir/R4/imagingstudy-mappings.html"""
    document: Document = {
        "resourceType": "ImagingStudy",
        "identifier": [
            {"system": "urn:dicom:uid", "value": f"urn:oid:{study.uid}"},
            *(_accession(study, a.number, a.issuer) for a in study.accessions),
        ],
        "status": status,
        "modality": [{"system": coding.DCM, "code": code} for code in _modalities(study)],
        "subject": {"reference": patient},
        "started": _started(ctx, study.owner, study.attributes, "StudyDate", "StudyTime"),
        "basedOn": [{"reference": order} for order in orders],
        "referrer": _named(study.attributes.get("ReferringPhysicianName")),
        "endpoint": [{"reference": f"Endpoint/{ctx.home}-dicomweb"}],
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


def _modalities(study: Study) -> list[str]:
    """Those of CID 29 alone: SR, PR, KO, SEG are not acquisitions."""
    return sorted({m for s in study.series if (m := s.attributes.get("Modality")) in _CONTEXT_GROUP_29})


def _accession(study: Study, number: str, issuer: str) -> Document:
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
