"""What is backed up is restored: all of it, as it was at one moment, or nothing."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import CodecOptions, decode_all
from bson.raw_bson import RawBSONDocument
from conftest import BASE, As, Server, order, patient
from operations_conftest import Network, network
from pymongo.database import Database
from pymongo.errors import OperationFailure
from s3_server import BUCKET, CREDENTIALS, serving
from starlette.testclient import TestClient
from started import Running

from fhirserver import backup as module
from fhirserver.backup import backup, restore
from imaging.keeping import NotSweptError

__all__ = ["network"]

FRAME = {"Accept": "application/octet-stream"}


@pytest.fixture(scope="module")
def server(mongodb_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without its background work: what is there stays until it is compared."""
    server = Server(mongodb_uri, tmp_path_factory.mktemp("data"))
    server.installation.prepare()
    yield server
    server.close()


@pytest.fixture
def new(mongodb_uri: str, tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Another installation: nothing in its database, nothing in its folder."""
    made: list[Server] = []

    def make() -> Server:
        made.append(Server(mongodb_uri, tmp_path / f"new{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        emptied(one.client[one.name])
        one.close()


def emptied(database: Database[dict[str, Any]]) -> None:
    """The embedded database syncs for each document that it drops, not for those that it deletes."""
    for name in database.list_collection_names():
        database[name].delete_many({})


@pytest.fixture(scope="module")
def story(network: Network, as_: As) -> dict[str, Any]:
    """A dispatched order with its study, a patient in three versions, a deleted one, a person who signs in."""
    asked, task = network.dispatched()
    changed = network.hospital.post("Patient", json=patient()).json()
    for gender in ("female", "other"):
        changed = network.hospital.put(f"Patient/{changed['id']}", json=changed | {"gender": gender}).json()
    gone = network.hospital.post("Patient", json=patient()).json()
    assert network.hospital.delete(f"Patient/{gone['id']}").status_code in (200, 204)
    [study] = [e["resource"] for e in network.centre.get("ImagingStudy").json()["entry"]]
    return {"order": asked, "task": task, "changed": changed, "gone": gone, "study": study, "reader": network.reader("anna")}


@pytest.fixture(scope="module")
def file(server: Server, story: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backups") / "all.tar"
    backup(server.installation, str(path))
    return path


def documents(database: Database[dict[str, Any]]) -> dict[str, set[bytes]]:
    """Every collection with something in it, byte for byte."""
    raw = database.with_options(CodecOptions(document_class=RawBSONDocument))
    found = {name: {bytes(document.raw) for document in raw[name].find({})} for name in database.list_collection_names()}
    return {name: rows for name, rows in found.items() if rows}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Members = list[tuple[str, bytes]]


def members(file: Path) -> Members:
    with tarfile.open(file) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def archive(path: Path, rows: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in rows:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return path


@pytest.fixture(scope="module")
def small(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a few collections, quick to restore."""
    kept = ("manifest.json", "audit/", "collections/Patient/", "collections/auth_keys/", "collections/history/", "blobs/")
    rows = [row for row in members(file) if row[0].startswith(kept)]
    counts = json.loads(members(file)[-1][1])
    counts = {folder: count for folder, count in counts.items() if f"{folder}/".startswith((*kept, "manifest.json/"))}
    return archive(tmp_path_factory.mktemp("small") / "small.tar", [*rows, ("end.json", json.dumps(counts).encode())])


def on(server: Server, client: TestClient, base: str = "fhir") -> TestClient:
    """The same caller, with the same token, at another server."""
    headers = {"Authorization": client.headers["Authorization"]}
    return TestClient(server.app, base_url=f"{BASE}/{base}/", headers=headers)


def indexes(database: Database[dict[str, Any]], name: str) -> set[str]:
    return set(database[name].index_information())


# ---------------------------------------------------------------- all of it


def test_everything_is_restored_as_it_was(server, story, file, new):
    restored = new()
    restore(restored.installation, str(file))
    before, after = documents(server.client[server.name]), documents(restored.client[restored.name])
    assert set(before) >= {"Patient", "ImagingStudy", "Task", "history", "shares", "auth_users", "auth_clients", "auth_keys"}
    assert {"dicom_instances", "dicom_series", "dicom_studies", "auth_tokens"} <= set(before)
    assert set(before) == set(after)
    for name in before:
        assert before[name] == after[name], name
    blobs = files(server.settings.blob_dir)
    assert blobs
    assert files(restored.settings.blob_dir) == blobs


def test_the_indexes_are_there_too(server, file, new):
    restored = new()
    restore(restored.installation, str(file))
    source, target = server.client[server.name], restored.client[restored.name]
    for name in documents(source):
        assert indexes(target, name) == indexes(source, name), name


def test_a_server_works_on_what_was_restored(network, story, file, new):
    restored = new()
    restore(restored.installation, str(file))
    restored.time = network.server.time
    with TestClient(restored.app, base_url=BASE):
        hospital, centre, office = (on(restored, who) for who in (network.hospital, network.centre, network.office))
        id_ = story["changed"]["id"]
        assert hospital.get(f"Patient/{id_}").json() == story["changed"]
        assert hospital.get(f"Patient/{id_}/_history/1").json()["gender"] == "male"
        assert hospital.get(f"Patient/{story['gone']['id']}").status_code == 410
        assert office.get(f"Patient/{id_}").status_code == 404
        found = centre.get(f"ServiceRequest?identifier={story['order']['identifier'][0]['value']}").json()["entry"]
        assert [e["resource"]["id"] for e in found] == [story["order"]["id"]]  # by the grant that $dispatch made
        assert on(restored, story["reader"]).get(f"Task/{story['task']['id']}").status_code == 200
        replaced = hospital.put(f"Patient/{id_}", json=story["changed"] | {"gender": "female"}).json()
        assert replaced["meta"]["versionId"] == "4"
        uid = story["study"]["identifier"][0]["value"].removeprefix("urn:oid:")
        [series] = story["study"]["series"]
        path = f"studies/{uid}/series/{series['uid']}/instances/{series['instance'][0]['uid']}/frames/1"
        frame = on(restored, network.hospital, "dicomweb").get(path, headers=FRAME)
        assert frame.status_code == 200
        assert frame.content == on(network.server, network.hospital, "dicomweb").get(path, headers=FRAME).content


def test_an_image_that_is_missing_is_told(server, story, tmp_path, capsys):
    [blob] = server.settings.blob_dir.glob("??/??/*")
    aside = blob.rename(tmp_path / "aside")
    try:
        backup(server.installation, str(tmp_path / "all.tar"))
    finally:
        aside.rename(blob)
    assert "1 images are not in the backup" in capsys.readouterr().err


# ---------------------------------------------------------------- reads that are not stored yet


@pytest.fixture
def reading(mongodb_uri: str, tmp_path: Path) -> Iterator[Server]:
    """A server with one patient, and a read of them in its trail."""
    server = Server(mongodb_uri, tmp_path / "reading")
    server.installation.prepare()
    headers = {"Authorization": f"Bearer {server.token('hospital')}"}
    client = TestClient(server.app, base_url=f"{BASE}/fhir/", headers=headers)
    made = client.post("Patient", json=patient()).json()
    assert client.get(f"Patient/{made['id']}").status_code == 200
    yield server
    server.close()


def test_reads_that_were_not_stored_are_in_the_audit_after_a_restore(reading, new, tmp_path):
    trail = reading.settings.data_dir / "audit"
    [note] = trail.iterdir()
    assert note.suffix == ".open"
    backup(reading.installation, str(tmp_path / "all.tar"))
    restored = new()
    restore(restored.installation, str(tmp_path / "all.tar"))
    assert files(restored.settings.data_dir / "audit") == {f"{note.stem}.closed": note.read_bytes()}
    token = restored.token("hospital")
    with TestClient(restored.app, base_url=f"{BASE}/fhir/", headers={"Authorization": f"Bearer {token}"}) as client:
        restored.installation.store_audit()
        found = client.get("AuditEvent?action=R").json().get("entry", [])
        assert [e["resource"]["entity"][0]["what"]["reference"][:8] for e in found] == ["Patient/"]


def test_a_part_of_a_file_does_not_replace_the_whole_that_was_stored_meanwhile(reading, new, tmp_path):
    [note] = (reading.settings.data_dir / "audit").iterdir()
    reading.installation.store.registers.add_segment({"_id": note.stem, "data": b"all of it"})
    backup(reading.installation, str(tmp_path / "all.tar"))
    restored = new()
    restore(restored.installation, str(tmp_path / "all.tar"))
    assert files(restored.settings.data_dir / "audit") == {}
    assert [segment["data"] for segment in restored.installation.store.registers.segments()] == [b"all of it"]


# ---------------------------------------------------------------- or nothing


def test_a_small_one_is_whole(small, new):
    restored = new()
    restore(restored.installation, str(small))
    assert set(documents(restored.client[restored.name])) == {"Patient", "auth_keys", "history"}
    assert len(files(restored.settings.data_dir)) == 2


def nothing_in(server: Server) -> bool:
    return documents(server.client[server.name]) == {} and files(server.settings.data_dir) == {}


def test_what_is_not_empty_is_not_restored_into(server, file, new):
    restored = new()
    restored.installation.prepare()
    before = documents(restored.client[restored.name])
    with pytest.raises(RuntimeError, match="is not empty"):
        restore(restored.installation, str(file))
    assert documents(restored.client[restored.name]) == before
    assert files(restored.settings.blob_dir) == {}


@pytest.mark.parametrize("part", [0.0, 0.001, 0.02, 0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_leaves_nothing(small, new, tmp_path, part):
    cut = tmp_path / "cut.tar"
    content = small.read_bytes()
    end = content.rindex(b"end.json")
    cut.write_bytes(content[: int(end * part)])
    restored = new()
    with pytest.raises(RuntimeError, match="nothing was restored"):
        restore(restored.installation, str(cut))
    assert nothing_in(restored)


def without(*names: str) -> Callable[[Members], Members]:
    return lambda rows: [row for row in rows if not row[0].startswith(names)]


def changed(start: str, change: Callable[[str, bytes], tuple[str, bytes]]) -> Callable[[Members], Members]:
    return lambda rows: [change(*row) if row[0].startswith(start) else row for row in rows]


BROKEN: dict[str, Callable[[Members], Members]] = {
    "no manifest": without("manifest.json"),
    "another version": changed("manifest.json", lambda name, content: (name, b'{"version": 99}')),
    "no end": without("end.json"),
    "a collection is missing": without("collections/Patient/"),
    "an image is missing": without("blobs/"),
    "an image was changed": changed("blobs/", lambda name, content: (name, content[:-1] + bytes([content[-1] ^ 1]))),
    "documents were changed": changed(
        "collections/history/", lambda name, content: (name, content[:900] + b"?" + content[901:])
    ),
    "documents that are none": changed("collections/history/", lambda name, content: (name, b"none")),
    "a chunk too early": changed("collections/history/", lambda name, content: (name.replace("000001", "000002"), content)),
    "the manifest late": lambda rows: [*rows[1:-1], rows[0], rows[-1]],
    "the manifest twice": lambda rows: [rows[0], *rows],
    "a chunk twice": lambda rows: [*rows[:2], rows[2], *rows[2:]],
    "a path": changed("blobs/", lambda name, content: ("audit/../../evil", content)),
    "something else": lambda rows: [rows[0], ("etc/passwd", b""), *rows[1:]],
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_broken_leaves_nothing(small, new, tmp_path, how):
    broken = archive(tmp_path / "broken.tar", BROKEN[how](members(small)))
    restored = new()
    with pytest.raises(RuntimeError, match="nothing was restored") as told:
        restore(restored.installation, str(broken))
    assert "Nowak" not in str(told.value)
    assert nothing_in(restored)
    assert not (tmp_path / "evil.closed").exists()


def test_images_that_were_there_before_stay_when_a_restore_fails(small, new, tmp_path):
    restored = new()
    incoming = restored.installation.images.blobs.receive()
    incoming.write(b"something")
    kept = restored.installation.images.blobs.keep(incoming)
    with pytest.raises(RuntimeError, match="nothing was restored"):
        restore(restored.installation, str(archive(tmp_path / "broken.tar", members(small)[:-1])))
    assert documents(restored.client[restored.name]) == {}
    assert restored.installation.images.blobs.exists(kept)


def test_images_that_were_there_before_are_no_orphans_to_be_swept_unasked(small, new):
    """They may be those that came after the backup: the only copy of them."""
    restored = new()
    blobs = restored.installation.images.blobs
    incoming = blobs.receive()
    incoming.write(b"something")
    kept = blobs.keep(incoming)
    restore(restored.installation, str(small))
    os.utime(next(restored.settings.blob_dir.glob(f"??/??/{kept}")), (0, 0))
    with pytest.raises(NotSweptError):
        restored.installation.images.sweep_orphans()
    assert blobs.exists(kept)
    assert [one.digest for one in restored.installation.images.sweep_orphans(force=True)] == [kept]


@pytest.fixture
def in_s3(mongodb_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An installation whose images are in S3."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with serving() as port:
        place = {"blobs": f"s3://{BUCKET}/restored", "s3_endpoint": f"http://127.0.0.1:{port}"}
        server = Server(mongodb_uri, tmp_path / "s3", **place)
        yield server
        emptied(server.client[server.name])
        server.close()


def test_images_go_to_s3_and_come_from_there(small, in_s3, tmp_path):
    broken = archive(tmp_path / "broken.tar", members(small)[:-1])
    with pytest.raises(RuntimeError, match="nothing was restored"):
        restore(in_s3.installation, str(broken))
    assert list(in_s3.installation.images.blobs.digests()) == []
    restore(in_s3.installation, str(small))
    backup(in_s3.installation, str(tmp_path / "again.tar"))
    images = [[row for row in members(file) if row[0].startswith("blobs/")] for file in (small, tmp_path / "again.tar")]
    assert len(images[0]) == 1
    assert images[0] == images[1]


def test_an_empty_database_is_not_backed_up(new, tmp_path):
    with pytest.raises(RuntimeError, match="nothing to back up"):
        backup(new().installation, str(tmp_path / "all.tar"))
    assert not (tmp_path / "all.tar").exists()


def test_a_backup_that_fails_leaves_no_file(server, story, tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError("no space left")

    (tmp_path / "all.tar").write_bytes(b"the one before")
    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OSError, match="no space left"):
        backup(server.installation, str(tmp_path / "all.tar"))
    assert files(tmp_path) == {"all.tar": b"the one before"}


# ---------------------------------------------------------------- one moment


@contextmanager
def pairs_written(server: Server, count: int, writers: int) -> Iterator[list[int]]:
    """A patient and an order in a pair, both changed to the same number in one transaction, over and over."""
    hospital = {"Authorization": f"Bearer {server.token('hospital')}"}
    rows: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with TestClient(server.app, base_url=f"{BASE}/fhir/", headers=hospital) as client:
        for _ in range(count):
            person = client.post("Patient", json=patient()).json()
            rows.append((person, client.post("ServiceRequest", json=order(f"Patient/{person['id']}")).json()))
    ended, written, numbers = threading.Event(), [0], itertools.count(1)

    def write(mine: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        client = TestClient(server.app, base_url=f"{BASE}/fhir/", headers=hospital)
        for person, asked in itertools.cycle(mine):
            if ended.is_set():
                return
            number = {"value": str(next(numbers)), "system": "urn:number"}
            entries = [
                {
                    "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"},
                    "resource": r | {"identifier": [number]},
                }
                for r in (person, asked)
            ]
            reply = client.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": entries})
            assert reply.status_code == 200, reply.text
            written[0] += 1

    threads = [threading.Thread(target=write, args=(rows[n::writers],)) for n in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield written
    finally:
        ended.set()
        for thread in threads:
            thread.join(10)


def number_of(json_: str) -> str | None:
    return next((identifier["value"] for identifier in json.loads(json_).get("identifier", [])), None)


def disagreements(database: Database[dict[str, Any]]) -> list[str]:
    """Where the current version is not the newest of the history, a version is missing, or a pair is half changed."""
    newest: dict[str, dict[str, Any]] = {}
    versions: dict[str, set[int]] = {}
    for row in database["history"].find({}):
        versions.setdefault(row["rid"], set()).add(row["v"])
        if row["v"] == max(versions[row["rid"]]):
            newest[row["rid"]] = row
    current = {
        f"{name}/{row['_id']}": row
        for name in database.list_collection_names()
        if name[0].isupper()
        for row in database[name].find({})
    }
    wrong = [
        r
        for r in current.keys() | newest.keys()
        if r not in current or r not in newest or current[r]["json"] != newest[r]["json"]
    ]
    wrong += [r for r, found in versions.items() if found != set(range(1, len(found) + 1))]
    orders = [json.loads(row["json"]) for row in database["ServiceRequest"].find({})]
    wrong += [o["id"] for o in orders if number_of(json.dumps(o)) != number_of(current[o["subject"]["reference"]]["json"])]
    return wrong


def test_half_of_a_transaction_is_never_in_a_backup(mongodb_uri, new, tmp_path, monkeypatch):
    slowly = module._chunks

    def chunks(found: Any) -> Iterator[list[bytes]]:
        time.sleep(0.08)  # between any two collections something is written
        yield from slowly(found)

    monkeypatch.setattr(module, "_chunks", chunks)
    source, path = new(), tmp_path / "all.tar"
    source.installation.prepare()
    with pairs_written(source, count=12, writers=2) as written:
        time.sleep(0.3)
        before = written[0]
        backup(source.installation, str(path))
        meanwhile = written[0] - before
    assert meanwhile >= 5
    restored = new()
    restore(restored.installation, str(path))
    database = restored.client[restored.name]
    assert len(list(database["ServiceRequest"].find({}))) == 12
    assert disagreements(database) == []
    assert disagreements(source.client[source.name]) == []
    assert max(row["v"] for row in database["history"].find({})) > 1


def test_a_database_that_keeps_snapshots_is_read_in_a_snapshot_session(server, story, tmp_path, monkeypatch):
    """The embedded one does not; MongoDB refuses to look into a past that it does not have, and so says that it does."""
    command, start, asked = Database.command, server.client.start_session, []

    def refusing(self: Any, *arguments: Any, **options: Any) -> Any:
        if "readConcern" in options:
            raise OperationFailure("Read timestamp is older than the oldest available timestamp", 239)
        return command(self, *arguments, **options)

    monkeypatch.setattr(Database, "command", refusing)
    monkeypatch.setattr(server.client, "start_session", lambda **options: asked.append(options) or start(**options))
    backup(server.installation, str(tmp_path / "all.tar"))
    assert {"snapshot": True} in asked
    assert members(tmp_path / "all.tar")[-1][0] == "end.json"


# ---------------------------------------------------------------- how it is written


def test_it_is_a_tar_that_says_what_is_in_it(server, story, file):
    rows = members(file)
    names = [name for name, _ in rows]
    assert (names[0], names[-1]) == ("manifest.json", "end.json")
    assert {"version", "time"} == set(json.loads(rows[0][1]))
    counts = json.loads(rows[-1][1])
    assert counts["collections/Patient"] == len(list(server.client[server.name]["Patient"].find({})))
    assert counts["blobs"] == sum(name.startswith("blobs/") for name in names) == len(files(server.settings.blob_dir))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(("limit", "value"), [("_CHUNK", 3_000), ("_DOCUMENTS", 5)])
def test_many_documents_are_many_chunks(server, story, new, tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(module, limit, value)
    backup(server.installation, str(tmp_path / "chunks.tar"))
    history = [c for name, c in members(tmp_path / "chunks.tar") if name.startswith("collections/history/")]
    assert len(history) > 3
    for content in map(gzip.decompress, history):
        count = len(decode_all(content))
        assert count == 1 or (count if limit == "_DOCUMENTS" else len(content)) <= value
    restored = new()
    restore(restored.installation, str(tmp_path / "chunks.tar"))
    assert documents(restored.client[restored.name]) == documents(server.client[server.name])


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_one_line_that_changes_on_a_terminal(server, story, tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    backup(server.installation, str(tmp_path / "all.tar"))
    told = capsys.readouterr().err
    assert re.search(r"\d+ documents, 1 images, [\d.]+ MB", told)
    assert told.endswith("\n")
    assert told.count("\n") == (1 if terminal else 2)
    assert ("\r" in told) == terminal


MEASURE = """
import resource, sys
from pathlib import Path
from fhirserver import backup
from fhirserver.app import Installation, connect
from fhirserver.settings import Settings
uri, name, folder, file, what = sys.argv[1:]
with connect(uri) as client:
    installation = Installation(Settings(data_dir=Path(folder)), client[name])
    client[name].list_collection_names()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    getattr(backup, what)(installation, file)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_stays_small(mongodb_uri, new, tmp_path):
    """60 MB that hardly compress; ru_maxrss is the most that there was."""
    source, target, file = new(), new(), str(tmp_path / "all.tar")
    for start in range(0, 6000, 200):
        source.client[source.name]["history"].insert_many(
            [{"_id": f"Patient/{n}/1", "v": 1, "json": os.urandom(5_000).hex()} for n in range(start, start + 200)]
        )
    for one, what in ((source, "backup"), (target, "restore")):
        command = [sys.executable, "-c", MEASURE, mongodb_uri, one.name, str(one.settings.data_dir), file, what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 60, what
    assert target.client[target.name]["history"].count_documents({}) == 6000


# ---------------------------------------------------------------- from the command line


def test_beside_a_running_server_and_into_a_new_folder(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Running(tmp_path / "one"), Running(tmp_path / "two")
    one.start()
    try:
        client = one.client("ehr", "hospital")
        made = client.post("/Patient", json=patient()).json()
        piped = subprocess.run(
            [sys.executable, "-m", "fhirserver", "backup", "-", "--data", str(tmp_path / "one" / "data")],
            env=one.environment, capture_output=True, timeout=60,
        )  # fmt: skip
        file = tmp_path / "all.tar"
        file.write_bytes(piped.stdout)
        with pytest.raises(AssertionError, match="a server is running on the data folder"):
            one.command("restore", str(file))
        two.command("restore", str(file))
        two.start()
        headers = {"Authorization": client.headers["Authorization"]}
        assert httpx.get(f"{two.url}/fhir/Patient/{made['id']}", headers=headers).json() == made
    finally:
        one.close()
        two.close()
