"""What anybody may try in a reading network, sensible or not: each act takes who does it and two numbers to choose by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from operations_conftest import REASON, parameters
from world import ACTORS, PEOPLE, SYSTEMS, Answer, Document, Version, World, references

from fhirserver.workflow import coding, states

PRIORITIES = ("routine", "urgent", "asap", "stat")
ROLES = tuple(f"PractitionerRole/{row}" for row in (
    "centre-anna-hospital", "centre-bela-hospital", "centre-hana-hospital", "centre-carl-hospital", "centre-dora-hospital", "centre-fred-hospital",
    "centre-anna-office", "office-greta-office", "branch-zoe-hospital",
))  # fmt: skip
Act = Callable[[World, str, int, int], "Answer | None"]


def _tasks(w: World, a: int, *kinds: str) -> Version | None:
    """Mostly one of these kinds that is open; now and then any Task at all."""
    rows = w.tasks(*kinds, opened=True) if a % 17 else []
    rows = rows or w.tasks(*kinds) or w.of("Task")
    return rows[(a // 17) % len(rows)] if rows else None


def _reports(w: World, a: int) -> Version | None:
    rows = w.of("DiagnosticReport")
    return rows[a % len(rows)] if rows else None


def _coded(name: str, type_: str, value: Any) -> Document:
    return {"name": name, f"value{type_}": value}


def right(w: World, task: Version) -> str:
    """Whose turn it is."""
    owner = task.data.get("owner", {}).get("reference", "")
    role = w.docs.get(owner)
    person = role.data["practitioner"]["reference"] if role and "practitioner" in role.data else owner
    if person in PEOPLE:
        return PEOPLE[person]
    organization = owner.removeprefix("Organization/")
    if coding.codes(task.data.get("code"), coding.TASK_TYPE) & states.ATTEMPTS:
        return _reader(w, task, organization)
    return SYSTEMS.get(organization, "centre")


def _reader(w: World, task: Version, organization: str) -> str:
    if organization != "centre":
        return {"office": "greta", "branch": "zoe"}.get(organization, "anna")
    inputs = {code for row in task.data.get("input", ()) for code in (row.get("valueCode"),) if code}
    if "preliminary" in inputs and "final" not in inputs:
        return "fred"
    return ("anna", "bela", "hana")[w.steps % 3]


def _on(path: str, *kinds: str, **choices: Callable[[World, int], Any]) -> Act:
    """An operation on a Task of these kinds; an input that is None is left out."""

    def act(w: World, who: str, a: int, b: int) -> Answer | None:
        task = _tasks(w, a, *kinds)
        if task is None:
            return None
        given = {name: value for name, choose in choices.items() if (value := choose(w, b)) is not None}
        match = {"if_match": f'W/"{task.number - b % 2}"'} if b % 7 == 0 else {}
        who = right(w, task) if who == "right" else who
        return w.ask(who, "POST", f"{task.reference}/${path}", parameters(**given), **match)

    return act


def _of_report(path: str, body: Callable[[World, Version, int], Document]) -> Act:
    def act(w: World, who: str, a: int, b: int) -> Answer | None:
        report = _reports(w, a)
        if report is None:
            return None
        who = reader_of(w, report) if who == "right" else who
        return w.ask(who, "POST", f"{report.reference}/${path}", body(w, report, b))

    return act


def reader_of(w: World, report: Version) -> str:
    role = w.docs.get(report.data.get("resultsInterpreter", [{}])[0].get("reference", ""))
    return PEOPLE.get(role.data["practitioner"]["reference"], "anna") if role else "anna"


def facility_of(w: World, about: Version) -> str:
    """The system of the facility whose order it is."""
    for reference in references(about.data.get("basedOn", ())):
        if reference in w.docs:
            return SYSTEMS[w.docs[reference].owner]
    return "hospital"


def answers(b: int) -> Document:
    rows = [{"linkId": name, "answer": [{"valueString": f"{name} {b}"}]} for name in ("findings", "impression")]
    return {"resourceType": "QuestionnaireResponse", "status": "in-progress", "item": rows}


def _some(*values: Any) -> Callable[[World, int], Any]:
    return lambda _, b: values[b % len(values)]


def _role(w: World, b: int) -> Document:
    return {"reference": ROLES[b % len(ROLES)]}


# ---------------------------------------------------------------- orders


def dispatch(w: World, who: str, a: int, b: int) -> Answer | None:
    ordered = w.orders[a % len(w.orders)]
    who = ordered.facility if who == "right" else who
    place = "on-site" if ordered.facility == "office" and b % 3 else ("central", "central", "on-site", "practitioner")[b % 4]
    inputs: Document = {"destination": place, "expectImages": b % 5 > 0}
    inputs |= {"target": _role(w, b // 4)} if place == "practitioner" else {}
    if kind := ("", "", "double", "preliminary", "second-opinion")[b % 5]:
        inputs["readType"] = kind
    return w.ask(who, "POST", f"{ordered.reference}/$dispatch", parameters(**inputs))


def dispatch_by_task(w: World, who: str, a: int, b: int) -> Answer | None:
    """POST Task, as an EHR does; with times and states that are not the client's to say."""
    ordered = w.orders[a % len(w.orders)]
    owner = ("centre", "centre", "branch", "office")[b % 4]
    task = {
        "resourceType": "Task", "status": ("requested", "accepted", "completed")[b % 3], "intent": "order",
        "code": {"coding": [{"system": coding.TASK_CODE, "code": "fulfill"}]},
        "focus": {"reference": ordered.reference}, "owner": {"reference": f"Organization/{owner}"},
        "authoredOn": "1999-01-01T00:00:00Z", "lastModified": "2050-01-01T00:00:00Z",
        "executionPeriod": {"start": "1999-01-01T00:00:00Z"},
        "extension": [{"url": coding.TIMER, "valueInstant": "2050-01-01T00:00:00Z"}],
        "input": [{"type": coding.concept(coding.TASK_TYPE, "clock-start"), "valueDateTime": "1999-01-01T00:00:00Z"}],
    }  # fmt: skip
    return w.ask(ordered.facility if who == "right" else who, "POST", "Task", task)


def change_order(w: World, who: str, a: int, b: int) -> Answer | None:
    """PUT ServiceRequest: another status, urgency or question."""
    ordered = w.orders[a % len(w.orders)]
    data = w.docs[ordered.reference].data
    if w.docs[ordered.reference].deleted:
        return None
    if b % 3 == 0:
        statuses = ("active", "on-hold", "active", "revoked", "completed", "entered-in-error", "draft")
        data = data | {"status": statuses[b // 3 % len(statuses)]}
    elif b % 3 == 1:
        data = data | {"priority": PRIORITIES[b // 3 % 4]}
    else:
        data = data | {"reasonCode": [{"text": f"question {b}"}]}
    return w.ask(ordered.facility if who == "right" else who, "PUT", ordered.reference, data)


def prioritize(w: World, who: str, a: int, b: int) -> Answer | None:
    ordered = w.orders[a % len(w.orders)]
    inputs: Document = {"priority": PRIORITIES[b % 4], "reason": REASON}
    inputs |= {"scope": ("order", "task")[b // 4 % 2]} if b % 3 else {}
    who = ("centre" if inputs.get("scope") == "task" else ordered.facility) if who == "right" else who
    return w.ask(who, "POST", f"{ordered.reference}/$prioritize", parameters(**inputs))


# ---------------------------------------------------------------- plain writes

_SMUGGLED: tuple[Document, ...] = (
    {"owner": {"reference": "PractitionerRole/centre-bela-hospital"}},
    {"priority": "routine"},
    {"restriction": {"period": {"end": "2050-01-01T00:00:00Z"}}},
    {"input": []},
    {"output": [{"type": coding.concept(coding.TASK_TYPE, "report"), "valueReference": {"display": "a report"}}]},
    {"code": {"text": "none"}},
)
_STATUSES = {
    "Task": tuple(sorted(status for status in states.TASK if status)),
    "DiagnosticReport": tuple(sorted(status for status in states.DIAGNOSTIC_REPORT if status)),
    "ServiceRequest": tuple(sorted(status for status in states.SERVICE_REQUEST if status)),
    "Communication": ("completed", "in-progress", "entered-in-error", "not-done"),
    "CommunicationRequest": ("completed", "revoked", "entered-in-error", "active", "on-hold"),
    "Flag": ("inactive", "entered-in-error", "active"),
    "QuestionnaireResponse": ("completed", "in-progress", "stopped", "amended"),
}


def put_status(w: World, who: str, a: int, b: int) -> Answer | None:
    """PUT of anything in the network with any status, with times of its own."""
    type_ = ("Task", "Task", "Task", "Task", *_STATUSES)[a % (4 + len(_STATUSES))]
    rows = w.of(type_)
    if not rows:
        return None
    found = rows[a // 11 % len(rows)]
    statuses = _STATUSES[type_]
    data = found.data | {"status": statuses[b % len(statuses)]}
    if type_ == "Task":
        data |= {"lastModified": "2050-01-01T00:00:00Z", "executionPeriod": {"end": "1999-01-01T00:00:00Z"}}
        data |= {"statusReason": {"text": "because"}} if b % 3 else {}
        data |= _SMUGGLED[b // 3 % len(_SMUGGLED)] if b % 5 == 0 else {}
    if who == "right":
        who = right(w, found) if type_ == "Task" else SYSTEMS.get(found.owner, "centre")
    return w.ask(who, "PUT", found.reference, data)


def patch_status(w: World, who: str, a: int, b: int) -> Answer | None:
    type_ = ("Task", "Task", "ServiceRequest", "DiagnosticReport", "Flag", "CommunicationRequest")[a % 6]
    rows = w.of(type_)
    if not rows:
        return None
    found = rows[a // 6 % len(rows)]
    statuses = _STATUSES[type_]
    change = [{"op": "replace", "path": "/status", "value": statuses[b % len(statuses)]}]
    if type_ == "Task" and b % 2:
        change.append({"op": "add", "path": "/statusReason", "value": {"text": "because"}})
    if who == "right":
        who = right(w, found) if type_ == "Task" else SYSTEMS.get(found.owner, "centre")
    return w.ask(who, "PATCH", found.reference, change, content_type="application/json-patch+json")


def delete(w: World, who: str, a: int, b: int) -> Answer | None:
    rows = w.of("Task", "ServiceRequest", "DiagnosticReport", "CommunicationRequest", "Communication", "Flag", "ImagingStudy")
    if not rows:
        return None
    found = rows[a % len(rows)]
    return w.ask(SYSTEMS.get(found.owner, "centre") if who == "right" else who, "DELETE", found.reference)


def post_report(w: World, who: str, a: int, b: int) -> Answer | None:
    """Imported as it is; or as though it were of the network."""
    ordered = w.orders[a % len(w.orders)]
    statuses = _STATUSES["DiagnosticReport"]
    report = {
        "resourceType": "DiagnosticReport", "status": statuses[b % len(statuses)], "code": {"text": "CT"},
        "basedOn": [{"reference": ordered.reference}], "subject": {"reference": ordered.subject},
        **({"identifier": [{"system": "urn:fhirserver:report", "value": "mine"}]} if b % 3 == 0 else {}),
    }  # fmt: skip
    return w.ask(ordered.facility if who == "right" else who, "POST", "DiagnosticReport", report)


def say(w: World, who: str, a: int, b: int) -> Answer | None:
    """POST Communication: the answer to a question, or to an alert, which it does not end."""
    rows = w.of("CommunicationRequest")
    if not rows:
        return None
    question = rows[a % len(rows)]
    said = {
        "resourceType": "Communication", "status": "completed", "basedOn": [{"reference": question.reference}],
        "payload": [{"contentString": f"answer {b}"}],
    }  # fmt: skip
    return w.ask(facility_of(w, question) if who == "right" else who, "POST", "Communication", said)


def change_privilege(w: World, who: str, a: int, b: int) -> Answer | None:
    """An administrator ends a reader's privilege, or gives it back."""
    role = w.docs[ROLES[a % len(ROLES)]]
    data = {name: value for name, value in role.data.items() if name != "period"}
    data = [data | {"active": False}, data | {"period": {"end": "2026-01-01"}}, data | {"active": True}][b % 3]
    return w.ask(SYSTEMS[role.owner] if who == "right" else who, "PUT", role.reference, data)


# ---------------------------------------------------------------- reports


def _signing(w: World, report: Version, b: int) -> Document:
    inputs: Document = {"attest": b % 9 != 0}
    inputs |= {"response": answers(b)} if b % 4 else {}
    inputs |= {"alertCategory": ("acr-1", "acr-2")[b % 2]} if b % 6 == 0 else {}
    return parameters(**inputs)


def _notice(w: World, report: Version, b: int) -> Document:
    inputs: Document = {"category": ("acr-1", "acr-2", "acr-3", "rcr-critical")[b % 4], "finding": {"text": f"finding {b % 7}"}}
    if b % 5 == 0:
        told = (
            {"reference": f"Organization/{w.docs[references(report.data['basedOn'])[0]].owner}"}
            if report.data.get("basedOn")
            else {}
        )
        inputs |= {"method": ("phone", "sms")[b % 2], "communicatedTo": told, "readBack": b % 3 > 0} if told else {}
    return parameters(**inputs)


def _correction(w: World, report: Version, b: int) -> Document:
    return parameters(
        kind=("corrected", "amended")[b % 2],
        significance=("none", "minor", "significant")[b % 3],
        response=answers(b),
        reason=REASON,
    )


def _retraction(w: World, report: Version, b: int) -> Document:
    second = ("Practitioner/centre-bela", "Practitioner/centre-quinn", "Practitioner/office-greta", "Practitioner/branch-zoe")[
        b % 4
    ]
    return parameters(reason=REASON, second={"reference": second})


def receive(w: World, who: str, a: int, b: int) -> Answer | None:
    report = _reports(w, a)
    if report is None:
        return None
    facility = facility_of(w, report)
    body = parameters(by={"reference": f"Organization/{ACTORS[facility][0]}"})
    return w.ask(facility if who == "right" else who, "POST", f"{report.reference}/$acknowledge-receipt", body)


def acknowledge(w: World, who: str, a: int, b: int) -> Answer | None:
    task = _tasks(w, a, "acknowledge")
    if task is None:
        return None
    inputs = parameters(by={"reference": "Organization/hospital"}, readBack=bool(b % 2), plan="To theatre.")
    if b % 5 == 0:
        inputs["parameter"].append(_coded("at", "DateTime", ("1999-01-01T00:00:00Z", "2050-01-01T00:00:00Z")[b % 2]))
    return w.ask(right(w, task) if who == "right" else who, "POST", f"{task.reference}/$acknowledge", inputs)


def sample(w: World, who: str, a: int, b: int) -> Answer | None:
    inputs = parameters(strategy=("random", "risk", "stratified", "new-reader")[b % 4], count=1 + a % 3, blind=bool(b % 3))
    inputs["parameter"].append(_coded("period", "Period", {"start": w.start}))
    return w.ask("quinn" if who == "right" else who, "POST", "DiagnosticReport/$sample-for-review", inputs)


def submit_review(w: World, who: str, a: int, b: int) -> Answer | None:
    task = _tasks(w, a, "peer-review")
    if task is None:
        return None
    inputs = parameters(scale="radpeer", comment="missed")
    inputs["parameter"].append(_coded("score", "Coding", {"code": ("1", "2a", "2b", "3a", "3b")[b % 5]}))
    return w.ask(right(w, task) if who == "right" else who, "POST", f"{task.reference}/$submit-review", inputs)


def adjudicate(w: World, who: str, a: int, b: int) -> Answer | None:
    task = _tasks(w, a, "adjudicate")
    if task is None:
        return None
    inputs = parameters(decision=("uphold", "dismiss")[b % 2], action=[("learning", "correct", "none")[b % 3]])
    return w.ask("quinn" if who == "right" else who, "POST", f"{task.reference}/$adjudicate", inputs)


def forward(w: World, who: str, a: int, b: int) -> Answer | None:
    task = _tasks(w, a, "coordinate")
    if task is None:
        return None
    inputs = parameters(
        organization={"reference": f"Organization/{('branch', 'branch', 'office', 'centre')[b % 4]}"}, reason=REASON
    )
    return w.ask(right(w, task) if who == "right" else who, "POST", f"{task.reference}/$forward", inputs)


def start_report(w: World, who: str, a: int, b: int) -> Answer | None:
    """Sometimes one report for two orders."""
    task = _tasks(w, a, *states.ATTEMPTS)
    if task is None:
        return None
    also = [
        v
        for v in w.tasks(states.READ, opened=True)
        if v.reference != task.reference and v.data.get("for") == task.data.get("for")
    ]
    inputs = parameters(also={"reference": also[b % len(also)].reference}) if also and b % 3 else parameters()
    return w.ask(right(w, task) if who == "right" else who, "POST", f"{task.reference}/$start-report", inputs)


def auto_assign(w: World, who: str, a: int, b: int) -> Answer | None:
    inputs = parameters(max=1 + a % 5, dryRun=b % 4 == 0)
    return w.ask(
        ("centre", "centre", "office", "branch")[b % 4] if who == "right" else who, "POST", "Task/$auto-assign", inputs
    )


_READINGS = tuple(states.ATTEMPTS)

ACTS: dict[str, Act] = {
    "dispatch": dispatch,
    "dispatch-by-task": dispatch_by_task,
    "change-order": change_order,
    "prioritize": prioritize,
    "assign": _on("assign", "coordinate", mode=_some("auto", "manual", "manual"), owner=lambda w, b: _role(w, b // 3) if b % 3 else None,
                  force=_some(None, True, False), requireAcceptance=_some(None, None, True, False), override=_some(None, True), overrideReason=_some(None, "none else")),
    "auto-assign": auto_assign,
    "claim": _on("claim", *_READINGS, start=_some(True, False, True), leaseMinutes=_some(None, 5, 60)),
    "release": _on("release", *_READINGS, reason=_some(REASON), keepDraft=_some(None, True)),
    "respond": _on("respond", "coordinate", *_READINGS, response=_some("accept", "accept", "decline"), reason=_some(REASON, None)),
    "forward": forward,
    "request-information": _on("request-information", "coordinate", *_READINGS, question=_some("since when?"), blocking=_some(True, False)),
    "say": say,
    "escalate": _on("escalate", "coordinate", level=lambda _, b: 1 + b % 4, reason=_some(REASON), action=_some(None, "raise-priority")),
    "start-report": start_report,
    "publish-preliminary": _of_report("publish-preliminary", lambda w, r, b: parameters(response=answers(b))),
    "sign": _of_report("sign", _signing),
    "addend": _of_report("addend", lambda w, r, b: parameters(text=f"more {b}", reason=REASON)),
    "correct": _of_report("correct", _correction),
    "retract": _of_report("retract", _retraction),
    "acknowledge-receipt": receive,
    "request-second-read": _on("request-second-read", "coordinate", *_READINGS, kind=_some("independent", "over-read", "arbitration"),
                               recipient=lambda w, b: _role(w, b // 2) if b % 2 else None),
    "submit-second-read": _on("submit-second-read", states.SECOND_READ, states.ARBITRATION, response=lambda _, b: answers(b), agreement=_some(None, False, True)),
    "consult": _on("consult", *_READINGS, question=_some("what is it?"), recipient=_role, blocking=_some(True, None), shareDraft=_some(None, True)),
    "answer-consult": _on("answer-consult", "consult", opinion=_some("nothing"), attribution=_some(None, True)),
    "notify-critical": _of_report("notify-critical", _notice),
    "acknowledge": acknowledge,
    "sample-for-review": sample,
    "submit-review": submit_review,
    "adjudicate": adjudicate,
    "report-discrepancy": _of_report("report-discrepancy", lambda w, r, b: parameters(source=("clinician", "pathology")[b % 2], description="wrong side", severity=("minor", "major")[b % 2])),
    "resolve-discrepancy": _on("resolve-discrepancy", "discrepancy-review", outcome=_some("confirmed", "not-confirmed"), comment=_some("seen")),
    "put-status": put_status,
    "patch-status": patch_status,
    "delete": delete,
    "post-report": post_report,
    "change-privilege": change_privilege,
}  # fmt: skip


# ---------------------------------------------------------------- the way that an order goes


_AFTERWARDS = (
    "acknowledge-receipt", "correct", "addend", "report-discrepancy", "sample-for-review", "submit-review", "adjudicate",
    "resolve-discrepancy", "acknowledge", "retract", "notify-critical",
)  # fmt: skip
_MEANWHILE = (
    "request-second-read",
    "consult",
    "request-information",
    "notify-critical",
    "say",
    "answer-consult",
    "acknowledge",
)


def proceed(w: World, a: int, b: int) -> Answer | None:
    """What would come next for an order, with a detour now and then: so that the other acts meet it at every stage."""
    ordered = w.orders[a % len(w.orders)]
    mine = [t for t in w.tasks("coordinate", opened=True) if t.data["focus"]["reference"] == ordered.reference]
    if not mine:
        reports = [r for r in w.of("DiagnosticReport") if ordered.reference in references(r.data.get("basedOn", ()))]
        if reports:
            return ACTS[_AFTERWARDS[b % len(_AFTERWARDS)]](w, "right", _at(w, reports[-1]), b // 11)
        return dispatch(w, "right", a, b if b % 5 else b + 1)
    if not ordered.sent:
        w.send(ordered)
        return None
    t0 = mine[-1]
    if coding.business_status(t0.data) == states.AWAITING_IMAGES:
        w.passes(15)
        return None
    attempts = [t for t in w.tasks(*states.ATTEMPTS, opened=True) if t0.reference in references(t.data["partOf"])]
    if attempts and b % 4 == 3:
        return ACTS[_MEANWHILE[b // 4 % len(_MEANWHILE)]](w, "right", 17 * b + 1, b // 3)
    if t0.data["owner"]["reference"] == "Organization/centre" and b % 13 == 0:
        passed = parameters(organization={"reference": "Organization/branch"}, reason=REASON)
        return w.ask("centre", "POST", f"{t0.reference}/$forward", passed)
    if not attempts or b % 17 == 0:
        inputs = parameters(response="accept") if b % 2 and t0.status == "requested" else parameters(mode="auto")
        path = "respond" if b % 2 and t0.status == "requested" else "assign"
        return w.ask(right(w, t0), "POST", f"{t0.reference}/${path}", inputs)
    return _proceed(w, attempts[b % len(attempts)], b)


Steps = Iterator[Callable[[], "Answer | None"]]


def _asked(w: World, who: str, on: str, operation: str, **inputs: Any) -> Callable[[], Answer]:
    return lambda: w.ask(who, "POST", f"{on}/${operation}", parameters(**inputs))


def _dispatched(w: World) -> Steps:
    """The one order that there is, with its images."""
    ordered = w.orders[-1]
    yield lambda: w.send(ordered)
    yield lambda: w.passes(15)
    yield _asked(w, ordered.facility, ordered.reference, "dispatch", destination="central")


def _being_read(w: World) -> Steps:
    """Until Anna reads it."""
    yield from _dispatched(w)
    [t0] = w.tasks("coordinate", opened=True)
    yield _asked(w, "centre", t0.reference, "assign", mode="manual", owner={"reference": ROLES[0]})
    yield _asked(w, "anna", w.tasks(states.READ, opened=True)[0].reference, "claim", start=True)


def passed_on(w: World, b: int) -> Steps:
    yield from _dispatched(w)
    [t0] = w.tasks("coordinate", opened=True)
    branch = {"reference": "Organization/branch"}
    yield _asked(w, "centre", t0.reference, "forward", organization=branch, reason=REASON)


def read_twice(w: World, b: int) -> Steps:
    """The facility is asked a question, and somebody for advice; then until the second reader has submitted: too long a way for chance alone."""
    yield from _being_read(w)
    kind, bela = ("independent", "over-read")[b % 2], {"reference": ROLES[1]}
    [first] = w.tasks(states.READ)
    yield _asked(w, "anna", first.reference, "request-information", question="since when?", blocking=False)
    yield _asked(w, "anna", first.reference, "consult", question="what is it?", recipient=bela)
    yield _asked(w, "bela", w.tasks("consult")[0].reference, "answer-consult", opinion="nothing")
    yield _asked(w, "anna", first.reference, "request-second-read", kind=kind, recipient=bela)
    [second] = w.tasks(states.SECOND_READ, opened=True)
    yield _asked(w, "bela", second.reference, "claim", start=True)
    yield _asked(w, "bela", second.reference, "start-report")
    yield _asked(w, "bela", second.reference, "submit-second-read", response=answers(b), agreement=b % 3 > 0)


def signed(w: World, b: int) -> Steps:
    """Until it is signed, and somebody is told of a finding, who does not answer yet."""
    yield from _being_read(w)
    yield _asked(w, "anna", w.tasks(states.READ)[0].reference, "start-report")
    [report] = w.of("DiagnosticReport")
    finding = {"text": f"finding {b % 7}"}
    yield _asked(w, "anna", report.reference, "notify-critical", category=("acr-1", "acr-2")[b % 2], finding=finding)
    yield _asked(w, "anna", report.reference, "sign", attest=True, response=answers(b))


def reviewed(w: World, b: int) -> Steps:
    """Until the alert is answered, and the report found wrong by the quality office, corrected and taken back."""
    yield from signed(w, b)
    [report], hospital = w.of("DiagnosticReport"), {"reference": "Organization/hospital"}
    [alert] = w.tasks("acknowledge", opened=True)
    yield _asked(w, "hospital", alert.reference, "acknowledge", by=hospital, readBack=True, plan="To theatre.")
    period = {"start": w.start}
    yield _asked(w, "quinn", "DiagnosticReport", "sample-for-review", strategy="random", count=1, period=period)
    [review] = w.tasks("peer-review", opened=True)
    score = {"system": "urn:fhirserver:CodeSystem:radpeer-score", "code": "3b"}
    yield _asked(w, right(w, review), review.reference, "submit-review", scale="radpeer", score=score, comment="missed")
    yield _asked(w, "quinn", w.tasks("adjudicate", opened=True)[0].reference, "adjudicate", decision="uphold")
    said = {"kind": "corrected", "significance": "minor", "response": answers(b + 1), "reason": REASON}
    yield _asked(w, "anna", report.reference, "correct", **said)
    if b % 2:
        second = {"reference": "Practitioner/centre-bela"}
        yield _asked(w, "anna", report.reference, "retract", reason=REASON, second=second)


def straight(w: World, b: int) -> Steps:
    """All is up to chance."""
    yield from ()


def _at(w: World, report: Version) -> int:
    """Where it stands among the reports; for an act on something else, any number."""
    return w.of("DiagnosticReport").index(report)


def _proceed(w: World, attempt: Version, b: int) -> Answer | None:
    who = right(w, attempt)
    if attempt.status != "in-progress":
        return w.ask(who, "POST", f"{attempt.reference}/$claim", parameters(start=True))
    rows = [
        (next(iter(coding.codes(o["type"]))), o.get("valueReference", {}).get("reference"))
        for o in attempt.data.get("output", ())
    ]
    outputs = dict(rows)
    if "draft" not in outputs:
        return w.ask(who, "POST", f"{attempt.reference}/$start-report", parameters())
    if "report" not in outputs:
        return w.ask(who, "POST", f"{attempt.reference}/$submit-second-read", parameters(response=answers(b)))
    if who == "fred" or (b % 4 == 0 and w.docs[outputs["report"]].status == "registered"):
        body = parameters(response=answers(b))
        return w.ask(who, "POST", f"{outputs['report']}/$publish-preliminary", body)
    return w.ask(who, "POST", f"{outputs['report']}/$sign", parameters(attest=True, response=answers(b)))
