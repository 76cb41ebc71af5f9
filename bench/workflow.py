"""The reading network at work: what a page of a worklist, a claim, the choice of a reader and a batch of assignments cost.

    python bench/workflow.py                                 # 2,000 open Tasks on the embedded database
    FHIRSERVER_MONGODB_URI=mongodb://127.0.0.1:27017/ python bench/workflow.py --tasks 100000 --database-pid 4711

Starts a server of its own on loopback and ends it, and what it loaded, afterwards. 200 readers may read for five facilities.
A hundred orders go the way of any order, by HTTP; the others are these, document for document and version for version, under
ids of their own: each has a patient, a study, a coordination Task and, but for those of the first facility, which nobody has
taken yet, an attempt in the pool. Every answer is checked. Last,
100 readers claim at once from one pool, each until they have a reading: all the same one first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import bson
import psutil
from bson.raw_bson import RawBSONDocument
from client import Answer, Client
from ladder import URI, Cost
from pymongo import MongoClient
from rest import Row, table
from started import Running

from auth.store import AuthStore
from fhirserver.workflow import coding

READERS, FACILITIES, TEMPLATES, AT_ONCE = 200, 5, 80, 100
KINDS = 50  # of readers: those that come after are like them
MODALITIES, PRIORITIES = ("CT", "MR", "CR", "US"), ("routine", "urgent", "asap", "stat")
BATCH, IDLE_SECONDS = 500, 10
Document = dict[str, Any]
Rows = list[tuple[str, bytes]]  # collection, BSON


def parameters(**values: Any) -> Document:
    kinds = {bool: "valueBoolean", int: "valueInteger", str: "valueCode"}
    rows = [{"name": name, kinds[type(value)]: value} for name, value in values.items()]
    return {"resourceType": "Parameters"} | ({"parameter": rows} if rows else {})


class Network:
    """One started server with its people, and the connection of each to it."""

    def __init__(self, running: Running, uri: str, name: str, database: psutil.Process | None) -> None:
        assert running.process is not None
        self.processes = psutil.Process(running.process.pid), database
        self.base = f"{running.url}/fhir"
        self.mongo: MongoClient[Document] = MongoClient(uri)
        self.database, self.auth = self.mongo[name], AuthStore(self.mongo[name], "centre")
        self.local = threading.local()
        self.facilities = [f"hospital{number}" for number in range(FACILITIES)]
        self.readers = [f"reader{number:03}" for number in range(READERS)]
        self.rows: list[Row] = []
        self.idle = 0.0  # of a second
        self.tokens = {name: self._token(name) for name in ("centre", *self.facilities)}
        self.tokens |= {name: self._token("centre", name) for name in self.readers}

    def _token(self, organization: str, reader: str | None = None) -> str:
        if self.auth.clients.get(organization) is None:
            self.auth.clients.add(organization, "system/*.cruds user/*.cruds", secret="secret", organization=organization)
        if reader:
            self.auth.add_user(reader, ("reader",), f"centre-{reader}", organization)
        user = self.auth.people.get(reader) if reader else None
        scope = f"{'user' if reader else 'system'}/*.cruds"
        return f"Bearer {self.auth.issue(self.auth.clients.get(organization), user, scope, 86_400, None)}"

    def http(self, who: str) -> Client:
        """This thread's connection, as somebody."""
        clients = self.local.__dict__.setdefault("clients", {})
        if who not in clients:
            clients[who] = Client(self.base, self.tokens[who])
        return clients[who]

    # ------------------------------------------------------------ loading

    def people(self) -> None:
        for facility in self.facilities:
            phone = [{"system": "phone", "value": "+48 22 555 01 01"}]
            row = {"resourceType": "Organization", "id": facility, "name": facility.title(), "telecom": phone}
            _right(self.http(facility).put(f"Organization/{facility}", row), 200, 201)
        for number, name in enumerate(self.readers[:KINDS]):
            bundle = {
                "resourceType": "Bundle",
                "type": "transaction",
                "entry": [_entry(row) for row in self._reader(number, name)],
            }
            _right(self.http("centre").post("", bundle), 200)
        keys = [
            (row["resourceType"], row["id"])
            for number, name in enumerate(self.readers[:KINDS])
            for row in self._reader(number, name)
        ]
        sheet = self._documents(keys)
        for number in range(KINDS, READERS, KINDS):
            others = [(f"reader{n:03}", f"reader{number + n:03}") for n in range(KINDS)]
            self._insert(_renamed(sheet, others))

    def _reader(self, number: int, name: str) -> Iterator[Document]:
        """Nine of ten read finally; one of five some modalities alone; a few have lapsed."""
        licence = {"code": {"text": "licence"}, "period": {"start": "2020-01-01"}}
        spoken = [{"coding": [{"system": "urn:ietf:bcp:47", "code": "pl"}]}]
        yield {
            "resourceType": "Practitioner", "id": f"centre-{name}", "name": [{"family": name.title()}],
            "qualification": [licence], "communication": spoken,
        }  # fmt: skip
        reads = "final" if number % 10 else "preliminary"
        specialty = [{"coding": [{"system": coding.DCM, "code": code}]} for code in MODALITIES[:2]] if number % 5 == 0 else []
        for facility in self.facilities:
            yield {
                "resourceType": "PractitionerRole", "id": f"centre-{name}-{facility}",
                "practitioner": {"reference": f"Practitioner/centre-{name}"},
                "organization": {"reference": f"Organization/{facility}"},
                "code": [{"coding": [{"system": coding.READ_TYPE, "code": reads}]}],
                **({"specialty": specialty} if specialty else {}),
                **({"period": {"end": "2025-12-31"}} if number % 25 == 24 else {}),
            }  # fmt: skip

    def order(self, number: int) -> list[str]:
        """The way of any order until it waits in the pool: its ids, as long in the text as any other's."""
        http = self.http(self.facilities[number % FACILITIES])
        accession, uid = f"A{number:012}", f"2.25.1{number:037}"
        patient = _right(http.post("Patient", {
            "resourceType": "Patient", "name": [{"family": f"Family{number % 500}", "given": ["Anna"]}], "birthDate": "1970-02-03",
            "identifier": [{"system": "https://hospital.example/mrn", "value": accession}],
        }), 201)  # fmt: skip
        subject = {"reference": f"Patient/{patient['id']}"}
        asked = _right(http.post("ServiceRequest", {
            "resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": subject,
            "priority": PRIORITIES[number % 4], "reasonCode": [{"text": "Headache after a fall; bleeding?"}],
            "code": {"text": "Examination"}, "identifier": [{"system": "https://hospital.example/acsn", "value": accession}],
        }), 201)  # fmt: skip
        study = _right(http.post("ImagingStudy", {
            "resourceType": "ImagingStudy", "status": "available", "subject": subject, "started": "2026-11-24T10:00:00Z",
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
            "basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}],
            "modality": [{"system": coding.DCM, "code": MODALITIES[number // 4 % 4]}],
        }), 201)  # fmt: skip
        t0 = _right(http.post(f"ServiceRequest/{asked['id']}/$dispatch", parameters(destination="central")), 200)
        ids = [accession, uid, patient["id"], asked["id"], study["id"], t0["id"]]
        if number % FACILITIES:
            _right(self.http("centre").put(f"Task/{t0['id']}", t0 | {"status": "accepted"}), 200)
            found = _right(self.http("centre").get(f"Task?part-of=Task/{t0['id']}"), 200)
            ids += [entry["resource"]["id"] for entry in found["entry"]]
        return ids

    def load(self, tasks: int) -> None:
        """``tasks`` open ones: of nine, five coordinate and four wait in the pool."""
        begun, wanted = time.perf_counter(), tasks * 5 // 9
        known = [self.order(number) for number in range(min(TEMPLATES, wanted))]
        print(f"  {len(known)} orders by HTTP, {time.perf_counter() - begun:.0f} s", flush=True)
        sheets = [self._sheet(ids) for ids in known]
        numbers, told = iter(range(len(known), wanted)), begun
        while some := list(islice(numbers, BATCH)):
            rows = []
            for number in some:
                ids = known[number % len(known)]
                fresh = [f"A{number:012}", f"2.25.1{number:037}", *(str(uuid.uuid4()) for _ in ids[2:])]
                rows += _renamed(sheets[number % len(known)], list(zip(ids, fresh, strict=True)))
            self._insert(rows)
            if time.perf_counter() > told + 15:
                told = time.perf_counter()
                print(f"  {some[-1]} of {wanted} readings, {told - begun:.0f} s", flush=True)

    def _sheet(self, ids: list[str]) -> Rows:
        """All that the database has of one order."""
        _, _, patient, asked, study, *tasks = ids
        keys = [("Patient", patient), ("ServiceRequest", asked), ("ImagingStudy", study), *(("Task", task) for task in tasks)]
        shares = self.database["shares"].find({"order": f"ServiceRequest/{asked}"})
        return [*self._documents(keys), *(("shares", bson.encode(row)) for row in shares)]

    def _documents(self, keys: list[tuple[str, str]]) -> Rows:
        """What is current, and its history."""
        found = []
        for type_, id_ in keys:
            found += [(type_, row) for row in self.database[type_].find({"_id": id_})]
            found += [("history", row) for row in self.database["history"].find({"rid": f"{type_}/{id_}"})]
        return [(name, bson.encode(row)) for name, row in found]

    def _insert(self, rows: Rows) -> None:
        new: dict[str, list[RawBSONDocument]] = {}
        for name, text in rows:
            new.setdefault(name, []).append(RawBSONDocument(text))
        for name, documents in new.items():
            self.database[name].insert_many(documents, ordered=False)

    # ------------------------------------------------------------ measuring

    def measure(self, name: str, asks: list[Callable[[], Answer]], unit: int = 1) -> list[Document]:
        """One after the other; every answer is checked. Without what the server does by itself meanwhile."""
        cost, times, found = Cost(self.processes), [], []
        for ask in asks:
            begun = time.perf_counter()
            answer = ask()
            times.append(time.perf_counter() - begun)
            found.append(_right(answer, 200))
        server, database, wall = cost.taken()
        server = max(0.0, server - self.idle * wall)
        self.rows.append(Row(f"{name}, 1 conn.", times, wall, server, database or 0.0, unit))
        print("  " + "  ".join(self.rows[-1].cells()), flush=True)
        return found

    def rest(self) -> None:
        """What the server's own jobs cost in a second, with this much waiting."""
        cost = Cost(self.processes)
        time.sleep(IDLE_SECONDS)
        server, _, wall = cost.taken()
        self.idle = server / wall
        print(f"  idle: {1000 * self.idle:.0f} ms server CPU a second", flush=True)

    def waiting(self, count: int, kind: str) -> list[str]:
        """Ids of open Tasks of a kind, drawn from all."""
        tag = {"pool": "pool|Organization/centre", "coordinate": "dispatch|Organization/centre"}[kind]
        rows = [row["_id"] for row in self.database["Task"].find({"w": tag}, {"_id": 1}).limit(20 * count)]
        return Random(1).sample(rows, count)


def _renamed(rows: Rows, names: list[tuple[str, str]]) -> Rows:
    """With other names, as long as those that were there: BSON tells lengths."""
    found = []
    for collection, text in rows:
        for old, new in names:
            if old.encode() in text:
                text = text.replace(old.encode(), new.encode())
        found.append((collection, text))
    return found


def _entry(resource: Document) -> Document:
    return {"resource": resource, "request": {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"}}


def _right(answer: Answer, *statuses: int) -> Any:
    assert answer.status_code in statuses, answer.text[:1000]
    return answer.json()


def run(net: Network, requests: int) -> str:
    final = [name for number, name in enumerate(net.readers) if number % 5 and number % 25 != 24]
    for view, people in (("pool", final), ("dispatch", ["centre"]), ("mine", final)):
        asks = [_asking(net, people[i % len(people)], "GET", f"Task/$worklist?view={view}") for i in range(requests)]
        bundles = net.measure(f"$worklist, {view}, first page", asks)
        whole = [sum(e["search"]["mode"] == "match" for e in b.get("entry", ())) for b in bundles]
        assert view == "mine" or set(whole) == {50}, whole
    tasks = net.waiting(requests, "coordinate")
    rows = net.measure("$candidates of 200 readers", [_asking(net, "centre", "GET", f"Task/{t}/$candidates") for t in tasks])
    assert {sum(row["name"] == "candidate" for row in one["parameter"]) for one in rows} == {READERS}
    attempts = net.waiting(requests, "pool")
    claims = [(final[i % len(final)], f"Task/{attempt}/$claim") for i, attempt in enumerate(attempts)]
    taken = net.measure("$claim", [_asking(net, who, "POST", path, parameters()) for who, path in claims])
    assert all(task["status"] == "accepted" for task in taken)
    taken = net.measure("$claim, start", [_asking(net, who, "POST", path, parameters(start=True)) for who, path in claims])
    assert all(task["status"] == "in-progress" for task in taken)
    mine = {"name": "organization", "valueReference": {"reference": f"Organization/{net.facilities[0]}"}}
    asked = parameters(max=50)
    asked["parameter"].append(mine)
    batch = [_asking(net, "centre", "POST", "Task/$auto-assign", asked) for _ in range(4)]
    given = net.measure("$auto-assign, batches of 50", batch, 50)
    outcomes = Counter(_outcome(row) for one in given for row in one["parameter"])
    assert set(outcomes) == {"assigned"}, outcomes
    return f"$auto-assign: {outcomes['assigned'] / net.rows[-1].server:.0f} readings a second of server CPU ({dict(outcomes)})."


def _outcome(row: Document) -> str:
    return next(part["valueCode"] for part in row["part"] if part["name"] == "outcome")


def _asking(net: Network, who: str, method: str, path: str, body: Document | None = None) -> Callable[[], Answer]:
    return lambda: net.http(who).get(path) if method == "GET" else net.http(who).post(path, body)


def race(net: Network) -> str:
    """100 readers at once, each until they have a reading: all the same one first, then any of their page."""
    final = [name for number, name in enumerate(net.readers) if number % 5 and number % 25 != 24][:AT_ONCE]
    page = _right(net.http(final[0]).get("Task/$worklist?view=pool&count=200"), 200)
    pool = [e["resource"]["id"] for e in page["entry"] if e["search"]["mode"] == "match"]
    start, told = threading.Barrier(AT_ONCE), Counter[str]()

    def one(who: str) -> str:
        tries = [pool[0], *Random(who).sample(pool[1:], len(pool) - 1)]
        start.wait()
        for task in tries:
            answer = net.http(who).post(f"Task/{task}/$claim", parameters())
            code = "claimed" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['issue'][0]['code']}"
            told[code] += 1
            if answer.status_code == 200:
                return task
        return ""

    cost = Cost(net.processes)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        mine = list(threads.map(one, final))
    server, _, wall = cost.taken()
    owners = {task: _right(net.http("centre").get(f"Task/{task}"), 200)["owner"]["reference"] for task in mine if task}
    right = sum(
        owners[task].startswith(f"PractitionerRole/centre-{who}-") for who, task in zip(final, mine, strict=True) if task
    )
    failed = {code: count for code, count in told.items() if code not in ("claimed", "409 lock-error")}
    assert right == AT_ONCE == len(owners), (right, len(owners), told)
    assert not failed, failed
    return (
        f"{AT_ONCE} readers claimed at once: {right} readings with one owner each, {told['409 lock-error']} times another was first, "
        f"0 failed; {wall:.1f} s, {1000 * server / sum(told.values()):.1f} ms server CPU a request."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000, help="that are open")
    parser.add_argument("--requests", type=int, default=100, help="of each kind")
    parser.add_argument("--database-pid", type=int, help=f"the process whose CPU is the database's, where {URI} is set")
    options = parser.parse_args()
    folder, name = Path(tempfile.mkdtemp(prefix="fhirserver-workflow-")), f"workflow_{os.getpid()}"
    settings: dict[str, Any] = {"database": name}
    if uri := os.environ.get(URI):
        settings["mongodb_uri"] = uri
    running = Running(folder, **settings)
    try:
        running.start()
        database = psutil.Process(options.database_pid) if options.database_pid else None if uri else running.database
        place = uri or running.uri
        net = Network(running, place, name, database)
        net.people()
        net.load(options.tasks)
        net.rest()
        told = f"{run(net, options.requests)}\n{race(net)}"
        count = net.database["Task"].count_documents({"w": "dispatch|Organization/centre"})
        print(f"\n{READERS} readers, {options.tasks} open Tasks, {count} readings still open at the end.\n")
        print("\n".join(table(net.rows)) + f"\n\n{told}")
    finally:
        running.close()
        if uri:
            with MongoClient[Document](uri) as client:
                client.drop_database(name)
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
