"""A DICOM study arrived -> ImagingStudy, matched to its order by facility, accession and patient.

A study that no order answers makes a draft order for a clerk to confirm; one whose patient does not agree with its order
is kept to its facility and put in a reconcile Task. https://hl7.org/fhir/R4/imagingstudy.html#dicom-mapping
"""

from __future__ import annotations

from fhirserver import reconciling, work
from fhirserver.following import follow_order, share_with_readers
from fhirserver.headers import accession_identifier, birth_date, imaging_study, modalities, patient_of
from fhirserver.interactions import put, unchanged
from fhirserver.messages import Context, Reply
from fhirserver.sharing import share_again
from fhirserver.validation import Document, built, loads
from fhirserver.versions import EVERYTHING, Stored, owned_by
from fhirserver.work import Item
from fhirserver.workflow import coding
from fhirserver.workflow.matching import Candidate, Match, match
from imaging.study import Study, named


def arrived(ctx: Context, study: Study, complete: bool) -> Reply:
    """Plan all that follows from a study's arrival into ``ctx.changes``. ``ctx`` acts for the study's own facility."""
    current = _current(ctx, study)
    known: Document = work.opened(ctx, current).data if current and not current.deleted else {}
    if known.get("status") in ("cancelled", "entered-in-error"):
        return Reply(200)  # people took it out of the record; the bytes stay
    if coding.pulled(known):
        return _earlier(ctx, study, current, known, complete)
    found = _matched(ctx, study)
    id_ = current.id if current else ctx.derived_id("ImagingStudy", study.owner, study.uid)
    before = known.get("subject", {}).get("reference")
    patient = found.patient or (None if study.moved else before) or _patient(ctx, study)
    if before not in (None, patient) and not study.moved and reconciling.reports(ctx, study.owner, id_):
        reconciling.ask(ctx, study.owner, id_, before, reconciling.PATIENT_CHANGED, found.orders, patient)
        patient, found = before, Match()  # a study with a report is moved by people alone
    others = _of_others(ctx, known, patient) if before not in (None, patient) else []
    known = _without_orders(known, others) if others else known
    orders = _orders(ctx, study, patient, found, known)
    status = "available" if complete or known.get("status") == "available" else "registered"
    told = imaging_study(ctx, study, patient, orders, status, _endpoint(ctx, study.owner))
    resource = built(_bannered(ctx, known, found if not orders else Match()) | told)
    if current is None or current.deleted or not unchanged(resource, current):
        put(ctx, ctx.store.types["ImagingStudy"], resource, id_, current, "PUT" if current else "POST")
    for order in orders:
        follow_order(ctx, study.owner, order, id_, resource.data)
    for left in others:
        if left.stored.owner == study.owner:
            share_again(ctx, left)
    _looked_at(ctx, study, id_, patient, found, resource.data, known)
    return Reply(200, touched=((f"ImagingStudy/{id_}", study.owner, (patient,), ()),))


def _earlier(ctx: Context, study: Study, current: Stored | None, known: Document, complete: bool) -> Reply:
    """A study that was fetched to compare with: its patient is known. Its accession number is another archive's, unless the
    archive is the facility's own."""
    own = f"Organization/{study.owner}" in coding.sources(known)
    if study.moved and not own:
        return Reply(200)  # whose it is now, only its archive knows: it stays hidden
    patient = _patient(ctx, study) if own and study.moved else known["subject"]["reference"]
    others = _of_others(ctx, known, patient)
    known = _without_orders(known, others)
    status = "available" if complete else known["status"]
    if own:
        found = _matched(ctx, study)
        orders = list(dict.fromkeys([*work.based_on(known), *(found.orders if found.patient == patient else ())]))
        told = imaging_study(ctx, study, patient, orders, status, _endpoint(ctx, study.owner))
    else:
        orders = work.based_on(known)
        told = imaging_study(ctx, study, patient, orders, status, _endpoint(ctx, study.owner))
        told["identifier"] = told["identifier"][:1]
    resource = built(known | told)
    if current is not None and not unchanged(resource, current):
        put(ctx, ctx.store.types["ImagingStudy"], resource, current.id, current, "PUT")
    for order in orders:
        follow_order(ctx, study.owner, order, known["id"], resource.data)
    for left in others:
        if left.stored.owner == study.owner:
            share_again(ctx, left)
    if own:
        _set_aside(ctx, study, known["id"], patient, orders)
    return Reply(200, touched=((f"ImagingStudy/{known['id']}", study.owner, (patient,), ()),))


def _of_others(ctx: Context, known: Document, patient: str) -> list[Item]:
    """The orders that the study answered, of the patient whose it was."""
    rows = (work.item(ctx, reference) for reference in work.based_on(known))
    return [row for row in rows if row is not None and row.data["subject"].get("reference") != patient]


def _without_orders(known: Document, orders: list[Item]) -> Document:
    gone = {order.reference for order in orders}
    kept = [one for one in known.get("basedOn", ()) if one.get("reference") not in gone]
    return {name: value for name, value in known.items() if name != "basedOn"} | ({"basedOn": kept} if kept else {})


# What who reads a stat order is told of images that claim to be its
UNVERIFIED = "UNVERIFIED: the patient in these images is not the order's. They are shown because the order is stat."


def _bannered(ctx: Context, known: Document, found: Match) -> Document:
    """The known resource with the banner, where it belongs, or without it."""
    notes = [note for note in known.get("note", ()) if note.get("text") != UNVERIFIED]
    if _stat(ctx, found):
        notes.append({"text": UNVERIFIED})
    rest = {name: value for name, value in known.items() if name != "note"}
    return rest | ({"note": notes} if notes else {})


def _stat(ctx: Context, found: Match) -> list[Item]:
    rows = (work.item(ctx, reference) for reference in found.conflicting)
    return [row for row in rows if row is not None and row.data.get("priority") == "stat"]


def _set_aside(ctx: Context, study: Study, id_: str, patient: str, orders: list[str]) -> None:
    if study.quarantined:
        once = named(one.digest for one in study.quarantined)
        reconciling.ask(ctx, study.owner, id_, patient, reconciling.SET_ASIDE, orders, once)


def _looked_at(
    ctx: Context, study: Study, id_: str, patient: str, found: Match, now: Document, before: Document
) -> None:  # fmt: skip
    """What people have to decide of it."""
    if found.conflicting and not now.get("basedOn"):
        reconciling.ask(ctx, study.owner, id_, patient, reconciling.PATIENT_MISMATCH, found.conflicting)
        for order in _stat(ctx, found):
            share_with_readers(ctx, order, study.owner, id_)
    _set_aside(ctx, study, id_, patient, work.based_on(now))
    if now["status"] != "available":
        return
    if before.get("numberOfInstances", 0) < now.get("numberOfInstances", 0) and before.get("status") == "available":
        reconciling.after_signing(ctx, study.owner, id_, now)
    if before.get("status") != "available":
        reconciling.same_examination(ctx, study.owner, id_, now)


def _endpoint(ctx: Context, facility: str) -> str:
    """Where a facility's images are had: its own Endpoint, made when its first study arrives, and again when the server moves."""
    id_ = ctx.derived_id("Endpoint", facility, "dicomweb")
    stored = ctx.store.get("Endpoint", id_, owned_by(facility))
    told: Document = loads(stored.json) if stored and not stored.deleted else {}
    extension = [{"url": coding.REQUIRES_TOKEN, "valueBoolean": True}]
    address = f"{ctx.base.removesuffix('/fhir')}/dicomweb"
    if (told.get("address"), told.get("extension")) != (address, extension):
        document: Document = {
            "resourceType": "Endpoint",
            "extension": extension,
            "status": "active",
            "connectionType": {"system": coding.CONNECTION_TYPE, "code": "dicom-wado-rs"},
            "managingOrganization": {"reference": f"Organization/{facility}"},
            "payloadType": [{"coding": [coding.DICOM_PAYLOAD], "text": "DICOM"}],
            "payloadMimeType": ["application/dicom"],
            "address": address,
        }
        put(ctx, ctx.store.types["Endpoint"], built(document), id_, stored, "PUT" if stored else "POST")
    return id_


def _orders(ctx: Context, study: Study, patient: str, found: Match, known: Document) -> list[str]:
    """Those that match and those that people linked; where there is none, a draft made of the study itself."""
    draft = f"ServiceRequest/{ctx.derived_id('ServiceRequest', study.owner, study.uid)}"
    linked = work.based_on(known)
    orders = list(dict.fromkeys([*(order for order in linked if order != draft), *found.orders]))
    if orders:
        if draft in linked:
            _superseded(ctx, draft)
        return orders
    return [] if found.conflicting else _draft_order(ctx, study, patient)


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


def _draft_order(ctx: Context, study: Study, patient: str) -> list[str]:
    """From the header and the facility's defaults, for a clerk to confirm. None where a clerk confirmed it for another patient, whose the
    study was."""
    id_ = ctx.derived_id("ServiceRequest", study.owner, study.uid)
    stored = _own(ctx, study, "ServiceRequest", id_)
    if stored is None or stored.deleted:
        defaults = facility_defaults(ctx, study.owner)
        description = study.attributes.get("StudyDescription") or " ".join(modalities(study)) or "Imaging"
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
            document["identifier"] = [accession_identifier(study, a.number, a.issuer) for a in study.accessions]
        put(ctx, ctx.store.types["ServiceRequest"], built(document), id_, stored, "POST" if stored is None else "PUT")
    elif (there := work.item(ctx, f"ServiceRequest/{id_}")) and there.data["subject"].get("reference") != patient:
        if there.status != "draft":
            return []
        work.save(ctx, there, there.data | {"subject": {"reference": patient}})
    return [f"ServiceRequest/{id_}"]


def facility_defaults(ctx: Context, facility: str) -> dict[str, str]:
    """What the facility's Organization says of orders that come without their own words: priority, category."""
    stored = ctx.store.get("Organization", facility, EVERYTHING)
    extensions = loads(stored.json).get("extension", ()) if stored and not stored.deleted else ()
    defaults: Document = next((e for e in extensions if e["url"] == coding.ORDER_DEFAULTS), {})
    return {e["url"]: e["valueCode"] for e in defaults.get("extension", ()) if "valueCode" in e}
