"""Every way to read x every role x every form of scope, against an oracle of the rules that has none of its code.

The oracle takes each resource as it is stored, with its access list, and judges by itself: access keys and their expiry, what
of a version was shared, SMART scopes, the Patient compartment
(https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html,
https://hl7.org/fhir/R4/compartmentdefinition-patient.html), drafts, a patient's restriction. It must agree with the
server in both directions: nothing that it denies is told, everything that it allows is found.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from conftest import BASE, order, patient
from operations_conftest import Network, network, parameters
from starlette.testclient import TestClient

from fhirserver.versions import Changes, Grant

__all__ = ["network"]

Resource = dict[str, Any]
NEW = "00000000-0000-4000-8000-00000000000a"
MISSING = "00000000-0000-4000-8000-000000000000"
ACTS = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
KINDS = "http://terminology.hl7.org/CodeSystem/observation-category"
WHOLE = "_count=1000"  # one page

# ---------------------------------------------------------------------------------------------------- who asks, and by what


@dataclass(frozen=True)
class Holder:
    """Somebody, in an organisation."""

    organization: str
    role: str | None = None
    practitioner: str | None = None

    @property
    def name(self) -> str:
        who = self.practitioner.partition("-")[2] if self.practitioner else ""
        return "-".join(part for part in (self.organization, self.role or "system", who) if part)

    @property
    def keys(self) -> set[str]:
        at = f"@org/{self.organization}"
        keys = {"*", f"org/{self.organization}"}
        keys |= {f"role/{self.role}{at}"} if self.role else set()
        return keys | ({f"practitioner/{self.practitioner}{at}"} if self.practitioner else set())


HOLDERS = [
    Holder("hospital"),
    Holder("hospital", "clerk"),
    Holder("hospital", "referrer", "hospital-bob"),  # from whom one patient withholds her record
    Holder("hospital", "quality"),
    Holder("office"),
    Holder("centre"),
    Holder("centre", "dispatcher"),
    Holder("centre", "reader", "centre-anna"),  # the author of the drafts
    Holder("centre", "trainee", "centre-bela"),
    Holder("centre", "quality"),
    Holder("centre", "administrator"),
]
SYSTEM, CLERK, BOB, QUALITY_THERE, OFFICE, CENTRE, DISPATCHER, ANNA, BELA, QUALITY, ADMINISTRATOR = HOLDERS

# ~ is the level: system of a system, user of a person; @ behind a scope: the patient in the launch context
SCOPES = {
    "all": "~/*.cruds",
    "read": "~/*.r",
    "search": "~/*.s",
    "writes": "~/*.cud",
    "v1": "~/*.read",
    "v1-all": "~/*.*",
    "v1-writes": "~/*.write",
    "out-of-order": "~/*.sr ~/Observation.dc",
    "one-type": "~/Observation.rs",
    "v1-one-type": "~/Observation.read",
    "letters": "~/Patient.rs ~/Observation.s ~/ServiceRequest.r ~/Encounter.s ~/Task.s",
    "category": "~/Observation.rs?category=laboratory ~/Patient.rs ~/Encounter.rs",
    "category-system": f"~/Observation.rs?category={KINDS}|vital-signs ~/Patient.s",
    "status": "~/Observation.rs?status=preliminary,amended ~/Task.rs?status=draft ~/QuestionnaireResponse.rs?status=completed",
    "both": "~/Observation.rs?category=laboratory&status=final ~/ServiceRequest.rs",
    "either": "~/Observation.rs?category=vital-signs ~/Observation.rs?status=preliminary ~/Patient.rs",
    "r-is-not-s": "~/Observation.r?category=laboratory ~/Observation.s?category=vital-signs ~/Task.r ~/Task.s?status=draft",
    "not": "~/Observation.rs?status:not=final ~/Encounter.rs",
    "directory": "~/Organization.rs ~/Practitioner.r ~/Endpoint.s ~/Location.rs",
    "identity": "openid fhirUser launch/patient ~/Patient.rs",
    "patient": "patient/*.rs @shared",
    "patient-own": "patient/*.rs @private",
    "patient-lapsed": "patient/*.cruds @lapsed",
    "patient-types": "patient/Observation.rs patient/Patient.r patient/Task.rs patient/Binary.rs @shared",
    "patient-directory": "patient/Organization.rs patient/Practitioner.read patient/Encounter.s @shared",
    "patient-query": "patient/Observation.rs?category=laboratory patient/Patient.rs ~/Encounter.rs @shared",
    "patient-nobody": "patient/*.rs ~/Encounter.rs",
}


@dataclass(frozen=True)
class Clause:
    level: str
    type: str
    letters: frozenset[str]
    query: tuple[tuple[str, tuple[str, ...]], ...]


def clauses(text: str) -> Iterator[Clause]:
    """What the standard says that a scope is; of its query parts, those that can be enforced here."""
    for scope in text.split():
        found = re.fullmatch(r"(patient|user|system)/(\*|[A-Z]\w+)\.(read|write|\*|c?r?u?d?s?)(?:\?(.+))?", scope)
        if not found or not found[3]:
            continue
        letters = {"read": "rs", "write": "cud", "*": "cruds"}.get(found[3], found[3])
        pairs = [part.split("=") for part in found[4].split("&")] if found[4] else []
        if all(name in ("category", "status") for name, _ in pairs):
            yield Clause(
                found[1], found[2], frozenset(letters), tuple((name, tuple(value.split(","))) for name, value in pairs)
            )


@dataclass(frozen=True)
class Caller:
    holder: Holder
    form: str

    @property
    def name(self) -> str:
        return f"{self.holder.name}:{self.form}"

    @property
    def scope(self) -> str:
        return SCOPES[self.form].partition(" @")[0].replace("~", "user" if self.holder.role else "system")

    @property
    def context(self) -> str | None:
        """Which chart's patient is in the launch context."""
        return SCOPES[self.form].partition(" @")[2] or None


ROLES = [Caller(holder, "all") for holder in HOLDERS]
FORMS = [form for form in SCOPES if form != "all"]
SOME = [Caller((CLERK, ANNA)[number % 2], form) for number, form in enumerate(FORMS)]
CALLERS = ROLES + SOME
# what differs most from each other; EVERYONE is the whole product, for reads and plain searches
APART = ("category", "status", "either", "r-is-not-s", "letters", "directory", "identity", "search", "read")
APART += ("patient", "patient-own", "patient-types", "patient-directory", "patient-query")
FEW = [one for one in ROLES if one.holder in (BOB, OFFICE, CENTRE, ANNA, BELA, QUALITY)]
FEW += [one for one in SOME if one.form in APART]
ALIKE = ((SYSTEM, CENTRE), (CLERK, DISPATCHER))  # a system reads what its clerk or dispatcher reads: they share the forms
EVERYONE = [Caller(one, form) for number, form in enumerate(SCOPES) for one in HOLDERS if one not in ALIKE[number % 2]]


def callers(rows: Iterable[Caller]) -> Any:
    return pytest.mark.parametrize("caller", [pytest.param(row, id=row.name) for row in rows])


# ---------------------------------------------------------------------------------------------------- the oracle

# of the types in this test: the elements that put a resource into the Patient compartment; Task is outside it, and about for
COMPARTMENT = {
    "Observation": ("subject", "performer"),
    "Encounter": ("subject",),
    "ServiceRequest": ("subject", "performer"),
    "ImagingStudy": ("subject",),
    "DiagnosticReport": ("subject",),
    "DocumentReference": ("subject", "author"),
    "Communication": ("subject", "sender", "recipient"),
    "QuestionnaireResponse": ("subject", "author"),
    "List": ("subject", "source"),
    "Consent": ("patient",),
    "Provenance": ("target",),
    "AuditEvent": ("agent.who", "entity.what"),
}
ABOUT = COMPARTMENT | {"Task": ("for",)}
# Nobody's record; a Questionnaire is the form, not what was answered.
DIRECTORY = {
    "Organization",
    "Practitioner",
    "PractitionerRole",
    "OrganizationAffiliation",
    "Location",
    "Endpoint",
    "Questionnaire",
}


def at(data: Any, path: str) -> list[Any]:
    """The values at a path of JSON, through lists."""
    nodes = [data]
    for name in path.split("."):
        nodes = [one[name] for node in nodes for one in (node if isinstance(node, list) else [node]) if name in one]
    return [one for node in nodes for one in (node if isinstance(node, list) else [node])]


def pointed(data: Resource, path: str) -> list[str]:
    return [one["reference"].partition("/_history/")[0] for one in at(data, path) if "reference" in one]


def mentioned(data: Any) -> set[str]:
    """Each reference in it, wherever it stands."""
    if isinstance(data, list):
        return {one for row in data for one in mentioned(row)}
    if not isinstance(data, dict):
        return set()
    own = {data["reference"].partition("/_history/")[0]} if isinstance(data.get("reference"), str) else set()
    return own | {one for value in data.values() for one in mentioned(value)}


def about(type_: str, data: Resource) -> set[str]:
    """The patients whose it is."""
    return {one for path in ABOUT.get(type_, ()) for one in pointed(data, path) if one.startswith("Patient/")}


def has(data: Resource, name: str, values: Iterable[str]) -> bool:
    """Whether the status, or a coding of the category, is one of these."""
    if name == "status":
        return data.get("status") in values
    codings = at(data, "category.coding")
    return any(value in (one["code"], f"{one.get('system', '')}|{one['code']}") for one in codings for value in values)


@dataclass(eq=False)
class Row:
    """A version, and the access list of the resource that it is of."""

    type: str
    id: str
    version: int
    deleted: bool
    owner: str
    own: tuple[str, ...]  # this version's base keys
    base: tuple[str, ...]
    grants: tuple[Any, ...]
    data: Resource
    before: Resource  # of a deletion: what was deleted, whose patient's it stays

    @cached_property
    def reference(self) -> str:
        return f"{self.type}/{self.id}"

    @cached_property
    def about(self) -> set[str]:
        return about(self.type, self.before if self.deleted else self.data)


class Oracle:
    """All that is stored at a time."""

    def __init__(self, database: Any, types: Iterable[str], now: int) -> None:
        self.now = now
        current = {f"{name}/{one['_id']}": one for name in types for one in database[name].find({})}
        history = {one["_id"]: one for one in database["history"].find({})}
        before = {id_: history.get(f"{one['rid']}/{one['v'] - 1}", one) for id_, one in history.items()}
        self.versions = [self._row(current[one["rid"]], one, before[id_]) for id_, one in history.items()]
        newest = {reference: one["v"] for reference, one in current.items()}
        self.rows = [row for row in self.versions if row.version == newest[row.reference]]
        self.ids = {row.id for row in self.rows if len(row.id) == 36 or row.id[-3:-1] == "-p"} | {
            r.reference for r in self.rows
        }

    @staticmethod
    def _row(current: Any, version: Any, before: Any) -> Row:
        type_, _, id_ = version["rid"].partition("/")
        grants = tuple((grant["key"], grant["until"], grant["since"]) for grant in current["grants"])
        text = json.loads(version["json"]) if version["json"] else {}
        return Row(
            type_, id_, version["v"], version["deleted"], current["owner"], tuple(version["base"]), tuple(current["base"]),
            grants, text, json.loads(before["json"]) if version["deleted"] else {},
        )  # fmt: skip

    def of(self, type_: str) -> list[Row]:
        return [row for row in self.rows if row.type == type_ and not row.deleted]


@dataclass
class Judge:
    """What one caller may be told. ``withheld``: patients that keep their record from the caller."""

    oracle: Oracle
    caller: Caller
    patient: str | None
    withheld: frozenset[str]
    seen: dict[tuple[Row, str], bool] = field(default_factory=dict)

    @cached_property
    def clauses(self) -> list[Clause]:
        return [one for one in clauses(self.caller.scope) if one.level != "patient" or self.patient]

    def permits(self, type_: str, letters: str) -> bool:
        """Whether some resources of the type; else the answer is 403."""
        return any(
            one.type in ("*", type_)
            and one.letters & set(letters)
            and (one.level != "patient" or type_ == "Patient" or type_ in ABOUT or type_ in DIRECTORY)
            for one in self.clauses
        ) or self._myself(type_, None, letters)

    def _myself(self, type_: str, id_: str | None, letters: str) -> bool:
        own = self.caller.holder.practitioner
        return (
            type_ == "Practitioner"
            and own is not None
            and id_ in (None, own)
            and "r" in letters
            and "fhirUser" in self.caller.scope
        )

    def _scoped(self, row: Row, letters: str) -> bool:
        return any(
            one.type in ("*", row.type)
            and one.letters & set(letters)
            and not (row.deleted and one.query)
            and all(has(row.data, name, values) for name, values in one.query)
            and (one.level != "patient" or self._of_patient(row))
            for one in self.clauses
        ) or self._myself(row.type, row.id, letters)

    def _of_patient(self, row: Row) -> bool:
        if row.type == "Patient":
            return row.reference == self.patient
        return row.type in DIRECTORY or self.patient in row.about

    def _held(self, row: Row) -> bool:
        keys = self.caller.holder.keys
        return bool(keys & set(row.base)) or any(key in keys and until > self.oracle.now for key, until, _ in row.grants)

    def sees(self, row: Row, letters: str) -> bool:
        """The current version, by one of these letters."""
        if (row, letters) not in self.seen:
            self.seen[row, letters] = self._held(row) and self.sees_content(row, letters)
        return self.seen[row, letters]

    def sees_content(self, row: Row, letters: str) -> bool:
        return row.reference not in self.withheld and not row.about & self.withheld and self._scoped(row, letters)

    def sees_version(self, row: Row, letters: str) -> bool:
        """What is shared is shared from a version on; a draft's versions stay its author's."""
        keys = self.caller.holder.keys
        given = any(key in keys and until > self.oracle.now and row.version >= since for key, until, since in row.grants)
        return self._held(row) and (bool(keys & set(row.own)) or given) and self.sees_content(row, letters)

    def all(self, type_: str, letters: str = "s") -> list[Row]:
        return [row for row in self.oracle.of(type_) if self.sees(row, letters)]

    def told(self, reply: Any, allowed: set[str], url: str = "") -> None:
        """Nothing else is in the answer: no resource, no id in a link, an issue, a header. What an allowed resource says is
        part of it."""
        body = _without(json.loads(reply.text), allowed) if reply.text else {}
        sent = set(re.split(r"[/?=&,:|$]", url)) | set(re.findall(r"[A-Za-z]+/[A-Za-z0-9\-.]+", url))  # the caller's own words
        words = set(re.findall(r"[A-Za-z]+/[A-Za-z0-9\-.]+|[A-Za-z0-9\-.]{6,64}", f"{json.dumps(body)} {dict(reply.headers)}"))
        parts = {part for word in words for part in (word, word.partition("/")[2])}
        known = {one for reference in allowed for one in (reference, reference.partition("/")[2])}
        assert not (leaked := (parts & self.oracle.ids) - known - sent), leaked


def _without(body: Any, allowed: set[str]) -> Any:
    """The answer without the resources that may be in it. A resource that may not: AssertionError."""
    if isinstance(body, list):
        return [_without(one, allowed) for one in body]
    if not isinstance(body, dict):
        return body
    if body.get("resourceType") not in (None, "Bundle", "Parameters", "OperationOutcome") and "id" in body:
        assert f"{body['resourceType']}/{body['id']}" in allowed, f"leaked: {body['resourceType']}/{body['id']}"
        return {}
    return {key: _without(value, allowed) for key, value in body.items() if key != "fullUrl" or "resource" not in body}


# ---------------------------------------------------------------------------------------------------- three organisations


@dataclass
class World:
    """``charts``: name -> type -> references; the server's own clients by organisation."""

    network: Network
    charts: dict[str, dict[str, list[str]]]
    named: dict[str, str]
    portal: Any
    clients: dict[tuple[Caller, str], TestClient] = field(default_factory=dict)
    judges: dict[Caller, Judge] = field(default_factory=dict)
    oracle: Oracle | None = None

    def judge(self, caller: Caller, oracle: Oracle | None = None) -> Judge:
        """By what there was at the beginning, or by another oracle."""
        if oracle is None and caller in self.judges:
            return self.judges[caller]
        self.oracle = self.oracle or self.loaded()
        context = self.charts[caller.context]["Patient"][0] if caller.context else None
        kept = {self.named["restricted"]} if caller.holder == BOB else set()
        judge = Judge(oracle or self.oracle, caller, context, frozenset(kept))
        return judge if oracle else self.judges.setdefault(caller, judge)

    def loaded(self) -> Oracle:
        server = self.network.server
        return Oracle(server.client[server.name], server.installation.store.types, int(server.time.timestamp() * 1000))

    def client(self, caller: Caller, root: str = "fhir") -> TestClient:
        if (caller, root) not in self.clients:
            server, holder = self.network.server, caller.holder
            if holder.role:
                server.auth.add_user(holder.name, (holder.role,), holder.practitioner, holder.organization)
            person = server.auth.people.get(holder.name) if holder.role else None
            patient_id = self.charts[caller.context]["Patient"][0].partition("/")[2] if caller.context else None
            token = server.auth.issue(server.auth.clients.get(holder.organization), person, caller.scope, 600, patient_id)
            client = TestClient(server.app, base_url=f"{BASE}/{root}/", headers={"Authorization": f"Bearer {token}"})
            client.portal = self.portal  # one event loop for all, for time
            self.clients[caller, root] = client
        return self.clients[caller, root]


CHARTS = ("shared", "lapsed", "withdrawn", "private", "restricted", "office", "office-shared", "centre")
OBSERVATIONS = [
    ("laboratory", "final"),
    ("laboratory", "preliminary"),
    ("vital-signs", "final"),
    ("vital-signs", "preliminary"),
]


def observed(subject: str, category: str, status: str, tag: str) -> Resource:
    return {
        "resourceType": "Observation",
        "meta": {"tag": [{"system": "urn:tags", "code": tag}]},
        "status": status,
        "category": [{"coding": [{"system": KINDS, "code": category}]}],
        "code": {"text": "x"},
        "subject": {"reference": subject},
    }


class Facility:
    """Writes charts, each with something of every type, for one organisation."""

    def __init__(self, network: Network, client: TestClient, author: str) -> None:
        self.client, self.author = client, author
        self.network = replace(network, hospital=client)

    def put(self, *rows: Resource, gone: str | None = None) -> None:
        """All in one transaction, and one that is deleted."""
        asked = [{"resource": row, "request": {"method": "PUT", "url": f"{row['resourceType']}/{row['id']}"}} for row in rows]
        asked += [{"request": {"method": "DELETE", "url": gone}}] if gone else []
        reply = self.client.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": asked})
        assert reply.status_code == 200, reply.text

    def chart(self, name: str) -> dict[str, list[str]]:
        rows: list[Resource] = []

        def add(type_: str, **members: Any) -> str:
            rows.append({"resourceType": type_, "id": str(uuid.uuid4())} | members)
            return f"{type_}/{rows[-1]['id']}"

        def to(reference: str) -> Resource:
            return {"reference": reference}

        who = add("Patient", **patient(birthDate="1980-02-03", identifier=[{"system": "urn:mrn", "value": f"P-{name}"}]))
        whose = {"subject": to(who)}
        seen = [add("Observation", **observed(who, *kind, f"{name}-{n}")) for n, kind in enumerate(OBSERVATIONS)]
        add("Observation", **observed(who, "laboratory", "preliminary", f"{name}-was"))
        changing = rows[-1]
        gone = add("Observation", **observed(who, "laboratory", "final", f"{name}-gone"))
        add("Encounter", status="finished", **{"class": {"system": ACTS, "code": "AMB"}}, **whose)
        binary = add("Binary", contentType="text/plain", data="QQ==")
        scan = add("DocumentReference", status="current", content=[{"attachment": {"url": binary}}], **whose)
        number, more = [{"system": "urn:acsn", "value": f"A-{name}"}], [to(seen[0]), to(scan)]
        asked = add("ServiceRequest", **order(who, reasonCode=[{"text": "why"}], identifier=number, supportingInfo=more))
        released = rows[-1]
        add("DiagnosticReport", status="final", code={"text": "CT"}, basedOn=[to(asked)], **whose)
        add("Communication", status="completed", **whose)
        for status in ("draft", "requested"):
            add("Task", status=status, intent="order", focus=to(asked), **{"for": to(who)})
        add("List", status="current", mode="working", entry=[{"item": to(one)} for one in seen[:3]], **whose)
        for _ in range(2):
            add("QuestionnaireResponse", status="in-progress", author=to(self.author), **whose)
        self.put(*rows)
        changed = changing | observed(who, "vital-signs", "final", f"{name}-is")
        self.put(changed, released | {"note": [{"text": "a second version"}]}, gone=gone)
        self.completed(rows[-2])
        self.network.images({"identifier": number}, complete=False)
        study = self.client.get(f"ImagingStudy?subject={who}").json()["entry"][0]["resource"]
        found: dict[str, list[str]] = {}
        for row in [*rows, study]:
            if f"{row['resourceType']}/{row['id']}" != gone:
                found.setdefault(row["resourceType"], []).append(f"{row['resourceType']}/{row['id']}")
        return found

    def completed(self, draft: Resource) -> None:
        """Of two drafts the first is completed, by its author; then it is the organisation's."""
        person = self.author.partition("/")[2]
        token = {"user": f"author-{person}", "roles": ("reader", "referrer"), "practitioner": person, "scope": "user/*.cruds"}
        writer = self.network.as_(person.partition("-")[0], **token)
        reply = writer.put(f"QuestionnaireResponse/{draft['id']}", json=draft | {"status": "completed"})
        assert reply.status_code == 200, reply.text


@pytest.fixture(scope="module")
def world(network: Network, server: Any) -> Iterator[World]:
    centre = network.centre
    for id_, client in (
        ("hospital-bob", network.hospital),
        ("hospital-eve", network.hospital),
        ("office-olga", network.office),
    ):
        person = {"resourceType": "Practitioner", "id": id_, "name": [{"family": id_}]}
        assert client.put(f"Practitioner/{id_}", json=person).status_code == 201
    for client in (network.hospital, network.office, centre):
        assert client.post("Location", json={"resourceType": "Location", "name": "Room"}).status_code == 201
    hospital, office = (
        Facility(network, network.hospital, "Practitioner/hospital-eve"),
        Facility(network, network.office, "Practitioner/office-olga"),
    )
    own = Facility(network, centre, "Practitioner/centre-anna")
    charts = {
        name: (office if name.startswith("office") else own if name == "centre" else hospital).chart(name) for name in CHARTS
    }
    server.wait(seconds=20)
    server.installation.images.arrivals.settle()
    named = {"restricted": charts["restricted"]["Patient"][0]}
    # dispatched, and taken; dispatched, and declined; shared for a minute
    for name in ("shared", "withdrawn", "office-shared"):
        client = network.office if name == "office-shared" else network.hospital
        reply = client.post(
            f"{charts[name]['ServiceRequest'][0]}/$dispatch", json=parameters(destination="central", expectImages=True)
        )
        assert reply.status_code == 200, reply.text
        named[f"t0-{name}"] = f"Task/{reply.json()['id']}"
    declined = network.get(named["t0-withdrawn"]) | {"status": "rejected", "statusReason": {"text": "no"}}
    assert centre.put(named["t0-withdrawn"], json=declined).status_code == 200
    lapsed, changes = charts["lapsed"], Changes()
    until = int(server.time.timestamp() * 1000) + 60_000
    for type_ in ("Patient", "ServiceRequest", "ImagingStudy", "Observation", "Encounter"):
        for reference in lapsed[type_]:
            changes.share(
                type_, reference.partition("/")[2], Grant(lapsed["ServiceRequest"][0], "org/centre", until), "hospital"
            )
    server.installation.store.commit(changes)
    assert centre.get(lapsed["Patient"][0]).status_code == 200
    _, _, _, report, draft = network.reporting("anna")
    named |= {"report": f"DiagnosticReport/{report['id']}", "draft": f"QuestionnaireResponse/{draft['id']}"}
    named |= _reviewed(network, named["restricted"]) | _peer_review(network, own, charts["centre"])
    server.wait(minutes=5)
    assert centre.get(lapsed["Patient"][0]).status_code == 404
    server.installation.trail.append = lambda line: None  # the thousands of readings to come are not noted
    server.installation.store_audit()
    assert centre.get("AuditEvent?_summary=count").status_code == 200  # made of what was noted so far
    with start_blocking_portal() as portal:
        yield World(network, charts, named, portal)


def _reviewed(network: Network, subject: str) -> dict[str, str]:
    """A patient withholds her record from two; one of them breaks the glass, and is reviewed."""
    rows = [{"role": {"text": "x"}, "reference": {"reference": f"Practitioner/hospital-{name}"}} for name in ("bob", "eve")]
    privacy = {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
    consent = {
        "resourceType": "Consent", "status": "active", "scope": {"coding": [privacy]}, "category": [{"text": "x"}],
        "patient": {"reference": subject}, "policyRule": {"text": "x"}, "provision": {"type": "deny", "actor": rows},
    }  # fmt: skip
    assert network.hospital.post("Consent", json=consent).status_code == 201
    eve = network.as_("hospital", user="eve", roles=("referrer",), practitioner="hospital-eve", scope="user/*.cruds")
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "reason", "valueString": "unconscious, bleeding"}, {"name": "minutes", "valueInteger": 240}],
    }
    reply = eve.post(f"{subject}/$break-glass", json=body)
    assert reply.status_code == 200, reply.text
    return {"review": f"Task/{reply.json()['id']}"}


def _peer_review(network: Network, own: Facility, chart: dict[str, list[str]]) -> dict[str, str]:
    """What only the quality office reads, planted: a Task, a Communication, and what is said of them."""
    whose, about_ = {"reference": chart["Patient"][0]}, {"reference": chart["DiagnosticReport"][0]}
    rows = [
        {"resourceType": "Task", "status": "requested", "intent": "order", "for": whose, "focus": about_},
        {"resourceType": "Communication", "status": "completed", "subject": whose, "about": [about_]},
    ]
    peer = []
    for row in rows:
        reply = own.client.post(row["resourceType"], json=row)
        assert reply.status_code == 201, reply.text
        peer.append(f"{row['resourceType']}/{reply.json()['id']}")
    network.server.installation.store_audit()
    assert own.client.get("Provenance?_summary=count").status_code == 200  # made of what was noted
    database = network.server.client[network.server.name]
    for type_ in ("Provenance", "AuditEvent"):
        found = database[type_].find({"json": {"$regex": "|".join(one.partition("/")[2] for one in peer[:2])}})
        peer += [f"{type_}/{one['_id']}" for one in found]
    base = {"base": ["role/quality@org/centre"]}
    for reference in peer:
        type_, _, id_ = reference.partition("/")
        database[type_].update_one({"_id": id_}, {"$set": base | {"acl": base["base"]}})
        database["history"].update_many({"rid": reference}, {"$set": base})
    named = {f"peer-{reference.partition('/')[0].lower()}": reference for reference in peer}
    assert len(named) == 4
    lead = network.as_("centre", user="lead", roles=("quality",), scope="user/*.rs")
    assert lead.get(named["peer-task"]).status_code == 200  # which is noted like each reading
    return named


# ---------------------------------------------------------------------------------------------------- read


def batch(client: TestClient, urls: list[str]) -> list[Resource]:
    rows = [{"request": {"method": "GET", "url": url}} for url in urls]
    reply = client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": rows})
    assert reply.status_code == 200, reply.text
    return list(reply.json()["entry"])


def expected_of_read(judge: Judge, row: Row, seen: bool) -> str:
    if not judge.permits(row.type, "r"):
        return "403"
    return "404" if not seen else "410" if row.deleted else "200"


@callers(EVERYONE)
def test_read_and_search_answer_by_the_rules_in_a_batch(world, caller):
    """The last resource of each type of some charts, and a search of the types."""
    judge, client = world.judge(caller), world.client(caller)
    wanted = {found[-1] for name in ("shared", "restricted", "office") for found in world.charts[name].values()} | set(
        world.named.values()
    )
    rows = [row for row in judge.oracle.rows if row.reference in wanted]
    types = ["Binary", "Observation", "Patient", "QuestionnaireResponse", "Task"]
    searches = [f"{type_}?{WHOLE}&_elements=id" for type_ in types]
    every = sorted({row.type for row in rows})
    answers = batch(client, [row.reference for row in rows] + [f"{type_}/{MISSING}" for type_ in every] + searches)
    missing = dict(zip(every, answers[len(rows) :], strict=False))
    for row, entry in zip(rows, answers, strict=False):
        status = expected_of_read(judge, row, judge.sees(row, "r"))
        assert (row.reference, entry["response"]["status"]) == (row.reference, status)
        assert status == "200" or "resource" not in entry
        assert status != "404" or entry == missing[row.type]
    for type_, entry in zip(types, answers[-len(types) :], strict=True):
        found = {one["resource"]["id"] for one in entry.get("resource", {}).get("entry", ())}
        assert (type_, found) == (type_, {row.id for row in judge.all(type_)})
        assert entry["response"]["status"] == ("200" if judge.permits(type_, "s") else "403")


VERSIONED = ("Observation", "Patient", "QuestionnaireResponse", "ServiceRequest", "Practitioner")


@callers(FEW)
def test_every_version_is_read_by_the_rules(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    rows = [row for row in judge.oracle.versions if row.type in VERSIONED]
    for row, entry in zip(rows, batch(client, [f"{row.reference}/_history/{row.version}" for row in rows]), strict=True):
        name = f"{row.reference}/_history/{row.version}"
        assert (name, entry["response"]["status"]) == (name, expected_of_read(judge, row, judge.sees_version(row, "r")))


INSTANCES = [
    "{0}",
    "{0}/_history",
    "{0}/_history/1",
    "{0}/$meta",
    "{0}/$everything",
    "{0}/$access-log",
    "{0}/$validate",
    "{0}/Observation",
    "{0}/*",
    "{0}/*?_type=Observation,Task",
]


# what operations tell of a resource that they are called on, or named
TOLD_BY_OPERATIONS = {
    "Task": ["{0}/$candidates", "Practitioner/centre-anna/$check-eligibility?task={0}"],
    "ServiceRequest": ["{0}/$priors"],
}


@callers(one for one in FEW if one.form in ("all", "patient", "category", "status", "r-is-not-s", "letters"))
def test_what_is_hidden_is_answered_like_what_is_missing(world, caller):
    """Byte by byte, by each way to name it."""
    judge, client = world.judge(caller), world.client(caller)
    some = {row.reference for row in judge.oracle.versions if judge.sees_version(row, "r")}
    hidden = {row.type: row for row in judge.oracle.rows if not judge.sees(row, "r") and row.reference not in some}
    for row in (
        hidden[type_]
        for type_ in ("Patient", "Observation", "Task", "ServiceRequest", "Binary", "QuestionnaireResponse")
        if type_ in hidden
    ):
        for path in (*INSTANCES[: 10 if row.type == "Patient" else 4], *TOLD_BY_OPERATIONS.get(row.type, ())):
            there, nowhere = client.get(path.format(row.reference)), client.get(path.format(f"{row.type}/{MISSING}"))
            assert (path, row.type, there.status_code, there.content) == (path, row.type, nowhere.status_code, nowhere.content)
            assert there.status_code in (403, 404) or "task=" in path, (path, row.reference)
            judge.told(there, set(), path.format(row.reference))


# ---------------------------------------------------------------------------------------------------- search

Keep = Callable[[Row, Judge, World], bool]


@dataclass(frozen=True)
class Search:
    """``keep``: what it asks for, of a row that the caller sees; ``through``: the types that a chain passes; ``extra``: what
    comes along, exactly, of matches."""

    url: str
    keep: Keep = lambda row, judge, world: True
    through: tuple[str, ...] = ()
    extra: Callable[[set[str], Judge], set[str]] | None = None

    @property
    def type(self) -> str:
        return self.url.partition("?")[0]


def forward(*paths: str) -> Callable[[set[str], Judge], set[str]]:
    """What these elements of the matches refer to, where it may come along."""

    def extra(matches: set[str], judge: Judge) -> set[str]:
        wanted = {
            one for row in judge.oracle.rows if row.reference in matches for path in paths for one in pointed(row.data, path)
        }
        return {
            row.reference for row in judge.oracle.rows if row.reference in wanted and not row.deleted and judge.sees(row, "rs")
        }

    return extra


def backward(type_: str, path: str) -> Callable[[set[str], Judge], set[str]]:
    def extra(matches: set[str], judge: Judge) -> set[str]:
        return {row.reference for row in judge.all(type_, "rs") if set(pointed(row.data, path)) & matches}

    return extra


def both(*ways: Callable[[set[str], Judge], set[str]]) -> Callable[[set[str], Judge], set[str]]:
    return lambda matches, judge: {one for way in ways for one in way(matches, judge)}


def again(*ways: Callable[[set[str], Judge], set[str]]) -> Callable[[set[str], Judge], set[str]]:
    """One way after the other, each from all that is there so far."""

    def extra(matches: set[str], judge: Judge) -> set[str]:
        found: set[str] = set()
        for way in ways:
            found |= way(matches | found, judge)
        return found

    return extra


def refers(row: Row, path: str, targets: Iterable[Row]) -> bool:
    return bool(set(pointed(row.data, path)) & {target.reference for target in targets})


def of_chart(name: str) -> Keep:
    return lambda row, judge, world: world.charts[name]["Patient"][0] in row.about


def member(row: Row, judge: Judge, world: World) -> bool:
    lists = [one for one in judge.all("List") if one.reference == world.charts["private"]["List"][0]]
    return any(row.reference in pointed(one.data, "entry.item") for one in lists)


def first_of(type_: str, *names: str) -> Keep:
    return lambda row, judge, world: row.reference in {world.charts[name][type_][0] for name in names}


def coded(name: str, value: str) -> Keep:
    return lambda row, judge, world: has(row.data, name, (value,))


def through(path: str, type_: str, keep: Keep = lambda row, judge, world: True) -> Keep:
    """What refers to something that the caller may search, and that this holds of."""

    def kept(row: Row, judge: Judge, world: World) -> bool:
        return refers(row, path, [target for target in judge.all(type_) if keep(target, judge, world)])

    return kept


def referred(type_: str, path: str, keep: Keep) -> Keep:
    """What such a thing, which the caller may search, refers to."""

    def kept(row: Row, judge: Judge, world: World) -> bool:
        return any(row.reference in pointed(one.data, path) and keep(one, judge, world) for one in judge.all(type_))

    return kept


def none(row: Row, judge: Judge, world: World) -> bool:
    return False


SEARCHES = [
    Search("Patient?name=nowak"),
    Search(
        "Patient?_id={private.Patient},{shared.Patient},{office.Patient}", first_of("Patient", "private", "shared", "office")
    ),
    Search("Patient?identifier=urn:mrn|P-private", first_of("Patient", "private")),
    Search("Observation?category=laboratory", coded("category", "laboratory")),
    Search("Observation?status:not=final", lambda row, judge, world: row.data["status"] != "final"),
    Search("Observation?subject={shared.Patient}", of_chart("shared")),
    Search("Observation?patient={lapsed.Patient}&_sort=status", of_chart("lapsed")),
    Search("Observation?_sort=-date"),
    Search("Observation?_list={private.List}", member, ("List",)),
    Search("ServiceRequest?identifier=A-withdrawn,A-shared", first_of("ServiceRequest", "withdrawn", "shared")),
    Search("QuestionnaireResponse?status=in-progress", coded("status", "in-progress")),
    Search("Task?patient={centre.Patient}", of_chart("centre")),
    Search("Binary"),
    Search("Practitioner"),
    Search("Organization"),
    Search(
        "Provenance?target={centre.Observation}",
        lambda row, judge, world: world.charts["centre"]["Observation"][0] in pointed(row.data, "target"),
    ),
    Search("AuditEvent?patient={shared.Patient}", of_chart("shared")),
    # chains and reverse chains
    Search("Observation?subject:Patient.name=nowak", through("subject", "Patient"), ("Patient",)),
    Search(
        "ServiceRequest?subject:Patient.identifier=urn:mrn|P-withdrawn",
        through("subject", "Patient", first_of("Patient", "withdrawn")),
        ("Patient",),
    ),
    Search(
        "Task?focus:ServiceRequest.subject:Patient.name=nowak",
        through("focus", "ServiceRequest", through("subject", "Patient")),
        ("ServiceRequest", "Patient"),
    ),
    Search(
        "Patient?_has:Observation:patient:status=preliminary",
        referred("Observation", "subject", coded("status", "preliminary")),
        ("Observation",),
    ),
    Search(
        "Encounter?subject:Patient._has:Task:patient:status=draft",
        through("subject", "Patient", referred("Task", "for", coded("status", "draft"))),
        ("Patient", "Task"),
    ),
    Search(
        "ServiceRequest?_has:DiagnosticReport:based-on:_has:Provenance:target:_id={peer-provenance}",
        none,
        ("DiagnosticReport", "Provenance"),
    ),
    # what comes along
    Search("Observation?_include=Observation:subject", extra=forward("subject")),
    Search(
        "Patient?_revinclude=Observation:subject&_revinclude=Task:patient",
        extra=both(backward("Observation", "subject"), backward("Task", "for")),
    ),
    Search(
        "Task?_include=Task:focus&_include:iterate=ServiceRequest:subject",
        extra=again(forward("focus"), forward("subject")),
    ),
    Search(
        "Patient?_revinclude=ServiceRequest:subject&_revinclude:iterate=Task:focus",
        extra=again(backward("ServiceRequest", "subject"), backward("Task", "focus")),
    ),
    Search("DocumentReference?_include=*"),
    Search("Patient?_revinclude=*"),
    Search("Encounter?_include=*&_revinclude:iterate=*"),
    Search(
        "DiagnosticReport?_revinclude=Task:focus&_revinclude=Communication:based-on&_revinclude=Provenance:target",
        extra=both(backward("Task", "focus"), backward("Provenance", "target")),
    ),
    Search(
        "Task?_revinclude=AuditEvent:entity&_revinclude=Provenance:target",
        extra=both(backward("AuditEvent", "entity.what"), backward("Provenance", "target")),
    ),
    Search("Practitioner?_revinclude=QuestionnaireResponse:author", extra=backward("QuestionnaireResponse", "author")),
]
searches = pytest.mark.parametrize("search", [pytest.param(row, id=row.url) for row in SEARCHES])


def filled(world: World, url: str) -> str:
    """``{private.List}`` is the first List of the chart; ``{draft}`` what has this name."""

    def reference(match: re.Match[str]) -> str:
        name, _, type_ = match[1].partition(".")
        found = world.charts[name][type_][0] if type_ else world.named[name]
        return found.partition("/")[2] if "_id=" in url or "_list=" in url else found

    return re.sub(r"\{([\w.-]+)\}", reference, url)


def modes(bundle: Resource) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"match": set(), "include": set(), "outcome": set()}
    for entry in bundle.get("entry", ()):
        found[entry["search"]["mode"]].add(f"{entry['resource']['resourceType']}/{entry['resource'].get('id')}")
    return found


@searches
@callers(FEW)
def test_a_search_finds_what_the_rules_allow(world, caller, search):
    judge, client = world.judge(caller), world.client(caller)
    url = filled(world, search.url)
    url += f"{'&' if '?' in url else '?'}{WHOLE}"
    reply = client.get(url)
    if not all(judge.permits(type_, "s") for type_ in (search.type, *search.through)):
        assert reply.status_code == 403
        return judge.told(reply, set(), url)
    assert reply.status_code == 200, reply.text
    expected = {row.reference for row in judge.all(search.type) if search.keep(row, judge, world)}
    body = reply.json()
    found = modes(body)
    assert found["match"] == expected
    assert body["total"] == len(expected)
    along = {row.reference for row in judge.oracle.rows if judge.sees(row, "rs")}
    assert found["include"] <= along
    if search.extra:
        assert found["include"] == search.extra(expected, judge) - expected
    return judge.told(reply, expected | found["include"], url)


@pytest.mark.parametrize("search", [pytest.param(row, id=row.url) for row in SEARCHES[:24:6]])
@callers(FEW)
def test_a_count_is_of_what_the_rules_allow(world, caller, search):
    """Three ways to count, and page by page to the end."""
    judge, client = world.judge(caller), world.client(caller)
    if not all(judge.permits(type_, "s") for type_ in (search.type, *search.through)):
        return
    url = filled(world, search.url)
    expected = {row.reference for row in judge.all(search.type) if search.keep(row, judge, world)}
    join = "&" if "?" in url else "?"
    for way in ("_summary=count", "_count=0", "_total=accurate&_count=1"):
        reply = client.get(f"{url}{join}{way}")
        assert (way, reply.json()["total"]) == (way, len(expected))
        judge.told(reply, expected, url)
    found: list[str] = []
    size, following = (1 if len(expected) < 5 else 7), f"{url}{join}_sort=-_lastUpdated&_count="
    reply = client.get(f"{following}{size}")
    while True:
        page = reply.json()
        judge.told(reply, expected, url)
        found += modes(page)["match"]
        link = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
        if link is None:
            break
        reply = client.get(link.removeprefix(f"{BASE}/fhir/"))
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("name", ["shared", "restricted"])
@callers(FEW)
def test_a_compartment_has_what_the_rules_allow(world, caller, name):
    judge, client = world.judge(caller), world.client(caller)
    who = world.charts[name]["Patient"][0]
    [whose] = [row for row in judge.oracle.rows if row.reference == who]

    def inside(*types: str) -> set[str]:
        rows = (row for row in judge.oracle.rows if row.type in COMPARTMENT and row.type in (types or COMPARTMENT))
        return {row.reference for row in rows if not row.deleted and who in row.about and judge.sees(row, "s")}

    laboratory = {row.reference for row in judge.oracle.of("Observation") if has(row.data, "category", ("laboratory",))}
    asked = [
        (f"{who}/Observation?{WHOLE}", ["Observation"], inside("Observation")),
        (f"{who}/Observation?category=laboratory&{WHOLE}", ["Observation"], inside("Observation") & laboratory),
        (f"{who}/*?{WHOLE}", [], inside()),
        (f"{who}/*?_type=Encounter,Task&{WHOLE}", ["Encounter", "Task"], inside("Encounter", "Task")),
    ]
    for url, needed, expected in asked:
        reply = client.get(url)
        if not judge.permits("Patient", "r") or not all(judge.permits(type_, "s") for type_ in needed):
            assert reply.status_code in (403, 404), url  # of the two letters that are needed either may be looked at first
            judge.told(reply, set(), url)
        elif not judge.sees(whose, "r"):
            assert reply.status_code == 404
            judge.told(reply, set(), url)
        else:
            assert (url, reply.status_code) == (url, 200)
            assert modes(reply.json())["match"] == expected, url
            assert reply.json()["total"] == len(expected)
            judge.told(reply, expected | {who}, url)


@callers(FEW)
def test_searches_and_histories_over_all_types_have_what_the_rules_allow(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    rows = [row for row in judge.oracle.rows if not row.deleted and judge.sees(row, "s")]
    some = [reference for chart in world.charts.values() for reference in (chart["Patient"][0], chart["Task"][0])]
    ids = ",".join(reference.partition("/")[2] for reference in some)
    kinds = ("Observation", "Encounter")
    for url, expected in (
        (f"?{WHOLE}", {row.reference for row in rows}),
        (f"?_id={ids}&{WHOLE}", {row.reference for row in rows} & set(some)),
        (f"?_type={','.join(kinds)}&{WHOLE}", {row.reference for row in rows if row.type in kinds}),
    ):
        reply = client.get(url)
        if "_type" in url and not all(judge.permits(type_, "s") for type_ in kinds):
            assert reply.status_code == 403
            continue
        assert reply.status_code == 200, reply.text
        found = modes(reply.json())["match"]
        assert len(expected) > 1000 or found == expected, url
        assert found <= expected
        judge.told(reply, found, url)


def versions(bundle: Resource) -> set[tuple[str, int]]:
    return {
        (entry["fullUrl"].removeprefix(f"{BASE}/fhir/"), int(re.sub(r"\D", "", entry["response"]["etag"])))
        for entry in bundle.get("entry", ())
    }


@callers(FEW)
def test_a_history_has_the_versions_that_the_rules_allow(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    for type_ in VERSIONED:
        reply = client.get(f"{type_}/_history?{WHOLE}")
        assert reply.status_code == (200 if judge.permits(type_, "s") else 403)
        if reply.status_code == 200:
            rows = {
                (row.reference, row.version)
                for row in judge.oracle.versions
                if row.type == type_ and judge.sees_version(row, "s")
            }
            assert versions(reply.json()) == rows
            judge.told(reply, {reference for reference, _ in rows})
    references = {chart[type_][-1] for name, chart in world.charts.items() for type_ in VERSIONED[:3] if name in CHARTS[::4]}
    for row in (row for row in judge.oracle.rows if row.reference in {*references, world.charts["shared"]["Observation"][4]}):
        reply = client.get(f"{row.reference}/_history?{WHOLE}")
        rows = {
            (one.reference, one.version)
            for one in judge.oracle.versions
            if one.reference == row.reference and judge.sees_version(one, "r")
        }
        if reply.status_code == 200:
            assert versions(reply.json()) == rows, row.reference
            judge.told(reply, {reference for reference, _ in rows})
        else:
            assert reply.status_code == (404 if judge.permits(row.type, "r") else 403)
            assert not rows, row.reference


@callers(
    [Caller(BOB, "all"), Caller(BELA, "all"), Caller(SYSTEM, "r-is-not-s"), Caller(ANNA, "patient"), Caller(CLERK, "category")]
)
def test_the_history_of_all_has_the_versions_that_the_rules_allow(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    found: set[tuple[str, int]] = set()
    reply = client.get(f"_history?{WHOLE}")
    while True:
        found |= versions(reply.json())
        judge.told(reply, {reference for reference, _ in found})
        link = next((one["url"] for one in reply.json()["link"] if one["relation"] == "next"), None)
        if link is None:
            break
        reply = client.get(link.removeprefix(f"{BASE}/fhir/"))
    assert found == {(row.reference, row.version) for row in judge.oracle.versions if judge.sees_version(row, "s")}


# ---------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("name", ["shared", "restricted", "lapsed"])
@callers(FEW)
def test_everything_is_what_the_rules_allow(world, caller, name):
    judge, client = world.judge(caller), world.client(caller)
    who = world.charts[name]["Patient"][0]
    [whose] = [row for row in judge.oracle.rows if row.reference == who]
    reply = client.get(f"{who}/$everything?{WHOLE}")
    if not (judge.permits("Patient", "r") and judge.sees(whose, "r")):
        assert reply.status_code == (404 if judge.permits("Patient", "r") else 403)
        return judge.told(reply, set(), who)
    rows = [row for row in judge.oracle.rows if row.type in COMPARTMENT and not row.deleted and who in row.about]
    expected = {who} | {row.reference for row in rows if judge.sees(row, "s")}
    found = modes(reply.json())
    assert found["match"] == expected
    assert found["include"] <= {row.reference for row in judge.oracle.rows if judge.sees(row, "rs")}
    return judge.told(reply, expected | found["include"], who)


@callers(FEW)
def test_labels_are_those_of_what_the_rules_allow(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    for url in ("Observation/$meta", "$meta")[: 1 if caller.form == "all" and caller.holder.role != "trainee" else 2]:
        reply = client.get(url)
        if url[0] == "O" and not judge.permits("Observation", "s"):
            assert reply.status_code == 403
            continue
        assert reply.status_code == 200
        told = {
            tag["code"]
            for row in reply.json().get("parameter", ())
            for tag in row["valueMeta"].get("tag", ())
            if tag.get("system") == "urn:tags"
        }
        assert told == {tag["code"] for row in judge.all("Observation") for tag in row.data["meta"].get("tag", ())}
        judge.told(reply, set())


@callers(CALLERS)
def test_a_match_is_of_those_that_the_rules_allow(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    body = parameters(resource=patient(birthDate="1980-02-03"), count=100)
    reply = client.post("Patient/$match", json=body)
    if not judge.permits("Patient", "s"):
        assert reply.status_code == 403
        return
    assert reply.status_code == 200, reply.text
    expected = {row.reference for row in judge.all("Patient") if row.data.get("birthDate") == "1980-02-03"}
    assert {f"Patient/{entry['resource']['id']}" for entry in reply.json().get("entry", ())} == expected
    judge.told(reply, expected)


@callers(ROLES)
def test_priors_are_what_the_rules_allow(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    for name in ("shared", "private", "office", "centre"):
        url = f"{world.charts[name]['ServiceRequest'][0]}/$priors"
        reply = client.get(url)
        allowed = {row.reference for row in judge.oracle.rows if judge.sees(row, "rs")} if reply.status_code == 200 else set()
        judge.told(reply, allowed, url)


@pytest.mark.parametrize("view", ["mine", "pool", "team", "dispatch", "facility", "peer-review", "critical"])
@callers([*FEW[:6], *(Caller(DISPATCHER, form) for form in SCOPES), *(Caller(ANNA, form) for form in APART[:6])])
def test_a_worklist_has_what_the_rules_allow(world, caller, view):
    judge, client = world.judge(caller), world.client(caller)
    reply = client.get(f"Task/$worklist?view={view}&count=200")
    if reply.status_code != 200:
        return judge.told(reply, set())
    found = modes(reply.json())
    assert found["match"] <= {row.reference for row in judge.all("Task")}  # it is a search
    assert found["include"] <= {row.reference for row in judge.oracle.rows if judge.sees(row, "rs")}
    assert reply.json()["total"] == len(found["match"])
    if view == "dispatch" and caller == Caller(DISPATCHER, "all"):
        assert world.named["t0-shared"] in found["match"]
        assert world.named["t0-withdrawn"] not in found["match"]
    return judge.told(reply, found["match"] | found["include"])


# ---------------------------------------------------------------------------------------------------- images


@callers(FEW)
def test_images_are_answered_as_their_studies(world, caller):
    """QIDO is search, WADO is read."""
    judge, client = world.judge(caller), world.client(caller, "dicomweb")
    studies = {at(row.data, "identifier.value")[0].removeprefix("urn:oid:"): row for row in judge.oracle.of("ImagingStudy")}
    reply = client.get("studies")
    if judge.permits("ImagingStudy", "s"):
        found = {one["0020000D"]["Value"][0] for one in (reply.json() if reply.status_code == 200 else [])}
        assert found == {uid for uid, row in studies.items() if judge.sees(row, "s")}
    else:
        assert reply.status_code == 403
    nowhere = client.get("studies/1.2.3/metadata")
    for uid, row in list(studies.items())[::2]:
        series = client.get(f"studies/{uid}/series")
        assert (series.status_code == 200) == (judge.permits("ImagingStudy", "s") and judge.sees(row, "s"))
        there = client.get(f"studies/{uid}/metadata")
        if judge.sees(row, "r"):
            assert there.status_code == 200
        else:
            assert (there.status_code, there.content) == (nowhere.status_code, nowhere.content)
            assert there.status_code == (404 if judge.permits("ImagingStudy", "r") else 403)
            assert client.get(f"studies/{uid}").content == nowhere.content


@callers(FEW)
def test_a_viewer_is_opened_for_what_the_rules_allow_and_shows_that_alone(world, caller):
    """By an app's one-time code; what the browser is given reads the study that it is for, as WADO and as QIDO."""
    judge, client = world.judge(caller), world.client(caller, "viewer")
    studies = {at(row.data, "identifier.value")[0].removeprefix("urn:oid:"): row for row in judge.oracle.of("ImagingStudy")}
    nowhere = client.post("open", json={"study": f"ImagingStudy/{MISSING}"})
    shown = 0
    for uid, row in list(studies.items())[::2]:
        reply = client.post("open", json={"study": row.reference})
        if not judge.sees(row, "r"):
            assert (reply.status_code, reply.content) == (nowhere.status_code, nowhere.content)
            assert reply.status_code == (404 if judge.permits("ImagingStudy", "r") else 403)
            continue
        assert reply.status_code == 200, reply.text
        if (shown := shown + 1) > 2:  # the first few are looked at
            continue
        browser = TestClient(world.network.server.app, base_url=BASE, follow_redirects=False)
        browser.portal = world.portal
        assert browser.get(reply.json()["url"]).status_code == 303
        read = {one for one in studies if browser.get(f"/dicomweb/studies/{one}/metadata").status_code == 200}
        found = {one["0020000D"]["Value"][0] for one in browser.get("/dicomweb/studies").json()}
        # one token's windows share a pass: what was opened before stays open, as far as it may still be read
        assert uid in read == found
        assert len(read) <= shown
        assert all(judge.sees(studies[one], "r") for one in read)


# ---------------------------------------------------------------------------------------------------- peer review, drafts

# everything that could tell of a resource without showing it; {0} is its reference
TELLING = [
    "Provenance?target={0}", "Provenance?target={0}&_total=accurate&_count=1", "Provenance?target={0}&_summary=count",
    "Task?part-of={0}", "Communication?part-of={0}", "Observation?focus={0}&_revinclude=*", "Provenance?entity={0}",
]  # fmt: skip


@pytest.mark.parametrize("named", ["peer-task", "peer-communication", "peer-provenance", "peer-auditevent", "review"])
@callers([Caller(one, "all") for one in (CENTRE, BELA, CLERK)])
def test_nothing_tells_of_a_peer_review_to_others(world, caller, named):
    """By its own id, by what refers to it, and by counts, it is as if it was not there."""
    client, reference = world.client(caller), world.named[named]
    type_ = reference.partition("/")[0]
    for path in [*INSTANCES[:4], *TELLING]:
        there, nowhere = client.get(path.format(reference)), client.get(path.format(f"{type_}/{MISSING}"))
        assert there.status_code == nowhere.status_code
        if there.status_code != 200:
            assert there.content == nowhere.content, path
        else:
            assert _told_of(there) == _told_of(nowhere), path


@pytest.mark.parametrize("way", ["AuditEvent?entity={0}", "AuditEvent?entity={0}&_summary=count"])
@pytest.mark.parametrize("holder", [BELA, DISPATCHER, CLERK, BOB], ids=lambda holder: holder.name)
def test_no_audit_event_tells_of_a_peer_review_to_others(world, holder, way):
    """Who opened a review, and who read it, is noted; the note is for those who read the review."""
    client = world.client(Caller(holder, "all"))
    reference = world.named["peer-task" if holder.organization == "centre" else "review"]
    there, nowhere = client.get(way.format(reference)), client.get(way.format(f"Task/{MISSING}"))
    assert _told_of(there) == _told_of(nowhere)


def _told_of(reply: Any) -> tuple[Any, list[str]]:
    body = reply.json()
    return body.get("total"), [entry["resource"]["id"] for entry in body.get("entry", ())]


@pytest.mark.parametrize("named", ["peer-task", "peer-communication", "peer-provenance", "peer-auditevent"])
def test_a_peer_review_is_read_by_the_quality_office(world, named):
    assert world.client(Caller(QUALITY, "all")).get(world.named[named]).status_code == 200
    assert world.client(Caller(QUALITY_THERE, "all")).get(world.named[named]).status_code == 404  # of another organisation


@callers(ROLES)
def test_a_draft_is_its_authors_alone(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    drafts = [row for row in judge.oracle.of("QuestionnaireResponse") if row.data["status"] == "in-progress"]
    for row in drafts:
        mine = row.data["author"]["reference"] == f"Practitioner/{caller.holder.practitioner}"
        assert client.get(row.reference).status_code == (200 if mine else 404)
    found = client.get(f"QuestionnaireResponse?status=in-progress&{WHOLE}").json()["total"]
    assert found == sum(row.data["author"]["reference"] == f"Practitioner/{caller.holder.practitioner}" for row in drafts)


# ---------------------------------------------------------------------------------------------------- what writes tell

WRITERS = [
    *(Caller(one, "all") for one in (SYSTEM, BOB, OFFICE, CENTRE, BELA)),
    Caller(SYSTEM, "patient-lapsed"),
    Caller(CLERK, "writes"),
]
JSON_PATCH = {"Content-Type": "application/json-patch+json"}


def pointing(reference: str) -> Resource:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "focus": [{"reference": reference}]}


def saying(reference: str) -> str:
    who = [{"who": {"reference": reference}}]
    return json.dumps({"resourceType": "Provenance", "recorded": "2026-11-24T12:00:00Z", "agent": who})


def entered(resource: Resource, kind: str, url: str = "Observation", method: str = "POST") -> Resource:
    return {
        "resourceType": "Bundle",
        "type": kind,
        "entry": [{"resource": resource, "request": {"method": method, "url": url}}],
    }


@callers(WRITERS)
def test_a_reference_to_what_is_hidden_is_a_reference_to_nothing(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    hidden = [row for row in judge.oracle.rows if row.type not in DIRECTORY and (row.deleted or not judge.sees(row, "rs"))]
    kinds = ("Patient", "Observation", "Task", "Binary", "QuestionnaireResponse")
    for row in {row.type: row for row in hidden if row.type in kinds}.values():
        ways: list[Callable[[str], Any]] = [
            lambda reference: client.post("Observation", json=pointing(reference)),
            lambda reference: client.post("Observation", json=pointing(f"{BASE}/fhir/{reference}")),
            lambda reference: client.post("Observation", json=pointing(f"{reference}/_history/1")),
            lambda reference: client.put(f"Observation/{NEW}", json=pointing(reference) | {"id": NEW}),
            lambda reference: client.post("", json=entered(pointing(reference), "transaction")),
            lambda reference: client.post("", json=entered(pointing(reference), "batch")),
            lambda reference: client.post("Observation/$validate", json=pointing(reference)),
            lambda reference: client.post("Observation", json=pointing("#x"), headers={"X-Provenance": saying(reference)}),
        ]
        for send in ways:
            there, nowhere = send(row.reference), send(f"{row.type}/{MISSING}")
            assert (row.reference, there.status_code, there.content) == (row.reference, nowhere.status_code, nowhere.content)


@callers(WRITERS)
def test_criteria_find_what_the_rules_allow(world, caller):
    """A conditional request for what is hidden does what it does for what is missing."""
    judge, client = world.judge(caller), world.client(caller)
    for name in CHARTS:
        [row] = [one for one in judge.oracle.rows if one.reference == world.charts[name]["Patient"][0]]
        found = judge.permits("Patient", "s") and judge.sees(row, "s")
        criteria = f"identifier=urn:mrn|P-{name}"
        nothing_, url = "identifier=urn:mrn|P-nobody", f"Patient?{criteria}"
        if found:
            reply = client.post("Patient", json=patient(), headers={"If-None-Exist": criteria})
            assert reply.status_code in (200, 403)  # 403: a role that writes no patients
            assert reply.status_code == 403 or reply.json()["id"] == row.id
            continue
        for there, nowhere in (
            (
                client.patch(url, content="[]", headers=JSON_PATCH),
                client.patch(f"Patient?{nothing_}", content="[]", headers=JSON_PATCH),
            ),
            (client.delete(url), client.delete(f"Patient?{nothing_}")),
            (
                client.post("", json=entered(order(url), "transaction", "ServiceRequest")),
                client.post("", json=entered(order(f"Patient?{nothing_}"), "transaction", "ServiceRequest")),
            ),
        ):
            assert (there.status_code, there.content) == (nowhere.status_code, nowhere.content)
        refused = client.put(url, json=patient(id=row.id))  # what is there by this id is not told, and not changed
        judge.told(refused, set(), f"{url}/{row.id}")
        assert refused.status_code >= 400
    judge = world.judge(caller, world.loaded())
    assert not [row for row in judge.oracle.rows if row.type == "Patient" and row.deleted]


@callers([one for one in WRITERS if one.form == "all" and one.holder.role in (None, "referrer")])
def test_a_conditional_create_makes_anew_what_only_others_have(world, caller):
    judge, client = world.judge(caller), world.client(caller)
    hidden = [
        name
        for name in CHARTS
        for row in judge.oracle.of("Patient")
        if row.reference == world.charts[name]["Patient"][0] and not judge.sees(row, "s")
    ]
    assert hidden
    body = patient(identifier=[{"system": "urn:mrn", "value": f"P-{hidden[0]}"}])
    for number in range(2):
        reply = client.post("Patient", json=body, headers={"If-None-Exist": f"identifier=urn:mrn|P-{hidden[0]}"})
        assert reply.status_code == (201, 200)[number]
        assert f"Patient/{reply.json()['id']}" != world.charts[hidden[0]]["Patient"][0]


# by what may be read, whether the answer to an update of a final vital sign tells it
TOLD = [
    ("user/Observation.r?category=laboratory", False),
    ("user/Encounter.r", False),
    ("user/Observation.s", False),
    ("user/Observation.r?category=vital-signs", True),
    ("user/Observation.r", True),
]


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(("scope", "told"), TOLD)
def test_the_answer_to_a_patch_tells_what_may_be_read(world, scope, told, conditional):
    """A PATCH that changes nothing is no way to read: what is answered takes r of this resource."""
    scope = f"user/Observation.u user/Observation.s user/Patient.r {scope}"
    client = world.network.as_("hospital", user="patcher", roles=("clerk",), scope=scope)
    reference = world.charts["private"]["Observation"][2]
    url = f"Observation?_id={reference.partition('/')[2]}" if conditional else reference
    reply = client.patch(url, content="[]", headers=JSON_PATCH)
    assert reply.status_code == 200, reply.text
    assert bool(reply.text) == told


@pytest.mark.parametrize(("scope", "told"), TOLD)
def test_the_answer_to_an_operation_tells_what_may_be_read(world, scope, told):
    """$meta-add of nothing answers the labels that are there."""
    scope = f"user/Observation.u user/Patient.r {scope}"
    client = world.network.as_("hospital", user="labeller", roles=("clerk",), scope=scope)
    body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "private-2"}]}}]}
    body["parameter"][0]["valueMeta"]["tag"][0]["system"] = "urn:tags"
    reply = client.post(f"{world.charts['private']['Observation'][2]}/$meta-add", json=body)
    assert reply.status_code == 200, reply.text
    assert ("lastUpdated" in reply.text) == told
