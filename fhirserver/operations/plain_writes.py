"""The same acts said in FHIR: what follows from a plain write, and what a plain write may not do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhirserver import alerts, attempts, interactions, revising, work
from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid, MethodNotAllowed
from fhirserver.following import follow_order
from fhirserver.interactions import create, delete, update
from fhirserver.messages import Context, Reply, Request
from fhirserver.operations.dispatch import task_create
from fhirserver.operations.prioritize import follow
from fhirserver.operations.request_information import answered, answers
from fhirserver.operations.task_status import task_update
from fhirserver.reporting import clinical_change
from fhirserver.resources.consent import SIGNAL as CONSENTS
from fhirserver.resources.consent import denies
from fhirserver.resources.questionnaire_response import is_draft
from fhirserver.search import custom
from fhirserver.sharing import share_again
from fhirserver.telling import tell_owner
from fhirserver.validation import Document
from fhirserver.validation import parse as parse_resource
from fhirserver.work import Item

# ---------------------------------------------------------------- ServiceRequest


def order_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """An order may come after its study: the facility's studies of its number are looked at again."""
    answer = create(ctx, request, type_)
    [(reference, owner, *_)] = answer.touched
    made = ctx.changes.writes["ServiceRequest", reference.removeprefix("ServiceRequest/")]
    ctx.changes.ordered(owner, work.numbers(made.data or {}))
    return answer


def _priority(order: Document) -> str:
    """By which studies are sent on, too."""
    return str(order.get("priority", "routine"))


def order_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """PUT ServiceRequest by its facility: the work follows a change of urgency, and ends when the order is taken back."""
    before = work.seen(ctx, "ServiceRequest", id_)
    answer = update(ctx, request, type_, id_)
    saved = ctx.changes.writes.get(("ServiceRequest", id_))
    if saved is None or saved.data is None:
        return answer
    if before is None or any(told(before.data) != told(saved.data) for told in (work.numbers, _priority)):
        ctx.changes.ordered(saved.owner, work.numbers(saved.data))
    t0 = work.coordination(ctx, before) if before is not None else None
    if before is None or t0 is None:
        return answer
    ctx.changes.guard(before.stored)
    _followed(ctx, before, saved.data, t0)
    return answer


def _followed(ctx: Context, before: Item, order: Document, t0: Item) -> None:
    """Row 12a of the state table: what the placer does to an order that is being worked on."""
    if order["status"] in ("revoked", "entered-in-error"):
        if attempts.preliminary_out(ctx, t0):
            raise Conflict("A preliminary report is out for this order: it is withdrawn with $retract, not silently.")
        attempts.stop(ctx, t0, "cancelled-by-placer")
        return
    if order["status"] == "completed":
        raise Conflict("An order is completed when its reading is; the reading is still open.")
    if order.get("priority", "routine") != before.data.get("priority", "routine"):
        follow(ctx, before, t0, order.get("priority", "routine"))
    share_again(ctx, Item(before.stored, order))
    changed = clinical_change(before.data, order)
    if changed or order["status"] != before.status:
        tell_owner(ctx, t0, before.reference, sorted(changed) or ["status"])


# ---------------------------------------------------------------- ImagingStudy


def study_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    answer = create(ctx, request, type_)
    _linked(ctx, answer.touched[0][0].removeprefix("ImagingStudy/"), [])
    return answer


def study_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """PUT ImagingStudy by its facility: a study linked by hand goes where its orders went, like one that was matched."""
    before = work.seen(ctx, "ImagingStudy", id_)
    answer = update(ctx, request, type_, id_)
    saved = ctx.changes.writes.get(("ImagingStudy", id_))
    if before and saved and saved.data and saved.data["subject"] != before.data["subject"]:
        revising.unfounded(ctx, saved.owner, id_)
    _linked(ctx, id_, work.based_on(before.data) if before else [])
    return answer


def _linked(ctx: Context, id_: str, before: list[str]) -> None:
    """The orders that it answers now open it, those that it no longer answers do not."""
    saved = ctx.changes.writes.get(("ImagingStudy", id_))
    if saved is None or saved.data is None:
        return
    now = work.based_on(saved.data)
    for reference in now:
        if not follow_order(ctx, saved.owner, reference, id_, saved.data):
            raise BusinessRule(
                "The study and the order are of two patients; link it with the order's patient as its subject.",
                "ImagingStudy.basedOn",
            )
    for reference in set(before) - set(now):
        order = work.item(ctx, reference)
        if order is not None and order.stored.owner == saved.owner:
            share_again(ctx, order)


# ---------------------------------------------------------------- QuestionnaireResponse


def response_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    _not_a_draft(parse_resource(request.body, "QuestionnaireResponse").data)
    return create(ctx, request, type_)


def response_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """A report's draft is answered by its author, and completed by $sign alone."""
    current, new = work.seen(ctx, "QuestionnaireResponse", id_), parse_resource(request.body, "QuestionnaireResponse").data
    if current is None or not is_draft(current.data):
        _not_a_draft(new)
    elif new["status"] != current.status:
        raise BusinessRule("A draft is completed by signing its report.", "QuestionnaireResponse.status")
    return update(ctx, request, type_, id_)


def _not_a_draft(response: Document) -> None:
    if is_draft(response):
        raise BusinessRule("The draft of a report is made by $start-report.", "QuestionnaireResponse.identifier")


# ---------------------------------------------------------------- DiagnosticReport


def report_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """Imported reports are created as they are; those of the network are made by $start-report."""
    _imported(parse_resource(request.body, "DiagnosticReport").data)
    return create(ctx, request, type_)


def report_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    current = work.seen(ctx, "DiagnosticReport", id_)
    if current is not None:
        _imported(current.data)
    _imported(parse_resource(request.body, "DiagnosticReport").data)
    return update(ctx, request, type_, id_)


def _imported(report: Document) -> None:
    if any(identifier.get("system") == work.REPORTS for identifier in report.get("identifier", ())):
        raise Conflict("Reports made in the network change only through the operations.")


# ---------------------------------------------------------------- SearchParameter

SEARCH_PARAMETERS = "search-parameters"  # the signal that they changed


def parameter_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """A parameter is of the whole installation, so its own organisation adds it; it is served when all is indexed."""
    _served(ctx, parse_resource(request.body, "SearchParameter").data)
    return create(ctx, request, type_)


def parameter_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    _served(ctx, parse_resource(request.body, "SearchParameter").data)
    return update(ctx, request, type_, id_)


def parameter_delete(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    ctx.changes.signals.add(SEARCH_PARAMETERS)
    return delete(ctx, request, type_, id_)


def _served(ctx: Context, document: Document) -> None:
    if ctx.principal.organization != ctx.home:
        raise Forbidden("Search parameters are of the whole installation: its own organisation's administrator adds them.")
    beside: dict[str, list[SearchParam]] = {}
    for write in ctx.changes.writes.values():
        other = write.data or {}
        for base in other.get("base", ()) if write.type == "SearchParameter" and write.id != document.get("id") else ():
            if custom.served(other, base):
                beside.setdefault(base, []).append(custom.declared(other, base))
    if wrong := list(custom.problems(document, ctx.store.types, beside)):
        raise Invalid(wrong[0].diagnostics, issues=wrong)
    ctx.changes.signals.add(SEARCH_PARAMETERS)


# ---------------------------------------------------------------- Consent


def consent_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """A restriction holds from the next request on, on every worker within seconds."""
    ctx.changes.signals.add(CONSENTS)
    answer = create(ctx, request, type_)
    _own_patients(ctx, answer)
    return answer


def consent_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    ctx.changes.signals.add(CONSENTS)
    answer = update(ctx, request, type_, id_)
    _own_patients(ctx, answer)
    return answer


def _own_patients(ctx: Context, answer: Reply) -> None:
    """A restriction is recorded by the facility whose patient it is: another's would not be enforced."""
    [(reference, owner, *_)] = answer.touched
    saved = ctx.changes.writes.get(("Consent", reference.removeprefix("Consent/")))
    if saved is None or saved.data is None or not denies(saved.data):
        return
    patient = work.item(ctx, saved.data["patient"]["reference"])
    if patient is None or patient.stored.owner != owner:
        raise BusinessRule("A restriction is recorded by the facility whose patient it is.", "Consent.patient")


def consent_delete(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    ctx.changes.signals.add(CONSENTS)
    return delete(ctx, request, type_, id_)


# ---------------------------------------------------------------- Communication


def communication_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """A Communication based on a question of a reader's is its answer: the reading that waited for it goes on."""
    answer = create(ctx, request, type_)
    [(reference, owner, *_)] = answer.touched
    made = ctx.changes.writes["Communication", reference.removeprefix("Communication/")]
    for one in (made.data or {}).get("basedOn", ()):
        question = work.item(ctx, one.get("reference", ""))
        if question is not None and question.stored.type == "CommunicationRequest" and answers(ctx, question, owner):
            answered(ctx, question, made)
    return answer


# ---------------------------------------------------------------- CommunicationRequest, Flag


def told_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """Alerts are made by $notify-critical, and end by $acknowledge."""
    _no_alert(parse_resource(request.body, type_.name).data)
    return create(ctx, request, type_)


def told_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    current = work.seen(ctx, type_.name, id_)
    for one in (current.data if current else {}, parse_resource(request.body, type_.name).data):
        _no_alert(one)
    return update(ctx, request, type_, id_)


def told_delete(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    current = work.seen(ctx, type_.name, id_)
    _no_alert(current.data if current else {})
    return delete(ctx, request, type_, id_)


def _no_alert(resource: Document) -> None:
    if alerts.is_part(resource):
        raise Conflict("A finding is told until a person answers: with $acknowledge, and by no plain write.")


# ---------------------------------------------------------------- Patient


def patient_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    if b'"link"' in request.body:
        ctx.changes.signals.add(CONSENTS)  # what restricts one record of a person restricts those merged with it
    return create(ctx, request, type_)


def patient_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    before = work.seen(ctx, "Patient", id_)
    if b'"link"' in request.body or (before and "link" in before.data):
        ctx.changes.signals.add(CONSENTS)
    return update(ctx, request, type_, id_)


# ---------------------------------------------------------------- which write is whose

_TOLD: Mapping[str, Callable[..., Reply]] = {"create": told_create, "update": told_update, "delete": told_delete}
PLAIN_WRITES: Mapping[tuple[str, str], Callable[..., Reply]] = {
    ("create", "SearchParameter"): parameter_create,
    ("update", "SearchParameter"): parameter_update,
    ("delete", "SearchParameter"): parameter_delete,
    ("create", "Patient"): patient_create,
    ("update", "Patient"): patient_update,
    ("create", "Consent"): consent_create,
    ("update", "Consent"): consent_update,
    ("delete", "Consent"): consent_delete,
    ("create", "Communication"): communication_create,
    **{(way, name): write for name in ("CommunicationRequest", "Flag") for way, write in _TOLD.items()},
    ("create", "Task"): task_create,
    ("update", "Task"): task_update,
    ("create", "ServiceRequest"): order_create,
    ("update", "ServiceRequest"): order_update,
    ("create", "ImagingStudy"): study_create,
    ("update", "ImagingStudy"): study_update,
    ("create", "QuestionnaireResponse"): response_create,
    ("update", "QuestionnaireResponse"): response_update,
    ("create", "DiagnosticReport"): report_create,
    ("update", "DiagnosticReport"): report_update,
}
_ANY: Mapping[str, Callable[..., Reply]] = {
    "create": interactions.create,
    "update": interactions.update,
    "delete": interactions.delete,
}


def way_to(interaction: str, type_: ResourceType) -> Callable[..., Reply]:
    """How a resource of this type is created, updated or deleted. Error: 405 for what the server alone writes."""
    if type_.insert_only:
        raise MethodNotAllowed(f"A {type_.name} is written by the server alone.")
    return PLAIN_WRITES.get((interaction, type_.name), _ANY[interaction])
