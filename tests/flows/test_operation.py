"""What an operator sees: numbers, logs, a disk that fills up, several workers on one database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from flows_conftest import Running, wait_until
from pydicom.data import get_testdata_file

DICOM = {"Content-Type": "application/dicom"}


def patient(**members):
    return {"resourceType": "Patient"} | members


def numbers(running, **headers):
    """Name with labels -> value."""
    reply = httpx.get(f"{running.url}/metrics", headers=headers)
    assert reply.status_code == 200, reply.status_code
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    rows = (line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def test_metrics_count_and_time_interactions_and_tell_the_state(running):
    client = running.client("counted", "hospital")
    before = numbers(running)
    made = client.post("/Patient", json=patient()).json()
    client.get(f"/Patient/{made['id']}")
    client.get(f"/Patient/{made['id']}")
    client.get("/Patient/nobody")
    client.post("/Patient/$validate", json=patient())
    after = numbers(running)

    def gained(name):
        return after.get(name, 0) - before.get(name, 0)

    def counted(interaction, status, operation=""):
        return f'fhirserver_interactions_total{{interaction="{interaction}",operation="{operation}",status="{status}",type="Patient"}}'

    assert gained(counted("create", 201)) == 1
    assert gained(counted("read", 200)) == 2
    assert gained(counted("read", 404)) == 1
    assert gained(counted("operation", 200, "validate")) == 1
    assert gained('fhirserver_interaction_seconds_count{interaction="read"}') == 3
    assert gained('fhirserver_http_requests_total{area="fhir",method="GET",status="404"}') == 1
    assert after["fhirserver_database_up"] == 1
    assert after["fhirserver_disk_free_bytes"] > after["fhirserver_disk_reserve_bytes"] == 512 * 1024**2
    assert wait_until(lambda: numbers(running).get('fhirserver_jobs_total{job="studies",outcome="done"}'))


def test_a_request_has_an_id_the_clients_or_our_own(running):
    client = running.client("named", "hospital")
    assert client.get("/metadata", headers={"X-Request-Id": "ehr-17"}).headers["x-request-id"] == "ehr-17"
    own = client.get("/metadata", headers={"X-Request-Id": "not an id"}).headers["x-request-id"]
    assert len(own) == 16
    assert client.get("/metadata").headers["x-request-id"] != own


def test_metrics_with_a_token_and_json_logs_without_patient_data(tmp_path):
    own = Running(tmp_path, metrics_token="scrape", log_format="json")
    own.start()
    try:
        assert httpx.get(f"{own.url}/metrics").status_code == 401
        assert httpx.get(f"{own.url}/metrics", headers={"Authorization": "Bearer other"}).status_code == 401
        assert numbers(own, Authorization="Bearer scrape")["fhirserver_database_up"] == 1
        client = own.client("ehr", "hospital")
        secret = "Grzegżółka"
        made = client.post(
            "/Patient",
            json=patient(name=[{"family": secret}], identifier=[{"value": "19990101"}]),
            headers={"X-Request-Id": "first"},
        ).json()
        client.get("/Patient", params={"name": secret, "identifier": "19990101"})
        client.get("/Patient", params={secret: "19990101"})
        client.post("/Patient", json=patient(gender=secret))
        client.post("/Patient", content=f'{{"resourceType": "{secret}'.encode())
        client.put(f"/Patient/{secret}", json=patient(id=secret))
        client.post(
            "/",
            json={
                "resourceType": "Bundle",
                "type": "batch",
                "entry": [{"request": {"method": "GET", "url": f"Patient?name={secret}"}}],
            },
        )
        client.get(f"/Patient/{made['id']}")
        httpx.post(
            f"{own.url}/dicomweb/studies",
            content=secret.encode(),
            headers=DICOM | {"Authorization": client.headers["Authorization"]},
        )
        own.stop()
        lines = [json.loads(line) for line in own.log().splitlines()]
        told = [line for line in lines if line["message"] == "request"]
        assert secret not in own.log()
        assert secret.encode("unicode_escape").decode() not in own.log()
        assert "19990101" not in own.log()
        assert made["id"] not in own.log()
        [first] = [line for line in told if line["request_id"] == "first"]
        assert first["ms"] > 0
        assert {name: first[name] for name in ("area", "method", "status", "client", "organization", "interaction", "type")} == {
            "area": "fhir", "method": "POST", "status": 201, "client": "ehr", "organization": "hospital", "interaction": "create", "type": "Patient",
        }  # fmt: skip
        assert [line["interaction"] for line in told if line["status"] == 200 and "interaction" in line].count("bundle") == 1
        assert {line["area"] for line in told} == {"fhir", "dicomweb"}
    finally:
        own.close()


def test_an_exceptions_text_is_never_logged(capsys):
    import logging

    from fhirserver import logs

    name = " ".join(("Jan", "Nowak"))
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        for format_ in ("text", "json"):
            logs.configure(format_)
            try:
                raise ValueError(name)
            except ValueError:
                logging.getLogger("fhirserver.test").exception("It failed")
            told = capsys.readouterr().err
            assert name not in told
            assert "ValueError" in told
            assert "test_operation.py" in told
    finally:
        logging.root.handlers[:], logging.root.level = handlers, level


def one_ct(client):
    with open(get_testdata_file("CT_small.dcm"), "rb") as file:
        return httpx.post(
            f"{client.base_url}/dicomweb/studies".replace("/fhir/", ""),
            content=file.read(),
            headers=DICOM | {"Authorization": client.headers["Authorization"]},
        )


def test_without_room_on_the_disk_writes_are_507_and_reads_go_on(tmp_path):
    """The disk is any, and what is to stay free on it is more than it has."""
    own = Running(tmp_path)
    own.start()
    client = own.client("ehr", "hospital")
    made = client.post("/Patient", json=patient()).json()
    own.stop()
    own.environment["FHIRSERVER_DISK_RESERVE_BYTES"] = str(2**60)
    own.start()
    try:
        refused = client.post("/Patient", json=patient())
        assert (refused.status_code, refused.json()["issue"][0]["code"]) == (507, "no-store")
        assert client.put(f"/Patient/{made['id']}", json=made | {"active": True}).status_code == 507
        assert client.get(f"/Patient/{made['id']}").json() == made
        assert client.get("/Patient?_summary=count").json()["total"] == 1
        stowed = one_ct(client)
        assert (stowed.status_code, "nearly full" in stowed.json()["message"]) == (507, True)
        assert not [path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()]
    finally:
        own.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"), reason="needs to mount a small disk")
def test_a_disk_that_fills_up_is_told_and_the_server_recovers_by_itself(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    own = Running(tmp_path, disk_reserve_bytes=str(8 * 1024**2))
    try:
        own.start()
        client = own.client("ehr", "hospital")
        ballast, free = tmp_path / "ballast", shutil.disk_usage(tmp_path).free
        with open(ballast, "wb") as file:
            for _ in range((free - 12 * 1024**2) // 1024**2):
                file.write(bytes(1024**2))
        made, statuses = [], []
        for number in range(40):
            reply = client.post("/Patient", json=patient(name=[{"text": f"{number} {'x' * 500_000}"}]))
            statuses.append(reply.status_code)
            if reply.status_code != 201:
                break
            made.append(reply.json()["id"])
            time.sleep(0.2)  # files grow behind the commits
        assert set(statuses) == {201, 507}
        assert [client.get(f"/Patient/{id_}").status_code for id_ in made] == [200] * len(made)
        ballast.unlink()
        assert wait_until(lambda: client.post("/Patient", json=patient()).status_code == 201)
        assert client.get("/Patient?_summary=count").json()["total"] == len(made) + 1
    finally:
        own.close()
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_several_workers_and_several_servers_work_on_one_database(tmp_path):
    """Two servers of two workers each: one conditional create of 64 wins, counters have one winner at a time, metrics add up."""
    from fhirserver.embedded import EmbeddedDatabase

    embedded = EmbeddedDatabase(tmp_path / "elsewhere")
    uri = embedded.start()
    servers = [Running(tmp_path / name, mongodb_uri=uri, public_url="http://fhir.example") for name in ("a", "b")]
    try:
        for one in servers:
            one.folder.mkdir()
            one.start(workers=2)
        clients = [one.client(f"ehr-{number}", "hospital") for number, one in enumerate(servers)]

        def ask(number):
            condition = {"If-None-Exist": "identifier=urn:n|same"}
            return clients[number % 2].post(
                "/Patient", json=patient(identifier=[{"system": "urn:n", "value": "same"}]), headers=condition
            )

        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(ask, range(64)))
        assert sorted({r.status_code for r in replies}) == [200, 201]
        assert [r.status_code for r in replies].count(201) == 1
        [entry] = clients[1].get("/Patient?identifier=urn:n|same").json()["entry"]
        id_ = entry["resource"]["id"]

        def raise_(number):
            for _ in range(200):
                current = clients[number % 2].get(f"/Patient/{id_}")
                body = current.json() | {"multipleBirthInteger": current.json().get("multipleBirthInteger", 0) + 1}
                if (
                    clients[(number + 1) % 2]
                    .put(f"/Patient/{id_}", json=body, headers={"If-Match": current.headers["etag"]})
                    .status_code
                    == 200
                ):
                    return
            raise AssertionError("200 times another was faster")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(raise_, range(24)))
        final = clients[0].get(f"/Patient/{id_}").json()
        assert (final["multipleBirthInteger"], final["meta"]["versionId"]) == (24, "25")
        total = sum(
            value for one in servers for name, value in numbers(one).items()
            if name.startswith("fhirserver_interactions_total") and 'interaction="create"' in name and 'type="Patient"' in name
        )  # fmt: skip
        assert total == 64
    finally:
        for one in servers:
            one.close()
        embedded.stop()
