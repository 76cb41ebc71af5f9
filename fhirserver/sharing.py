"""Who gets to see what for an order: the order, its patient, its studies and what it names, and no more.

A right has a reason, the order; it is checked in the transaction that gives it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fhirserver import work
from fhirserver.errors import BusinessRule
from fhirserver.messages import Context
from fhirserver.moments import milliseconds
from fhirserver.search.reference import local
from fhirserver.versions import FOREVER, Grant
from fhirserver.work import Item
from fhirserver.workflow import coding

_PASSED_ON = ("DiagnosticReport", "ImagingStudy", "DocumentReference", "Observation")


def share(ctx: Context, order: Item, key: str, until: int = FOREVER, reason: str | None = None) -> None:
    """``reason``: what the right rests on, the order itself where nothing else is named.

    Errors: 422 where the order names something that its facility may not pass on."""
    for shared, owner in _shared(ctx, order):
        ctx.changes.share(shared.stored.type, shared.stored.id, Grant(reason or order.reference, key, until), owner)


def share_again(ctx: Context, order: Item) -> None:
    """What the order names now goes to whom it was given already; what it no longer names goes back."""
    now = milliseconds(ctx.now)
    keys = [g["key"] for g in order.stored.grants if g["order"] == order.reference and g["until"] > now]
    for key in keys:
        share(ctx, order, key)
    named = {(shared.stored.type, shared.stored.id) for shared, _ in _shared(ctx, order)} if keys else set()
    for type_, id_, key in ctx.store.shared(order.reference):
        if key in keys and (type_, id_) not in named:
            ctx.changes.share(type_, id_, Grant(order.reference, key, now), None)


def withdraw(ctx: Context, order: str, key: str) -> None:
    """The order's own reason ends, for all that it gave; what another order gives stays."""
    ctx.changes.withdraw(order, key, milliseconds(ctx.now))


def _shared(ctx: Context, order: Item) -> Iterator[tuple[Item, str | None]]:
    """(resource, organisation that must own it at commit)"""
    facility = order.stored.owner
    yield order, facility
    patient = work.item(ctx, order.data["subject"].get("reference", ""))
    if patient is None or patient.stored.owner != facility:
        raise BusinessRule("The order's patient is one of the ordering organisation's, by reference.", "ServiceRequest.subject")
    yield patient, facility
    for study in work.studies(ctx, order):
        yield study, _owner(study, order, "ServiceRequest.supportingInfo")
    for study in unverified(ctx, order):
        yield study, facility
    for number, reference in enumerate(order.data.get("supportingInfo", ())):
        where = f"ServiceRequest.supportingInfo[{number}]"
        named = work.item(ctx, reference.get("reference", ""))
        if named is not None and named.stored.type != "ImagingStudy" and "*" not in named.stored.base:
            yield named, _owner(named, order, where)
            yield from ((binary, facility) for binary in _attachments(ctx, named) if binary.stored.owner == facility)


def unverified(ctx: Context, order: Item) -> list[Item]:
    """Of a stat order the studies that claim to be its, though their patient is another, until somebody has settled it: who reads
    the order sees them, under a banner."""
    if order.data.get("priority") != "stat":
        return []
    rows = work.items(ctx, (order.stored.owner,), "Task", ("code", f"{coding.TASK_TYPE}|reconcile"), ("status", "requested"))
    claimed = [
        row.data["focus"]["reference"]
        for row in rows
        if row.status == "requested"  # also as this request leaves it
        and coding.PATIENT_MISMATCH in coding.codes(row.data.get("reasonCode"))
        and any(given.get("valueReference", {}).get("reference") == order.reference for given in row.data.get("input", ()))
    ]
    return [study for reference in claimed if (study := work.item(ctx, reference)) is not None]


def _owner(named: Item, order: Item, where: str) -> str | None:
    """The facility shares what it owns, and passes on what was made about its own patient."""
    facility = order.stored.owner
    if named.stored.owner == facility:
        return facility
    same_patient = named.data.get("subject", {}).get("reference") == order.data["subject"].get("reference")
    if named.stored.type in _PASSED_ON and same_patient:
        return None
    raise BusinessRule("This is not the ordering organisation's, and cannot be passed on.", where)


def _attachments(ctx: Context, document: Item) -> Iterator[Item]:
    for content in document.data.get("content", ()):
        target = local(content.get("attachment", {}).get("url", ""), ctx.base)
        if target and target[0] == "Binary" and (binary := work.item(ctx, f"Binary/{target[1]}")):
            yield binary
