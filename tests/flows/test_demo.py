"""``fhirserver demo`` beside a running server: what it says is so, its curl lines work, and the README's story runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest
from started import Running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(running: Running) -> str:
    return running.command("demo")


def tokens(told: str) -> dict[str, str]:
    return {
        who.strip(): token
        for who, token in re.findall(r"^  (EHR of the \w+|clerk|referrer [\w-]+|dispatcher|reader \w+)\s+(\S{43})$", told, re.M)
    }


def get(running: Running, token: str, path: str) -> dict:
    reply = httpx.get(
        f"{running.url}/fhir/{path}",
        headers={"Authorization": f"Bearer {token}", "Accept": "application/fhir+json"},
        timeout=30,
    )
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_there_is_an_order_in_every_state(running, demo):
    rows = re.findall(r"^\s+(\d+[ab]?)  (.{34}) (\w+)\s+ServiceRequest/(\S+)$", demo, re.M)
    assert {row for row, *_ in rows} == {
        "0",
        "1",
        "2",
        "2a",
        "3",
        "4",
        "5",
        "6",
        "6a",
        "6b",
        "7",
        "8",
        "9",
        "10",
        "11",
        "12",
        "12a",
        "13",
    }
    ehr = {"hospital": tokens(demo)["EHR of the hospital"], "office": tokens(demo)["EHR of the office"]}
    expected = {
        "0": ("draft", None, None), "1": ("active", "requested", "awaiting-images"), "2": ("active", "requested", "ready-for-assignment"),
        "2a": ("active", "rejected", "ready-for-assignment"), "3": ("active", "accepted", "ready-for-assignment"),
        "4": ("active", "accepted", "awaiting-acceptance"), "5": ("active", "accepted", "assigned"), "6": ("active", "in-progress", "reading"),
        "6a": ("active", "in-progress", "awaiting-information"), "6b": ("active", "in-progress", "awaiting-second-read"),
        "7": ("active", "in-progress", "preliminary-outcome"), "8": ("completed", "completed", "delivered"), "9": ("completed", "completed", "changed"),
        "10": ("revoked", "cancelled", "cancelled"), "11": ("revoked", "failed", "cancelled"), "12": ("completed", "completed", "withdrawn"),
        "12a": ("on-hold", "requested", "ready-for-assignment"), "13": ("active", "requested", "ready-for-assignment"),
    }  # fmt: skip
    for row, _, facility, order in rows:
        status = get(running, ehr[facility], f"ServiceRequest/{order}")["status"]
        found = get(running, ehr[facility], f"Task?focus=ServiceRequest/{order}&code=coordinate").get("entry", [])
        task = found[0]["resource"] if found else None
        business = task["businessStatus"]["coding"][0]["code"] if task else None
        assert (status, task and task["status"], business) == expected[row], row


def test_each_role_has_a_token_and_readers_differ(running, demo):
    found = tokens(demo)
    assert set(found) == {"EHR of the hospital", "EHR of the office", "clerk", "referrer dr-lis", "dispatcher", *(f"reader {n}" for n in ("anna", "bela", "chidi", "dorota", "emil"))}  # fmt: skip
    pools = {
        name: get(running, found[f"reader {name}"], "Task/$worklist?view=pool").get("total")
        for name in ("anna", "bela", "chidi", "emil")
    }
    assert pools["chidi"] > pools["emil"] == 0
    scans = get(running, found["EHR of the hospital"], "DocumentReference?type=57133-1")
    assert scans["total"] >= 10
    binary = get(running, found["EHR of the hospital"], scans["entry"][0]["resource"]["content"][0]["attachment"]["url"])
    assert binary["contentType"] == "application/pdf"


def test_the_curl_lines_work_when_pasted(running, demo):
    lines = re.findall(r"^  (curl .*)$", demo, re.M)
    assert len(lines) == 3
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line.replace("curl ", "curl -sS --fail-with-body ", 1)], capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"entry"' in done.stdout or '"00080018"' in done.stdout


def test_the_page_shows_the_same_to_this_machine_alone(running, demo):
    page = httpx.get(f"{running.url}/")
    assert page.status_code == 200
    for token in tokens(running.command("demo")).values():
        assert token in httpx.get(f"{running.url}/").text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for headers in ({"X-Forwarded-For": "203.0.113.9"}, {"Host": "reading.example"}):
        assert "EHR of the hospital" not in httpx.get(f"{running.url}/", headers=headers).text


def test_it_is_made_once(running, demo):
    orders = re.findall(r"ServiceRequest/(\S+)", demo)
    assert re.findall(r"ServiceRequest/(\S+)", running.command("demo")) == orders


def test_the_readmes_story_runs(running, demo):
    import sys

    environment = os.environ | {
        "URL": running.url,
        "DATA": str(running.folder / "data"),
        "BIN": str(Path(sys.executable).parent),
    }
    done = subprocess.run([ROOT / "examples/story.sh"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is final" in done.stdout
    assert "Acute subdural haematoma." in done.stdout.splitlines()[-1] or "Acute subdural haematoma." in done.stdout
    assert [f"{n} " in done.stdout for n in range(1, 8)] == [True] * 7
