"""AuditEvent and Provenance: what is said of each request, and of each write.

https://hl7.org/fhir/R4/auditevent.html https://hl7.org/fhir/R4/provenance.html
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator

from auth.principal import Principal
from fhirserver.errors import Invalid, Issue
from fhirserver.messages import Context, Line
from fhirserver.moments import milliseconds
from fhirserver.search.index import index
from fhirserver.validation import Document, built, instant, loads, problems
from fhirserver.versions import Touched, Write

INTERACTION = "http://hl7.org/fhir/restful-interaction"
CLIENTS = "urn:fhirserver:client"
# What is no REST interaction: who signed in, what was consented to, what was issued, refused and revoked.
SECURITY = "security"
# What leaves for another archive and comes from one, and what such a one is asked: https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_400.html
EXPORT, IMPORT, QUERY = "export", "import", "query"
_EXCHANGES = {EXPORT: ("110106", "Export"), IMPORT: ("110107", "Import"), QUERY: ("110112", "Query")}
_OTHER_SIDE = {
    EXPORT: ("110152", "Destination Role ID"),
    IMPORT: ("110153", "Source Role ID"),
    QUERY: ("110153", "Source Role ID"),
}
_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_DCM_CODES = {"login": "110122", "logout": "110123"}
# https://hl7.org/fhir/R4/valueset-type-restful-interaction.html
_ACTIONS = {
    "create": "C",
    "update": "U",
    "patch": "U",
    "delete": "D",
    "operation": "E",
    "transaction": "E",
    "batch": "E",
    SECURITY: "E",
    IMPORT: "C",
    QUERY: "E",
}
_EMERGENCY = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "BTG"}
_SUBTYPES = {"search-compartment": "search-type"}
_PATIENT = {
    "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "1"},
    "role": {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": "1"},
}


def agents(principal: Principal) -> list[Document]:
    """Who acted, and for whom."""
    who: Document = {"identifier": {"system": CLIENTS, "value": principal.client or "anonymous"}, "display": principal.name}
    if principal.practitioner:
        who = {"reference": f"Practitioner/{principal.practitioner}", "display": principal.name}
    return [{"who": who, "requestor": True}]


def event(principal: Principal, line: Line, touched: Iterable[Touched], query: str) -> Document:
    """An AuditEvent: who, on whose behalf, what was touched, whose it is, and how it ended."""
    rows = list(touched)
    patients = dict.fromkeys(patient for _, _, of, _ in rows for patient in of)
    entities: list[Document] = [{"what": {"reference": reference}} for reference, *_ in rows if reference not in patients]
    entities += [{"what": {"reference": patient}} | _PATIENT for patient in patients]
    if query:
        entities.append({"query": base64.b64encode(query.encode()).decode(), "type": {"code": "2"}})
    document: Document = {
        "resourceType": "AuditEvent",
        **_kind(line),
        "action": _ACTIONS.get(line.interaction, "R"),
        "recorded": instant(line.when),
        "outcome": line.outcome,
        "agent": agents(principal),
        "source": {
            "observer": {"reference": f"Organization/{principal.organization}"}
            if principal.organization
            else {"display": "fhirserver"}
        },
    }
    if line.interaction in _EXCHANGES:
        code, display = _OTHER_SIDE[line.interaction]
        role = {"coding": [{"system": _DCM, "code": code, "display": display}]}
        document["agent"].append({"type": role, "name": line.operation, "requestor": False})
    if line.operation == "break-glass":
        document["purposeOfEvent"] = [{"coding": [_EMERGENCY]}]
    if entities:
        document["entity"] = entities
    return document


def _kind(line: Line) -> Document:
    """https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_400.html for what is no interaction."""
    own = [{"code": line.operation}] if line.operation else []
    if line.interaction == SECURITY:
        coded = [{"system": _DCM, "code": _DCM_CODES[line.operation]}] if line.operation in _DCM_CODES else []
        return {"type": {"system": _DCM, "code": "110114", "display": "User Authentication"}, "subtype": coded + own}
    if line.interaction in _EXCHANGES:
        code, display = _EXCHANGES[line.interaction]
        return {"type": {"system": _DCM, "code": code, "display": display}}
    subtype = _SUBTYPES.get(line.interaction, line.interaction)
    return {
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest"},
        "subtype": [{"system": INTERACTION, "code": subtype}, *own],
    }


def events(line: Line) -> Iterator[tuple[list[str], Document]]:
    """(access keys, event): the caller's own with everything, each other owner's with what is theirs and no query; and apart
    what only a few may know of."""
    own, few = line.principal.organization, sorted({keys for *_, keys in line.touched if keys})
    rows = [row for row in line.touched if not row[3]]
    if rows or not few:
        yield [f"org/{own}"], event(line.principal, line, rows, "" if few else line.query)
    for owner in sorted({owner for _, owner, *_ in rows} - {own, ""}):
        yield [f"org/{owner}"], event(line.principal, line, [row for row in rows if row[1] == owner], "")
    for keys in few:
        some = [row for row in line.touched if row[3] == keys]
        # What was asked may tell what another person is not to know, such as which report they review blind
        others = [key for key in keys if key.startswith("practitioner/") and key not in line.principal.keys]
        yield [key for key in keys if key not in others], event(line.principal, line, some, line.query)
        if others:
            yield others, event(line.principal, line, some, "")


def proofs(line: Line) -> Iterator[tuple[list[str] | None, Document]]:
    """(access keys, None for those of the type; Provenance) of what was written."""
    few = {reference: keys for reference, _, _, keys in line.touched if keys}
    for activity, targets in line.made.items():
        groups: dict[tuple[str, ...], list[str]] = {}
        for target in targets:
            groups.setdefault(few.get(target.partition("/_history/")[0], ()), []).append(target)
        for keys, some in groups.items():
            yield list(keys) or None, proof(line.principal, instant(line.when), some, activity)


def provenance(ctx: Context, targets: Iterable[str], activity: str, extra: Document | None = None) -> Document:
    """A Provenance of this request's writes; ``activity`` is a v3-DataOperation code or an operation's name."""
    return proof(ctx.principal, instant(ctx.now), targets, activity) | (extra or {})


def proof(principal: Principal, when: str, targets: Iterable[str], activity: str) -> Document:
    standard = activity in ("CREATE", "UPDATE", "DELETE")
    coding = {"system": "http://terminology.hl7.org/CodeSystem/v3-DataOperation"} if standard else {}
    [agent] = agents(principal)
    return {
        "resourceType": "Provenance",
        "target": [{"reference": target} for target in targets],
        "recorded": when,
        "activity": {"coding": [coding | {"code": activity}]},
        "agent": [{"who": agent["who"], "onBehalfOf": {"reference": f"Organization/{principal.organization}"}}],
    }


def record(ctx: Context, interaction: str, operation: str = "") -> None:
    """One line about this request, into its own transaction: its AuditEvents, and the Provenance of every write that has
    none yet, are made of it (``trail``)."""
    writes = [w for w in ctx.changes.writes.values() if w.type != "Provenance"]
    proofs = [w.data for w in ctx.changes.writes.values() if w.type == "Provenance" and w.data]
    proven = {target["reference"] for one in proofs for target in one["target"]}
    made: dict[str, list[str]] = {}
    for write in writes:
        target = f"{write.reference}/_history/{write.version}"
        if target not in proven:
            kind = operation or ("DELETE" if write.data is None else "UPDATE" if write.expected else "CREATE")
            made.setdefault(kind, []).append(target)
    touched = [write.touched for write in writes] or [(f"{t}/{i}", "", (), ()) for (t, i), _, _ in ctx.changes.shares]
    line = Line(ctx.principal, interaction, ctx.now, "0", (*touched, *ctx.changes.touched), "", operation, made)
    ctx.changes.line = (milliseconds(ctx.now), line.text())


def said_of(ctx: Context, text: str) -> Document:
    """``X-Provenance``: what the client says of its own writes; it stands beside what the server says.

    https://hl7.org/fhir/R4/provenance.html#header
    """
    writes = [w for w in ctx.changes.writes.values() if w.type != "Provenance"]
    said = loads(text)
    targets = [{"reference": f"{w.reference}/_history/{w.version}"} for w in writes]
    if not isinstance(said, dict) or said.get("resourceType") != "Provenance" or "target" in said:
        wrong = "X-Provenance is a Provenance resource without a target: the server knows what was written."
        raise Invalid(wrong, issues=[Issue("invalid", wrong, "Provenance.target")])
    document = {key: value for key, value in said.items() if key not in ("id", "meta")} | {"target": targets}
    if found := list(problems(document, "Provenance")):
        raise Invalid(found[0].diagnostics, issues=found)
    return document


def add(ctx: Context, document: Document, base: list[str] | None = None) -> Write:
    """A resource of the server's own making, owned by the caller's organisation."""
    resource = built(document)
    type_ = ctx.store.types[resource.type]
    owner = ctx.principal.organization
    keys = base if base is not None else type_.base_keys(owner, resource.data)
    id_ = ctx.new_id()
    write = Write(
        resource.type,
        id_,
        0,
        milliseconds(ctx.now),
        "POST",
        owner,
        keys,
        resource.text(id_, 1, ctx.now),
        resource.data,
        index(type_, resource.data),
    )
    ctx.changes.add(write)
    return write
