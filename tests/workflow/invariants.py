"""The invariants of the reading network, checked on the stored documents and on nothing that the server says of itself.

I1 to I10 are those of the state table. Each function takes a ``Step`` and raises AssertionError, with the name of the
invariant in its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from world import PEOPLE, Document, Step, Version, references

from fhirserver.moments import span
from fhirserver.workflow import coding, states

TABLES = states.TABLES
OPEN, PUBLISHED = states.OPEN_TASK, states.PUBLISHED
SHOWN = frozenset({*PUBLISHED, "preliminary"})
READING = ("accepted", "in-progress")
OURS = "urn:fhirserver:report"


def check(step: Step) -> None:
    """After each step: what it wrote, then how all stands."""
    _walks(step)
    _proven(step)
    _server_clock(step)
    _eligible(step)
    _signed(step)
    _answered(step)
    net = Net(step.after)
    net.one_attempt_of_a_kind()
    net.nothing_open_below_what_is_closed()
    net.completed_with_a_report()
    net.orders_follow()
    net.nothing_waits_unseen()
    net.reports_have_their_reading()
    net.alerts_stay_until_answered()
    net.clocks_stand_for_a_reason()


# ---------------------------------------------------------------- what one step wrote


def _walks(step: Step) -> None:
    """I4, I9: every history walks only what the tables allow, one version after the other."""
    known = dict(step.before)
    for version in step.versions:
        former = known.get(version.reference)
        assert version.number == (former.number if former else 0) + 1, f"I7: a version is missing: {version.reference}"
        known[version.reference] = version
        if version.type not in TABLES or version.deleted:
            continue
        old = former.status if former and not former.deleted else None
        assert states.allowed(version.type, old, version.status), f"I4: {version.type} from {old} to {version.status}"
        if version.type == "Task" and former:
            for name in ("code", "focus", "for", "partOf", "requester", "groupIdentifier", "authoredOn"):
                assert former.data.get(name) == version.data.get(name), f"Task.{name} changed"


def _proven(step: Step) -> None:
    """I7: each version has its Provenance and its line of the audit trail in its own transaction."""
    written = Counter(f"{v.reference}/_history/{v.number}" for v in step.versions if v.type not in ("Provenance", "AuditEvent"))
    stored = [target for v in step.versions if v.type == "Provenance" for target in references(v.data["target"])]
    said = [target for line in step.lines for targets in line.made.values() for target in targets]
    assert set(written) == {*stored, *said}, "I7: what was written is not what Provenance tells"
    told = {(line.when, reference) for line in step.lines for reference, *_ in line.touched}
    touched = {reference for _, reference in told}
    assert {v.reference for v in step.versions if v.type not in ("Provenance", "AuditEvent")} <= touched, "I7: no audit"
    assert len({v.ts for v in step.versions}) <= len(step.lines), "I7: a transaction without its line"


def _server_clock(step: Step) -> None:
    """I8: every time that the workflow rests on is the server's own, of the moment of the write."""
    known = dict(step.before)
    for version in step.versions:
        former, data, second = known.get(version.reference), version.data, version.ts // 1000
        known[version.reference] = version
        if version.deleted:
            continue
        assert _seconds(data["meta"]["lastUpdated"]) == second, "I8: meta.lastUpdated"
        if (
            version.type == "DiagnosticReport"
            and _ours(version)
            and (not former or former.data.get("issued") != data.get("issued"))
        ):
            assert "issued" not in data or _seconds(data["issued"]) == second, "I8: issued"
        if version.type != "Task" or not _kinds(data):
            continue
        assert "lastModified" not in data or _seconds(data["lastModified"]) <= second, "I8: lastModified"
        if former is None:
            assert _seconds(data["authoredOn"]) == second, "I8: authoredOn"
        elif former.status != version.status:
            assert _seconds(data["lastModified"]) == second, "I8: lastModified"
        period, old = data.get("executionPeriod", {}), former.data.get("executionPeriod", {}) if former else {}
        for end in ("start", "end"):
            if end in period and period.get(end) != old.get(end):
                created = _seconds(data["authoredOn"])
                assert created <= _seconds(period[end]) <= second, f"I8: executionPeriod.{end}"
        for started in _inputs(data, "clock-start"):
            was = _inputs(former.data, "clock-start") if former else []
            assert started in was or _seconds(started) == second or "partOf" in data, "I8: the clock"


def _eligible(step: Step) -> None:
    """I2: who gets a reading, starts it or signs it passes every hard rule at that moment."""
    known = dict(step.before)
    for version in step.versions:
        former, known[version.reference] = known.get(version.reference), version
        if version.type != "Task" or version.deleted or not _attempt(version.data):
            continue
        if version.status in READING and (former is None or former.status not in READING or _owner(former) != _owner(version)):
            person = _person(known, _owner(version))
            reasons = list(barred(known, version, person))
            assert not reasons, f"I2: {person} has a reading and {reasons}"


def barred(known: dict[str, Version], task: Version, person: str | None) -> Iterator[str]:
    """The hard rules that somebody does not pass, of the documents alone."""
    reader = known.get(person or "")
    if reader is None:
        yield "is nobody"
        return
    now = task.ts
    if not reader.data.get("active", True) or not any(_within(q, now) for q in reader.data.get("qualification", ())):
        yield "has no licence"
    facility = next(iter(_inputs(task.data, "facility")))["reference"]
    kind = next(iter(_inputs(task.data, "read-type")), "final")
    wanted = {"double": "final", "second-opinion": "final"}.get(kind, kind)
    images = set(_inputs(task.data, "modality"))
    rows = [v for v in known.values() if v.type == "PractitionerRole" and not v.deleted and _holds(v.data, person, facility)]
    rows = [v for v in rows if v.data.get("active", True) and _within(v.data, now)]
    fitting = [v for v in rows if any(wanted in coding.codes(c) for c in v.data.get("code", ()))]
    if not any(_modalities(v.data) >= images or not _modalities(v.data) for v in fitting):
        yield f"has no privilege ({wanted}, {sorted(images)})"
    if not _is(task.data, states.READ):
        others = [v for v in known.values() if v.type == "Task" and v.reference != task.reference and _same_parent(v, task)]
        had = {_person(known, _owner(v)) for v in others if v.status in (*READING, "on-hold", "completed")}
        if person in had:
            yield "has read it already"


def _signed(step: Step) -> None:
    """I3: a report leaves registered and preliminary by its reader's own act alone, on the reading that they have open."""
    for version in step.versions:
        former = step.before.get(version.reference)
        if version.type != "DiagnosticReport" or not _ours(version) or former is None or former.status == version.status:
            continue
        acts = {"final": "sign", "preliminary": "publish-preliminary", "appended": "addend", "entered-in-error": "retract"}
        wanted = acts.get(version.status)
        if version.status in ("final", "preliminary"):
            assert step.act == wanted, f"I3: {version.status} by {step.act}"
            own = [
                t
                for t in step.before.values()
                if t.type == "Task" and _attempt(t.data) and version.reference in _outputs(t.data, "report")
            ]
            held = [
                t for t in own if t.status == "in-progress" and PEOPLE.get(_person(step.before, _owner(t)) or "") == step.who
            ]
            assert held, f"I3: signed by {step.who}, who does not read it"
            assert all(step.after[t.reference].status == "completed" for t in held), "I3: signed, and the reading is not done"
            signer = _person(step.after, version.data["resultsInterpreter"][0]["reference"])
            assert PEOPLE.get(signer or "") == step.who, "I3: another name on the report"
            asked = [with_read_type(t, "final") if wanted == "sign" else t for t in held]
            for task in asked if wanted == "sign" else ():
                moment = Version(task.reference, 0, version.ts, task.owner, False, task.data)
                reasons = list(barred(step.before, moment, signer))
                assert not reasons, f"I2: {signer} signed and {reasons}"
        elif version.status == "cancelled":
            assert former.status == "registered", "I4: a report that was out was cancelled"
        elif wanted:
            assert step.act == wanted, f"{version.status} by {step.act}"


def with_read_type(task: Version, kind: str) -> Version:
    others = [r for r in task.data["input"] if "read-type" not in coding.codes(r["type"])]
    rows = [*others, {"type": coding.concept(coding.TASK_TYPE, "read-type"), "valueCode": kind}]
    return Version(task.reference, task.number, task.ts, task.owner, False, task.data | {"input": rows})


def _answered(step: Step) -> None:
    """An alert ends by a person's answer alone: told to whom, and when."""
    for version in step.versions:
        if version.type != "Task" or not _is(version.data, "acknowledge") or version.status in OPEN:
            continue
        assert version.status == "completed", f"an alert was {version.status}"
        assert step.act in ("acknowledge", "notify-critical"), f"an alert was ended by {step.act}"
        said = [step.after[one].data for one in _outputs(version.data, "communication")]
        assert said, "an alert ended, and nobody answered"
        assert all(one.get("received") and one.get("recipient") for one in said), "an alert ended without who and when"


# ---------------------------------------------------------------- how all stands


class Net:
    """All documents of an example, by what they are to each other."""

    def __init__(self, docs: dict[str, Version]) -> None:
        self.docs = docs
        there = [v for v in docs.values() if not v.deleted]
        self.tasks = [v for v in there if v.type == "Task"]
        self.roots = [v for v in self.tasks if _is(v.data, "coordinate")]
        self.attempts = [v for v in self.tasks if _attempt(v.data)]
        self.reports = [v for v in there if v.type == "DiagnosticReport" and _ours(v)]
        self.orders = [v for v in there if v.type == "ServiceRequest"]
        self.alerts = [v for v in self.tasks if _is(v.data, "acknowledge")]

    def below(self, parent: Version, rows: Iterable[Version]) -> list[Version]:
        return [v for v in rows if parent.reference in references(v.data.get("partOf", ()))]

    def one_attempt_of_a_kind(self) -> None:
        """I1"""
        opened = [(*references(v.data["partOf"]), *_kinds(v.data)) for v in self.attempts if v.status in OPEN]
        assert len(opened) == len(set(opened)), "I1: two open attempts of a kind"
        placed = [(v.data["focus"]["reference"], v.owner) for v in self.roots if v.status in OPEN]
        assert len(placed) == len(set(placed)), "I1: an order is dispatched twice"

    def nothing_open_below_what_is_closed(self) -> None:
        for parent in self.roots:
            if parent.status not in OPEN:
                left = [v for v in self.below(parent, [*self.attempts, *self.roots]) if v.status in OPEN]
                assert not left, f"a reading is {parent.status} and below it is open: {[_kinds(v.data) for v in left]}"
                assert _timer(parent.data) is None, "what is closed has a timer"
        for attempt in self.attempts:
            if attempt.status not in OPEN:
                assert _timer(attempt.data) is None, "what is closed has a timer"

    def completed_with_a_report(self) -> None:
        """I5"""
        final = {*PUBLISHED, "entered-in-error"}
        for task in self.roots:
            reports = [self.docs[one].status for one in _outputs(task.data, "report")]
            if task.status == "completed":
                assert (reports or [""])[-1] in final, f"I5: completed with {reports}"
        for report in self.reports:
            if report.status not in PUBLISHED:
                continue
            for order in references(report.data["basedOn"]):
                mine = [t for t in self.roots if t.data["focus"]["reference"] == order]
                done = [t for t in mine if t.status == "completed" and report.reference in _outputs(t.data, "report")]
                assert done, "I5: a final report, and the reading is not completed"

    def orders_follow(self) -> None:
        """I6, row 12a"""
        for order in self.orders:
            mine = [t for t in self.roots if t.data["focus"]["reference"] == order.reference]
            if order.status not in ("active", "on-hold"):
                assert not [t for t in mine if t.status in OPEN], f"I6: the order is {order.status}, its reading open"

    def nothing_waits_unseen(self) -> None:
        """What was taken is somebody's: a reader's, the pool's, or another centre's."""
        for task in self.roots:
            parts = [v for v in self.below(task, [*self.attempts, *self.roots]) if v.status in OPEN]
            if task.status in READING:
                assert any(_is(v.data, states.READ) or _is(v.data, "coordinate") for v in parts), "a reading is nobody's"
                children = [v for v in parts if _is(v.data, "coordinate")]
                assert not children or len(parts) == 1, "a reading is passed on, and read here"
                assert len(children) == (coding.business_status(task.data) == states.FORWARDED), "forwarded, and it is not"
            reading = [v.status for v in parts if _is(v.data, states.READ)]
            if coding.business_status(task.data) == states.READING and task.status in OPEN:
                assert reading == ["in-progress"], f"it is said to be read, and is {reading}"
            if coding.business_status(task.data) == states.AWAITING_INFORMATION and task.status in OPEN:
                assert "on-hold" in [v.status for v in parts], "it is said to wait for an answer, and does not"

    def reports_have_their_reading(self) -> None:
        """An unsigned report is part of what is open; one that is out is never silently dropped."""
        for report in self.reports:
            orders = references(report.data["basedOn"])
            if report.status == "registered":
                held = [a for a in self.attempts if a.status in OPEN and report.reference in _outputs(a.data, "report")]
                assert held, "an empty report is nobody's"
            if report.status == "preliminary":
                for order in orders:
                    opened = [t for t in self.roots if t.data["focus"]["reference"] == order and t.status in OPEN]
                    assert opened, "a preliminary report is out, and nobody reads it finally or withdraws it"
        for attempt in self.attempts:
            if attempt.status not in OPEN:
                drafts = [self.docs[one].status for one in _outputs(attempt.data, "draft") if one in self.docs]
                assert "in-progress" not in drafts, "a draft is open whose reading is closed"

    def alerts_stay_until_answered(self) -> None:
        """While nobody answered there is a timer, a request and a banner; once somebody did, there is none."""
        for task in self.alerts:
            request = self.docs[task.data["focus"]["reference"]]
            flags = [self.docs[one] for one in _outputs(task.data, "flag")]
            shown = [*(f.status for f in flags), request.status]
            assert not any(one.deleted for one in (request, *flags)), "an alert was deleted"
            if task.status in OPEN:
                assert _timer(task.data) is not None, "an alert without a timer"
                assert shown == ["active", "active"], f"an alert nobody answered is {shown}"
            else:
                assert _timer(task.data) is None, "an answered alert rings"
                assert shown == ["inactive", "completed"], f"an answered alert is {shown}"

    def clocks_stand_for_a_reason(self) -> None:
        for task in self.roots:
            if task.status in OPEN and _inputs(task.data, "paused-since"):
                parts = [v.status for v in self.below(task, self.attempts)]
                assert "on-hold" in parts, "the clock stands, and nobody waits for anything"
                assert _timer(task.data) is None, "the clock stands, and rings"

    def images_are_known(self, orders: Iterable[str]) -> None:
        """What was sent and is complete does not keep a reading waiting, whenever the process ended."""
        for task in self.roots:
            if task.status in OPEN and task.data["focus"]["reference"] in orders:
                there = [v.status for v in self.docs.values() if v.type == "ImagingStudy"]
                assert coding.business_status(task.data) != states.AWAITING_IMAGES, f"images are waited for that are {there}"

    def rings_later(self, now: int) -> None:
        """After the server did what was due: nothing open is due still."""
        for task in self.tasks:
            when = _timer(task.data)
            assert task.status not in OPEN or when is None or span(when)[0] > now, f"{_kinds(task.data)} rings for nothing"


def sweep(docs: dict[str, Version], current: Iterable[tuple[str, Document]], history: Iterable[Document]) -> None:
    """At the end of an example: what is current is the last of the history, and the history is whole."""
    versions: dict[str, dict[int, str]] = {}
    for row in history:
        versions.setdefault(row["rid"], {})[row["v"]] = row["json"]
    seen = set()
    for reference, row in current:
        seen.add(reference)
        assert row["v"] == docs[reference].number, f"{reference} is at another version than its history"
        assert sorted(versions[reference]) == list(range(1, row["v"] + 1)), f"the history of {reference} has holes"
        assert versions[reference][row["v"]] == row["json"], f"{reference} is not what its history says"
    assert seen == set(docs), "what is in the history is not there"


# ---------------------------------------------------------------- reading documents


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def _kinds(task: Document) -> set[str]:
    return coding.codes(task.get("code"), coding.TASK_TYPE)


def _is(task: Document, kind: str) -> bool:
    return kind in _kinds(task)


def _attempt(task: Document) -> bool:
    return bool(_kinds(task) & states.ATTEMPTS)


def _ours(report: Version) -> bool:
    return any(i.get("system") == OURS for i in report.data.get("identifier", ()))


def _rows(task: Document, name: str, kind: str) -> Iterator[Any]:
    for row in task.get(name, ()):
        if kind in coding.codes(row["type"], coding.TASK_TYPE):
            yield next(value for key, value in row.items() if key.startswith("value"))


def _inputs(task: Document, kind: str) -> list[Any]:
    return list(_rows(task, "input", kind))


def _outputs(task: Document, kind: str) -> list[str]:
    return references(_rows(task, "output", kind))


def _timer(task: Document) -> str | None:
    return next((e["valueInstant"] for e in task.get("extension", ()) if e["url"] == coding.TIMER), None)


def _owner(task: Version) -> str:
    return str(task.data.get("owner", {}).get("reference"))


def _person(known: dict[str, Version], owner: str) -> str | None:
    if owner.startswith("Practitioner/"):
        return owner
    role = known.get(owner)
    return role.data.get("practitioner", {}).get("reference") if role else None


def _within(row: Document, now: int) -> bool:
    period = row.get("period", {})
    return ("start" not in period or span(period["start"])[0] <= now) and ("end" not in period or now < span(period["end"])[1])


def _holds(role: Document, person: str | None, facility: str) -> bool:
    return role.get("practitioner", {}).get("reference") == person and role.get("organization", {}).get("reference") == facility


def _modalities(role: Document) -> set[str]:
    return {code for concept in role.get("specialty", ()) for code in coding.codes(concept, coding.DCM)}


def _same_parent(one: Version, other: Version) -> bool:
    return one.data.get("partOf") == other.data.get("partOf") and _attempt(one.data)
