"""A hundred readers claim at once from one pool: each reading has one owner, and nobody fails by contention."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from operations_conftest import READ_TYPE, parameters

READERS, READINGS = 100, 20
FULFILL = {"coding": [{"system": "http://hl7.org/fhir/CodeSystem/task-code", "code": "fulfill"}]}


def transaction(client, resources) -> list[dict]:
    entries = [
        {**({"fullUrl": url} if url else {}), "resource": one, "request": {"method": method, "url": where}}
        for url, one, method, where in resources
    ]
    reply = client.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert reply.status_code == 200, reply.text
    return [entry["resource"] for entry in reply.json()["entry"]]


def readers(network) -> list:
    rows = []
    for number in range(READERS):
        licence = {"code": {"text": "licence"}, "period": {"start": "2020-01-01"}}
        person = {"resourceType": "Practitioner", "id": f"centre-r{number}", "qualification": [licence]}
        role = {
            "resourceType": "PractitionerRole",
            "id": f"centre-r{number}-hospital",
            "practitioner": {"reference": f"Practitioner/centre-r{number}"},
            "organization": {"reference": "Organization/hospital"},
            "code": [{"coding": [{"system": READ_TYPE, "code": "final"}]}],
        }
        rows += [("", one, "PUT", f"{one['resourceType']}/{one['id']}") for one in (person, role)]
    transaction(network.centre, rows)
    clients = [network.reader(f"r{number}") for number in range(READERS)]
    for client in clients:
        client.portal = None  # each has a loop of its own, else the threads of one are fewer than these
    return clients


def pool(network) -> list[str]:
    person = network.hospital.post("Patient", json={"resourceType": "Patient"}).json()
    rows = []
    for number in range(READINGS):
        url = f"urn:uuid:00000000-0000-4000-8000-{number:012}"
        order = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "note": [{"text": "x"}]}
        task = {"resourceType": "Task", "status": "requested", "intent": "order", "code": FULFILL}
        task |= {"focus": {"reference": url}, "owner": {"reference": "Organization/centre"}}
        rows.append((url, order | {"subject": {"reference": f"Patient/{person['id']}"}}, "POST", "ServiceRequest"))
        rows.append(("", task, "POST", "Task"))
    made = [one for one in transaction(network.hospital, rows) if one["resourceType"] == "Task"]
    return [network.pool(t0)["id"] for t0 in made]


def test_of_a_hundred_readers_at_once_each_reading_has_one_and_nobody_fails_by_contention(network):
    clients, readings = readers(network), pool(network)
    ready = threading.Barrier(READERS)

    def take(number: int) -> list[tuple[str, int, str]]:
        """Three of the pool, as it was shown: the same ones as others try at this moment."""
        ready.wait(60)
        told = []
        for step in range(3):
            id_ = readings[(number + step) % READINGS]
            reply = clients[number].post(f"Task/{id_}/$claim", json=parameters())
            said = reply.json()
            told.append((id_, reply.status_code, said.get("issue", [{}])[0].get("code", "")))
        return told

    with ThreadPoolExecutor(READERS) as threads:
        told = list(threads.map(take, range(READERS)))
    answers = {(status, code) for rows in told for _, status, code in rows}
    assert answers == {(200, ""), (409, "lock-error")}, "taken, or another's: never tried too often, never a failure of ours"
    winners = {
        id_: [number for number, rows in enumerate(told) for one, status, _ in rows if (one, status) == (id_, 200)]
        for id_ in readings
    }
    assert all(len(won) == 1 for won in winners.values()), winners
    for id_, [number] in winners.items():
        task = network.get(f"Task/{id_}")
        assert (task["status"], task["owner"]) == ("accepted", {"reference": f"PractitionerRole/centre-r{number}-hospital"})
        assert task["meta"]["versionId"] == "2"
        [t0] = [network.get(one["reference"]) for one in task["partOf"]]
        assert [a["id"] for a in network.attempts(t0)] == [id_]
