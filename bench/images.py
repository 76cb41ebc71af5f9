"""``bench/images.py [--studies 10000] [--gigabytes 2]``: what images cost: searches in a large index, metadata, frames, pictures, and the
memory that a large study takes while it arrives in one request. Rates are of one run on a shared machine: compare them within the run."""

from __future__ import annotations

import argparse
import http.client
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from rest import Bench, ct, patient, table, uid
from started import Running

from fhirserver import running as of_server
from fhirserver.app import connect
from fhirserver.settings import Settings

A_TRANSACTION = 50
SERIES = 500
MIXED = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


def populate(bench: Bench, settings: Settings, number: int) -> list[str]:
    """So many studies in the record and in the archive's index, without their bytes: StudyInstanceUIDs."""
    uids = [uid() for _ in range(number)]
    for start in range(0, number, A_TRANSACTION):
        entries = []
        for n in range(start, min(start + A_TRANSACTION, number)):
            url = f"urn:uuid:{uuid.uuid4()}"
            study = {
                "resourceType": "ImagingStudy", "status": "available", "subject": {"reference": url},
                "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uids[n]}"}],
            }  # fmt: skip
            for resource, full in ((patient(n), url), (study, f"urn:uuid:{uuid.uuid4()}")):
                entries.append(
                    {"fullUrl": full, "resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}
                )
        answer = bench.http().post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
        assert answer.status_code == 200, answer.text[:500]
        if start % 1000 == 0:
            print(f"  {start} of {number} studies", flush=True)
    with of_server.database_uri(settings) as uri, connect(uri) as client:
        rows = client[settings.database]["dicom_studies"]
        rows.insert_many(_row(n, study) for n, study in enumerate(uids))
    return uids


def _row(number: int, study: str) -> dict:
    told = {
        "StudyDate": f"2026{1 + number % 12:02}{1 + number % 28:02}", "StudyTime": "101500", "AccessionNumber": f"A{number:06}",
        "PatientName": f"Family{number % 500}^Given{number}", "PatientID": f"B{number:06}", "StudyDescription": "CT of the head",
    }  # fmt: skip
    counted = {"modalities": ["CT"], "classes": ["1.2.840.10008.5.1.4.1.1.2"], "seriesCount": 2, "instances": 300, "arrived": 1}
    return {"_id": f"hospital|{study}", "owner": "hospital", "uid": study, "q": told, "numbers": [f"A{number:06}"], **counted}


def searches(bench: Bench, uids: list[str]) -> None:
    web, number = "/dicomweb", len(uids)
    asked = {
        "study by PatientID": lambda i: f"PatientID=B{i * 37 % number:06}",
        "study by accession number": lambda i: f"AccessionNumber=A{i * 37 % number:06}",
        "study by UID": lambda i: f"StudyInstanceUID={uids[i * 37 % number]}",
    }
    for name, query in asked.items():
        bench.measure(f"QIDO {name}", 200, lambda i, q=query: bench.http().get(f"{web}/studies?{q(i)}"), 200, connections=1)
    bench.measure("QIDO miss", 200, lambda i: bench.http().get(f"{web}/studies?PatientID=NOBODY{i}"), 204, connections=1)


def series(bench: Bench) -> None:
    web, study, one = "/dicomweb", uid(), uid()
    made = [(name := uid(), ct(study, one, name, number)) for number in range(SERIES)]
    dicom = {"Content-Type": "application/dicom"}
    bench.measure(
        "STOW, 525 KB",
        SERIES,
        lambda i: bench.http().post(f"{web}/studies", content=made[i][1], headers=dicom),
        200,
        connections=4,
    )
    path = f"{web}/studies/{study}/series/{one}"
    bench.measure("QIDO 500 instances", 20, lambda _: bench.http().get(f"{path}/instances"), 200, connections=1)
    bench.measure("metadata of 500", 20, lambda _: bench.http().get(f"{path}/metadata"), 200, connections=1)
    bench.measure(
        "frame, 524 KB",
        400,
        lambda i: bench.http().get(f"{path}/instances/{made[i][0]}/frames/1", headers=MIXED),
        200,
        connections=4,
    )
    bench.measure(
        "rendered, first time", 100, lambda i: bench.http().get(f"{path}/instances/{made[i][0]}/rendered"), 200, connections=4
    )
    bench.measure(
        "rendered, again", 100, lambda i: bench.http().get(f"{path}/instances/{made[i][0]}/rendered"), 200, connections=4
    )


def large(bench: Bench, gigabytes: float) -> str:
    """One request of so much: how fast it is taken, and the server's memory at most while it is."""
    number = int(gigabytes * 1e9 / 525_000)
    study, one, boundary = uid(), uid(), uuid.uuid4().hex

    def body() -> Iterator[bytes]:
        for n in range(number):
            yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + ct(study, one, uid(), n) + b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], bench.server.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    place = urlsplit(bench.running.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=1200)
    headers = {
        "Authorization": bench.token,
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
    }
    begun = time.perf_counter()
    connection.request("POST", "/dicomweb/studies", body=body(), headers=headers, encode_chunked=True)
    answer = connection.getresponse()
    told = answer.read()
    taken = time.perf_counter() - begun
    over.set()
    watching.join()
    assert answer.status == 200, told[:500]
    assert told.count(b'"00081155"') == number
    return f"{number} instances, {number * 0.525 / 1000:.1f} GB in one request: {number / taken:.0f} instances/s, server's memory at most {peak[0] / 2**20:.0f} MB"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--studies", type=int, default=10_000)
    options.add_argument("--gigabytes", type=float, default=2.0)
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fhirserver-bench-"))
    running = Running(folder, study_quiet_seconds="5")
    try:
        running.start()
        bench = Bench(running)
        searches(bench, populate(bench, Settings(data_dir=folder / "data"), given.studies))
        series(bench)
        print("\n" + "\n".join(table(bench.rows)))
        print(
            f"\n{given.studies} studies in the index. Server {psutil.Process(bench.server.pid).memory_info().rss / 2**20:.0f} MB."
        )
        if given.gigabytes:
            print(large(bench, given.gigabytes))
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
