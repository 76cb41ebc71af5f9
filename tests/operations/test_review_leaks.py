"""Peer review is the quality office's and its reviewer's: everybody else, by every path, is answered as if there were none.

A table of (caller x path) against an oracle that knows who may know of what: nothing else is told, and what may be known is
found. A blind reviewer does not learn which report it is, an author not by whom it was reviewed.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field

import pytest
from operations_conftest import parameters
from starlette.testclient import TestClient

MISSING = "00000000-0000-4000-8000-000000000000"
COMMENT = "a-comment-that-stands-nowhere-else"

# who asks: (organisation, role, Practitioner), None: the organisation's system
CALLERS = {
    "lead": ("centre", "quality", "quentin"),
    "reviewer": ("centre", "reader", "bela"),
    "author": ("centre", "reader", "anna"),
    "other-reader": ("centre", "reader", "dora"),
    "trainee": ("centre", "trainee", "fred"),
    "dispatcher": ("centre", "dispatcher", "dick"),
    "administrator": ("centre", "administrator", "adam"),
    "centre": ("centre", None, None),
    "placer": ("hospital", None, None),
    "placers-clerk": ("hospital", "clerk", None),
    "placers-referrer": ("hospital", "referrer", "bob"),
    "placers-lead": ("hospital", "quality", "quinn"),
    "stranger": ("office", None, None),
    "exchange": ("exchange", None, None),
    "patients-app": ("hospital", None, None),
    "leads-patient-app": ("centre", "quality", "quentin"),
}
# kind of Task -> who may know of it. What came of a discrepancy its facility sees.
FACILITY = {"placer", "placers-clerk", "placers-referrer", "placers-lead"}
MAY = {
    "review-case": {"lead"},
    "adjudicate": {"lead"},
    "peer-review": {"lead", "reviewer"},
    "feedback": {"lead", "author"},
    "discrepancy-review": {"lead", "author"} | FACILITY,
}
BY_TARGET = [
    "Task/{0}", "Task/{0}/_history", "Task/{0}/_history/1", "Task/{0}/$meta", "Task/{0}/$validate", "Task?_id={0}", "Task?_id={0}&_summary=count",
    "Task?_id={0}&_include=Task:focus&_include=Task:part-of&_revinclude=*", "Task?part-of=Task/{0}", "Task?part-of:Task._id={0}",
    "Provenance?target=Task/{0}", "Provenance?target=Task/{0}&_summary=count", "Provenance?target=Task/{0}/_history/1", "Provenance?target:Task._id={0}",
    "AuditEvent?entity=Task/{0}", "AuditEvent?entity=Task/{0}&_summary=count", "Task?_has:Task:part-of:_id={0}", "?_type=Task&_id={0}",
    "?_type=Task,Provenance,AuditEvent&_id={0}", "Communication?about=Task/{0}", "Task/{0}/$candidates",
]  # fmt: skip
EVERYWHERE = [
    "Task?_count=1000", "Task?code=peer-review,review-case,adjudicate,feedback,discrepancy-review&_count=1000", "Task?focus=DiagnosticReport/{report}",
    "Task?focus:DiagnosticReport={report}", "Task?focus:DiagnosticReport.status=final&_count=1000", "Task?focus:missing=true&_count=1000",
    "Task?owner=PractitionerRole/centre-bela-hospital&_count=1000", "Task?owner=PractitionerRole/centre-anna-hospital&_count=1000",
    "Task?owner=Organization/centre&_count=1000", "Task?requester=Organization/centre&_count=1000", "Task?owner:PractitionerRole.practitioner=Practitioner/centre-bela&_count=1000",
    "Task?part-of:missing=false&_count=1000", "Task?part-of:Task.code=review-case&_count=1000", "Task?status=completed&_count=1000", "Task?status:not=completed&_count=1000",
    "Task?intent=proposal", "Task?patient:missing=true&_count=1000", "Task?_security=HQUALIMP&_count=1000", "Task?_lastUpdated=gt2020-01-01&_count=1000",
    "Task?authored-on=gt2020-01-01&_count=1000&_elements=id", "DiagnosticReport?_id={report}&_revinclude=Task:focus", "DiagnosticReport?_id={report}&_revinclude=*",
    "DiagnosticReport?_id={report}&_revinclude=Provenance:target&_revinclude=AuditEvent:entity", "Patient?_id={patient}&_revinclude=*",
    "PractitionerRole?_id=centre-bela-hospital&_revinclude=Task:owner", "Organization?_id=centre&_revinclude=Task:owner&_revinclude=Task:requester",
    "Patient/{patient}/$everything?_count=1000", "Patient/{patient}/Task", "Patient/{patient}/*", "Patient/{patient}/Provenance", "Patient/{patient}/AuditEvent",
    "Practitioner/centre-bela/Task", "Practitioner/centre-bela/*", "Practitioner/centre-anna/*", "Practitioner/centre-quentin/*",
    "_history?_count=1000", "Task/_history?_count=1000", "Provenance/_history?_count=1000", "AuditEvent/_history?_count=1000",
    "Provenance?_count=1000", "AuditEvent?_count=1000", "Provenance?agent=Practitioner/centre-bela&_count=1000", "Provenance?agent=Practitioner/centre-quentin&_count=1000",
    "AuditEvent?agent=Practitioner/centre-bela&_count=1000", "AuditEvent?agent=Practitioner/centre-quentin&_count=1000",
    "Provenance?target=DiagnosticReport/{report}", "AuditEvent?entity=DiagnosticReport/{report}&_count=1000", "AuditEvent?patient=Patient/{patient}&_count=1000",
    "?_type=Task,Provenance,AuditEvent,Communication&_count=1000", "Communication?_count=1000", "Flag?_count=1000", "Patient/{patient}/$access-log", "$meta", "Task/$meta",
    *(f"Task/$worklist?view={view}&count=200" for view in ("mine", "pool", "team", "dispatch", "facility", "peer-review", "critical")),
    *(f"Measure/$evaluate-measure?periodStart=2026-11-01&periodEnd=2026-12-31&measure={measure}&by={by}" for measure in ("discrepancies", "turnaround") for by in ("category", "reader")),
    "ChargeItem/$statement?month=2026-11",
]  # fmt: skip
# counted alone: whether there is such a Task may tell as much as the Task
COUNTED = [
    ("DiagnosticReport?_id={report}&_has:Task:focus:code=review-case", "review-case"),
    ("DiagnosticReport?_id={report}&_has:Task:focus:code=feedback", "feedback"),
    ("DiagnosticReport?_id={report}&_has:Task:focus:code=discrepancy-review", "discrepancy-review"),
    ("DiagnosticReport?_id={report}&_has:Task:focus:_security=HQUALIMP", "review-case feedback discrepancy-review"),
    ("PractitionerRole?_id=centre-bela-hospital&_has:Task:owner:code=peer-review", "peer-review"),
    (
        "PractitionerRole?_id=centre-anna-hospital&_has:Task:owner:code=feedback,discrepancy-review",
        "feedback discrepancy-review",
    ),
    ("Organization?_id=centre&_has:Task:owner:code=adjudicate", "adjudicate"),
    ("Task?code=peer-review&_summary=count", "peer-review"),
    ("Task?code=feedback&_count=0", "feedback"),
    ("Task?code=adjudicate&_count=1&_total=accurate", "adjudicate"),
]


@dataclass
class Reviewed:
    """``kinds``: the ids of the Tasks of each kind."""

    clients: dict[str, TestClient]
    kinds: dict[str, list[str]]
    named: dict[str, str]
    heard: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def allowed(self, caller: str) -> set[str]:
        return {id_ for kind, ids in self.kinds.items() if caller in MAY[kind] for id_ in ids}

    def mentioned(self, caller: str) -> set[str]:
        """What these say that they are part of: a review its case, by an id that opens nothing."""
        return self.allowed(caller) | set(self.kinds["review-case"] if caller == "reviewer" else ())

    @property
    def all(self) -> set[str]:
        return {id_ for ids in self.kinds.values() for id_ in ids}

    def answers(self, caller: str, paths: list[str]) -> list[tuple[str, str]]:
        """(status, all that is said, queries that were noted included) of each, asked once, in one batch."""
        if new := [path for path in dict.fromkeys(paths) if (caller, path) not in self.heard]:
            rows = [{"request": {"method": "GET", "url": path}} for path in new]
            reply = self.clients[caller].post("", json={"resourceType": "Bundle", "type": "batch", "entry": rows})
            assert reply.status_code == 200, reply.text
            for path, entry in zip(new, reply.json()["entry"], strict=True):
                said = json.dumps([_read(entry.get("resource")), entry["response"]])
                self.heard[caller, path] = (entry["response"]["status"], said)
        return [self.heard[caller, path] for path in paths]


def _read(body):
    """What is coded is read too."""
    if isinstance(body, list):
        return [_read(one) for one in body]
    if not isinstance(body, dict):
        return body
    plain = {key: _read(value) for key, value in body.items()}
    for key in ("query", "data"):
        if isinstance(body.get(key), str):
            plain[key] = base64.b64decode(body[key]).decode(errors="replace")
    return plain


def _score(client, review, score):
    body = parameters(scale="radpeer")
    body["parameter"] += [{"name": "score", "valueCoding": {"code": score}}, {"name": "comment", "valueMarkdown": COMMENT}]
    reply = client.post(f"Task/{review['id']}/$submit-review", json=body)
    assert reply.status_code == 200, reply.text


@pytest.fixture(scope="module")
def reviewed(network, server):
    """Of one report a review that is scored, decided and told; of another one that is told at once; one that waits; and an error
    that the hospital suspects."""
    clients = {}
    for name, (organization, role, practitioner) in CALLERS.items():
        person = f"{organization}-{practitioner}" if practitioner else None
        if person and practitioner not in ("anna", "bela", "dora", "fred"):
            owner = network.hospital if organization == "hospital" else network.centre
            owner.put(f"Practitioner/{person}", json={"resourceType": "Practitioner", "id": person, "name": [{"family": name}]})
        if name.endswith("app"):
            continue
        scope = {"scope": "user/*.cruds"} if role else {"scope": "system/*.rs"} if name == "exchange" else {}
        more = {"user": name, "roles": (role,), "practitioner": person} if role else {}
        clients[name] = network.as_(organization, **scope, **more)
    lead, reviewer = clients["lead"], clients["reviewer"]
    asked, _, report = network.signed()
    network.signed()
    network.signed()
    body = parameters(strategy="random", count=200)
    body["parameter"].append({"name": "period", "valuePeriod": {"start": "2026-11-01", "end": "2026-12-31"}})
    reply = lead.post("DiagnosticReport/$sample-for-review", json=body)
    reviews = [row["resource"] for row in reply.json()["parameter"]]
    assert len(reviews) == 3
    cases = {one["id"]: lead.get(one["partOf"][0]["reference"]).json() for one in reviews}
    reviews.sort(key=lambda one: cases[one["id"]]["focus"]["reference"] != f"DiagnosticReport/{report['id']}")
    for review, score in zip(reviews, ("2b", "2a"), strict=False):
        _score(reviewer, review, score)
    [waiting] = lead.get("Task?code=adjudicate&status=requested").json()["entry"]
    decided = parameters(decision="uphold", action=["learning"])
    assert lead.post(f"Task/{waiting['resource']['id']}/$adjudicate", json=decided).status_code == 200
    body = parameters(source="clinician", severity="major")
    body["parameter"].append({"name": "description", "valueMarkdown": COMMENT})
    assert network.hospital.post(f"DiagnosticReport/{report['id']}/$report-discrepancy", json=body).status_code == 200
    kinds = {}
    for kind in MAY:
        found = lead.get(f"Task?code={kind}&_count=200").json()["entry"]
        kinds[kind] = [entry["resource"]["id"] for entry in found]
    assert {kind: len(ids) for kind, ids in kinds.items()} == {
        "review-case": 3, "adjudicate": 1, "peer-review": 3, "feedback": 3, "discrepancy-review": 1,
    }  # fmt: skip
    # what the office and the author ask is noted too, with its query; the reviewer and the author ask for theirs
    focus = cases[reviews[0]["id"]]["focus"]["reference"]
    lead.get(f"Task?focus={focus}&code=review-case&_revinclude=Task:part-of")
    lead.get(f"Task?part-of:Task.focus={focus}")
    for id_ in kinds["feedback"]:
        lead.get(f"Task/{id_}?_format=json")
        clients["author"].get(f"Task/{id_}")
    patient_id = asked["subject"]["reference"].partition("/")[2]
    clients["patients-app"] = network.as_("hospital", scope="patient/*.rs", patient=patient_id)
    clients["leads-patient-app"] = network.as_(
        "centre", scope="patient/*.rs", user="leads-app", roles=("quality",), practitioner="centre-quentin", patient=patient_id
    )
    server.installation.store_audit()
    assert lead.get("AuditEvent?_summary=count").status_code == 200
    server.installation.trail.append = lambda line: None  # what is asked from here on is not noted
    named = {"report": report["id"], "patient": patient_id, "blind": reviews[0]["id"]}
    return Reviewed(clients, kinds, named)


def test_the_oracle_knows_everybody_and_every_kind():
    assert set().union(*MAY.values()) < set(CALLERS)


@pytest.mark.parametrize("caller", [name for name in CALLERS if name != "lead"])
def test_a_review_that_is_not_theirs_is_answered_like_one_that_is_missing(reviewed, caller):
    """By each path that names one: the same status and the same words."""
    hidden = [ids[0] for kind, ids in reviewed.kinds.items() if caller not in MAY[kind]]
    paths = [path.format(id_) for id_ in [*hidden, MISSING] for path in BY_TARGET]
    answers = reviewed.answers(caller, paths)
    nowhere = answers[-len(BY_TARGET) :]
    for number, id_ in enumerate(hidden):
        for path, got, missing in zip(BY_TARGET, answers[number * len(BY_TARGET) :], nowhere, strict=False):
            if caller == "reviewer" and path.startswith("Task?part-of=") and id_ in reviewed.kinds["review-case"]:
                continue  # their own review says of which case it is
            assert (path, _anonymous(got, id_)) == (path, _anonymous(missing, MISSING))


def _anonymous(answer, id_):
    """Without what each answer has of its own."""
    status, text = answer
    text = re.sub(r'"(timestamp|lastUpdated)": "[^"]*"', "", text.replace(id_, "…"))
    return status, re.sub(r'("resourceType": "Bundle", "id": )"[^"]*"', r"\1", text)


@pytest.mark.parametrize("caller", CALLERS)
def test_what_is_theirs_is_found_and_nothing_else_is_told(reviewed, caller):
    """No id, no comment, no label of another Task of quality in any answer."""
    allowed, mentioned = reviewed.allowed(caller), reviewed.mentioned(caller)
    paths = [path.format(**reviewed.named) for path in EVERYWHERE]
    told = set()
    for path, (_, text) in zip(paths, reviewed.answers(caller, paths), strict=True):
        seen = {id_ for id_ in reviewed.all if id_ in text}
        assert (path, seen - mentioned) == (path, set())
        assert allowed or COMMENT not in text, path
        assert allowed or "HQUALIMP" not in text or "HQUALIMP" in path, path
        told |= seen
    assert told == mentioned
    read = reviewed.answers(caller, [f"Task/{id_}" for id_ in sorted(reviewed.all)])
    assert {id_ for id_, (status, _) in zip(sorted(reviewed.all), read, strict=True) if status == "200"} == allowed
    assert {status for status, _ in read} <= {"200", "404"}


@pytest.mark.parametrize("caller", CALLERS)
def test_counts_tell_of_what_is_theirs_alone(reviewed, caller):
    answers = reviewed.answers(caller, [path.format(**reviewed.named) for path, _ in COUNTED])
    for (path, kinds), (status, text) in zip(COUNTED, answers, strict=True):
        found = re.search(r'"total": (\d+)', text)
        assert status == "200", (path, text)
        there = any(caller in MAY[kind] for kind in kinds.split())
        visible = caller in ("patients-app", "leads-patient-app", "stranger", "exchange")  # who does not see the report itself
        if not (visible and path.startswith("DiagnosticReport")):
            assert (path, bool(found and int(found[1]))) == (path, there)
        elif not there:
            assert (path, found and int(found[1])) == (path, 0)


def test_a_search_by_post_tells_no_more(reviewed):
    for caller, client in reviewed.clients.items():
        reply = client.post(
            "Task/_search?_count=1000", data={"code": "review-case,peer-review,adjudicate,feedback,discrepancy-review"}
        )
        assert {id_ for id_ in reviewed.all if id_ in reply.text} == reviewed.mentioned(caller)


def _resources(body):
    """Each resource in an answer, as text."""
    if isinstance(body, list):
        return [one for row in body for one in _resources(row)]
    if not isinstance(body, dict):
        return []
    own = [json.dumps(body)] if "resourceType" in body and body["resourceType"] not in ("Bundle", "Parameters") else []
    return own or [one for value in body.values() for one in _resources(value)]


@pytest.mark.parametrize(
    ("caller", "kind", "secret"), [("author", "feedback", "centre-bela"), ("reviewer", "peer-review", "{report}")]
)
def test_the_author_does_not_learn_by_whom_nor_a_blind_reviewer_of_which_report(reviewed, caller, kind, secret):
    """Not by the Task, its versions, its Provenance or an AuditEvent, nor by the query that was noted there."""
    secret, ids = secret.format(**reviewed.named), reviewed.kinds[kind]
    paths = [path.format(id_) for id_ in ids for path in BY_TARGET] + [path.format(**reviewed.named) for path in EVERYWHERE]
    found = [(path, one) for path, (_, text) in zip(paths, reviewed.answers(caller, paths), strict=True) for one in _resources(json.loads(text)) if any(id_ in one for id_ in ids)]  # fmt: skip
    assert found
    mine = [one for _, one in found if '"AuditEvent"' in one]
    assert mine or caller == "author"
    for path, one in found:
        assert secret not in one, path
        assert caller != "author" or '"display": "reviewer' not in one, path


@pytest.mark.parametrize("kind", MAY)
def test_the_office_knows_who_did_what(reviewed, kind):
    """Masked is not lost: Provenance and AuditEvents are there for the quality office."""
    for id_ in reviewed.kinds[kind]:
        answers = reviewed.answers("lead", [f"Provenance?target=Task/{id_}", f"AuditEvent?entity=Task/{id_}"])
        if kind == "discrepancy-review":
            continue
        assert all(re.search(r'"total": [1-9]', text) for _, text in answers), kind
    if kind == "feedback":
        said = [text for id_ in reviewed.kinds[kind] for _, text in reviewed.answers("lead", [f"Provenance?target=Task/{id_}"])]
        assert any("centre-bela" in text for text in said)


def test_nobody_plants_or_changes_a_review(reviewed):
    """A Task of quality is made by drawing it; no plain write makes, moves or opens one."""
    for caller, client in reviewed.clients.items():
        for kind, ids in reviewed.kinds.items():
            task = {"resourceType": "Task", "status": "requested", "intent": "order"}
            task["code"] = {"coding": [{"system": "urn:fhirserver:CodeSystem:task-type", "code": kind}]}
            assert client.post("Task", json=task).status_code in (403, 409, 422), (caller, kind)
            reply = client.put(f"Task/{ids[0]}", json=task | {"id": ids[0], "status": "cancelled"})
            assert reply.status_code in (403, 404, 409, 422), (caller, kind, reply.text)
            assert client.delete(f"Task/{ids[0]}").status_code in (403, 404, 405, 409), (caller, kind)
