"""Actionable findings: told to a person at the facility, one after the other, until a person answers. An alert never ends by
itself, and no plain write ends it.

The request is a CommunicationRequest, each telling a Communication, the answer that is owed a Task with a deadline, and the
EHR's banner a Flag. The ladder: the requesting doctor, the ward, the facility's duty, then the centre's dispatcher beside
them, again and again. https://hl7.org/fhir/R4/communicationrequest.html
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from fhirserver import agreements, contacts, telling, timing, work
from fhirserver.contacts import Recipient
from fhirserver.messages import Context
from fhirserver.validation import Document
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding

# They cannot wait, and may not rest on a message that nobody may read
AT_ONCE = frozenset({"acr-1", "rcr-critical"})
VERBAL = ("phone", "in-person")
METHODS = (*VERBAL, "secure-message", "sms", "hl7")
FLAGS = "urn:fhirserver:alert"  # of a Flag's identifier; the value is the CommunicationRequest
_SHORTEST = timedelta(minutes=5)
_LATE = "late"


def is_part(resource: Document) -> bool:
    """Whether it is the request or the banner of an alert: a person's answer ends it, and no plain write."""
    group = resource.get("groupIdentifier", {}).get("system")
    return group == work.REPORTS or any(i.get("system") == FLAGS for i in resource.get("identifier", ()))


def told_of(ctx: Context, report: Item) -> list[tuple[str, str]]:
    """(category, what the report says of it) of each finding that was notified."""
    rows = work.items(
        ctx, (report.stored.owner,), "CommunicationRequest", ("group-identifier", f"{work.REPORTS}|{report.stored.id}")
    )
    found = []
    for row in sorted(rows, key=lambda one: one.data["authoredOn"]):
        [category] = coding.codes(row.data["category"][0], coding.ALERT)
        state = "acknowledged" if row.status == "completed" else "told, not acknowledged yet"
        found.append((category, f"{row.data['payload'][0]['contentString']} ({category}, {row.data['authoredOn']}, {state})"))
    return found


def raised(
    ctx: Context, report: Item, order: Item, category: str, finding: Document, found_at: str, named: list[Document], method: str | None
) -> tuple[Write, Write, Write]:  # fmt: skip
    """(the request, the Task for its acknowledgement, the first telling)."""
    centre, facility = report.stored.owner, order.stored.owner
    minutes = agreements.between(ctx, facility, centre).terms.alert_minutes(category)
    deadline = ctx.now + timedelta(minutes=minutes)
    text = finding.get("text") or next((c.get("display") or c["code"] for c in finding.get("coding", ()) if "code" in c), "")
    people = _people(ctx, order, centre, named)
    told = people[: max(1, len(named))]
    group = {"system": work.REPORTS, "value": report.stored.id}
    request = work.make(
        ctx,
        {
            "resourceType": "CommunicationRequest",
            "groupIdentifier": group,
            "basedOn": [{"reference": order.reference}],
            "status": "active",
            "category": [coding.concept(coding.ALERT, category)],
            "priority": "stat" if category in AT_ONCE else "urgent",
            "subject": report.data["subject"],
            "about": [{"reference": report.reference}],
            "payload": [{"contentString": text}],
            "occurrenceDateTime": work.timestamp(deadline),
            "authoredOn": found_at,
            "requester": report.data["resultsInterpreter"][0],
            "sender": {"reference": f"Organization/{centre}"},
            "recipient": [row for one in people if "reference" in (row := one.document())],
            **({"medium": [{"text": method}]} if method else {}),
        },
        centre,
    )
    flag = work.make(ctx, _flag(ctx, report, request.id, finding, text), centre)
    task = work.make(
        ctx,
        timing.timed(
            {
                "resourceType": "Task",
                "groupIdentifier": group,
                "status": "requested",
                "intent": "order",
                "priority": "stat" if category in AT_ONCE else "asap",
                "code": coding.concept(coding.TASK_TYPE, "acknowledge"),
                "focus": {"reference": request.reference},
                "basedOn": [{"reference": order.reference}],
                "for": report.data["subject"],
                "authoredOn": work.timestamp(ctx.now),
                "lastModified": work.timestamp(ctx.now),
                "requester": {"reference": f"Organization/{centre}"},
                "owner": {"reference": f"Organization/{facility}"},
                "restriction": {"period": {"end": work.timestamp(deadline)}},
                "input": [
                    work.entry("step", len(told)),
                    work.entry("category", category),
                    *(work.entry("named", one) for one in named),
                ],
                "output": [work.entry("flag", {"reference": flag.reference})],
            },
            ctx.now + _pace(minutes),
        ),
        centre,
    )
    request.sealed = flag.sealed = True  # an answer ends it, no plain write
    for made in (request, flag, task):
        if facility != centre:
            made.grants.append(Grant(order.reference, f"org/{facility}").document())
    return request, task, _say(ctx, report, order, request.reference, text, told, method)


def _people(ctx: Context, order: Item, centre: str, named: Iterable[Document]) -> list[Recipient]:
    """Who was named goes first; then the facility's ladder."""
    ladder = contacts.ladder(ctx, order, centre)
    known = {one.reference: one for one in ladder if one.reference}
    first = [known.get(one.get("reference", "")) or Recipient(one.get("reference"), _named(one), None) for one in named]
    return [*first, *(one for one in ladder if one not in first)]


def _named(reference: Document) -> str:
    return str(reference.get("display") or reference.get("reference") or "?")


def _pace(minutes: int) -> timedelta:
    """Two are tried within the time that the finding's category leaves."""
    return max(_SHORTEST, timedelta(minutes=minutes) / 2)


def _flag(ctx: Context, report: Item, request: str, finding: Document, text: str) -> Document:
    """https://hl7.org/fhir/R4/flag.html: what an EHR shows as a banner, until somebody answers."""
    safety = {"system": "http://terminology.hl7.org/CodeSystem/flag-category", "code": "safety"}
    return {
        "resourceType": "Flag",
        "identifier": [{"system": FLAGS, "value": request}],
        "status": "active",
        "category": [{"coding": [safety]}],
        "code": finding if finding.get("text") else finding | {"text": text},
        "subject": report.data["subject"],
        "period": {"start": work.timestamp(ctx.now)},
        "author": {"reference": f"Organization/{report.stored.owner}"},
    }


def _say(
    ctx: Context, report: Item, order: Item, request: str, text: str, people: list[Recipient], method: str | None, **members: Any
) -> Write:  # fmt: skip
    made = telling.tell(
        ctx,
        "critical-result",
        text,
        [one.document() for one in people],
        [report.reference, order.reference],
        report.stored.owner,
        [order.stored.owner],
        basedOn=[{"reference": request}],
        subject=report.data["subject"],
        priority="stat",
        sender={"reference": _teller(ctx, report)},
        **({"medium": [{"text": method}]} if method else {}),
        **members,
    )
    made.sealed = True
    return made


def _teller(ctx: Context, report: Item) -> str:
    """Who told it: the person at the centre who does, else the centre, for which the server does."""
    person, centre = ctx.principal.practitioner, report.stored.owner
    return f"Practitioner/{person}" if person and ctx.principal.organization == centre else f"Organization/{centre}"


def stepped(ctx: Context, task: Item) -> Write | None:
    """Nobody answered: the next one is told; past the last, the facility's duty and the centre's dispatcher, again and again."""
    request, order = work.item(ctx, task.data["focus"]["reference"]), work.order_of(ctx, _of_the_order(task))
    report = work.item(ctx, request.data["about"][0]["reference"]) if request else None
    if request is None or report is None:
        return None
    step = int(next(iter(work.inputs(task.data, "step")), 1))
    people = _people(ctx, order, report.stored.owner, work.inputs(task.data, "named"))
    dispatcher = Recipient(f"Organization/{report.stored.owner}", "Dispatcher of the reading centre", None)
    told = [people[step]] if step < len(people) else [people[-1], dispatcher]
    _say(ctx, report, order, request.reference, request.data["payload"][0]["contentString"], told, None)
    category = next(iter(work.inputs(task.data, "category")))
    minutes = agreements.between(ctx, order.stored.owner, report.stored.owner).terms.alert_minutes(category)
    end = timing.end_of(task.data)
    late = end is not None and timing.moment_of(end) <= ctx.now
    addressed = [row for one in told if "reference" in (row := one.document(contacts.OF_TASKS))]
    document = task.data | {
        "input": work.with_input(task.data, "step", step + 1),
        "lastModified": work.timestamp(ctx.now),
        "restriction": {"period": task.data["restriction"]["period"]} | ({"recipient": addressed} if addressed else {}),
    }
    if late:
        document["businessStatus"] = work.business_status(_LATE)
    return work.save(ctx, task, timing.timed(document, ctx.now + _pace(minutes)))


def _of_the_order(task: Item) -> Document:
    return {"focus": task.data["basedOn"][0]}


def answered(
    ctx: Context, task: Item, by: Document, at: str, *, read_back: bool, plan: str | None, method: str | None = None
) -> tuple[Write, Write]:  # fmt: skip
    """(the Task, the Communication): a person has it. What is documented: the finding, when it was found, who told it, who
    received it, when, and how."""
    request, order = work.item(ctx, task.data["focus"]["reference"]), work.order_of(ctx, _of_the_order(task))
    assert request is not None
    report = work.item(ctx, request.data["about"][0]["reference"])
    assert report is not None
    notes = [{"text": f"Found {request.data['authoredOn']}."}]
    notes += [{"text": "Read back."}] if read_back else []
    notes += [{"text": f"Plan: {plan}"}] if plan else []
    how = method or next((m["text"] for m in request.data.get("medium", ()) if "text" in m), "electronic")
    said = _say(
        ctx, report, order, request.reference, request.data["payload"][0]["contentString"],
        [Recipient(by.get("reference"), _named(by), None)], how,
        received=at, note=notes,
    )  # fmt: skip
    work.save(ctx, request, request.data | {"status": "completed"})
    for flag in work.outputs(ctx, task.data, "flag"):
        period = flag.data.get("period", {}) | {"end": work.timestamp(ctx.now)}
        work.save(ctx, flag, flag.data | {"status": "inactive", "period": period})
    end = timing.end_of(task.data)
    late = end is not None and timing.moment_of(end) < timing.moment_of(at)
    output = [*task.data.get("output", ()), work.entry("communication", {"reference": said.reference})]
    done = task.data | {
        "status": "completed",
        "output": output,
        "executionPeriod": {"start": task.data["authoredOn"], "end": work.timestamp(ctx.now)},
        "lastModified": work.timestamp(ctx.now),
        "businessStatus": work.business_status(_LATE if late else "acknowledged"),
    }
    return work.save(ctx, task, timing.timed(done, None)), said
