"""The images' bytes: what is kept is read, whole, in part and again after a restart, from a disk and from S3 alike."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from s3_server import BUCKET, CREDENTIALS, Wire, client, serving

from imaging import blobs as interface
from imaging.blobs import Away, Damaged, Kept, joined, opened, s3

DAY = 86_400.0
CONTENT = bytes(128) + os.urandom(100_000)


@pytest.fixture(scope="module")
def store():
    with serving() as port:
        yield port


@pytest.fixture(params=["disk", "s3"])
def kind(request):
    return request.param


@pytest.fixture
def setting(kind, request, tmp_path, monkeypatch):
    """What ``opened`` takes, for a place with nothing in it."""
    if kind == "disk":
        return None, tmp_path / "blobs", None
    port = request.getfixturevalue("store")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}-{time.monotonic_ns()}", tmp_path / "blobs", f"http://127.0.0.1:{port}"


@pytest.fixture
def blobs(setting):
    return opened(*setting)


def put(blobs, content: bytes = CONTENT) -> str:
    incoming = blobs.receive()
    for start in range(0, len(content), 7777):
        incoming.write(content[start : start + 7777])
    return blobs.keep(incoming)


def aged(blobs, digest: str, days: float, monkeypatch) -> None:
    """It was kept so long ago. (An object of S3 has its time from the store, so there the store is told to be in the past.)"""
    when = time.time() - days * DAY
    if hasattr(blobs, "folder"):
        os.utime(blobs._path(digest), (when, when))
    else:
        real = type(blobs)._told

        def told(self, key):
            found = real(self, key)
            return Kept(found.digest, found.modified - days * DAY, found.size) if found and digest in key else found

        monkeypatch.setattr(type(blobs), "_told", told)


def everything(blobs) -> set[str]:
    return {kept.digest for kept in blobs.digests()}


def test_what_is_kept_is_there_under_its_sha256_and_the_spool_is_empty(blobs):
    digest = put(blobs)
    assert digest == hashlib.sha256(CONTENT).hexdigest()
    assert blobs.read(digest) == CONTENT
    assert blobs.size(digest) == len(CONTENT)
    assert blobs.exists(digest)
    [kept] = blobs.digests()
    assert (kept.digest, kept.size) == (digest, len(CONTENT))
    assert abs(kept.modified - time.time()) < 60
    assert list(blobs.spool.iterdir()) == []


def test_the_preamble_is_zeroed_and_counts_as_zeros(blobs):
    digest = put(blobs, b"MZ" * 64 + b"the rest")
    assert digest == hashlib.sha256(bytes(128) + b"the rest").hexdigest()
    assert blobs.read(digest) == bytes(128) + b"the rest"


def test_segments_are_read_in_their_order_and_adjacent_ones_together(blobs, monkeypatch):
    digest = put(blobs)
    reads = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: reads.append((at, length)) or real(fd, length, at))
    if hasattr(blobs, "_ask"):
        ask = blobs._ask
        monkeypatch.setattr(blobs, "_ask", lambda *a, **k: reads.append(k["Range"]) or ask(*a, **k))
    segments = ((500, 10), (510, 20), (50_000, 5), (0, 0), (200, 3))
    assert blobs.read(digest, segments) == b"".join(CONTENT[at : at + length] for at, length in segments)
    assert [r for r in reads if r not in ((0, 0), "bytes=0--1")] in (
        [(500, 30), (50_000, 5), (200, 3)],
        ["bytes=500-529", "bytes=50000-50004", "bytes=200-202"],
    )


def test_joined_leaves_gaps_and_order_alone():
    assert joined(((0, 2), (2, 2), (5, 1), (4, 1), (5, 3))) == [(0, 4), (5, 1), (4, 4)]
    assert joined(()) == []


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 100_128), (128, None), (100, 99_000), (7, 7), (100_127, 100_128)])
def test_a_range_is_streamed_in_pieces(blobs, monkeypatch, start, end):
    digest = put(blobs)
    for module in (interface.disk, s3):
        monkeypatch.setattr(module, "PIECE", 10_000)
    pieces = list(blobs.chunks(digest, start, end))
    assert b"".join(pieces) == CONTENT[start:end]
    assert max(map(len, pieces)) <= 10_000


def test_what_is_cut_short_is_damaged_and_never_a_short_frame(blobs):
    digest = put(blobs)
    with pytest.raises(Damaged):
        blobs.read(digest, ((100_000, 200),))
    with pytest.raises(Damaged):
        blobs.read(digest, ((200_000, 200),))
    with pytest.raises(Damaged):
        list(blobs.chunks(digest, 0, 200_000))


@pytest.mark.parametrize("digest", ["0" * 64, "../../../../etc/passwd", "", "A" * 64])
def test_what_is_not_there_is_told_at_once(blobs, digest):
    assert not blobs.exists(digest)
    for ask in (
        blobs.read,
        blobs.chunks,
        blobs.size,
        lambda one: blobs.read(one, ((0, 1),)),
        lambda one: blobs.local(one).__enter__(),
    ):
        with pytest.raises(FileNotFoundError):
            ask(digest)


def test_a_local_file_for_who_needs_one(blobs):
    digest = put(blobs)
    for _ in range(2):
        with blobs.local(digest) as path:
            assert path.read_bytes() == CONTENT


def test_another_process_finds_it(blobs, setting):
    digest = put(blobs)
    assert opened(*setting).read(digest) == CONTENT


def test_a_file_that_shrank_is_healed_by_who_sends_it_again(blobs):
    digest = put(blobs)
    if hasattr(blobs, "folder"):
        os.truncate(blobs._path(digest), 50)
    else:
        blobs._ask("put_object", blobs._key(digest), Body=CONTENT[:50])
    assert put(blobs) == digest
    assert blobs.read(digest) == CONTENT


def test_spool_files_of_uploads_that_were_cut_off_are_swept(blobs):
    old, new, digest = blobs.receive(), blobs.receive(), put(blobs)
    old.write(b"x")
    os.utime(old.path, (0, 0))
    assert blobs.sweep(time.time() - DAY) == 1
    assert (old.path.exists(), new.path.exists(), blobs.exists(digest)) == (False, True, True)
    old.discard()
    new.discard()


# ---------------------------------------------------------------- orphans


def test_what_is_young_is_not_removed_and_what_is_old_is(blobs, monkeypatch):
    digest = put(blobs)
    assert not blobs.remove(digest, time.time() - DAY)
    assert blobs.exists(digest)
    aged(blobs, digest, 2, monkeypatch)
    assert blobs.remove(digest, time.time() - DAY)
    assert not blobs.remove("0" * 64, time.time())


def test_to_keep_it_again_makes_it_young(blobs, monkeypatch):
    digest = put(blobs)
    aged(blobs, digest, 2, monkeypatch)
    put(blobs)
    monkeypatch.undo()
    assert not blobs.remove(digest, time.time() - DAY)
    assert blobs.read(digest) == CONTENT


@pytest.mark.parametrize("kind", ["disk"])
def test_on_a_disk_what_is_kept_while_it_is_removed_is_there_afterwards(blobs, kind, monkeypatch):
    """The sweep has seen that the file is old, and has not removed it yet: now the same bytes arrive."""
    digest = put(blobs)
    os.utime(blobs._path(digest), (0, 0))
    arriving = threading.Thread(target=put, args=(blobs,))
    real = os.path.samestat

    def meanwhile(*told):
        arriving.start()
        arriving.join(0.3)
        return real(*told)

    monkeypatch.setattr(os.path, "samestat", meanwhile)
    assert blobs.remove(digest, time.time() - DAY)
    arriving.join()
    assert blobs.read(digest) == CONTENT


@pytest.mark.parametrize("kind", ["disk"])
def test_on_a_disk_keeping_and_removing_at_once_loses_none(blobs, kind):
    digest = put(blobs)
    for _ in range(100):
        os.utime(blobs._path(digest), (0, 0))
        threads = [threading.Thread(target=put, args=(blobs,)) for _ in range(2)]
        threads.insert(1, threading.Thread(target=blobs.remove, args=(digest, time.time() - DAY)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blobs.read(digest) == CONTENT


@pytest.mark.parametrize("kind", ["disk"])
def test_on_a_disk_that_cannot_lock_what_is_kept_is_kept_and_nothing_is_removed(blobs, kind, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    digest = put(blobs)
    os.utime(blobs._path(digest), (0, 0))
    assert not blobs.remove(digest, time.time())
    assert put(blobs) == digest
    assert os.stat(blobs._path(digest)).st_mtime > 1


@pytest.mark.parametrize("kind", ["s3"])
def test_in_s3_an_orphan_that_a_row_names_after_all_is_still_there(blobs, monkeypatch, kind):
    digest = put(blobs)
    aged(blobs, digest, 2, monkeypatch)
    assert blobs.remove(digest, time.time() - DAY)
    monkeypatch.undo()
    assert blobs._told(blobs._key(digest)) is None
    assert not blobs.remove(digest, time.time() - DAY)  # set aside for a day
    assert blobs.read(digest, ((200, 10),)) == CONTENT[200:210]  # a row had named it: it is put back
    assert blobs._told(blobs._key(digest)) is not None


@pytest.mark.parametrize("kind", ["s3"])
def test_in_s3_what_was_set_aside_goes_a_day_later(blobs, monkeypatch, kind):
    digest = put(blobs)
    aged(blobs, digest, 2, monkeypatch)
    assert blobs.remove(digest, time.time() - DAY)
    assert [(kept.digest, kept.aside) for kept in blobs.digests()] == [(digest, True)]
    assert blobs.remove(digest, time.time() - DAY)
    monkeypatch.undo()
    assert everything(blobs) == set()
    assert not blobs.exists(digest)


def test_a_mark_is_what_was_written_last_and_no_blob(blobs, setting):
    assert blobs.marked() is None
    blobs.mark("one")
    blobs.mark("two")
    assert opened(*setting).marked() == "two"
    assert everything(blobs) == set()


# ---------------------------------------------------------------- S3 alone


@pytest.fixture
def wired(store, tmp_path, monkeypatch):
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    wire = Wire(store)
    yield wire, opened(f"s3://{BUCKET}/wired", tmp_path / "wired", f"http://127.0.0.1:{wire.port}")
    wire.cut()


@pytest.mark.parametrize("kind", ["s3"])
def test_what_is_large_goes_in_parts_and_comes_back(blobs, setting, store, monkeypatch, kind):
    monkeypatch.setattr(s3, "PART", 5 * 1024**2)
    content = bytes(128) + os.urandom(12 * 1024**2)
    digest = put(blobs, content)
    prefix = setting[0].split("/", 3)[3]
    head = client(store).head_object(Bucket=BUCKET, Key=f"{prefix}/{digest[:2]}/{digest[2:4]}/{digest}")
    assert head["ETag"].strip('"').endswith("-3")
    assert blobs.read(digest) == content


def test_a_frame_is_one_ranged_read_of_its_bytes_alone(wired):
    wire, blobs = wired
    digest = put(blobs)
    before = wire.received
    assert blobs.read(digest, ((1000, 300), (1300, 200))) == CONTENT[1000:1500]
    assert wire.received - before < 500 + 1500  # headers


def test_a_store_that_is_away_is_told_and_is_there_again_afterwards(wired, caplog):
    wire, blobs = wired
    digest = put(blobs)
    wire.cut()
    begun = time.monotonic()
    for ask in (blobs.read, blobs.size, blobs.exists, lambda _: put(blobs, CONTENT + b"2"), lambda _: list(blobs.digests())):
        with pytest.raises(Away) as told:
            ask(digest)
        assert str(told.value) in caplog.text
        assert "test" not in str(told.value)
    assert time.monotonic() - begun < 60
    assert list(blobs.spool.iterdir()) == []
    wire.mend()
    assert blobs.read(digest) == CONTENT


def test_a_store_that_refuses_is_away_and_one_that_is_full_is_a_full_disk(wired, monkeypatch):
    _, blobs = wired
    blobs._bucket = "nobodys"
    with pytest.raises(Away, match="NoSuchBucket"):
        put(blobs)
    with pytest.raises(OSError, match="full") as full, s3._answering():
        raise s3.ClientError({"Error": {"Code": "XMinioStorageFull"}}, "PutObject")
    assert full.value.errno == errno.ENOSPC


def test_the_cache_is_bounded_and_leaves_what_is_read_alone(wired, monkeypatch):
    _, blobs = wired
    digests = [put(blobs, CONTENT + bytes([n])) for n in range(4)]
    monkeypatch.setattr(s3, "CACHE", 250_000)
    with blobs.local(digests[0]) as first:
        for digest in digests[1:]:
            with blobs.local(digest):
                pass
        assert first.exists()
    names = {path.name for path in blobs._cache.iterdir()}
    assert names == {digests[0], digests[3]}


def test_bytes_that_changed_in_the_store_do_not_reach_a_decoder(wired):
    _, blobs = wired
    digest = put(blobs, CONTENT + b"changed")
    blobs._ask("put_object", blobs._key(digest), Body=b"other bytes")
    with pytest.raises(Damaged), blobs.local(digest):
        pass
    assert list(blobs._cache.iterdir()) == []


@pytest.mark.parametrize(("setting", "told"), [("s3://", "no bucket"), ("gs://bucket", "s3://bucket/prefix")])
def test_a_setting_that_is_neither_is_told(setting, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        opened(setting, tmp_path)


def test_without_boto3_the_setting_says_what_is_needed(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "imaging.blobs.s3", None)
    with pytest.raises(ValueError, match=r"pip install 'fhirserver\[s3\]'"):
        opened("s3://bucket", Path(tmp_path))
