"""One call of each operation of ours that is answered 200: who asks, of what, with which inputs. Each makes what it needs."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conftest import patient
from operations_conftest import REASON, Network, answered, out, parameters
from starlette.testclient import TestClient

from fhirserver import r4
from fhirserver.definitions import Operation
from fhirserver.operations import OPERATIONS

OURS = {operation.id: operation for operation in OPERATIONS if not operation.standard}
HOSPITAL, OFFICE = {"reference": "Organization/hospital"}, {"reference": "Organization/office"}
RADPEER = "urn:fhirserver:CodeSystem:radpeer-score"


def reader(name: str) -> dict[str, Any]:
    return {
        "organization": "centre", "scope": "user/*.cruds", "user": name, "roles": ("reader",), "practitioner": f"centre-{name}",
    }  # fmt: skip


CENTRE, FACILITY = {"organization": "centre"}, {"organization": "hospital"}
QUALITY = {"organization": "centre", "scope": "user/*.cruds", "user": "quentin", "roles": ("quality",)}


@dataclass(frozen=True)
class Valid:
    """``who``: the arguments of ``as_``; ``on``: the instance, empty at type level; ``inputs`` by name."""

    who: dict[str, Any]
    on: str
    inputs: dict[str, Any]


def mismatch(network: Network) -> dict[str, Any]:
    """The Task that asks about images whose patient is not the order's."""
    asked = network.ordered()
    network.images(asked, patient="SOMEBODY-ELSE")
    found = network.hospital.get("Task?code=urn:fhirserver:CodeSystem:task-type|reconcile&_sort=-_lastUpdated&_count=20").json()
    order = f"ServiceRequest/{asked['id']}"
    rows = [e["resource"] for e in found["entry"]]
    return next(r for r in rows if any(i["valueReference"]["reference"] == order for i in r.get("input", ())))


def agreed(client: TestClient, facility: str, **terms: Any) -> dict[str, Any]:
    """What a facility's agreement says from now on."""
    data = base64.b64encode(json.dumps(terms).encode()).decode()
    body = {
        "resourceType": "Library",
        "status": "active",
        "type": {"text": "agreement"},
        "identifier": [{"system": "urn:fhirserver:agreement", "value": facility}],
        "content": [{"contentType": "application/json", "data": data}],
    }
    known = [
        e["resource"]
        for e in client.get(f"Library?identifier=urn:fhirserver:agreement|{facility}").json().get("entry", [])
        if e["resource"]["status"] == "active"
    ]
    sent = client.put(f"Library/{known[0]['id']}", json=known[0] | body) if known else client.post("Library", json=body)
    assert sent.status_code in (200, 201), sent.text
    return dict(sent.json())


def affiliated(network: Network, first: str, second: str) -> None:
    """Two organisations that work with each other; the first says so."""
    body = {
        "resourceType": "OrganizationAffiliation",
        "active": True,
        "organization": {"reference": f"Organization/{first}"},
        "participatingOrganization": {"reference": f"Organization/{second}"},
    }
    assert network.as_(first).post("OrganizationAffiliation", json=body).status_code == 201


def centre_named(network: Network, name: str, **members: Any) -> TestClient:
    """Another reading centre."""
    client = network.as_(name)
    body = {"resourceType": "Organization", "id": name, "name": name.title()} | members
    assert client.put(f"Organization/{name}", json=body).status_code in (200, 201)
    return client


# ---------------------------------------------------------------- what the calls are about


def _order(network: Network) -> dict[str, Any]:
    asked = network.ordered()
    network.images(asked)
    return asked


def _offered(network: Network, t0: dict[str, Any]) -> dict[str, Any]:
    inputs = parameters(mode="manual", owner={"reference": "PractitionerRole/centre-anna-hospital"}, requireAcceptance=True)
    return dict(out(network.centre.post(f"Task/{t0['id']}/$assign", json=inputs))["task"])


def signed(network: Network) -> tuple[dict[str, Any], dict[str, Any]]:
    """(a signed report, its answers)"""
    *_, report, draft = network.reporting()
    said = answered(draft, findings="Clear.", impression="No bleeding.")
    reply = network.reader("anna").post(f"DiagnosticReport/{report['id']}/$sign", json=parameters(attest=True, response=said))
    return dict(out(reply)["report"]), said


def second_reading(network: Network) -> tuple[dict[str, Any], dict[str, Any]]:
    """(Bela's second reading in progress, her draft)"""
    _, _, attempt = network.started()
    inputs = parameters(kind="independent", recipient={"reference": "Practitioner/centre-bela"})
    asked = network.reader("anna").post(f"Task/{attempt['id']}/$request-second-read", json=inputs)
    assert asked.status_code == 200, asked.text
    bela = network.reader("bela")
    assert bela.post(f"Task/{asked.json()['id']}/$claim", json=parameters(start=True)).status_code == 200
    return asked.json(), out(bela.post(f"Task/{asked.json()['id']}/$start-report"))["draft"]


def consultation(network: Network) -> dict[str, Any]:
    _, _, attempt = network.started()
    inputs = parameters(question="Is it old?", recipient=[{"reference": "Practitioner/centre-bela"}])
    return dict(out(network.reader("anna").post(f"Task/{attempt['id']}/$consult", json=inputs))["task"])


def review(network: Network) -> dict[str, Any]:
    """A peer review that waits for its reviewer."""
    signed(network)
    inputs = parameters(period={"start": "2020"}, strategy="random", count=1)
    drawn = network.as_(**QUALITY).post("DiagnosticReport/$sample-for-review", json=inputs)
    return dict(out(drawn)["task"])


def reviewer(task: dict[str, Any]) -> dict[str, Any]:
    return reader(task["owner"]["reference"].split("-")[1])


def adjudication(network: Network) -> dict[str, Any]:
    task = review(network)
    inputs = parameters(scale="radpeer", score={"system": RADPEER, "code": "3b"}, comment="Missed.")
    assert network.as_(**reviewer(task)).post(f"Task/{task['id']}/$submit-review", json=inputs).status_code == 200
    found = network.as_(**QUALITY).get("Task?code=adjudicate&status=requested").json()["entry"]
    return dict(found[0]["resource"])


def discrepancy(network: Network) -> dict[str, Any]:
    report, _ = signed(network)
    inputs = parameters(source="clinician", description="There was one.", severity="minor")
    reply = network.hospital.post(f"DiagnosticReport/{report['id']}/$report-discrepancy", json=inputs)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def alert(network: Network) -> dict[str, Any]:
    *_, report, _ = network.reporting()
    inputs = parameters(category="acr-2", finding={"text": "A nodule"})
    return dict(out(network.reader("anna").post(f"DiagnosticReport/{report['id']}/$notify-critical", json=inputs))["ack"])


def restricted(network: Network) -> str:
    """A patient who keeps their record from Dr Bob of the hospital."""
    bob = {"resourceType": "Practitioner", "id": "hospital-bob", "name": [{"family": "Bob"}]}
    assert network.hospital.put("Practitioner/hospital-bob", json=bob).status_code in (200, 201)
    person = network.hospital.post("Patient", json=patient()).json()
    actor = {"role": {"text": "x"}, "reference": {"reference": "Practitioner/hospital-bob"}}
    consent = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "policyRule": {"text": "x"},
        "patient": {"reference": f"Patient/{person['id']}"},
        "provision": {"type": "deny", "actor": [actor]},
    }
    assert network.hospital.post("Consent", json=consent).status_code == 201
    return f"Patient/{person['id']}"


# ---------------------------------------------------------------- the calls


def _on(type_: str, resource: dict[str, Any]) -> str:
    return f"{type_}/{resource['id']}"


def _forward(network: Network) -> Valid:
    centre_named(network, "far")
    affiliated(network, "centre", "far")
    agreed(network.centre, "hospital", subcontracting=True)
    inputs = {"organization": {"reference": "Organization/far"}, "reason": REASON}
    return Valid(CENTRE, _on("Task", network.dispatched()[1]), inputs)


def _register(network: Network) -> Valid:
    about = {"reference": f"ServiceRequest/{network.ordered()['id']}"}
    return Valid(FACILITY, "", {"studyInstanceUid": f"2.25.{uuid.uuid4().int}", "order": about})


def _publish(network: Network) -> Valid:
    *_, report, draft = network.reporting()
    return Valid(reader("anna"), _on("DiagnosticReport", report), {"response": answered(draft, findings="f", impression="i")})


def _sign(network: Network) -> Valid:
    call = _publish(network)
    return Valid(call.who, call.on, call.inputs | {"attest": True})


def _correct(network: Network) -> Valid:
    report, said = signed(network)
    better = answered(said, findings="Clear.", impression="A small bleeding.")
    inputs = {"kind": "corrected", "response": better, "reason": REASON, "significance": "none"}
    return Valid(reader("anna"), _on("DiagnosticReport", report), inputs)


def _review(network: Network) -> Valid:
    task = review(network)
    return Valid(reviewer(task), _on("Task", task), {"scale": "radpeer", "score": {"system": RADPEER, "code": "1"}})


def _sample(network: Network) -> Valid:
    signed(network)
    return Valid(QUALITY, "", {"period": {"start": "2020"}, "strategy": "random", "count": 1})


def _break_glass(network: Network) -> Valid:
    who = {"organization": "hospital", "scope": "user/*.cruds", "user": "bob", "roles": ("reader",)}
    return Valid(
        who | {"practitioner": "hospital-bob"}, restricted(network), {"reason": "Unconscious, bleeding", "minutes": 10}
    )


def _patient(network: Network) -> str:
    return str(network.ordered()["subject"]["reference"])


BELA = {"reference": "Practitioner/centre-bela"}
CALLS: dict[str, Callable[[Network], Valid]] = {
    "ServiceRequest-dispatch": lambda n: Valid(FACILITY, _on("ServiceRequest", _order(n)), {"destination": "central"}),
    "ImagingStudy-register": _register,
    "ServiceRequest-priors": lambda n: Valid(FACILITY, _on("ServiceRequest", n.ordered()), {}),
    "ServiceRequest-fetch-priors": lambda n: Valid(FACILITY, _on("ServiceRequest", n.ordered()), {"source": [OFFICE]}),
    "Task-candidates": lambda n: Valid(CENTRE, _on("Task", n.dispatched()[1]), {}),
    "Task-assign": lambda n: Valid(CENTRE, _on("Task", n.dispatched()[1]), {"mode": "auto"}),
    "Task-auto-assign": lambda n: Valid(CENTRE, "", {"dryRun": True}),
    "Task-claim": lambda n: Valid(reader("anna"), _on("Task", n.pool(n.dispatched()[1])), {}),
    "Task-release": lambda n: Valid(reader("anna"), _on("Task", n.started()[2]), {"reason": REASON}),
    "Task-respond": lambda n: Valid(reader("anna"), _on("Task", _offered(n, n.dispatched()[1])), {"response": "accept"}),
    "Task-forward": _forward,
    "Task-request-information": lambda n: Valid(reader("anna"), _on("Task", n.started()[2]), {"question": "Since when?"}),
    "Practitioner-check-eligibility": lambda n: Valid(CENTRE, "Practitioner/centre-anna", {"organization": HOSPITAL}),
    "ServiceRequest-prioritize": lambda n: Valid(
        FACILITY, _on("ServiceRequest", n.ordered()), {"priority": "stat", "reason": REASON}
    ),
    "Task-escalate": lambda n: Valid(CENTRE, _on("Task", n.dispatched()[1]), {"level": 1, "reason": REASON}),
    "Task-worklist": lambda n: Valid(reader("anna"), "", {"view": "pool"}),
    "Task-start-report": lambda n: Valid(reader("anna"), _on("Task", n.started()[2]), {}),
    "DiagnosticReport-publish-preliminary": _publish,
    "DiagnosticReport-sign": _sign,
    "DiagnosticReport-addend": lambda n: Valid(
        reader("anna"), _on("DiagnosticReport", signed(n)[0]), {"text": "Seen by two.", "reason": REASON}
    ),
    "DiagnosticReport-correct": _correct,
    "DiagnosticReport-retract": lambda n: Valid(
        reader("anna"), _on("DiagnosticReport", signed(n)[0]), {"reason": REASON, "second": BELA}
    ),
    "DiagnosticReport-acknowledge-receipt": lambda n: Valid(FACILITY, _on("DiagnosticReport", signed(n)[0]), {"by": HOSPITAL}),
    "Task-request-second-read": lambda n: Valid(reader("anna"), _on("Task", n.started()[2]), {"kind": "independent"}),
    "Task-submit-second-read": lambda n: _second(*second_reading(n)),
    "Task-reconcile": lambda n: Valid(FACILITY, _on("Task", mismatch(n)), {"decision": "keep"}),
    "Task-consult": lambda n: Valid(reader("anna"), _on("Task", n.started()[2]), {"question": "Old?", "recipient": [BELA]}),
    "Task-answer-consult": lambda n: Valid(reader("bela"), _on("Task", consultation(n)), {"opinion": "It is old."}),
    "DiagnosticReport-sample-for-review": _sample,
    "Task-submit-review": _review,
    "Task-adjudicate": lambda n: Valid(QUALITY, _on("Task", adjudication(n)), {"decision": "uphold"}),
    "DiagnosticReport-report-discrepancy": lambda n: Valid(
        FACILITY, _on("DiagnosticReport", signed(n)[0]), {"source": "clinician", "description": "Old?", "severity": "minor"}
    ),
    "Task-resolve-discrepancy": lambda n: Valid(QUALITY, _on("Task", discrepancy(n)), {"outcome": "not-confirmed"}),
    "DiagnosticReport-notify-critical": lambda n: Valid(
        reader("anna"), _on("DiagnosticReport", n.reporting()[3]), {"category": "acr-2", "finding": {"text": "A nodule"}}
    ),
    "Task-acknowledge": lambda n: Valid(FACILITY, _on("Task", alert(n)), {"by": HOSPITAL}),
    "Measure-evaluate-measure": lambda n: Valid(CENTRE, "", {"periodStart": "2026-01-01", "periodEnd": "2026-12-31"}),
    "ChargeItem-statement": lambda n: Valid(CENTRE, "", {"month": "2026-11"}),
    "Patient-break-glass": _break_glass,
    "Patient-access-log": lambda n: Valid(FACILITY, _patient(n), {}),
}


def _second(task: dict[str, Any], draft: dict[str, Any]) -> Valid:
    return Valid(reader("bela"), _on("Task", task), {"response": answered(draft, findings="f", impression="i")})


# ---------------------------------------------------------------- as it is sent


def key(type_: str) -> str:
    """``valueCode``; ``resource`` for a resource type."""
    return "resource" if r4.is_resource(type_) else f"value{type_[0].upper()}{type_[1:]}"


def path(operation: Operation, on: str) -> str:
    return f"{on or operation.type}/${operation.code}"


__all__ = ["CALLS", "OURS", "Valid", "affiliated", "agreed", "centre_named", "key", "path"]
