"""A server whose images are in S3: stored, read whole and by the frame, checked; while the store is away, and after a restart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file
from s3_server import BUCKET, CREDENTIALS, Wire, client, serving
from started import Running

AS_STORED = {"Accept": "application/dicom; transfer-syntax=*"}
FRAMES = {"Accept": 'multipart/related; type="image/jpeg"; transfer-syntax=*'}
FILES = [Path(str(get_testdata_file(name, download=False))) for name in ("CT_small.dcm", "examples_ybr_color.dcm")]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The server, its images' store, and the wire between them."""
    with serving() as port, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        wire = Wire(port)
        own = Running(
            tmp_path_factory.mktemp("s3"), blobs=f"s3://{BUCKET}/hospital", s3_endpoint=f"http://127.0.0.1:{wire.port}"
        )
        own.start()
        try:
            yield own, client(port), wire
        finally:
            own.close()
            wire.cut()


@pytest.fixture(scope="module")
def caller(parts):
    own, _, _ = parts
    fhir = own.client("modality", "hospital")
    with httpx.Client(base_url=f"{own.url}/dicomweb", headers=fhir.headers, timeout=30) as dicomweb:
        yield fhir, dicomweb


def command(own: Running, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fhirserver", *arguments, "--data", str(own.folder / "data")],
        env=own.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def url(path: Path) -> str:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    return f"studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"


def keys(store) -> list[str]:
    return [row["Key"] for row in store.list_objects_v2(Bucket=BUCKET, Prefix="hospital/").get("Contents", ())]


@pytest.fixture(scope="module")
def stored(parts, caller):
    """Over the network, by the command."""
    own, _, _ = parts
    token = caller[0].headers["authorization"].removeprefix("Bearer ")
    done = command(own, "store", *map(str, FILES), "--url", f"{own.url}/dicomweb", "--token", token)
    assert (done.returncode, done.stdout) == (0, "stored 2\n"), done.stderr
    assert token not in done.stdout + done.stderr


def test_images_are_in_the_bucket_and_not_on_the_disk(parts, stored):
    own, store, _ = parts
    assert len(keys(store)) == 2
    assert [path for path in (own.folder / "data" / "blobs").rglob("*") if path.is_file()] == []


def test_they_come_back_byte_for_byte(caller, stored):
    for path in FILES:
        reply = caller[1].get(url(path), headers=AS_STORED)
        assert reply.status_code == 200, reply.text
        assert reply.content[128:] == path.read_bytes()[128:]


def test_a_frame_is_read_alone(parts, caller, stored):
    wire, before = parts[2], parts[2].received
    reply = caller[1].get(f"{url(FILES[1])}/frames/1,30", headers=FRAMES)
    assert reply.status_code == 200
    assert reply.content.count(b"\xff\xd8\xff") == 2
    assert wire.received - before < FILES[1].stat().st_size / 5


def test_the_command_finds_them_already_there_beside_the_server(parts, stored):
    done = command(parts[0], "store", *map(str, FILES), "--organization", "hospital")
    assert (done.returncode, done.stdout) == (0, "stored 0, 2 already there\n"), done.stderr


def test_while_the_store_is_away_images_are_503_and_all_else_works(parts, caller, stored):
    wire, (fhir, dicomweb) = parts[2], caller
    assert "fhirserver_images_up 1.0" in httpx.get(f"{parts[0].url}/metrics").text
    wire.cut()
    try:
        assert "fhirserver_images_up 0.0" in httpx.get(f"{parts[0].url}/metrics").text
        data = FILES[0].read_bytes()
        for reply in (
            dicomweb.get(url(FILES[0]), headers=AS_STORED),
            dicomweb.get(f"{url(FILES[1])}/frames/1", headers=FRAMES),
            dicomweb.post("studies", content=data, headers={"Content-Type": "application/dicom"}),
        ):
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "2"), reply.text
        assert dicomweb.get(f"{url(FILES[0])}/metadata").status_code == 200
        assert fhir.get("/ImagingStudy").json()["total"] == 2
    finally:
        wire.mend()
    assert dicomweb.get(url(FILES[0]), headers=AS_STORED).status_code == 200


def test_after_a_restart_they_are_there(parts, caller, stored):
    own = parts[0]
    own.stop()
    own.start()
    assert caller[1].get(url(FILES[0]), headers=AS_STORED).content[128:] == FILES[0].read_bytes()[128:]


def test_the_check_names_what_was_damaged_and_is_gone(parts, stored):
    own, store, _ = parts
    assert command(own, "check-images").stdout == "2 objects read\n"
    first, second = keys(store)
    store.put_object(Bucket=BUCKET, Key=first, Body=b"something else")
    store.delete_object(Bucket=BUCKET, Key=second)
    done = command(own, "check-images", "--workers", "2")
    assert done.returncode == 1
    told = {tuple(line.split()[:3]) for line in done.stdout.splitlines()[:-1]}
    assert told == {
        ("damaged", first.rpartition("/")[2], "owner=hospital"), ("missing", second.rpartition("/")[2], "owner=hospital")
    }  # fmt: skip
