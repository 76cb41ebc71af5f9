"""ServiceRequest/[id]/$dispatch: release an order for reading and say where. A POSTed coordination Task is the same act."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from msgspec import structs

from fhirserver import access, agreements, attempts, reporting, roster, timing, work
from fhirserver.contacts import phones
from fhirserver.definitions import Operation, Parameter, ResourceType
from fhirserver.errors import BusinessRule, Conflict, Duplicate, Forbidden, Invalid
from fhirserver.interactions import check_if_match, create, put, update, written
from fhirserver.messages import Context, Reply, Request
from fhirserver.search.reference import local, relative
from fhirserver.sharing import share
from fhirserver.validation import Document, Resource, built, loads
from fhirserver.validation import parse as parse_resource
from fhirserver.versions import EVERYTHING, Grant, Stored, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from fhirserver.workflow.agreement import Agreement, LocalCode
from fhirserver.workflow.eligibility import within

DESTINATIONS = ("on-site", "central", "organization", "practitioner")
READ_TYPES = ("preliminary", "final", "double", "second-opinion")
PAEDIATRIC = "paediatric-radiology"  # of SPECIALTY, on a PractitionerRole: preferred for those under 18
_SERVERS_OWN = frozenset(work.INPUTS) - {"report-template", "report-language", "read-type"}


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    order = work.visible_item(ctx, "ServiceRequest", inputs["id"])
    check_if_match(request, order.stored)
    if inputs["destination"] not in DESTINATIONS:
        raise Invalid(f"destination is one of {', '.join(DESTINATIONS)}.", "Parameters.parameter")
    task: Document = {"input": [work.entry("report-template", t) for t in inputs["reportTemplate"]]}
    if "readType" in inputs:
        task["input"].append(work.entry("read-type", inputs["readType"]))
    if "reportLanguage" in inputs:
        task["input"].append(work.entry("report-language", inputs["reportLanguage"]))
    if "due" in inputs:
        task["restriction"] = {"period": {"end": inputs["due"]}}
    fulfiller, offered = _fulfiller(ctx, order, inputs["destination"], inputs.get("target"))
    return {"return": dispatch(ctx, order, fulfiller, task, offered=offered, expect_images=inputs.get("expectImages", False))}


def _fulfiller(ctx: Context, order: Item, destination: str, target: Document | None) -> tuple[str, str | None]:
    """(organisation, reader that it is offered to)"""
    if destination in ("on-site", "central"):
        return (order.stored.owner if destination == "on-site" else ctx.home), None
    named = work.item(ctx, (target or {}).get("reference", ""))
    if named is None or named.stored.type != ("Organization" if destination == "organization" else "PractitionerRole"):
        raise BusinessRule(f"For this destination, target is the {destination} that reads.", "Parameters.parameter")
    return (named.stored.id, None) if destination == "organization" else (named.stored.owner, named.reference)


def dispatch(
    ctx: Context, order: Item, fulfiller: str, task: Document, *, offered: str | None = None, expect_images: bool = True
) -> Write:  # fmt: skip
    """The act itself. ``task`` are the elements that the caller gives the coordination Task."""
    roster.require_role(ctx, "clerk", "referrer")
    if order.stored.owner != ctx.principal.organization:
        raise Forbidden("An order is dispatched by the organisation that it belongs to.")
    if order.status not in states.OPEN_ORDER:
        raise Conflict(f"An order that is {order.status} is not dispatched.")
    if work.coordination(ctx, order) is not None:
        raise Duplicate("This order is dispatched already.")
    if not order.data["subject"].get("reference", "").startswith("Patient/"):
        raise BusinessRule("The order's patient is one of the ordering organisation's, by reference.", "ServiceRequest.subject")
    affiliated(ctx, order.stored.owner, fulfiller)
    if order.data["subject"]["reference"] in ctx.withheld_from(fulfiller):
        raise BusinessRule(
            "The patient has restricted their record: it is not shared with this organisation.", "ServiceRequest.subject"
        )
    _complete(order.data)
    agreed = agreements.between(ctx, order.stored.owner, fulfiller).terms
    meant = _meant(agreed, order.data)
    task = _by_default(task, agreed, meant)
    _readable(ctx, order, fulfiller, task)
    there = work.answering(ctx, order)
    if not there and not expect_images:
        raise BusinessRule("No images are linked to the order; if they are still to come, say expectImages.", "ServiceRequest")
    active = _activated(order.data, order.stored.owner, agreed, meant)
    _reachable(ctx, order, fulfiller, agreed, active.get("priority", "routine"))
    facts = _facts(ctx, order, active, agreed, meant, there)
    ready = any(study.status == "available" for study in there)
    first = _coordination(ctx, order.stored, active, fulfiller, task | {"input": [*task.get("input", ()), *facts]}, ready=ready)
    t0 = put(ctx, ctx.store.types["Task"], built(first), ctx.new_id(), None, "POST", order.stored.owner)
    t0.grants.append(Grant(order.reference, f"org/{fulfiller}").document())
    ctx.changes.guard(order.stored)  # a study that arrives at this moment and this act do not miss each other
    if active != order.data:
        work.save(ctx, order, active)
    if fulfiller != order.stored.owner:
        share(ctx, order, f"org/{fulfiller}")
    if offered:
        _offer(ctx, work.written(ctx, t0), offered)
    return ctx.changes.writes["Task", t0.id]


# ---------------------------------------------------------------- in the facility's own words


def _meant(agreed: Agreement, order: Document) -> LocalCode:
    """What the facility's agreement says of the order's own codes and words of urgency; all that it does not say is empty."""
    found = next((agreed.codes[code] for code in sorted(coding.codes(order.get("code"))) if code in agreed.codes), LocalCode())
    words = frozenset(_words(order))
    urgency = agreed.urgency(words)
    return structs.replace(found, priority=urgency) if urgency else found


def _words(order: Document) -> Iterator[str]:
    """Where EHRs put a word for urgency that is none of FHIR's: beside the priority, as a detail, as a category."""
    for extension in order.get("_priority", {}).get("extension", ()):
        for name, value in extension.items():
            if name in ("valueString", "valueCode"):
                yield value
            elif name == "valueCoding":
                yield from (value[part] for part in ("code", "display") if part in value)
    for concept in (*order.get("orderDetail", ()), *order.get("category", ())):
        yield from (c[part] for c in concept.get("coding", ()) for part in ("code", "display") if part in c)
        if "text" in concept:
            yield concept["text"]


def _by_default(task: Document, agreed: Agreement, meant: LocalCode) -> Document:
    """Template, language and kind of read that the facility's agreement names where the order does not."""
    rows = [row for row in task.get("input", ()) if not coding.codes(row.get("type"), coding.TASK_TYPE) & _SERVERS_OWN]
    given = {"input": rows}
    for kind, values in (
        ("report-template", (meant.template,) if meant.template else agreed.defaults.templates),
        ("report-language", (agreed.defaults.language,) if agreed.defaults.language else ()),
        ("read-type", (agreed.defaults.read_type,)),
    ):
        if not work.inputs(given, kind):
            given["input"] = [*given["input"], *(work.entry(kind, value) for value in values)]
    return task | given


def _facts(
    ctx: Context, order: Item, active: Document, agreed: Agreement, meant: LocalCode, there: list[Item]
) -> list[Document]:  # fmt: skip
    """What assignment and worklists ask about, so that nobody has to look it up again."""
    modalities = sorted(work.modalities(there)) or ([meant.modality] if meant.modality else [])
    doctor = roster.practitioner_of(ctx, active.get("requester"))
    specialties = coding.codes(active.get("performerType")) | ({meant.specialty} if meant.specialty else set())
    if _is_a_child(ctx, active):
        specialties.add(PAEDIATRIC)
    reasons = {code for concept in active.get("reasonCode", ()) for code in coding.codes(concept)}
    regions = {code for concept in active.get("bodySite", ()) for code in coding.codes(concept)}
    rows: list[tuple[str, Any]] = [("facility", {"reference": f"Organization/{order.stored.owner}"})]
    rows += [("modality", code) for code in modalities]
    rows += [("region", code) for code in sorted(regions | ({meant.region} if meant.region else set()))]
    rows += [("specialty", code) for code in sorted(specialties)]
    rows += [("requesting-doctor", {"reference": doctor})] if doctor else []
    rows += [("hurry", True)] if any(code.startswith(agreed.hurry) for code in reasons) else []
    return [work.entry(kind, value) for kind, value in rows]


def _is_a_child(ctx: Context, order: Document) -> bool:
    """Younger than 18 today; of a birth date that is not precise, surely so."""
    patient = work.item(ctx, order["subject"]["reference"])
    born = str(patient.data.get("birthDate", "")) if patient else ""
    return born > f"{ctx.now.year - 18:04}-{ctx.now:%m-%d}"[: len(born)]


def _reachable(ctx: Context, order: Item, fulfiller: str, agreed: Agreement, priority: str) -> None:
    """A finding that cannot wait is told by telephone: who asks for it urgently says where somebody answers."""
    if priority not in ("stat", "asap") or fulfiller == order.stored.owner:
        return
    if not (agreed.duty_phone or any(c.phone for c in agreed.contacts) or phones(ctx, order)):
        raise BusinessRule(
            "A stat or asap order needs a telephone number at which somebody answers: the requester's, the facility's, or the "
            "agreement's.",
            "ServiceRequest.requester",
        )


def _offer(ctx: Context, t0: Item, role: str) -> None:
    practitioner = roster.practitioner_of(ctx, {"reference": role})
    verdict = roster.verdict(ctx, practitioner, t0) if practitioner else None
    if verdict is None or not verdict.eligible or verdict.role is None:
        raise roster.refusal(verdict.failed if verdict and verdict.failed else ("no-such-reader",))
    attempts.made(ctx, t0, verdict.role, "requested", reader=practitioner)


def affiliated(ctx: Context, facility: str, fulfiller: str) -> None:
    """The installation's own centre reads for all; another organisation for those that it has an affiliation with."""
    if fulfiller in (facility, ctx.home):
        return
    pair = {f"Organization/{facility}", f"Organization/{fulfiller}"}
    primary = ("primary-organization", ",".join(sorted(pair)))
    for row in work.items(ctx, (facility, fulfiller), "OrganizationAffiliation", primary):
        parties = {row.data.get(name, {}).get("reference") for name in ("organization", "participatingOrganization")}
        if parties == pair and row.data.get("active", True) and within(row.data.get("period"), ctx.now):
            return
    raise BusinessRule("There is no agreement (OrganizationAffiliation) with this organisation.", "Parameters.parameter")


def _readable(ctx: Context, order: Item, fulfiller: str, task: Document) -> None:
    """What is asked of the reader exists: the kind of read, and each template."""
    for kind in work.inputs(task, "read-type"):
        if kind not in READ_TYPES:
            raise BusinessRule(f"The read type is one of {', '.join(READ_TYPES)}.", "Task.input")
    for canonical in work.inputs(task, "report-template"):
        reporting.questionnaire(ctx, canonical, order.stored.owner, fulfiller)


def _complete(order: Document) -> None:
    """A reader needs a question: in words, by reference, or on the scanned referral."""
    documents = [r for r in order.get("supportingInfo", ()) if r.get("reference", "").startswith("DocumentReference/")]
    reasons = [e for e in order.get("extension", ()) if e["url"].endswith("ServiceRequest.reason")]
    if not (order.get("reasonCode") or order.get("reasonReference") or order.get("note") or documents or reasons):
        raise BusinessRule(
            "The order has no clinical question: give a reason, a note or the referral.", "ServiceRequest.reasonCode"
        )


def _activated(order: Document, facility: str, agreed: Agreement, meant: LocalCode) -> Document:
    """Active; with the urgency that the facility's own word means, its categories, and an accession number: the facility's, or
    one minted for it. (An identifier without a type may be one.)"""
    active = order | {"status": "active"}
    wanted = [p for p in (active.get("priority"), meant.priority) if p] or [agreed.defaults.priority]
    if wanted[0]:
        active["priority"] = min(wanted, key=lambda p: states.PRIORITY_RANKS[str(p)])
    codes = {code for concept in order.get("category", ()) for code in coding.codes(concept)}
    if coding.IMAGING["code"] not in codes:
        active["category"] = [*active.get("category", ()), {"coding": [coding.IMAGING]}]
    if not any(coding.codes(concept, coding.SERVICE_TYPE) for concept in order.get("category", ())):
        active["category"] = [*active.get("category", ()), {"coding": [coding.service(agreed.defaults.category)]}]
    identifiers = order.get("identifier", [])
    kinds = [coding.codes(i.get("type")) for i in identifiers]
    if any("ACSN" in codes or not codes for codes in kinds):
        return active
    number = secrets.token_hex(7).upper()  # 14 characters of the 16 that DICOM's SH has
    minted = {"type": {"coding": [coding.ACCESSION]}, "system": coding.facility_system(facility, "accession"), "value": number}
    return active | {"identifier": [*identifiers, minted]}


def _coordination(
    ctx: Context, stored: Stored, order: Document, fulfiller: str, task: Document, *, ready: bool
) -> Document:  # fmt: skip
    asked = task.get("restriction", {}).get("period", {}).get("end")
    document = {
        "resourceType": "Task",
        **{name: task[name] for name in ("identifier", "note", "description", "encounter", "input") if task.get(name)},
        "groupIdentifier": {"system": "urn:fhirserver:order", "value": stored.id},
        "status": "requested",
        "businessStatus": work.business_status(states.READY_FOR_ASSIGNMENT if ready else states.AWAITING_IMAGES),
        "intent": "order",
        "priority": order.get("priority", "routine"),
        "code": {
            "coding": [{"system": coding.TASK_CODE, "code": "fulfill"}, {"system": coding.TASK_TYPE, "code": "coordinate"}]
        },
        "focus": {"reference": stored.reference},
        "basedOn": [{"reference": stored.reference}],
        "for": order["subject"],
        "authoredOn": work.timestamp(ctx.now),
        "lastModified": work.timestamp(ctx.now),
        "requester": {"reference": f"Organization/{stored.owner}"},
        "owner": {"reference": f"Organization/{fulfiller}"},
        **({"restriction": {"period": {"end": asked}}} if asked else {}),
    }
    clock = agreements.between(ctx, stored.owner, fulfiller).terms.clock
    if ready or clock != "complete":
        start = _ordered(ctx, stored) if clock == "ordered" else ctx.now
        return timing.started(ctx, document, stored.owner, fulfiller, start, asked)
    return document


def _ordered(ctx: Context, order: Stored) -> datetime:
    """When it came here, no draft any more: by our clock, whatever its own says (I8)."""
    for version in range(1, order.version + 1):
        row = ctx.store.vread("ServiceRequest", order.id, version, EVERYTHING)
        if row is not None and loads(row.json).get("status") != "draft":
            return timing.at(row.ts)
    return ctx.now


# ---------------------------------------------------------------- said in FHIR


def task_create(ctx: Context, request: Request, type_: ResourceType, id_: str | None = None) -> Reply:
    """POST Task: code ``fulfill``, focus an order, owner who is to read = $dispatch; other Tasks are plain ones."""
    resource: Resource = parse_resource(request.body, "Task")
    task = relative(resource.data, ctx.base)
    focus = local(task.get("focus", {}).get("reference", ""), ctx.base)
    if (
        "fulfill" in coding.codes(task.get("code"), coding.TASK_CODE)
        and focus
        and focus[0] == "ServiceRequest"
        and not task.get("partOf")
    ):
        access.resolvable(ctx, [("Task", resource.data)])
        if id_ is not None:
            raise BusinessRule("POST this Task: it dispatches the order, and the server names it.", "Task.code")
        fulfiller = work.organization(task.get("owner"))
        if fulfiller is None:
            raise BusinessRule("Task.owner is the Organization that is to read.", "Task.owner")
        order = work.visible_item(ctx, "ServiceRequest", focus[1])
        return written(ctx, request, dispatch(ctx, order, fulfiller, task), 201)
    unmade(task)
    return create(ctx, request, type_) if id_ is None else update(ctx, request, type_, id_)


def unmade(task: Document) -> None:
    """Errors: 422 for a Task of a kind that the server alone makes."""
    if coding.codes(task.get("code"), coding.TASK_TYPE) & coding.MADE_BY_OPERATIONS:
        raise BusinessRule("Tasks of this kind are made by the server.", "Task.code")


DISPATCH = Operation(
    code="dispatch",
    type="ServiceRequest",
    levels=("instance",),
    title="Release an order for reading and say where",
    affects_state=True,
    inputs=(
        Parameter("destination", "code", 1, documentation="on-site | central | organization | practitioner"),
        Parameter(
            "target",
            "Reference",
            documentation="Organization or PractitionerRole, where destination is one",
            targets=("Organization", "PractitionerRole"),
        ),
        Parameter("readType", "code", documentation="preliminary | final | double | second-opinion"),
        Parameter("reportTemplate", "canonical", max="*", documentation="Questionnaire that the report must satisfy"),
        Parameter("reportLanguage", "code", documentation="BCP-47"),
        Parameter("due", "dateTime", documentation="requested deadline; else by urgency"),
        Parameter("expectImages", "boolean", documentation="images are still to come"),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="the coordination Task"),),
    handler=operate,
    description="By the ordering facility. 403 not its order; 409 dispatched already; 422 no clinical question, images or agreement.",
)
