"""The database dies, the server dies, both die: it is noticed and told, it recovers, and what was acknowledged is there."""

from __future__ import annotations

import json
import stat
import threading
import time
from contextlib import suppress

import httpx
import psutil
import pytest
from flows_conftest import Running, wait_until

from fhirserver.embedded import EmbeddedDatabase


@pytest.fixture
def own(tmp_path):
    """A server that a test may kill."""
    running = Running(tmp_path)
    running.start()
    yield running
    running.close()


def patient(number: int) -> dict:
    return {"resourceType": "Patient", "identifier": [{"system": "urn:n", "value": str(number)}]}


def test_it_survives_a_restart_with_its_data_and_ends_its_database(own):
    client = own.client("ehr", "hospital")
    made = client.post("/Patient", json=patient(1)).json()
    database = own.database
    own.stop()
    assert not database.is_running()
    assert not (own.folder / "data" / "run.json").exists()
    seconds = own.start()
    assert client.get(f"/Patient/{made['id']}").json() == made
    assert seconds < 20  # the figure itself is the bench's


def test_its_files_are_for_its_user_alone(own):
    for name in ("database.json", "run.json"):
        assert stat.S_IMODE((own.folder / "data" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((own.folder / "data").stat().st_mode) == 0o700


def test_the_database_asks_for_its_password_and_listens_on_loopback(own):
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure

    uri = json.loads((own.folder / "data" / "run.json").read_text())["mongodb_uri"]
    address = uri.split("@")[1].split("/")[0]
    with MongoClient(f"mongodb://{address}/?directConnection=true") as nobody, pytest.raises(OperationFailure):
        nobody.fhirserver.Patient.find_one({})
    assert {c.laddr.ip for c in own.database.net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}


def test_a_second_server_on_the_same_folder_is_refused(own):
    second = Running(own.folder)
    with pytest.raises(AssertionError, match="another server is using the data folder"):
        second.start()


def test_a_database_that_is_away_answers_503_and_the_server_recovers_by_itself(tmp_path):
    embedded = EmbeddedDatabase(tmp_path / "elsewhere")
    uri = embedded.start()
    own = Running(tmp_path)
    own.environment["FHIRSERVER_MONGODB_URI"] = uri
    own.start()
    client = own.client("ehr", "hospital")
    made = client.post("/Patient", json=patient(1)).json()
    embedded.stop()
    try:
        away = [
            client.get(f"/Patient/{made['id']}"),
            client.post("/Patient", json=patient(2)),
            client.get("/Patient?identifier=1"),
        ]
        for refused in away:
            assert (refused.status_code, refused.json()["issue"][0]["code"]) == (503, "transient")
            assert refused.headers["retry-after"]
        images = client.get(f"{own.url}/dicomweb/studies")
        assert (images.status_code, images.headers["retry-after"]) == (503, "2")
        ready = httpx.get(f"{own.url}/readyz", timeout=20)
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert httpx.get(f"{own.url}/healthz").status_code == 200
        embedded = EmbeddedDatabase(tmp_path / "elsewhere")
        embedded.start(int(uri.rsplit(":", 1)[1].split("/")[0]))
        wait_until(lambda: client.get(f"/Patient/{made['id']}").status_code == 200)
        assert client.post("/Patient", json=patient(2)).status_code == 201
    finally:
        own.close()
        embedded.stop()


def test_a_database_that_dies_is_told_and_started_again(own):
    client = own.client("ehr", "hospital")
    made = client.post("/Patient", json=patient(1)).json()
    own.database.kill()
    wait_until(lambda: client.get(f"/Patient/{made['id']}").status_code == 200)
    ready = httpx.get(f"{own.url}/readyz").json()
    assert (ready["status"], ready["databaseCrashes"]) == ("ready", 1)
    assert "ended unexpectedly" in own.log()
    assert client.post("/Patient", json=patient(2)).status_code == 201


def test_killed_amid_writes_nothing_acknowledged_is_lost(own):
    client = own.client("ehr", "hospital")
    acknowledged: list[tuple[str, int]] = []
    ended = threading.Event()

    def write(worker: int) -> None:
        with suppress(httpx.HTTPError), httpx.Client(base_url=client.base_url, headers=client.headers, timeout=10) as mine:
            for number in range(10_000):
                if ended.is_set():
                    return
                made = mine.post("/Patient", json=patient(worker * 10_000 + number))
                if made.status_code == 201:
                    acknowledged.append((made.json()["id"], 1))
                    changed = mine.put(f"/Patient/{made.json()['id']}", json=made.json() | {"active": True})
                    if changed.status_code == 200:
                        acknowledged.append((made.json()["id"], 2))

    for _ in range(2):
        ended.clear()
        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        own.kill()
        ended.set()
        for thread in threads:
            thread.join(20)
        own.start()
    assert len(acknowledged) > 50
    for id_, version in acknowledged:
        stored = client.get(f"/Patient/{id_}/_history/{version}")
        assert stored.status_code == 200, (id_, version)
        assert int(client.get(f"/Patient/{id_}").json()["meta"]["versionId"]) >= version
    counted = client.get("/Patient?_summary=count").json()["total"]
    assert counted >= len({id_ for id_, _ in acknowledged})


def test_a_killed_servers_database_ends_too(own):
    database = own.database
    own.process.kill()
    own.process.wait(10)
    assert wait_until(lambda: not database.is_running() or database.status() == psutil.STATUS_ZOMBIE)


def test_reads_that_were_answered_before_a_kill_are_in_the_audit(own):
    client = own.client("ehr", "hospital")
    made = client.post("/Patient", json=patient(1)).json()
    assert client.get(f"/Patient/{made['id']}").status_code == 200
    own.kill()
    own.start()
    found = wait_until(lambda: client.get(f"/AuditEvent?entity=Patient/{made['id']}&action=R").json().get("entry"))
    assert found[0]["resource"]["agent"][0]["who"]["identifier"]["value"] == "ehr"
