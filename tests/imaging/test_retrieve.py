"""PS3.18 section 10.4: other transfer syntaxes, bulk data, ranges, metadata that is kept."""

from __future__ import annotations

import base64
import gzip
import io
import json
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
from conftest import BASE
from files import fresh, opened, parts, path, sample, saved
from starlette.testclient import TestClient

EXPLICIT, JLS, J2K, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
SAMPLES = (
    "CT_small.dcm", "MR_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm", "emri_small_big_endian.dcm", "US1_UNCI.dcm",
    "image_dfl.dcm", "waveform_ecg.dcm", "liver.dcm", "test-SR.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_ybr_full_422_uncompressed.dcm",
    "GDCMJ2K_TextGBR.dcm",
)  # fmt: skip


@pytest.fixture(scope="module")
def stored(stow):
    found = {name: opened(fresh(name)) for name in SAMPLES}
    reply = stow(*(saved(dataset) for dataset in found.values()))
    assert reply.status_code == 200, reply.text
    return found


def dicom(syntax: str | None) -> dict[str, str]:
    return {"Accept": "application/dicom" + (f"; transfer-syntax={syntax}" if syntax else "")}


@pytest.mark.parametrize("syntax", [None, EXPLICIT, JLS, J2K, RLE])
@pytest.mark.parametrize("name", [n for n in SAMPLES if n not in ("waveform_ecg.dcm", "liver.dcm", "test-SR.dcm")])
def test_an_instance_is_given_in_other_syntaxes_without_loss(web, stored, name, syntax):
    dataset = stored[name]
    reply = web().get(path(dataset), headers=dicom(syntax))
    assert reply.status_code == 200, reply.text
    back = opened(reply.content)
    assert back.file_meta.TransferSyntaxUID == (syntax or EXPLICIT)
    assert back.SOPInstanceUID == dataset.SOPInstanceUID
    assert np.array_equal(back.pixel_array, dataset.pixel_array)


def test_what_has_no_pixels_is_not_compressed(web, stored):
    reply = web().get(path(stored["test-SR.dcm"]), headers=dicom(J2K))
    assert opened(reply.content).file_meta.TransferSyntaxUID == EXPLICIT


def test_one_that_cannot_be_transcoded_does_not_hold_back_the_others(web, stow):
    """Of a series; alone it is 406."""
    good, bad = opened(fresh("MR_small_RLE.dcm")), opened(fresh("MR_small_RLE.dcm"))
    bad.StudyInstanceUID, bad.SeriesInstanceUID = good.StudyInstanceUID, good.SeriesInstanceUID
    bad.PixelData = pydicom.encaps.encapsulate([b"\x01\x00\x00\x00" + b"\xff" * 100])
    assert stow(saved(good), saved(bad)).status_code == 200
    assert web().get(path(bad), headers=dicom(EXPLICIT)).status_code == 406
    series = f"studies/{good.StudyInstanceUID}/series/{good.SeriesInstanceUID}"
    reply = web().get(series, headers={"Accept": 'multipart/related; type="application/dicom"'})
    assert sorted(str(opened(part).file_meta.TransferSyntaxUID) for part in parts(reply)) == [EXPLICIT, RLE]


@pytest.mark.parametrize(
    ("media", "syntax"),
    [("application/octet-stream", EXPLICIT), ("image/jls", JLS), ("image/jp2", J2K), ("image/dicom-rle", RLE)],
)
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm", "emri_small_big_endian.dcm"])  # fmt: skip
def test_a_frame_is_given_in_other_syntaxes_without_loss(web, stored, name, media, syntax):
    dataset = stored[name]
    number = int(dataset.get("NumberOfFrames", 1))
    reply = web().get(f"{path(dataset)}/frames/{number}", headers={"Accept": f"{media}; transfer-syntax={syntax}"})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == f"{media}; transfer-syntax={syntax}"
    expected = dataset.pixel_array if number == 1 else dataset.pixel_array[number - 1]
    if syntax == EXPLICIT:
        assert reply.content == expected.astype(expected.dtype.newbyteorder("<")).tobytes()
        return
    one = pydicom.Dataset()
    for keyword in (
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
    ):
        setattr(one, keyword, dataset.get(keyword))
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    one.PixelData = pydicom.encaps.encapsulate([reply.content])
    one["PixelData"].VR = "OB"
    assert np.array_equal(one.pixel_array, expected)


@pytest.mark.parametrize("syntax", [JLS, J2K, RLE])
@pytest.mark.parametrize("name", ["SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_ybr_full_422_uncompressed.dcm", "GDCMJ2K_TextGBR.dcm"])
def test_a_frame_in_colour_is_given_in_other_syntaxes_too(web, stored, name, syntax):
    """Of what the codec makes of it, which may be other colours than the file says: RGB of YBR_RCT, YBR_FULL of YBR_FULL_422."""
    frame = f"{path(stored[name])}/frames/1"
    reply = web().get(frame, headers={"Accept": f"*/*; transfer-syntax={syntax}"})
    assert reply.status_code == 200, reply.text


def test_frames_that_do_not_begin_at_a_byte_are_given_all_the_same(web, stored):
    liver = stored["liver.dcm"]
    reply = web().get(f"{path(liver)}/frames/2", headers={"Accept": "application/octet-stream"})
    assert reply.status_code == 200
    assert len(reply.content) in (512 * 512, 512 * 512 // 8)


def test_metadata_point_to_bulk_data_which_come_whole_or_in_part(web, stored):
    ecg = stored["waveform_ecg.dcm"]
    [told] = web().get(f"{path(ecg)}/metadata").json()
    uri = told["54000100"]["Value"][0]["54001010"]["BulkDataURI"]
    expected = ecg.WaveformSequence[0].WaveformData
    reply = web().get(uri)
    assert (reply.status_code, reply.content) == (200, expected)
    some = web().get(uri, headers={"Range": "bytes=10-19"})
    assert (some.status_code, some.content, some.headers["content-range"]) == (
        206,
        expected[10:20],
        f"bytes 10-19/{len(expected)}",
    )
    assert web().get(uri, headers={"Range": "bytes=-5"}).content == expected[-5:]
    assert web().get(uri, headers={"Range": f"bytes={len(expected)}-"}).status_code == 416
    wrapped = web().get(uri, headers={"Accept": 'multipart/related; type="application/octet-stream"'})
    assert parts(wrapped) == [expected]
    assert web().get(uri, headers={"Accept": "image/png"}).status_code == 406
    assert web().get(uri.replace("54001010", "54001011")).status_code == 404
    assert web("office").get(uri).status_code == 404
    back = pydicom.Dataset.from_json(told, lambda where: web().get(where).content)
    assert back.WaveformSequence[0].WaveformData == expected


def test_words_are_told_little_endian_however_they_are_stored(web, stow):
    """PS3.18 F.2.7"""
    dataset = opened(fresh("emri_small_big_endian.dcm"))
    block = dataset.private_block(0x0099, "ACME", create=True)
    block.add_new(0x10, "OW", b"\x01\x02\x03\x04")
    block.add_new(0x11, "OB", b"\x01\x02\x03\x04")
    block.add_new(0x12, "OF", b"\x3f\x80\x00\x00")
    assert stow(saved(dataset)).status_code == 200
    [told] = web().get(f"{path(dataset)}/metadata").json()
    found = [base64.b64decode(told[tag]["InlineBinary"]) for tag in ("00991010", "00991011", "00991012")]
    assert found == [b"\x02\x01\x04\x03", b"\x01\x02\x03\x04", b"\x00\x00\x80\x3f"]


def test_large_words_are_given_little_endian_too_whole_or_in_part(web, stow):
    dataset = opened(fresh("emri_small_big_endian.dcm"))
    item, words = pydicom.Dataset(), np.arange(2000, dtype=">u2")
    for one, group in ((dataset, 0x0099), (item, 0x0099)):
        block = one.private_block(group, "ACME", create=True)
        block.add_new(0x10, "OW", words.tobytes())
        block.add_new(0x11, "OB", words.tobytes())
    dataset.ReferencedImageSequence = [item]
    assert stow(saved(dataset)).status_code == 200
    little = words.astype("<u2").tobytes()
    for place in ("", "00081140.0."):
        url = f"{path(dataset)}/bulkdata/{place}"
        assert web().get(f"{url}00991010").content == little
        assert web().get(f"{url}00991011").content == words.tobytes()
        some = web().get(f"{url}00991010", headers={"Range": "bytes=5-10"})
        assert (some.status_code, some.content) == (206, little[5:11])
    pixels = web().get(f"{path(dataset)}/bulkdata/7FE00010").content
    assert pixels == np.frombuffer(dataset.PixelData, ">u2").astype("<u2").tobytes()


def test_the_bulk_data_of_compressed_pixels_are_the_frames(web, stored):
    emri = stored["emri_small_jpeg_2k_lossless.dcm"]
    reply = web().get(f"{path(emri)}/bulkdata/7FE00010")
    assert parts(reply) == list(pydicom.encaps.generate_frames(emri.PixelData, number_of_frames=10))
    ct = stored["CT_small.dcm"]
    assert web().get(f"{path(ct)}/bulkdata/7FE00010").content == ct.PixelData


def test_metadata_are_kept_and_known_again_by_their_etag(web, stow):
    first = opened(fresh("CT_small.dcm"))
    second = opened(saved(first))
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    second.InstanceNumber = 2
    assert stow(saved(first)).status_code == 200
    series = f"studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}"
    for where in (f"{series}/metadata", f"studies/{first.StudyInstanceUID}/metadata", f"{path(first)}/metadata"):
        reply = web().get(where)
        assert web().get(where, headers={"If-None-Match": reply.headers["etag"]}).status_code == 304
        assert len(reply.json()) == 1
    before = web().get(f"{series}/metadata").headers["etag"]
    assert stow(saved(second)).status_code == 200
    after = web().get(f"{series}/metadata", headers={"If-None-Match": before})
    assert [row["00080018"]["Value"][0] for row in after.json()] == [first.SOPInstanceUID, second.SOPInstanceUID]
    plain = web().get(f"{series}/metadata", headers={"Accept-Encoding": "identity"})
    assert plain.headers.get("content-encoding") is None
    assert plain.json() == after.json()
    assert web("office").get(f"{series}/metadata", headers={"If-None-Match": before}).status_code == 404


def test_what_comes_in_as_json_goes_out_as_json(web, stow, stored):
    """PS3.18 10.5.2: metadata as dicom+json, bulk data as parts with their Content-Location."""
    dataset = opened(fresh("CT_small.dcm"))
    frame = dataset.PixelData
    del dataset.PixelData
    told = json.loads(dataset.to_json())
    told["7FE00010"] = {"vr": "OW", "BulkDataURI": "bulk/1"}
    body = b"".join(
        [
            b"--b\r\nContent-Type: application/dicom+json\r\n\r\n", json.dumps([told]).encode(),
            b"\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Location: bulk/1\r\n\r\n", frame, b"\r\n--b--\r\n",
        ]
    )  # fmt: skip
    headers = {"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}
    reply = web().post("studies", content=body, headers=headers)
    assert reply.status_code == 200, reply.text
    back = opened(web().get(path(dataset), headers=dicom(None)).content)
    assert back.PixelData == frame
    assert back.PatientName == dataset.PatientName
    stray = body.replace(b"Content-Location: bulk/1", b"Content-Location: bulk/2").replace(
        dataset.SOPInstanceUID.encode(), pydicom.uid.generate_uid().encode()
    )
    refused = web().post("studies", content=stray, headers=headers)
    assert refused.status_code == 409
    assert "Content-Location" in refused.headers["warning"]
    foreign = body.replace(b'"bulk/1"', b'"http://127.0.0.1:1/x"')
    assert web().post("studies", content=foreign, headers=headers).status_code == 409
    assert (
        web()
        .post("studies", content=b"--b\r\nContent-Type: application/dicom+json\r\n\r\n{\r\n--b--\r\n", headers=headers)
        .status_code
        == 400
    )


def test_a_compressed_picture_may_come_in_beside_its_metadata(web):
    source = opened(sample("JPEG-lossy.dcm"))
    source.StudyInstanceUID = source.SeriesInstanceUID = pydicom.uid.generate_uid()
    source.SOPInstanceUID = pydicom.uid.generate_uid()
    [stream] = pydicom.encaps.generate_frames(source.PixelData, number_of_frames=1)
    del source.PixelData
    told = json.loads(source.to_json()) | {"7FE00010": {"vr": "OB", "BulkDataURI": "p"}}
    media = f"image/jpeg; transfer-syntax={source.file_meta.TransferSyntaxUID}"
    body = b"".join(
        [
            b"--b\r\nContent-Type: application/dicom+json\r\n\r\n", json.dumps([told]).encode(),
            f"\r\n--b\r\nContent-Type: {media}\r\nContent-Location: p\r\n\r\n".encode(), stream, b"\r\n--b--\r\n",
        ]
    )  # fmt: skip
    headers = {"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}
    assert web().post("studies", content=body, headers=headers).status_code == 200
    assert web().get(f"{path(source)}/frames/1", headers={"Accept": "image/jpeg"}).content.rstrip(b"\0") == stream.rstrip(b"\0")


def test_accept_weights_are_followed(web, stored):
    ct = stored["CT_small.dcm"]
    accept = f"application/dicom; transfer-syntax={EXPLICIT}; q=0.1, application/dicom; transfer-syntax={JLS}; q=0.9"
    assert web().get(path(ct), headers={"Accept": accept}).headers["content-type"].endswith(JLS)


def test_capabilities_name_every_resource(server):
    client = TestClient(server.app, base_url=f"{BASE}/dicomweb")
    reply = client.options("/", headers={"Accept": "application/vnd.sun.wadl+xml"})
    assert reply.status_code == 200
    found = {r.get("path") for r in ElementTree.fromstring(reply.content).iter("{http://wadl.dev.java.net/2009/02}resource")}
    assert {"studies", "studies/{study}/metadata", "studies/{study}/series/{series}/thumbnail"} <= found
    assert client.options("/", headers={"Accept": "application/json"}).json()["base"] == f"{BASE}/dicomweb"
    assert client.options("/", headers={"Accept": "image/png"}).status_code == 406


def test_a_file_is_never_a_page(web, stored):
    polyglot = b"<html><script>" + sample("CT_small.dcm")[14:]
    reply = web().get(path(stored["CT_small.dcm"]), headers=dicom("*"))
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "attachment" in reply.headers["content-disposition"]
    assert polyglot[132:140] == reply.content[132:140]
    assert reply.content[:128] == bytes(128)


def test_a_gzip_of_metadata_is_that_of_the_text(web, stored):
    where = f"studies/{stored['CT_small.dcm'].StudyInstanceUID}/metadata"
    with web().stream("GET", where, headers={"Accept-Encoding": "gzip"}) as reply:
        raw = b"".join(reply.iter_raw())
    assert json.loads(gzip.decompress(raw)) == web().get(where, headers={"Accept-Encoding": "identity"}).json()
    assert io.BytesIO(raw).read(2) == b"\x1f\x8b"


@pytest.mark.parametrize(("accepted", "packed"), [
    ("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("br", False), ("identity", False),
])  # fmt: skip
def test_metadata_are_packed_for_who_takes_them_so(web, stored, accepted, packed):
    one = stored["CT_small.dcm"]
    url = f"studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/metadata"
    reply = web().get(url, headers={"Accept-Encoding": accepted})
    assert (reply.headers.get("content-encoding") == "gzip") == packed
    assert reply.json()[0]["0020000D"]["Value"] == [one.StudyInstanceUID]
