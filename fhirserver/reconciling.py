"""What people have to look at when images and record do not agree: Tasks of kind ``reconcile``, each with its reason.

Nothing is merged, replaced or moved by the server itself; $reconcile does what a person decided.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fhirserver import work
from fhirserver.interactions import put
from fhirserver.messages import Context
from fhirserver.validation import Document, built
from fhirserver.versions import owned_by
from fhirserver.work import Item
from fhirserver.workflow import coding, states

PATIENT_MISMATCH, SET_ASIDE, PATIENT_CHANGED = coding.PATIENT_MISMATCH, "set-aside", "patient-changed"
LATE_IMAGES, SAME_EXAMINATION = "images-after-signing", "same-examination"
_TOLD = {
    PATIENT_MISMATCH: "The study's accession number is that of an order for another patient: link it, correct it or reject it.",
    SET_ASIDE: "Instances were sent again with other bytes, or for another patient. Those that came first are shown: "
    "keep them, or replace them.",
    PATIENT_CHANGED: "The order's patient is another one now, and the study has a report: correct the study, which withdraws it.",
    LATE_IMAGES: "Images arrived after the report was signed: look whether it has to be added to.",
    SAME_EXAMINATION: "The order has another study of the same time, modality and size: the same examination under new UIDs?",
}
_PUBLISHED = (*states.PUBLISHED, "preliminary")


def task_id(ctx: Context, facility: str, study_id: str, reason: str, once: str = "") -> str:
    """Of the one Task for a study and a reason, and for what it is about."""
    return ctx.derived_id("reconcile", facility, study_id, reason, once)


def older(ctx: Context, task: Item) -> list[Item]:
    """Open Tasks about less of the same: who settles the newer one settles them."""
    rows = work.items(ctx, (task.stored.owner,), "Task", ("focus", task.data["focus"]["reference"]))
    return [
        row
        for row in rows
        if row.status in states.OPEN_TASK
        and reason_of(row.data) == reason_of(task.data)
        and row.stored.id != task.stored.id
        and row.data["authoredOn"] <= task.data["authoredOn"]
    ]


def ask(
    ctx: Context, facility: str, study_id: str, patient: str, reason: str, orders: Iterable[str] = (), once: str = "",
    focus: str = "", owner: str = "",
) -> None:  # fmt: skip
    """A Task for ``owner``, the facility itself if none is named; one for each study and reason, and for each ``once``."""
    id_ = task_id(ctx, facility, study_id, reason, once)
    if ctx.store.get("Task", id_, owned_by(owner or facility)) is not None:
        return
    document: Document = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": coding.concept(coding.TASK_TYPE, "reconcile"),
        "reasonCode": coding.concept(coding.STATUS_REASON, reason),
        "description": _TOLD[reason],
        "focus": {"reference": focus or f"ImagingStudy/{study_id}"},
        "for": {"reference": patient},
        "authoredOn": ctx.now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),  # one may follow another at once
        "requester": {"reference": f"Organization/{facility}"},
        "owner": {"reference": f"Organization/{owner or facility}"},
        "input": [{"type": {"text": "order"}, "valueReference": {"reference": order}} for order in orders],
    }
    if not document["input"]:
        del document["input"]
    put(ctx, ctx.store.types["Task"], built(document), id_, None, "POST", owner or facility)


def reason_of(task: Document) -> str:
    return next(iter(coding.codes(task.get("reasonCode"), coding.STATUS_REASON)), "")


def reports(ctx: Context, facility: str, study_id: str) -> list[Item]:
    """Reports that are out and that rest on the study, whoever made them."""
    study = f"ImagingStudy/{study_id}"
    found = ctx.store.get("ImagingStudy", study_id, owned_by(facility))
    readers = [g["key"].removeprefix("org/") for g in found.grants] if found else []
    rows = work.items(ctx, dict.fromkeys((facility, *readers)), "DiagnosticReport", ("imaging-study", study))
    return [row for row in rows if row.status in _PUBLISHED]


def after_signing(ctx: Context, facility: str, study_id: str, study: Document) -> None:
    """Images that came after a report was signed are told to who signed it: never a silent change."""
    for report in reports(ctx, facility, study_id):
        if report.status in states.PUBLISHED:
            once = f"{report.reference}|{study.get('numberOfInstances', 0)}"
            owner = report.stored.owner or facility
            ask(
                ctx,
                facility,
                study_id,
                study["subject"]["reference"],
                LATE_IMAGES,
                work.based_on(report.data),
                once,
                report.reference,
                owner,
            )


def same_examination(ctx: Context, facility: str, study_id: str, study: Document) -> None:
    """Another study of the same order, begun at the same time, with the same modalities and as many images."""
    for reference in work.based_on(study):
        order = work.item(ctx, reference)
        others = work.answering(ctx, order) if order is not None and order.stored.type == "ServiceRequest" else []
        for other in others:
            if other.stored.id != study_id and _alike(other.data, study):
                pair = "|".join(sorted((other.stored.id, study_id)))
                ask(ctx, facility, study_id, study["subject"]["reference"], SAME_EXAMINATION, [reference], pair)


def _alike(one: Document, other: Document) -> bool:
    return "started" in one and all(_of(one, name) == _of(other, name) for name in ("started", "modality", "numberOfInstances"))


def _of(study: Document, name: str) -> Any:
    return study.get(name)
