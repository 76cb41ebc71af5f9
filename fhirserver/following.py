"""What follows from a study for the order that it answers: who reads the order reads the study, and the work knows that it is there."""

from __future__ import annotations

from fhirserver import timing, work
from fhirserver.messages import Context
from fhirserver.moments import milliseconds
from fhirserver.validation import Document
from fhirserver.versions import Grant
from fhirserver.work import Item
from fhirserver.workflow import coding, states


def follow_order(ctx: Context, facility: str, reference: str, study_id: str, study: Document) -> bool:
    """Who reads the order reads the study; and images that are there make its coordination Task ready for assignment.

    False where order and study are of two patients: nothing follows then.
    """
    order = work.item(ctx, reference)
    if order is None or order.stored.type != "ServiceRequest" or order.stored.owner != facility:
        return True
    if order.data["subject"].get("reference") != study["subject"].get("reference"):
        return False
    share_with_readers(ctx, order, facility, study_id)
    t0 = work.coordination(ctx, order)
    if t0 is not None:
        _worked_on(ctx, order, t0, study_id, study)
    return True


def share_with_readers(ctx: Context, order: Item, facility: str, study_id: str) -> None:
    """Who sees the order sees the study."""
    for grant in order.stored.grants:
        if grant["order"] == order.reference and grant["until"] > milliseconds(ctx.now):
            ctx.changes.share("ImagingStudy", study_id, Grant(grant["order"], grant["key"], grant["until"]), facility)
    ctx.changes.guard(order.stored)  # a dispatch at this moment and this arrival do not miss each other


def _worked_on(ctx: Context, order: Item, t0: Item, study_id: str, study: Document) -> None:
    """The work knows of the modality; the first complete study makes it ready and starts its clock; further images are told
    to who is reading, whose signature names what they saw."""
    there = [one for one in work.answering(ctx, order) if one.stored.id != study_id]
    found = work.modalities(there) | {m["code"] for m in study.get("modality", ()) if "code" in m}
    document = t0.data | {"input": work.with_input(t0.data, "modality", *sorted(found))}
    if study["status"] == "available":
        document = _ready(ctx, t0, document)
        if not work.inputs(t0.data, "clock-start"):
            fulfiller = work.organization(t0.data["owner"]) or ""
            document = timing.started(ctx, document, order.stored.owner, fulfiller, ctx.now, timing.end_of(t0.data))
    if document != t0.data:
        work.follow(ctx, t0, document)
    for passed_on in work.chain(ctx, t0)[1:] if study["status"] == "available" else ():
        work.save(ctx, passed_on, _ready(ctx, passed_on, passed_on.data))


def _ready(ctx: Context, t0: Item, document: Document) -> Document:
    """What it waited for is there."""
    if coding.business_status(t0.data) != states.AWAITING_IMAGES:
        return document
    taken = any(attempt.status == "accepted" for attempt in work.open_attempts(ctx, t0))
    business = states.ASSIGNED if taken else states.READY_FOR_ASSIGNMENT
    return document | {"businessStatus": coding.told(t0.data.get("businessStatus"), business)}
