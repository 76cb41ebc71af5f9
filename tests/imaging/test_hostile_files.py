"""Files and requests made to do harm: the process survives, memory is bounded, the sender gets a DICOM-correct answer, good parts stay.

Bombs of pictures are in test_rendered, those over DIMSE in test_dimse, a disk that is full in test_operation.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import sys
import zlib
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import pydicom
import pytest
from conftest import BASE
from files import fresh, opened, parts, path, saved
from starlette.responses import StreamingResponse

from imaging import decoding
from imaging.dataset.frames import MAX_FRAMES
from imaging.dicomweb.edge import multipart_response
from imaging.dicomweb.parts import MAX_NESTED
from imaging.dicomweb.receiving import Receiving


def failures(reply: Any) -> list[int]:
    body = reply.json()
    rows = body.get("00081198", {}).get("Value", []) + body.get("0008119A", {}).get("Value", [])
    return sorted(row["00081197"]["Value"][0] for row in rows)


def as_json(told: list[dict] | bytes, **bulk: bytes) -> tuple[bytes, dict[str, str]]:
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    body = b"--b\r\nContent-Type: application/dicom+json\r\n\r\n" + text
    for name, data in bulk.items():
        body += f"\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Location: {name}\r\n\r\n".encode() + data
    return body + b"\r\n--b--\r\n", {"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}


def told(dataset: pydicom.Dataset) -> dict:
    del dataset.PixelData
    return json.loads(dataset.to_json())


# ---------------------------------------------------------------- files


def lying(name: str, tag: bytes, length: int) -> bytes:
    """A file that ends soon after an element whose header says that so many bytes follow."""
    data = fresh(name)
    at = data.rindex(tag)
    return data[: at + 8] + struct.pack("<I", length) + b"\0" * 64


@pytest.mark.parametrize("length", [0xFFFFFFFE, 0xFFFFFFFF, 0x7FFFFFFF, 100_000])
def test_pixels_that_are_not_there_are_not_taken_for_pixels(stow, length):
    """4 GiB in 1 KB: what the header says is compared with what is there."""
    good = fresh("CT_small.dcm")
    reply = stow(good, lying("CT_small.dcm", b"\xe0\x7f\x10\x00OW", length))
    assert (reply.status_code, failures(reply)) == (202, [0xC000])
    assert [row["00081155"]["Value"] for row in reply.json()["00081199"]["Value"]] == [[str(opened(good).SOPInstanceUID)]]


@pytest.mark.parametrize("members", [{"Rows": 512}, {"NumberOfFrames": 1000}, {"SamplesPerPixel": 3}, {"BitsAllocated": 32}])
def test_pixels_shorter_than_the_image_is_said_to_be_are_refused(stow, members):
    reply = stow(fresh("CT_small.dcm", **members))
    assert (reply.status_code, failures(reply)) == (409, [0xC000])


@pytest.mark.parametrize("count", ["0", "-1", "100001", "1e9", "9" * 12])
def test_a_number_of_frames_out_of_all_bounds_is_refused(stow, count):
    data = fresh("CT_small.dcm")
    at = data.index(b"\x28\x00\x10\x00US")
    element = b"\x28\x00\x08\x00IS" + struct.pack("<H", len(count) + len(count) % 2) + count.encode() + b" " * (len(count) % 2)
    reply = stow(data[:at] + element + data[at:])
    assert (reply.status_code, failures(reply)) == (409, [0xA900])


@pytest.mark.parametrize("number", ["99999999999999999999", "-" + "9" * 30, "2147483648", "1e5"])
def test_a_number_that_is_none_is_kept_as_it_is_and_counts_for_nothing(stow, web, number):
    """One part that no database can take would hold back all parts after it."""
    good = fresh("MR_small.dcm")
    odd = fresh("MR_small.dcm", InstanceNumber=number, SeriesNumber=number, SpecificCharacterSet="ISO_IR 192")
    assert stow(odd, good).status_code == 200
    [row] = web().get(f"instances?SOPInstanceUID={opened(odd).SOPInstanceUID}").json()
    assert row["00080018"]["Value"] == [str(opened(odd).SOPInstanceUID)]


@pytest.mark.parametrize(
    ("table", "fragments", "reason"),
    [(4 * MAX_FRAMES + 4, 1, 0xC000), (0, MAX_FRAMES + 1, 0xA700)],
    ids=["offsets", "fragments"],
)
def test_a_frame_of_too_many_pieces_is_refused(stow, table, fragments, reason):
    """Eight bytes of a file are many more in memory."""
    data = fresh("MR_small_RLE.dcm")
    at = data.rindex(b"\xe0\x7f\x10\x00OB") + 12
    item = b"\xfe\xff\x00\xe0"
    pixels = item + struct.pack("<I", table) + bytes(table) + (item + bytes(4)) * fragments
    reply = stow(data[:at] + pixels + b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert (reply.status_code, failures(reply)) == (409, [reason])


_EMPTY = b"\xfe\xff\x00\xe0\0\0\0\0"
_SEQUENCE = b"\x08\x00\x40\x11SQ\0\0"
_MANY = 20_000


@pytest.mark.parametrize(
    "element",
    [
        _SEQUENCE + b"\xff\xff\xff\xff" + _EMPTY * _MANY + b"\xfe\xff\xdd\xe0\0\0\0\0",
        _SEQUENCE + struct.pack("<I", 8 * _MANY) + _EMPTY * _MANY,
    ],
    ids=["undefined", "defined"],
)
@pytest.mark.parametrize("name", ["MR_small.dcm", "image_dfl.dcm"])
def test_items_without_number_are_refused_before_they_fill_the_memory(stow, element, name, monkeypatch):
    """Eight bytes an item, of which deflate makes next to none, and a kilobyte in memory."""
    monkeypatch.setattr("imaging.dataset.reading.MAX_READS", 30_000)
    monkeypatch.setattr("imaging.dataset.metadata._MAX_ITEMS", 10_000)
    data = fresh(name)
    meta = 144 + int.from_bytes(data[140:144], "little")
    body = zlib.decompress(data[meta:], -zlib.MAX_WBITS) if name == "image_dfl.dcm" else data[meta:]
    at = body.index(b"\x10\x00\x10\x00")
    body = body[:at] + element + body[at:]
    if name == "image_dfl.dcm":
        deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = deflate.compress(body) + deflate.flush()
    reply = stow(data[:meta] + body)
    assert (reply.status_code, failures(reply)) == (409, [0xC000])
    assert "too many" in reply.headers["warning"] or "OSError" in reply.headers["warning"]


def test_an_image_of_less_than_no_rows_is_refused(stow):
    """Rows and Columns are unsigned; a file may tell another VR."""
    data = fresh("CT_small.dcm")
    for tag in (b"\x28\x00\x10\x00", b"\x28\x00\x11\x00"):
        at = data.index(tag + b"US")
        data = data[:at] + tag + b"SS\x02\x00\x80\xff" + data[at + 10 :]
    reply = stow(data)
    assert (reply.status_code, failures(reply)) == (409, [0xC000])


@pytest.mark.parametrize(
    "fragments", [b"", b"\xfe\xff\x00\xe0\x10\x00\x00\x00ab", b"\xfe\xff\x00\xe0\xf0\xff\xff\xff", b"garbage!"]
)
def test_encapsulated_pixels_that_are_broken_or_none_are_refused(stow, fragments):
    data = fresh("MR_small_RLE.dcm")
    at = data.rindex(b"\xe0\x7f\x10\x00OB") + 12
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    reply = stow(data[:at] + b"\xfe\xff\x00\xe0\0\0\0\0" + fragments + (end if fragments == b"" else b""))
    assert (reply.status_code, failures(reply)) == (409, [0xC000])


def test_an_rle_segment_that_unfolds_to_much_costs_one_request(web, stow):
    """Runs of 128 bytes out of two, far beyond the image."""
    dataset = opened(fresh("MR_small_RLE.dcm"))
    segment = b"\x81\x00" * 500_000
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    dataset.PixelData = pydicom.encaps.encapsulate([header + segment * 2])
    assert stow(saved(dataset)).status_code == 200
    assert web().get(f"{path(dataset)}/rendered").status_code == 406
    assert web().get(f"{path(dataset)}/frames/1", headers={"Accept": "application/octet-stream"}).status_code == 406


def test_frames_that_cannot_be_told_apart_nor_decoded_are_406(web, stow):
    """Two frames are told, one fragment is there, and that is no image."""
    dataset = opened(fresh("MR_small_jp2klossless.dcm", NumberOfFrames=2))
    dataset.PixelData = pydicom.encaps.encapsulate([os.urandom(500)])
    assert stow(saved(dataset)).status_code == 200
    assert web().get(f"{path(dataset)}/frames/2").status_code == 406
    assert web().get(f"{path(dataset)}/bulkdata/7FE00010").status_code == 406


def test_what_pydicom_cannot_write_anew_costs_no_more_than_its_own_part(web, stow):
    """An implicit file is made explicit on the way out. One that cannot be is 406, and is given as stored beside others."""
    good = opened(fresh("MR_small_implicit.dcm"))
    bad = opened(saved(good))
    bad.SOPInstanceUID = bad.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = saved(bad)
    at = data.index(b"\x20\x00\x0d\x00")
    data = data[:at] + b"\x18\x00\x10\x13\x03\x00\x00\x00abc" + data[at:]  # a number of three bytes
    assert stow(saved(good), data).status_code == 200
    assert web().get(path(bad), headers={"Accept": "application/dicom"}).status_code == 406
    both = web().get(f"studies/{good.StudyInstanceUID}", headers={"Accept": 'multipart/related; type="application/dicom"'})
    assert both.status_code == 200
    assert len(parts(both)) == 2


# ---------------------------------------------------------------- requests


def test_deep_or_wide_json_is_refused_before_it_is_understood(web):
    deep = b'[{"00081140":' * 5000
    assert web().post("studies", **_sent(as_json(deep))).status_code == 400
    wide = b"[" + b"{}," * MAX_NESTED + b"{}]"
    assert web().post("studies", **_sent(as_json(wide))).status_code == 413


def test_sequences_in_json_as_deep_as_a_parser_goes_are_refused_one_by_one(web):
    data = told(opened(fresh("CT_small.dcm")))
    item: dict = {}
    for _ in range(300):
        item = {"00081140": {"vr": "SQ", "Value": [item]}}
    reply = web().post("studies", **_sent(as_json([data | item])))
    assert (reply.status_code, failures(reply)) == (409, [0xC000])


def test_a_part_that_is_referred_to_often_is_bounded(web, server, monkeypatch):
    """A few references to one part may make a data set, and a request, of any size."""
    monkeypatch.setattr("imaging.dataset.files._MAX_BULK", 100_000)
    data = told(opened(fresh("CT_small.dcm")))
    block = {f"0099{n:04X}": {"vr": "OB", "BulkDataURI": "p"} for n in range(0x1000, 0x1010)}
    reply = web().post(
        "studies", **_sent(as_json([data | {"00990010": {"vr": "LO", "Value": ["X"]}} | block], p=bytes(10_000)))
    )
    assert (reply.status_code, failures(reply)) == (409, [0xA700])


@pytest.fixture
def bounded(monkeypatch):
    """The server with other bounds."""

    def to(**bounds: int) -> None:
        class Small(Receiving):
            def __init__(self, archive: Any, *rest: Any) -> None:
                super().__init__(replace(archive, **bounds), *rest)

        monkeypatch.setattr(sys.modules["imaging.dicomweb.store"], "Receiving", Small)

    return to


def test_a_part_that_is_too_large_is_refused_and_the_others_are_stored(stow, bounded):
    bounded(max_part=30_000)
    reply = stow(fresh("MR_small.dcm"), fresh("CT_small.dcm"), fresh("MR_small.dcm"))
    assert (reply.status_code, failures(reply)) == (202, [0xA700])
    assert len(reply.json()["00081199"]["Value"]) == 2


def test_a_request_that_is_too_large_or_of_too_many_parts_is_413_and_what_came_before_stays(stow, web, bounded, monkeypatch):
    monkeypatch.setattr("imaging.dicomweb.parts.MAX_PARTS", 2)
    first = fresh("MR_small.dcm")
    assert stow(first, b"x", b"y").status_code == 413
    assert len(web().get(f"instances?SOPInstanceUID={opened(first).SOPInstanceUID}").json()) == 1
    bounded(max_request=50_000)
    assert stow(fresh("CT_small.dcm"), fresh("CT_small.dcm")).status_code == 413
    bounded(max_part=1000)
    large = bytes(1024 * 1024 + 2000)
    assert web().post("studies", content=large, headers={"Content-Type": "application/dicom"}).status_code == 413


def test_what_a_request_makes_is_bounded_too(web, bounded):
    data = told(opened(fresh("CT_small.dcm"))) | {"7FE00010": {"vr": "OW", "BulkDataURI": "p"}}
    rows = [data | {"00080018": {"vr": "UI", "Value": [pydicom.uid.generate_uid()]}} for _ in range(20)]
    request = as_json(rows, p=bytes(128 * 128 * 2))
    bounded(max_request=len(request[0]))
    assert web().post("studies", **_sent(request)).status_code == 413
    study = rows[0]["0020000D"]["Value"][0]
    assert 0 < len(web().get(f"instances?StudyInstanceUID={study}").json()) < 20  # what was stored before stays


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/x", "file:///etc/passwd", "../../etc/passwd", f"{BASE}/dicomweb/studies"])
def test_bulk_data_are_fetched_from_nowhere_else(web, uri):
    data = told(opened(fresh("CT_small.dcm"))) | {"7FE00010": {"vr": "OW", "BulkDataURI": uri}}
    reply = web().post("studies", **_sent(as_json([data])))
    assert (reply.status_code, failures(reply)) == (409, [0xC000])
    assert uri not in reply.text + reply.headers["warning"]


@pytest.mark.parametrize(
    "where",
    ["studies/<script>alert(1)<%2Fscript>", "studies?PatientName=<script>&x<script>=1", "studies/1.2/series/1.3/instances/<b>/rendered", "studies/..%2F..%2Fetc%2Fpasswd/metadata"],
)  # fmt: skip
def test_nothing_of_a_request_is_reflected(web, where):
    reply = web().get(where)
    assert reply.status_code in (400, 404)
    assert "json" in reply.headers["content-type"]
    assert "<" not in reply.text


def test_active_content_is_an_attachment_without_rights(web, stow):
    """An encapsulated document is given as bytes, in a sandbox."""
    dataset = opened(fresh("CT_small.dcm"))
    del dataset.PixelData
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    dataset.MIMETypeOfEncapsulatedDocument = "text/html"
    dataset.EncapsulatedDocument = b"<script>alert(document.cookie)</script>" * 50
    assert stow(saved(dataset)).status_code == 200
    reply = web().get(f"{path(dataset)}/bulkdata/00420011", headers={"Accept": "*/*"})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"] == "attachment"
    assert (reply.headers["x-content-type-options"], reply.headers["content-security-policy"]) == ("nosniff", "sandbox")


def test_a_range_of_nothing_is_416(web, stow):
    dataset = opened(fresh("CT_small.dcm"))
    assert stow(saved(dataset)).status_code == 200
    frame = f"{path(dataset)}/frames/1"
    for wanted, status in (
        ("bytes=-0", 416),
        ("bytes=-2", 206),
        ("bytes=32768-", 416),
        ("bytes=0-99999999", 200),
        ("lines=1", 200),
    ):
        reply = web().get(frame, headers={"Accept": "application/octet-stream", "Range": wanted})
        assert reply.status_code == status, wanted


def test_several_frames_are_not_given_as_one_picture(web, stow):
    dataset = opened(fresh("emri_small.dcm"))
    assert stow(saved(dataset)).status_code == 200
    frames = f"{path(dataset)}/frames/1,2/rendered"
    assert web().get(frames, headers={"Accept": "image/png"}).status_code == 406
    assert len(parts(web().get(frames, headers={"Accept": "*/*"}))) == 2


def _sent(request: tuple[bytes, dict[str, str]]) -> dict[str, Any]:
    return {"content": request[0], "headers": request[1]}


# ---------------------------------------------------------------- answers


def test_an_answer_is_as_large_in_memory_as_a_few_of_its_parts():
    """A few bytes of RLE, asked for ten thousand times in one list, are hundreds of gigabytes."""
    made = []

    def pictures() -> Any:
        for n in range(10_000):
            made.append(n)
            yield "application/octet-stream", (bytes(1024 * 1024),)

    answer = multipart_response(pictures(), "application/octet-stream")
    assert isinstance(answer, StreamingResponse)
    assert len(made) < 12


class _Run:
    ran = False

    def __reduce__(self) -> Any:
        return setattr, (_Run, "ran", True)


def test_what_a_decoder_answers_is_never_run():
    ours, theirs = (Connection(side.detach()) for side in socket.socketpair())
    process = object.__new__(decoding._Process)
    process._ours = ours
    theirs.send(_Run())
    assert isinstance(process.ask(("picture", ()), 1.0), str)
    assert not _Run.ran
    ours.close()
    theirs.close()


def test_an_answer_is_never_that_of_another_question(monkeypatch, tmp_path):
    """Two patients' images are asked for, and the first answer is not fetched: it does not become the second one."""
    files = []
    for name in ("CT_small.dcm", "MR_small.dcm"):
        files.append(tmp_path / name)
        files[-1].write_bytes(fresh(name))
    decoders, ask = decoding.Decoders(1), decoding._Process.ask

    def broken(self: Any, question: Any, seconds: float) -> Any:
        self._ours.send(question)
        raise RuntimeError

    try:
        assert decoders.call("decoded", str(files[0]), 0) == opened(files[0].read_bytes()).PixelData
        monkeypatch.setattr(decoding._Process, "ask", broken)
        with pytest.raises(RuntimeError):
            decoders.call("decoded", str(files[0]), 0)
        monkeypatch.setattr(decoding._Process, "ask", ask)
        assert decoders.call("decoded", str(files[1]), 0) == opened(files[1].read_bytes()).PixelData
    finally:
        decoders.close()


def test_pictures_are_kept_once_whoever_asks_at_the_same_time():
    decoders = decoding.Decoders(1, kept=100)
    for _ in range(3):
        decoders._keep("key", bytes(40))
    assert decoders._room == 60
    assert io.BytesIO(decoders._known("key") or b"").read() == bytes(40)
