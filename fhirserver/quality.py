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
        *work.based_on(report.data), *(f"Organization/{facility}" for facility in _facilities(ctx, report)),
    ]  # fmt: skip
    for reference in people:
        found = work.item(ctx, reference)
        if found is not None:
            words |= set(_identifying(ctx, found))
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){_stem(word)}\w{{0,4}}(?!\w)", _REMOVED, text, flags=re.IGNORECASE)
    for pattern in (_UID, _DATE, _WRITTEN_DATE, _NUMBER):
        text = pattern.sub(_REMOVED, text)
    return text


def _stem(word: str) -> str:
    """As it is declined: Kowalska, Kowalskiej."""
    return re.escape(word[:-1] if len(word) > 5 and word[-1].casefold() in "aeioy" else word)


_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")
_DATE = re.compile(r"\b\d{1,4}[-./]\d{1,2}[-./]\d{1,4}\b")
_MONTHS = (
    "jan(?:uary)? feb(?:ruary)? mar(?:ch)? apr(?:il)? june? july? aug(?:ust)? sept?(?:ember)? oct(?:ober)? nov(?:ember)? dec(?:ember)? "
    "stycz(?:eń|nia) lut(?:y|ego) mar(?:zec|ca) kwie(?:cień|tnia) maja? czerw(?:iec|ca) lip(?:iec|ca) sierp(?:ień|nia) "
    "wrze(?:sień|śnia) październik(?:a)? listopada? grud(?:zień|nia)"
).replace(" ", "|")
_DAY, _YEAR = r"\d{1,2}(?:st|nd|rd|th|\.)?", r",? \d{4}"
_WRITTEN_DATE = re.compile(  # "2 may be" is no date
    rf"\b(?:{_DAY} (?:{_MONTHS})\b(?:{_YEAR})?|{_DAY} may{_YEAR}|(?:{_MONTHS}|may)(?: {_DAY})?{_YEAR})\b", re.IGNORECASE
)
_NUMBER = re.compile(r"\+?\d{2,}(?:[ -]\d{2,}){2,}|\d{6,}")  # of a telephone, a person, an order


def _facilities(ctx: Context, report: Item) -> Iterable[str]:
    return dict.fromkeys(one.stored.owner for ref in work.based_on(report.data) if (one := work.item(ctx, ref)))


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
            yield from (word for piece in re.split(r"[\s-]+", part or "") for word in _long(piece))
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
    _figure(ctx, report, "discrepancy", category=severity)
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
    about: Document = {"focus": {"reference": report.reference}}
    told = [made(ctx, "feedback", owner, keys, organization, **about, input=outputs)]
    for action in actions:
        asked = [work.entry("category", action)]
        told.append(made(ctx, "feedback", owner, keys, organization, intent="proposal", **about, input=asked))
    for one in told:
        one.witnesses = tuple(office(organization))  # its Provenance and AuditEvents name the reviewer


def counted(ctx: Context, report: Item, score: str) -> None:
    _figure(ctx, report, "review", category=score, met=score not in ARBITRATED)


def _figure(ctx: Context, report: Item, kind: str, **members: Any) -> None:
    """Of the order that it answers: its facility, urgency, and modality."""
    order = work.item(ctx, work.based_on(report.data)[0]) if report.data.get("basedOn") else None
    facility, priority = (
        (order.stored.owner, order.data.get("priority", "routine")) if order else (report.stored.owner, "routine")
    )
    modality = next(iter(_modalities(ctx, report)), None)
    closing.figure(ctx, kind, report.data, facility, priority=priority, modality=modality, took={}, **members)
