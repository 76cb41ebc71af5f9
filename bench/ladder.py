"""Search at growing size: load a population step by step, measure the same searches at each step.

    python bench/ladder.py --ladder 1000,10000
    FHIRSERVER_MONGODB_URI=mongodb://127.0.0.1:27017/ python bench/ladder.py --ladder 1000 --database-pid 4711

Starts a server of its own on loopback and ends it, and what it loaded, afterwards. Values are drawn anew for each request
from what was loaded, the same for the same seed; every answer is checked: its status, that it is a searchset, that each
match is one that was asked for, and in searches for one resource that it is there. "refused" is an answer of 400: what is
not served is refused; the reasons follow the table. Bounded: a step loads at most ``--minutes``, a search takes at most
SECONDS, however many of its requests that makes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import psutil
from client import Answer, Client
from population import Population, Resource, transaction
from pymongo import MongoClient
from searches import SEARCHES, Ask, Values
from started import Running

CONNECTIONS, REQUESTS, SECONDS, TRIES = 4, 100, 20.0, 5
URI = "FHIRSERVER_MONGODB_URI"


@dataclass
class Cost:
    """CPU seconds of the server and of the database since it was made; None where the database's process is not known."""

    processes: tuple[psutil.Process, psutil.Process | None]
    begun: list[float | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begun = self._now()
        self.clock = time.perf_counter()

    def _now(self) -> list[float | None]:
        return [sum(p.cpu_times()[:2]) if p else None for p in self.processes]

    def taken(self) -> tuple[float, float | None, float]:
        """Server, database, wall."""
        server, database = (
            None if now is None or then is None else now - then for now, then in zip(self._now(), self.begun, strict=True)
        )
        assert server is not None
        return server, database, time.perf_counter() - self.clock


@dataclass
class Result:
    """One search at one step."""

    times: list[float]
    server: float
    database: float | None
    refused: str = ""
    wrong: list[str] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return 1000 * statistics.median(self.times)


class Ladder:
    """One started server, filled and measured from outside."""

    def __init__(self, running: Running, seed: int, database: psutil.Process | None, token: str) -> None:
        assert running.process is not None
        self.processes = psutil.Process(running.process.pid), database
        self.base, self.token = f"{running.url}/fhir", token
        self.population, self.seed = Population(seed), seed
        self.local = threading.local()
        self.loaded = self.resources = 0
        types = {row["type"] for row in self.http().get("metadata").json()["rest"][0]["resource"]}
        self.unserved = {row["resourceType"] for row in [*self.population.shared, *self.population.patient(0)]} - types

    def http(self) -> Client:
        """This thread's connection."""
        client: Client | None = getattr(self.local, "client", None)
        if client is None:
            client = self.local.client = Client(self.base, f"Bearer {self.token}")
        return client

    # ------------------------------------------------------------ loading

    def load(self, patients: int, minutes: float) -> str:
        """Up to so many patients, from where the last step ended. What it cost, in words."""
        if self.unserved:
            print(f"  not served here and left out: {', '.join(sorted(self.unserved))}", flush=True)
        cost, before, until = Cost(self.processes), self.resources, time.monotonic() + 60 * minutes
        if not self.loaded:
            self.resources += self._send(self.population.shared)
        people = iter(self.population.bundles(self.loaded, patients - self.loaded))
        lock, told = threading.Lock(), [time.monotonic()]

        def work(_: int) -> None:
            while time.monotonic() < until:
                with lock:
                    lot = next(people, None)
                if lot is None:
                    return
                sent = self._send(lot)
                with lock:
                    self.resources += sent
                    self.loaded += sum(resource["resourceType"] == "Patient" for resource in lot)
                    if time.monotonic() > told[0] + 10:
                        told[0], rate = time.monotonic(), (self.resources - before) / cost.taken()[2]
                        print(f"  {self.loaded} of {patients} patients, {rate:.0f} resources/s", flush=True)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(work, range(CONNECTIONS)))
        server, database, wall = cost.taken()
        made = self.resources - before
        spent = "" if database is None else f", {made / database:.0f} per database CPU second"
        short = "" if self.loaded >= patients else f" (stopped after {minutes:g} minutes, short of {patients})"
        return (
            f"{self.loaded} patients{short}: {made} resources more in {wall:.0f} s, {made / wall:.0f}/s, "
            f"{made / server:.0f} per server CPU second{spent}"
        )

    def _send(self, lot: list[Resource]) -> int:
        """How many were loaded."""
        served = [resource for resource in map(self._served, lot) if resource]
        body = transaction(served)
        for left in reversed(range(TRIES)):
            answer = self.http().post("", content=body, headers={"Prefer": "return=minimal"})
            if answer.status_code == 200:
                break
            if not left or answer.status_code not in (409, 503):  # another writer was faster
                raise AssertionError(answer.text[:1000])
            time.sleep(0.2)
        return len(served)

    def _served(self, resource: Resource) -> Resource | None:
        """Without references to types that this server does not serve; None where it is of such a type itself."""
        if not self.unserved:
            return resource
        if resource["resourceType"] in self.unserved:
            return None
        names = [f'"{name}/'.encode() for name in self.unserved]
        return {key: value for key, value in resource.items() if not any(name in msgspec.json.encode(value) for name in names)}

    # ------------------------------------------------------------ measuring

    def measure(self, name: str, draw: Callable[[Values], Ask]) -> Result:
        values = Values(Random(f"{self.seed}/{name}/{self.loaded}"), self.population, self.loaded)
        asks = [draw(values) for _ in range(REQUESTS)]
        first = Client(self.base, f"Bearer {self.token}").get(asks[0].path)
        if first.status_code in (400, 404):
            return Result([], 0, None, _reason(first))
        until = time.monotonic() + SECONDS

        def one(ask: Ask) -> tuple[float, Ask, Answer] | None:
            if time.monotonic() > until:
                return None
            begun = time.perf_counter()
            answer = self.http().get(ask.path)
            return time.perf_counter() - begun, ask, answer

        cost = Cost(self.processes)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            done = [row for row in pool.map(one, asks) if row]
        server, database, _ = cost.taken()
        wrong = [f"{ask.path}: {fault}" for _, ask, answer in done if (fault := _fault(ask, answer))]
        count = len(done)
        return Result([row[0] for row in done], server / count, None if database is None else database / count, wrong=wrong)


def _reason(answer: Answer) -> str:
    issue = answer.json()["issue"][0]
    return f"{answer.status_code} {issue.get('diagnostics', issue['code'])}"


def _fault(ask: Ask, answer: Answer) -> str:
    """What is wrong with an answer; empty where it is right."""
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text[:200]}"
    bundle = answer.json()
    if (bundle["resourceType"], bundle["type"]) != ("Bundle", "searchset"):
        return f"a {bundle.get('type')} {bundle['resourceType']}"
    entries = bundle.get("entry", [])
    matches = [entry["resource"] for entry in entries if entry["search"]["mode"] == "match"]
    there = {f"{entry['resource']['resourceType']}/{entry['resource'].get('id')}" for entry in entries}
    if not matches:
        return "nothing was found"
    if missing := [expected for expected in ask.expected if expected not in there]:
        return f"{missing} are not there"
    if strange := [f"{row['resourceType']}/{row['id']}" for row in matches if not ask.holds(row)]:
        return f"{strange[:3]} were not asked for"
    return "" if ask.sorted_by is None or ask.sorted_by(matches) else "not in order"


# ---------------------------------------------------------------- telling


def _size(patients: int) -> str:
    return f"{patients // 1000}k" if patients and patients % 1000 == 0 else str(patients)


def _table(sizes: list[str], rows: dict[str, list[Result]]) -> Iterator[str]:
    many = len(sizes) > 1
    head = ["search", *(f"p50 ms {s}" for s in sizes), *(["ratio"] if many else [])]
    head += [f"{whose} CPU ms {s}" for whose in ("server", "database") for s in sizes]
    cells = [head]
    for name, results in rows.items():
        first, last = results[0], results[-1]
        line = [name, *("refused" if r.refused else f"{r.p50:.1f}" for r in results)]
        line += [] if not many else ["" if first.refused or last.refused else f"{last.p50 / first.p50:.1f}"]
        line += ["" if r.refused else f"{1000 * r.server:.1f}" for r in results]
        line += ["" if r.database is None else f"{1000 * r.database:.1f}" for r in results]
        cells.append(line)
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    for number, line in enumerate(cells):
        texts = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        yield "| " + " | ".join(texts) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (w + 1) + ":" if i else "-" * (w + 2) for i, w in enumerate(widths)) + "|"


def climb(ladder: Ladder, steps: list[int], minutes: float) -> bool:
    """Load, measure, tell. Whether every answer was right."""
    rows: dict[str, list[Result]] = {name: [] for name, _ in SEARCHES}
    sizes, told = [], []
    for patients in steps:
        told.append(ladder.load(patients, minutes))
        print(f"{told[-1]}\n", flush=True)
        sizes.append(_size(ladder.loaded))
        for name, draw in SEARCHES:
            result = ladder.measure(name, draw)
            rows[name].append(result)
            shown = "refused" if result.refused else f"{result.p50:8.1f} ms p50 of {len(result.times)}"
            print(f"  {name}: {shown}{', WRONG' if result.wrong else ''}", flush=True)
        if ladder.loaded < patients:
            break
    print("\n" + "\n".join(_table(sizes, rows)) + "\n")
    print("Import: " + "\n        ".join(told))
    memory = ", ".join(
        f"{name} {process.memory_info().rss / 2**20:.0f} MB"
        for name, process in zip(("server", "database"), ladder.processes, strict=True) if process
    )  # fmt: skip
    print(f"Memory: {memory}. {CONNECTIONS} connections, up to {REQUESTS} requests a search, pages of 20.")
    for name, results in rows.items():
        for reason in dict.fromkeys(result.refused for result in results if result.refused):
            print(f"refused: {name}: {reason}")
        for size, result in zip(sizes, results, strict=True):
            if result.wrong:
                print(f"WRONG at {size}: {name}: {len(result.wrong)} of {len(result.times)}, such as {result.wrong[0]}")
            if not result.refused and len(result.times) < REQUESTS:
                print(f"cut short at {size}: {name}: {len(result.times)} of {REQUESTS} requests in {SECONDS:.0f} s")
    return not any(result.wrong for results in rows.values() for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", default="1000,10000", metavar="N,N", help="patients at each step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15, help="of loading at a step, at most")
    parser.add_argument("--database-pid", type=int, help=f"the process whose CPU is the database's, where {URI} is set")
    options = parser.parse_args()
    steps = sorted({int(step) for step in options.ladder.split(",")})
    folder, name = Path(tempfile.mkdtemp(prefix="fhirserver-ladder-")), f"ladder_{os.getpid()}"
    settings: dict[str, Any] = {"database": name}
    if uri := os.environ.get(URI):
        settings["mongodb_uri"] = uri
    running = Running(folder, **settings)
    try:
        running.start()
        database = psutil.Process(options.database_pid) if options.database_pid else None if uri else running.database
        running.command(
            "client", "add", "ladder", "--secret", "secret of ladder", "--scope", "system/*.cruds", "--organization", "hospital"
        )
        token = running.command("token", "--client", "ladder", "--scope", "system/*.cruds", "--seconds", "14400")
        right = climb(Ladder(running, options.seed, database, token), steps, options.minutes)
    finally:
        running.close()
        if uri:
            with MongoClient[dict[str, Any]](uri) as client:
                client.drop_database(name)
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
