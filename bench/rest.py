"""``make bench``: what the server costs. One command, one table, under three minutes, on loopback.

Rates and times are of one run on a shared machine: compare them within the run. "Server CPU" is that of the server's
process, "database CPU" that of the embedded database's, both for one request.
"""

from __future__ import annotations

import shutil
import statistics
import struct
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from client import Answer, Client
from started import Running

CONNECTIONS = 8
PIXELS = 512 * 512 * 2


@dataclass
class Row:
    name: str
    times: list[float]
    wall: float
    server: float
    database: float
    unit: int = 1

    def cells(self) -> list[str]:
        done = len(self.times) * self.unit
        times = sorted(self.times)
        p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
        each = [f"{1000 * cpu / len(self.times):.2f}" for cpu in (self.server, self.database)]
        return [
            self.name,
            str(len(times)),
            f"{done / self.wall:.0f}",
            f"{1000 * statistics.median(times):.1f}",
            f"{1000 * p99:.1f}",
            *each,
        ]


class Bench:
    """One started server, measured from outside."""

    def __init__(self, running: Running) -> None:
        self.running = running
        assert running.process is not None
        self.server, self.database = psutil.Process(running.process.pid), running.database
        self.token = running.client("bench", "hospital").headers["Authorization"]
        self.rows: list[Row] = []
        self.local = threading.local()

    def http(self) -> Client:
        """This thread's connection."""
        client: Client | None = getattr(self.local, "client", None)
        if client is None:
            client = self.local.client = Client(f"{self.running.url}/fhir", self.token)
        return client

    def measure(
        self,
        name: str,
        count: int,
        ask: Callable[[int], Answer],
        status: int,
        connections: int = CONNECTIONS,
        unit: int = 1,
    ) -> list[Answer]:
        """``ask(i)`` for each i, over so many connections; every answer is checked."""

        def one(number: int) -> tuple[float, Answer]:
            begun = time.perf_counter()
            answer = ask(number)
            taken = time.perf_counter() - begun
            assert answer.status_code == status, answer.text[:500]
            return taken, answer

        before = [sum(p.cpu_times()[:2]) for p in (self.server, self.database)]
        begun = time.perf_counter()
        with ThreadPoolExecutor(connections) as pool:
            done = list(pool.map(one, range(count)))
        wall = time.perf_counter() - begun
        server, database = (sum(p.cpu_times()[:2]) - b for p, b in zip((self.server, self.database), before, strict=True))
        self.rows.append(Row(f"{name}, {connections} conn.", [taken for taken, _ in done], wall, server, database, unit))
        print("  " + "  ".join(self.rows[-1].cells()), flush=True)
        return [answer for _, answer in done]


def patient(number: int) -> dict:
    return {
        "resourceType": "Patient",
        "identifier": [{"system": "https://hospital.example/mrn", "value": f"B{number:06}"}],
        "name": [{"family": f"Family{number % 500}", "given": [f"Given{number}"]}],
        "gender": "female" if number % 2 else "male",
        "birthDate": f"{1930 + number % 80}-0{1 + number % 9}-1{number % 10}",
    }


def order(subject: str, number: int) -> dict:
    return {
        "resourceType": "ServiceRequest",
        "identifier": [{"system": "https://hospital.example/acsn", "value": f"A{number:07}-{uuid.uuid4().hex[:6]}"}],
        "status": "active",
        "intent": "order",
        "priority": "urgent",
        "category": [{"coding": [{"system": "http://snomed.info/sct", "code": "363679005", "display": "Imaging"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24725-4", "display": "CT Head"}], "text": "CT of the head"},
        "subject": {"reference": subject},
        "authoredOn": "2026-11-24T10:00:00+01:00",
        "reasonCode": [{"text": "Headache after a fall; bleeding?"}],
        "note": [{"text": "Anticoagulated. " * 20}],
    }


def mixed(number: int) -> dict:
    """A transaction of 100: patients, orders, observations, documents, all linked."""
    entries = []
    for person in range(20):
        url = f"urn:uuid:{uuid.uuid4()}"
        observed = {
            "resourceType": "Observation",
            "status": "final",
            "code": {"text": "creatinine"},
            "subject": {"reference": url},
            "valueQuantity": {"value": 71.50, "unit": "umol/L"},
        }
        scan = {
            "resourceType": "DocumentReference",
            "status": "current",
            "subject": {"reference": url},
            "content": [{"attachment": {"title": "referral"}}],
        }
        rows = [
            (patient(number * 100 + person), url),
            (order(url, number * 100 + person), None),
            (order(url, number * 100 + person), None),
            (observed, None),
            (scan, None),
        ]
        entries += [
            {**({"fullUrl": u} if u else {}), "resource": r, "request": {"method": "POST", "url": r["resourceType"]}}
            for r, u in rows
        ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    value += (b"\0" if vr in ("UI", "OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", group, number, vr.encode())
    long = vr in ("OB", "OW")
    return head + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value


def ct(study: str, series: str, instance: str, number: int) -> bytes:
    """A CT instance of 525 KB, Explicit VR Little Endian."""
    meta = (
        element(2, 1, "OB", b"\0\1")
        + element(2, 2, "UI", b"1.2.840.10008.5.1.4.1.1.2")
        + element(2, 3, "UI", instance.encode())
    )
    meta += element(2, 0x10, "UI", b"1.2.840.10008.1.2.1")
    short = lambda value: struct.pack("<H", value)  # noqa: E731
    body = b"".join([
        element(8, 0x16, "UI", b"1.2.840.10008.5.1.4.1.1.2"), element(8, 0x18, "UI", instance.encode()), element(8, 0x20, "DA", b"20261124"),
        element(8, 0x50, "SH", b"BENCH"), element(8, 0x60, "CS", b"CT"), element(0x10, 0x10, "PN", b"Bench^Anna"), element(0x10, 0x20, "LO", b"BENCH"),
        element(0x20, 0xD, "UI", study.encode()), element(0x20, 0xE, "UI", series.encode()), element(0x20, 0x13, "IS", str(number).encode()),
        element(0x28, 2, "US", short(1)), element(0x28, 4, "CS", b"MONOCHROME2"), element(0x28, 0x10, "US", short(512)), element(0x28, 0x11, "US", short(512)),
        element(0x28, 0x100, "US", short(16)), element(0x28, 0x101, "US", short(12)), element(0x28, 0x102, "US", short(11)), element(0x28, 0x103, "US", short(0)),
        element(0x7FE0, 0x10, "OW", number.to_bytes(4, "little") * (PIXELS // 4)),
    ])  # fmt: skip
    return bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta))) + meta + body


def uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def run(bench: Bench) -> None:
    http = bench.http
    made = [r.json() for r in bench.measure("create Patient", 400, lambda i: http().post("Patient", json=patient(i)), 201)]
    subject = f"Patient/{made[0]['id']}"
    asked = [
        r.json()
        for r in bench.measure(
            "create ServiceRequest",
            400,
            lambda i: http().post("ServiceRequest", json=order(f"Patient/{made[i]['id']}", i)),
            201,
        )
    ]
    bench.measure("read", 2000, lambda i: http().get(f"ServiceRequest/{asked[i % len(asked)]['id']}"), 200)
    bench.measure("read", 500, lambda i: http().get(f"ServiceRequest/{asked[i % len(asked)]['id']}"), 200, connections=1)
    bench.measure(
        "update",
        300,
        lambda i: http().put(f"Patient/{made[i]['id']}", json=made[i] | {"active": True}),
        200,
    )
    bench.measure(
        "search by identifier", 500, lambda i: http().get(f"Patient?identifier=https://hospital.example/mrn|B{i % 400:06}"), 200
    )
    bench.measure(
        "search by name and birth date", 300, lambda i: http().get(f"Patient?family=family{i % 400}&birthdate=ge1930"), 200
    )
    bench.measure(
        "search, chained, with includes",
        200,
        lambda i: http().get(f"ServiceRequest?subject:Patient.identifier=B{i % 400:06}&_include=ServiceRequest:subject"),
        200,
    )
    bench.measure("transaction of 100", 20, lambda i: http().post("", json=mixed(i)), 200, connections=1)
    bench.measure("import: transactions of 100", 20, lambda i: http().post("", json=mixed(100 + i)), 200, connections=4)
    study, series = uid(), uid()
    instances = [(name := uid(), ct(study, series, name, number)) for number in range(320)]
    web = "/dicomweb"
    headers = {"Content-Type": "application/dicom"}
    bench.measure(
        "STOW, 525 KB",
        320,
        lambda i: http().post(f"{web}/studies", content=instances[i][1], headers=headers),
        200,
        connections=4,
    )
    accept = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
    frames = bench.measure(
        "frame, 524 KB",
        300,
        lambda i: http().get(f"{web}/studies/{study}/series/{series}/instances/{instances[i][0]}/frames/1", headers=accept),
        200,
        connections=4,
    )
    assert all(len(r.content) > PIXELS for r in frames)
    assert http().get(f"ServiceRequest?subject={subject}").json()["total"] >= 1


def table(rows: list[Row]) -> Iterator[str]:
    head = ["what", "requests", "per second", "p50 ms", "p99 ms", "server CPU ms", "database CPU ms"]
    cells = [head, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    for number, line in enumerate(cells):
        yield (
            "| "
            + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            + " |"
        )
        if number == 0:
            yield "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fhirserver-bench-"))
    running = Running(folder, study_quiet_seconds="5")
    try:
        running.start()
        running.stop()
        second = running.start()
        bench = Bench(running)
        run(bench)
        memory = [process.memory_info().rss / 2**20 for process in (bench.server, bench.database)]
        print("\n" + "\n".join(table(bench.rows)))
        print(
            f"\nStart to /readyz, second run: {second:.1f} s. Memory: server {memory[0]:.0f} MB, database {memory[1]:.0f} MB."
        )
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
