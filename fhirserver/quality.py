"""Peer review and discrepancies: who sees what of them, and the text that a reviewer reads blind.

A review is the quality office's and its reviewer's, and stands in no patient's compartment. The case holds which report it is;
the reviewer of a blind one has its text alone, without names, numbers and dates of birth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fhirserver import closing, roster, timing, work
from fhirserver.errors import BusinessRule, Conflict
from fhirserver.messages import Context
from fhirserver.validation import Document
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, narrative

# RADPEER 2016: 1 concur; 2 an understandable miss; 3 should be made most of the time; a/b unlikely/likely significant.
RADPEER = ("1", "2a", "2b", "3a", "3b")
ARBITRATED = frozenset({"2b", "3a", "3b"})
RCR = ("0", "1", "2", "3", "4", "5")
_LABELS = [
    {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"},
    {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HQUALIMP"},
]
_REMOVED = "[…]"


def office(organization: str) -> list[str]:
    """The access keys of the quality office."""
    return [f"role/quality@org/{organization}"]


def personal(organization: str, practitioner: str) -> str:
    """The access key of one person in an organisation."""
    return f"{practitioner.replace('Practitioner/', 'practitioner/', 1)}@org/{organization}"


def made(ctx: Context, kind: str, owner: Document, base: list[str], organization: str, **members: Any) -> Write:
    """A Task of quality: labelled, and read by who is named alone. It is about no patient."""
    return work.make(
        ctx,
        {
            "resourceType": "Task",
            "meta": {"security": _LABELS},
            "status": "requested",
            "intent": "order",
            "priority": "routine",
            "code": coding.concept(coding.TASK_TYPE, kind),
            "authoredOn": work.timestamp(ctx.now),
            "lastModified": work.timestamp(ctx.now),
            "requester": {"reference": f"Organization/{organization}"},
            "owner": owner,
            **members,
        },
        organization,
        base,
    )


def author(ctx: Context, report: Item) -> str | None:
    return roster.practitioner_of(ctx, report.data.get("resultsInterpreter", [{}])[0])


# ---------------------------------------------------------------- cases


def drawn(ctx: Context, report: Item, reviewer: tuple[str, str], *, blind: bool) -> Write:
    """(the reviewer's Practitioner and PractitionerRole) -> their Task, part of a case that the quality office alone sees."""
    organization = report.stored.owner
    person, role = reviewer
    case = made(
        ctx, "review-case", {"reference": f"Organization/{organization}"}, office(organization), organization,
        focus={"reference": report.reference},
    )  # fmt: skip
    members: Document = {"partOf": [{"reference": case.reference}], "input": [work.entry("blind", blind)]}
    if blind:
        members["description"] = scrubbed(ctx, report)
        members["input"] += [work.entry("modality", code) for code in _modalities(ctx, report)]
    else:
        members["focus"] = {"reference": report.reference}
    keys = [*office(organization), personal(organization, person)]
    return made(ctx, "peer-review", {"reference": role}, keys, organization, **members)


def case_of(ctx: Context, review: Item) -> Item:
    """Errors: 409 where the case is gone."""
    found = work.item(ctx, review.data["partOf"][0]["reference"])
    if found is None:
        raise Conflict("The case of this review cannot be found.")
    return found


def report_of(ctx: Context, case: Item) -> Item:
    found = work.item(ctx, case.data["focus"]["reference"])
    if found is None:
        raise Conflict("The report of this review cannot be found.")
    return found


def _modalities(ctx: Context, report: Item) -> list[str]:
    studies = [work.item(ctx, one.get("reference", "")) for one in report.data.get("imagingStudy", ())]
    return sorted(work.modalities(one for one in studies if one))


def scrubbed(ctx: Context, report: Item) -> str:
    """The report's text without what tells whose it is, or whose work: names, numbers, dates. For a reviewer's eyes alone."""
    text = _text(ctx, report)
    words = set()
    people = [
        report.data["subject"].get("reference", ""), author(ctx, report) or "", f"Organization/{report.stored.owner}",
        *(order for order in work.based_on(report.data)),
    ]  # fmt: skip
    for reference in people:
        found = work.item(ctx, reference)
        if found is not None:
            words |= set(_identifying(ctx, found))
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}\w{{0,4}}(?!\w)", _REMOVED, text, flags=re.IGNORECASE)
    text = re.sub(r"\b\d{1,4}[-./]\d{1,2}[-./]\d{1,4}\b", _REMOVED, text)
    return re.sub(r"\b\d{6,}\b", _REMOVED, text)


def _text(ctx: Context, report: Item) -> str:
    """What was answered, in lines; else the conclusion."""
    for reference in work.based_on(report.data):
        rows = work.items(
            ctx, (report.stored.owner,), "QuestionnaireResponse", ("based-on", reference), ("status", "completed")
        )
        for row in sorted(rows, key=lambda one: one.data["authored"], reverse=True):
            if found := list(narrative.lines(row.data)):
                return "\n\n".join(f"{heading}: {told}" for _, heading, told in found)
    return str(report.data.get("conclusion", ""))


def _identifying(ctx: Context, found: Item) -> Iterable[str]:
    """Names and numbers of a resource; those of two letters are words."""
    data = found.data
    for identifier in data.get("identifier", ()):
        yield from _long(identifier.get("value"))
    names = data.get("name", ())
    for name in [{"text": names}] if isinstance(names, str) else names:
        parts = [name.get("family"), name.get("text"), *name.get("given", ())]
        for part in parts:
            yield from _long(part)
            yield from (word for piece in (part or "").split() for word in _long(piece))
    yield from _long(data.get("birthDate"))
    requester = data.get("requester", {})
    yield from _long(requester.get("display"))
    person = work.item(ctx, roster.practitioner_of(ctx, requester) or "") if requester else None
    if person is not None and person.reference != found.reference:
        yield from _identifying(ctx, person)


def _long(text: str | None) -> Iterable[str]:
    return [text] if text and len(text) > 2 else []


# ---------------------------------------------------------------- discrepancies

SEVERITIES = ("minor", "moderate", "major", "critical")
_WITHIN = {"major": 24, "critical": 4}  # hours until somebody has looked


def discrepancy(
    ctx: Context, report: Item, source: str, description: str, severity: str, evidence: list[Document]
) -> Write:  # fmt: skip
    """A Task for the author and the quality office; who reported it sees what comes of it."""
    organization, person = report.stored.owner, author(ctx, report)
    if person is None:
        raise BusinessRule("The report names no reader.", "DiagnosticReport.resultsInterpreter")
    keys = [*office(organization), personal(organization, person)]
    members: Document = {
        "focus": {"reference": report.reference},
        "description": description,
        "input": [
            work.entry("category", source),
            work.entry("category", severity),
            *(work.entry("evidence", one) for one in evidence),
        ],
        "priority": {"critical": "stat", "major": "asap", "moderate": "urgent"}.get(severity, "routine"),
    }
    if severity in _WITHIN:
        end = timing.at(int(ctx.now.timestamp() * 1000) + _WITHIN[severity] * 3_600_000)
        members["restriction"] = {"period": {"end": work.timestamp(end)}}
    owner = report.data["resultsInterpreter"][0]
    task = made(ctx, "discrepancy-review", owner, keys, organization, **members)
    if ctx.principal.organization != organization:
        task.grants.append(Grant(work.based_on(report.data)[0], f"org/{ctx.principal.organization}").document())
    return task


def closed(ctx: Context, task: Item, outputs: list[Document], **members: Any) -> Write:
    done = {
        "status": "completed",
        "output": [*task.data.get("output", ()), *outputs],
        "executionPeriod": {"start": task.data["authoredOn"], "end": work.timestamp(ctx.now)},
        "lastModified": work.timestamp(ctx.now),
    }
    return work.save(ctx, task, timing.timed(task.data | done | members, None))


def feedback(ctx: Context, report: Item, outputs: list[Document], actions: Iterable[str] = ()) -> None:
    """The author is told the score and why, never by whom; each action is a Task of its own."""
    organization, person = report.stored.owner, author(ctx, report)
    if person is None:
        return
    owner, keys = report.data["resultsInterpreter"][0], [*office(organization), personal(organization, person)]
    made(ctx, "feedback", owner, keys, organization, focus={"reference": report.reference}, input=outputs)
    for action in actions:
        asked = {"focus": {"reference": report.reference}, "input": [work.entry("category", action)]}
        made(ctx, "feedback", owner, keys, organization, intent="proposal", **asked)


def counted(ctx: Context, report: Item, score: str) -> None:
    order = work.item(ctx, work.based_on(report.data)[0]) if report.data.get("basedOn") else None
    facility = order.stored.owner if order else report.stored.owner
    closing.figure(ctx, "review", report.data, facility, category=score, met=score not in ARBITRATED, took={})
