"""PS3.18 section 10.5: every part is answered by itself."""

from __future__ import annotations

import io
import os
import resource
import zlib

import pydicom
import pytest
from conftest import BASE

from imaging.multipart import MultipartError, PartBegins, PartData, PartEnds, Reader


def changed(data: bytes, **members) -> bytes:
    """The file with other element values."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for name, value in members.items():
        if value is None:
            delattr(dataset, name)
        else:
            with pydicom.config.disable_value_validation():
                setattr(dataset, name, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=False)
    return out.getvalue()


def uid() -> str:
    return pydicom.uid.generate_uid()


def failures(reply) -> list[int]:
    body = reply.json()
    rows = body.get("00081198", {}).get("Value", []) + body.get("0008119A", {}).get("Value", [])
    return sorted(row["00081197"]["Value"][0] for row in rows)


def test_good_parts_are_stored_and_referenced(stow, samples, web):
    reply = stow(samples("CT_small.dcm"))
    dataset = pydicom.dcmread(io.BytesIO(samples("CT_small.dcm")))
    assert reply.status_code == 200
    [row] = reply.json()["00081199"]["Value"]
    assert row["00081155"]["Value"] == [dataset.SOPInstanceUID]
    assert reply.json()["00081190"]["Value"] == [f"{BASE}/dicomweb/studies/{dataset.StudyInstanceUID}"]
    back = web().get(row["00081190"]["Value"][0], headers={"Accept": "application/dicom"})
    assert back.status_code == 200
    assert back.content[128:] == samples("CT_small.dcm")[128:]


def test_the_same_bytes_again_are_200(stow, samples):
    data = changed(samples("CT_small.dcm"), SOPInstanceUID=uid())
    assert stow(data).status_code == 200
    again = stow(data)
    assert (again.status_code, failures(again), again.headers.get("warning")) == (200, [], None)


def test_hostile_and_broken_parts_among_good_ones_are_answered_each_by_itself(stow, samples):
    good = changed(samples("CT_small.dcm"), SOPInstanceUID=uid())
    truncated = samples("CT_small.dcm")[:-2000]
    traversal = changed(samples("CT_small.dcm"), SOPInstanceUID="../../../../tmp/evil")
    markup = changed(samples("CT_small.dcm"), SeriesInstanceUID="<script>alert(1)</script>")
    long = changed(samples("CT_small.dcm"), StudyInstanceUID="1." + "2" * 70)
    missing = changed(samples("CT_small.dcm"), SOPInstanceUID=None)
    reply = stow(good, b"not dicom at all", truncated, traversal, markup, long, missing, b"")
    assert reply.status_code == 202
    assert len(reply.json()["00081199"]["Value"]) == 1
    assert failures(reply) == [0xA900] * 4 + [0xC000] * 3
    assert "evil" not in reply.text
    assert "script" not in reply.text
    assert not os.path.exists("/tmp/evil")


def test_only_bad_parts_answer_409(stow):
    assert stow(b"nothing").status_code == 409


def test_deflated_data_sets_are_taken_and_bombs_are_not(stow, samples):
    assert stow(samples("image_dfl.dcm")).status_code == 200
    data = samples("image_dfl.dcm")
    meta = 144 + int.from_bytes(data[140:144], "little")
    inflated = zlib.decompress(data[meta:], -zlib.MAX_WBITS)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    element = b"\x09\x00\x10\x00UN\x00\x00" + (512 * 1024 * 1024).to_bytes(4, "little")
    deflated = bomb.compress(inflated[: inflated.index(b"\x10\x00\x10\x00")] + element)
    for _ in range(512):
        deflated += bomb.compress(bytes(1024 * 1024))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = stow(data[:meta] + deflated + bomb.flush())
    assert (reply.status_code, failures(reply)) == (409, [0xA700])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KB


def test_deep_nesting_is_refused_not_crashed_on(stow, samples):
    dataset = pydicom.dcmread(io.BytesIO(samples("CT_small.dcm")))
    head = io.BytesIO()
    pydicom.dcmwrite(head, dataset)
    item = b""
    for _ in range(3000):
        item = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + item
    data = samples("CT_small.dcm")
    at = data.index(b"\x08\x00\x16\x00UI")
    reply = stow(data[:at] + item + data[at:])
    assert reply.status_code == 409
    assert failures(reply) == [0xC000]


def test_a_part_of_another_type_is_refused(stow, samples):
    data = changed(samples("CT_small.dcm"), SOPInstanceUID=uid())
    reply = stow(data, b"<html/>", types=["application/dicom", "text/html"])
    assert (reply.status_code, failures(reply)) == (202, [0xC000])


def test_the_study_of_the_url_counts(stow, samples):
    data = changed(samples("CT_small.dcm"), SOPInstanceUID=uid())
    study = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    wrong = stow(data, path=f"studies/{uid()}")
    assert (wrong.status_code, failures(wrong)) == (409, [0xA900])
    assert stow(data, path=f"studies/{study}").status_code == 200
    assert stow(data, path="studies/..%2Fx").status_code in (400, 404)


def test_the_preamble_is_zeroed(stow, samples, web):
    data = b"MZ" + b"\x90" * 126 + changed(samples("CT_small.dcm"), SOPInstanceUID=uid())[128:]
    url = stow(data).json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    back = web().get(url, headers={"Accept": "application/dicom"}).content
    assert back[:128] == bytes(128)
    assert back[128:] == data[128:]


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/related", b"x", 415),
        ('multipart/related; type="application/dicom+xml"; boundary=b', b"--b--\r\n", 415),
        ('multipart/related; type="application/dicom"; boundary=b', b"--b--\r\n", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"nothing of it", 400),
        ('multipart/related; type="application/dicom"; boundary=b', b"--bx\r\n\r\n", 400),
    ],
)
def test_a_body_that_is_no_multipart_is_refused(web, content_type, body, status):
    reply = web().post("studies", content=body, headers={"Content-Type": content_type})
    assert reply.status_code == status
    assert reply.json()["message"]


def test_a_body_that_is_cut_keeps_the_parts_before_the_cut(web, stow, samples):
    data = changed(samples("CT_small.dcm"), SOPInstanceUID=uid())
    body = (
        b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        + data
        + b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n"
        + data[:500]
    )
    reply = web().post(
        "studies", content=body, headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    )
    assert reply.status_code == 400
    instance = pydicom.dcmread(io.BytesIO(data))
    assert len(web().get(f"instances?SOPInstanceUID={instance.SOPInstanceUID}").json()) == 1


def test_encodings_tokens_and_scopes(web, server, samples):
    from starlette.testclient import TestClient

    assert (
        web()
        .post("studies", content=b"x", headers={"Content-Type": "application/dicom", "Content-Encoding": "gzip"})
        .status_code
        == 415
    )
    nobody = TestClient(server.app, base_url=f"{BASE}/dicomweb/").post(
        "studies", content=b"x", headers={"Content-Type": "application/dicom"}
    )
    assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, 'Bearer realm="dicomweb"')
    readonly = web(scope="system/ImagingStudy.rs").post("studies", content=b"x", headers={"Content-Type": "application/dicom"})
    assert readonly.status_code == 403
    assert "insufficient_scope" in readonly.headers["www-authenticate"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_the_reader_finds_the_same_parts_whatever_the_chunks(size):
    body = b"preamble\r\n--b\r\nA: 1\r\n\r\none\r\n--bogus\r\n\r\n--b  \r\n\r\n\r\n--b\r\nC: 2\r\n\r\n\r\n--b--\r\nepilogue"
    reader, parts = Reader("b"), []
    for start in range(0, len(body), size):
        for event in reader.feed(body[start : start + size]):
            if isinstance(event, PartBegins):
                parts.append((event.headers, b""))
            elif isinstance(event, PartData):
                parts[-1] = (parts[-1][0], parts[-1][1] + event.data)
            else:
                assert isinstance(event, PartEnds)
    assert reader.complete
    assert parts == [({"a": "1"}, b"one\r\n--bogus\r\n"), ({}, b""), ({"c": "2"}, b"")]


def test_the_reader_bounds_headers():
    reader = Reader("b")
    with pytest.raises(MultipartError):
        list(reader.feed(b"--b\r\n" + b"x" * 20_000))


def test_a_header_as_long_as_you_like_does_not_hold_up_the_others(web):
    import time

    part = b"--b\r\nContent-Type: application/dicom;" + b"a" * 7000 + b"\r\n\r\nx\r\n"
    begun = time.process_time()
    reply = web().post(
        "studies",
        content=part * 50 + b"--b--\r\n",
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
    )
    assert reply.status_code == 409
    assert time.process_time() - begun < 20


def test_control_characters_and_signs_in_a_header_are_kept_out_of_the_record(stow, samples, web, hospital):
    data = changed(
        samples("CT_small.dcm"), StudyInstanceUID=uid(), SOPInstanceUID=uid(), SeriesInstanceUID=uid(), PatientName="A\x07^B", PatientID="|",
        AccessionNumber="A|", StudyDescription="x\x00\x1by", ReferringPhysicianName="R\x01",
    )  # fmt: skip
    assert stow(data).status_code == 200
    study = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    found = hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()["entry"][0]["resource"]
    assert found["description"] == "x y"
    person = hospital.get(found["subject"]["reference"]).json()
    assert person["identifier"][0]["value"] == "|"


def test_two_patients_under_one_study_uid_are_not_merged(stow, samples, web):
    study = uid()
    first = changed(samples("CT_small.dcm"), StudyInstanceUID=study, SOPInstanceUID=uid(), PatientID="ONE")
    second = changed(samples("CT_small.dcm"), StudyInstanceUID=study, SOPInstanceUID=uid(), PatientID="TWO")
    assert stow(first).status_code == 200
    aside = stow(second)
    assert (aside.status_code, failures(aside)) == (202, [])
    [row] = aside.json()["00081199"]["Value"]
    assert row["00081196"]["Value"] == [0xB000]
    assert "00081190" not in row
    assert "wait for a decision" in aside.headers["warning"]
    assert [i["00100020"]["Value"] for i in web().get(f"instances?StudyInstanceUID={study}").json()] == [["ONE"]]


def test_too_much_metadata_is_refused(stow, samples):
    dataset = pydicom.dcmread(io.BytesIO(samples("CT_small.dcm")))
    dataset.SOPInstanceUID = uid()
    block = dataset.private_block(0x0099, "ACME", create=True)
    out = io.BytesIO()
    with pydicom.config.disable_value_validation():
        for number in range(0x10, 0xFF):
            block.add_new(number, "LT", os.urandom(30_000).hex())
        pydicom.dcmwrite(out, dataset)
    reply = stow(out.getvalue())
    assert (reply.status_code, failures(reply)) == (409, [0xA700])


def in_cyrillic(samples) -> bytes:
    """A data set in ISO 8859-5 that does not say so."""
    data = changed(samples("CT_small.dcm"), StudyInstanceUID=uid(), SOPInstanceUID=uid(), PatientName="A^Name^Here1")
    del (dataset := pydicom.dcmread(io.BytesIO(data))).SpecificCharacterSet
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=False)
    return out.getvalue().replace(b"A^Name^Here1", "Люксембург".encode("iso8859_5").ljust(12))


@pytest.mark.parametrize(("said", "found"), [('; charset="ISO_IR 144"', True), ("", False)])
def test_a_source_may_tell_the_character_set_of_data_sets_that_tell_none(stow, samples, web, said, found):
    data = in_cyrillic(samples)
    assert stow(data, types=[f"application/dicom{said}"]).status_code == 200
    study = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    [row] = web().get(f"studies?StudyInstanceUID={study}").json()
    assert (row["00100010"]["Value"] == [{"Alphabetic": "Люксембург"}]) == found
    assert (web().get(f"studies?StudyInstanceUID={study}&PatientName=люкс*").status_code == 200) == found
    back = web().get(f"studies/{study}", headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert back.content[128:] == data[128:]


def test_a_character_set_that_is_none_of_dicom_is_ignored_and_one_that_is_told_goes_first(stow, samples, web):
    assert stow(in_cyrillic(samples), types=["application/dicom; charset=utf-8"]).status_code == 200
    told = changed(
        samples("CT_small.dcm"),
        StudyInstanceUID=uid(),
        SOPInstanceUID=uid(),
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Żółć",
    )
    assert stow(told, types=['application/dicom; charset="ISO_IR 144"']).status_code == 200
    [row] = web().get(f"studies?StudyInstanceUID={pydicom.dcmread(io.BytesIO(told)).StudyInstanceUID}").json()
    assert row["00100010"]["Value"] == [{"Alphabetic": "Żółć"}]
