"""Files that no row names are removed, and no other; every damaged, missing or unnamed file is named."""

from __future__ import annotations

import argparse
import io
import os
import re
import time
from contextlib import contextmanager

import pydicom
import pytest

from fhirserver import images
from fhirserver.app import connect
from fhirserver.errors import Unavailable
from fhirserver.progress import Progress
from imaging import keeping
from imaging.blobs import Away
from imaging.index import Index
from imaging.keeping import NotSweptError

OLD = 2 * 86_400.0
PATIENT = "Verysecret^Name"


def instance(data: bytes) -> pydicom.Dataset:
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.PatientName = PATIENT
    return dataset


def written(dataset: pydicom.Dataset) -> bytes:
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    return out.getvalue()


@pytest.fixture(scope="module")
def archive(server):
    return server.installation


@pytest.fixture(scope="module")
def stored(archive, stow, samples):
    """Three instances, and their rows."""
    datasets = [instance(samples("CT_small.dcm")) for _ in range(3)]
    assert stow(*map(written, datasets)).status_code == 200
    return {row.uid: row for row in keeping.named(archive.images.index)}


def path(archive, digest: str):
    return archive.images.blobs._path(digest)


def aged(archive, digest: str) -> None:
    when = time.time() - OLD
    os.utime(path(archive, digest), (when, when))


def orphan(archive, content: bytes = b"nobody's") -> str:
    incoming = archive.images.blobs.receive()
    incoming.write(bytes(128) + content + os.urandom(8))
    return archive.images.blobs.keep(incoming)


@pytest.fixture
def aside(archive, stored):
    """Files are as they were afterwards."""
    kept = {row.digest: path(archive, row.digest).read_bytes() for row in stored.values()}
    yield
    for one in list(archive.images.blobs.digests()):
        path(archive, one.digest).unlink()
    for digest, content in kept.items():
        path(archive, digest).write_bytes(content)


pytestmark = pytest.mark.usefixtures("aside")


def there(archive) -> set[str]:
    return {kept.digest for kept in archive.images.blobs.digests()}


# ---------------------------------------------------------------- the sweep


def test_old_orphans_are_removed_and_young_ones_and_named_files_stay(archive, stored):
    old, young = orphan(archive), orphan(archive)
    for digest in (old, *(row.digest for row in stored.values())):
        aged(archive, digest)
    removed = archive.images.sweep_orphans()
    assert [kept.digest for kept in removed] == [old]
    assert there(archive) == {young, *(row.digest for row in stored.values())}


def test_what_is_in_quarantine_is_named(archive, stored):
    digest = orphan(archive)
    aged(archive, digest)
    rows = archive.database["dicom_quarantine"]
    rows.insert_one({"_id": "q1", "digest": digest, "owner": "hospital"})
    try:
        assert archive.images.sweep_orphans() == []
    finally:
        rows.delete_one({"_id": "q1"})
    assert [kept.digest for kept in archive.images.sweep_orphans()] == [digest]


def test_what_moves_from_one_row_to_another_meanwhile_is_not_lost(archive, stored, monkeypatch):
    """The first look at the rows misses it: it was taken from where the look had not come, to where it had been."""
    [row, *_] = stored.values()
    aged(archive, row.digest)
    real, looks = keeping.named, []

    def missed(index):
        looks.append(1)
        return (one for one in real(index) if len(looks) > 1 or one.digest != row.digest)

    monkeypatch.setattr(keeping, "named", missed)
    assert archive.images.sweep_orphans() == []
    assert len(looks) == 2
    assert row.digest in there(archive)


def test_what_is_kept_again_while_the_sweep_runs_stays(archive, stored, monkeypatch):
    digest = orphan(archive)
    aged(archive, digest)
    real = keeping.unnamed

    def slow(*given):
        yield from list(real(*given))
        os.utime(path(archive, digest))  # as ``keep`` of the same bytes does

    monkeypatch.setattr(keeping, "unnamed", slow)
    assert archive.images.sweep_orphans() == []
    assert digest in there(archive)


def test_a_large_archive_is_swept_a_part_at_a_time(archive, stored, monkeypatch):
    monkeypatch.setattr(keeping, "_TOGETHER", 1)
    monkeypatch.setattr(keeping, "_PAGE", 2)
    old = {orphan(archive) for _ in range(4)}
    for digest in old:
        aged(archive, digest)
    assert {kept.digest for kept in archive.images.sweep_orphans()} == old


def test_where_the_database_is_an_older_state_nothing_is_swept_unless_it_is_said(archive, stored, caplog):
    """Images that came after the state have no row any more, and are nobody's only to this database."""
    digest = orphan(archive)
    aged(archive, digest)
    marks = archive.database["dicom_marks"]
    archive.images.mark()
    before = list(marks.find({}))
    archive.images.mark()
    marks.delete_many({})
    marks.insert_many(before)  # as after a restore of yesterday's dump
    archive.images.mark()
    with pytest.raises(NotSweptError, match="older state"):
        archive.images.sweep_orphans()
    archive.images._sweep_orphans()
    assert "older state" in caplog.text
    assert digest in there(archive)
    assert [kept.digest for kept in archive.images.sweep_orphans(force=True)] == [digest]
    assert archive.images.sweep_orphans() == []


def test_of_two_databases_that_share_a_place_neither_sweeps_the_others_files(archive, stored, mongodb_uri):
    digest = orphan(archive)
    aged(archive, digest)
    archive.images.mark()
    with connect(mongodb_uri) as client:
        other = Index(client[f"{archive.database.name}_other"])
        assert not keeping.mark(other, archive.images.blobs)
        assert list(other.instances.database["dicom_marks"].find({})) == []
    with pytest.raises(NotSweptError, match="another one"):
        archive.images.sweep_orphans()
    assert digest in there(archive)
    archive.images.sweep_orphans(force=True)


def test_marks_are_forgotten_but_for_the_one_that_is_there(archive, stored):
    archive.images.mark()
    marks, there_ = archive.database["dicom_marks"], archive.images.blobs.marked()
    marks.update_many({}, {"$set": {"when": 0}})
    archive.images.mark()
    assert {row["_id"] for row in marks.find({})} == {there_, archive.images.blobs.marked()}


def test_the_sweep_and_the_marks_are_background_work(archive):
    names = {thread.name for thread in archive.jobs._threads}
    assert {"job-orphans", "job-marks", "job-uploads"} <= names


def test_where_most_have_no_row_nothing_is_swept_unless_it_is_said(archive, stored):
    """The likely reason is a database that is not the one whose images these are."""
    old = {orphan(archive) for _ in range(25)}
    for digest in old:
        aged(archive, digest)
    with pytest.raises(NotSweptError, match="25 objects have no row"):
        archive.images.sweep_orphans()
    assert old < there(archive)
    assert {kept.digest for kept in archive.images.sweep_orphans(force=True)} == old


@pytest.mark.parametrize("what", ["sweep_orphans", "sweep_uploads", "mark"])
def test_a_store_that_is_away_is_unavailable_and_tried_again(archive, monkeypatch, what):
    def away(*_):
        raise Away("away")

    monkeypatch.setattr(archive.images.blobs, "digests", away)
    monkeypatch.setattr(archive.images.blobs, "sweep", away)
    monkeypatch.setattr(archive.images.blobs, "marked", away)
    with pytest.raises(Unavailable):
        getattr(archive.images, what)()


# ---------------------------------------------------------------- the check


@contextmanager
def installed(archive):
    yield archive


def checked(archive, capsys, **options) -> tuple[int, list[str], str]:
    given = argparse.Namespace(**{"workers": 3} | options)
    code = images._check(given, archive.settings, lambda _: installed(archive))
    told = capsys.readouterr()
    assert PATIENT not in told.out + told.err
    return code, told.out.splitlines(), told.err


def test_a_whole_archive_is_found_whole(archive, stored, capsys):
    code, lines, err = checked(archive, capsys)
    assert (code, lines) == (0, ["3 objects read"])
    assert re.fullmatch(r"3 of 3 objects, 0\.1 MB, [\d,]+/s, [\d.,]+ MB/s\n", err)


def test_each_damaged_missing_and_unnamed_file_is_named(archive, stored, capsys):
    damaged, missing, _ = stored.values()
    with open(path(archive, damaged.digest), "r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    path(archive, missing.digest).unlink()
    digest = orphan(archive)
    aged(archive, digest)
    orphan(archive)  # young: its row may come any moment
    code, lines, _ = checked(archive, capsys)
    assert code == 1
    expected = {
        f"{problem} {row.digest} owner=hospital study={row.study} series={row.series} instance={row.uid}"
        for problem, row in (("damaged", damaged), ("missing", missing))
    }
    assert set(lines[:-1]) == expected | {f"unnamed {digest}"}
    assert lines[-1] == "3 objects read, " + ", ".join(f"1 {line.split()[0]}" for line in lines[:-1])
    assert digest in there(archive)


def test_what_waits_for_a_decision_is_checked_too(archive, stored, stow, capsys):
    [first, *_] = stored.values()
    dataset = pydicom.dcmread(io.BytesIO(archive.images.blobs.read(first.digest)))
    dataset.StudyDescription = "Corrected"
    assert stow(written(dataset)).status_code == 202
    [row] = archive.images.index.quarantine.find({})
    path(archive, row["digest"]).unlink()
    code, lines, _ = checked(archive, capsys)
    archive.images.index.quarantine.delete_many({})
    assert (code, lines[0]) == (
        1, f"missing {row['digest']} owner=hospital study={first.study} series= instance={first.uid}"
    )  # fmt: skip


def test_what_cannot_be_read_is_damaged(archive, stored, capsys, monkeypatch):
    [row, *_] = stored.values()
    real = archive.images.blobs.chunks

    def broken(digest):
        if digest == row.digest:
            raise OSError(5, "Input/output error")
        return real(digest)

    monkeypatch.setattr(archive.images.blobs, "chunks", broken)
    code, lines, _ = checked(archive, capsys)
    assert (code, lines[0].split()[:2]) == (1, ["damaged", row.digest])


def test_what_was_taken_away_while_it_was_read_is_no_finding(archive, stored, capsys, monkeypatch):
    rows, [row, *_] = archive.images.index.instances, stored.values()
    kept = rows.find_one({"_id": row.id})
    real = archive.images.blobs.chunks

    def taken(digest):
        if digest == row.digest:
            rows.delete_one({"_id": row.id})
            path(archive, digest).unlink()
        return real(digest)

    monkeypatch.setattr(archive.images.blobs, "chunks", taken)
    try:
        assert checked(archive, capsys)[:2] == (0, ["3 objects read"])
    finally:
        rows.insert_one(kept)


def test_a_store_that_is_away_ends_the_check(archive, stored, monkeypatch):
    def away(_):
        raise Away("away")

    monkeypatch.setattr(archive.images.blobs, "chunks", away)
    with pytest.raises(Away):
        list(keeping.check(archive.images.index, archive.images.blobs, 2, time.time()))


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(capsys, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    with Progress(4, "files") as progress:
        progress.step(3_000_000)
        progress.tell("a finding")
        progress.step(1_000_000)
    told = capsys.readouterr()
    assert told.out == "a finding\n"
    assert ("[######" in told.err and "left" in told.err) == terminal
    assert ("\r" in told.err) == terminal
    assert re.search(r"2 of 4 files, 4\.0 MB, [\d,]+/s, [\d.,]+ MB/s, 0:00:00 left\n$", told.err)
