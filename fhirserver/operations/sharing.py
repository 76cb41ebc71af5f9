"""Who gets to see what for an order: the order, its patient, its studies and what it names, and no more.

A right has a reason, the order; it is checked in the transaction that gives it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fhirserver.errors import BusinessRule
from fhirserver.messages import Context
from fhirserver.operations import work
from fhirserver.operations.work import Item
from fhirserver.search.date import milliseconds
from fhirserver.search.reference import local
from fhirserver.versions import FOREVER, Grant

_PASSED_ON = ("DiagnosticReport", "ImagingStudy", "DocumentReference", "Observation")


def share(ctx: Context, order: Item, key: str) -> None:
    """Errors: 422 where the order names something that its facility may not pass on."""
    for shared, owner in _shared(ctx, order):
        ctx.changes.share(shared.stored.type, shared.stored.id, Grant(order.reference, key), owner)


def withdraw(ctx: Context, order: Item, key: str) -> None:
    """The order's own reason ends; what another order gives stays."""
    until = milliseconds(ctx.now)
    for shared, owner in _shared(ctx, order):
        if any(g["order"] == order.reference and g["key"] == key for g in shared.stored.grants):
            ctx.changes.share(shared.stored.type, shared.stored.id, Grant(order.reference, key, until), owner)


def _shared(ctx: Context, order: Item) -> Iterator[tuple[Item, str | None]]:
    """(resource, organisation that must own it at commit)"""
    facility = order.stored.owner
    yield order, facility
    patient = work.item(ctx, order.data["subject"].get("reference", ""))
    if patient is None or patient.stored.owner != facility:
        raise BusinessRule("The order's patient is not the ordering organisation's.", "ServiceRequest.subject")
    yield patient, facility
    for study in work.studies(ctx, order.reference):
        yield study, _owner(study, order, "ImagingStudy.basedOn")
    for number, reference in enumerate(order.data.get("supportingInfo", ())):
        where = f"ServiceRequest.supportingInfo[{number}]"
        named = work.item(ctx, reference.get("reference", ""))
        if named is not None and named.stored.type != "ImagingStudy" and "*" not in named.stored.base:
            yield named, _owner(named, order, where)
            yield from ((binary, facility) for binary in _attachments(ctx, named) if binary.stored.owner == facility)


def _owner(named: Item, order: Item, where: str) -> str | None:
    """The facility shares what it owns, and passes on what was made about its own patient."""
    facility = order.stored.owner
    if named.stored.owner == facility:
        return facility
    same_patient = named.data.get("subject", {}).get("reference") == order.data["subject"]["reference"]
    if named.stored.type in _PASSED_ON and same_patient:
        return None
    raise BusinessRule("This is not the ordering organisation's, and cannot be passed on.", where)


def _attachments(ctx: Context, document: Item) -> Iterator[Item]:
    for content in document.data.get("content", ()):
        target = local(content.get("attachment", {}).get("url", ""), ctx.base)
        if target and target[0] == "Binary" and (binary := work.item(ctx, f"Binary/{target[1]}")):
            yield binary


__all__ = ["FOREVER", "share", "withdraw"]
