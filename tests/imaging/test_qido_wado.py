"""PS3.18 sections 10.4 and 10.6, on real images; dicomweb-client is the judge."""

from __future__ import annotations

import io
import shutil
import subprocess

import pydicom
import pytest
from conftest import BASE

NAMES = [
    "CT_small.dcm",
    "MR_small.dcm",
    "693_UNCI.dcm",
    "RG3_J2KI.dcm",
    "examples_ybr_color.dcm",
    "emri_small.dcm",
    "test-SR.dcm",
    "liver.dcm",
]


@pytest.fixture(scope="module")
def stored(stow, samples):
    assert stow(*(samples(name) for name in NAMES)).status_code == 200
    return {name: pydicom.dcmread(io.BytesIO(samples(name))) for name in NAMES}


def instance_path(dataset) -> str:
    return f"studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"


def uids(reply, tag="0020000D") -> set[str]:
    return {row[tag]["Value"][0] for row in reply.json()} if reply.status_code == 200 else set()


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("PatientID=1CT1", ["CT_small.dcm"]),
        ("00100020=4MR1", ["MR_small.dcm"]),
        ("PatientName=compressedsamples*", ["CT_small.dcm", "MR_small.dcm", "RG3_J2KI.dcm"]),
        ("PatientName=CompressedSamples^CT1", ["CT_small.dcm"]),
        ("PatientName=ct&fuzzymatching=true", ["CT_small.dcm"]),
        ("PatientID=?CT1", ["CT_small.dcm"]),
        ("StudyDate=20040101-20040131", ["CT_small.dcm"]),
        ("StudyDate=20040119", ["CT_small.dcm"]),
        ("StudyDate=-20031231&PatientID=*", None),
        ("ModalitiesInStudy=MR", None),
        ("PatientID=NOBODY", []),
    ],
)
def test_studies_are_found_by_their_attributes(web, stored, asked, names):
    reply = web().get(f"studies?{asked}")
    assert reply.status_code in (200, 204), reply.text
    if names is not None:
        expected = {str(stored[name].StudyInstanceUID) for name in names}
        assert uids(reply) & {str(d.StudyInstanceUID) for d in stored.values()} == expected
    if reply.status_code == 204:
        assert reply.content == b""


def test_series_and_instances_are_found_at_each_path(web, stored):
    ct = stored["CT_small.dcm"]
    series = web().get(f"studies/{ct.StudyInstanceUID}/series").json()
    assert [row["0020000E"]["Value"][0] for row in series] == [ct.SeriesInstanceUID]
    assert series[0]["00080060"] == {"vr": "CS", "Value": ["CT"]}
    assert series[0]["00201209"]["Value"] == [1]
    for path in (
        f"studies/{ct.StudyInstanceUID}/instances",
        f"studies/{ct.StudyInstanceUID}/series/{ct.SeriesInstanceUID}/instances",
        f"instances?SOPInstanceUID={ct.SOPInstanceUID}",
    ):
        [row] = web().get(path).json()
        assert row["00080018"]["Value"] == [ct.SOPInstanceUID]
        assert row["00280010"]["Value"] == [128]
    assert len(web().get("series?Modality=CT").json()) >= 2


def test_limit_offset_and_the_warning(web, stored):
    everything = [row["0020000D"]["Value"][0] for row in web().get("studies").json()]
    pages = []
    for offset in range(0, len(everything), 2):
        reply = web().get(f"studies?limit=2&offset={offset}")
        pages += [row["0020000D"]["Value"][0] for row in reply.json()]
        assert ("warning" in reply.headers) == (offset + 2 < len(everything))
    assert pages == everything


@pytest.mark.parametrize("asked", ["limit=-1", "limit=x", "Colour=red", "00091001=x", "SOPInstanceUID=1.2"])
def test_what_cannot_be_searched_for_is_refused_not_ignored(web, asked):
    assert web().get(f"studies?{asked}").status_code == 400


def test_the_study_answer_has_what_the_standard_requires(web, stored):
    [row] = web().get("studies?PatientID=1CT1").json()
    assert row["00100010"]["Value"] == [{"Alphabetic": "CompressedSamples^CT1"}]
    assert row["00201206"]["Value"] == [1]
    assert row["00201208"]["Value"] == [1]
    assert row["00080061"]["Value"] == ["CT"]
    assert row["00081190"]["Value"] == [f"{BASE}/dicomweb/studies/{stored['CT_small.dcm'].StudyInstanceUID}"]
    assert {"00080020", "00080030", "00080050", "00080056", "00080090", "00100030", "00100040", "00200010"} <= set(row)


def test_metadata_is_the_data_set_without_bulk(web, stored):
    for name, dataset in stored.items():
        [told] = web().get(f"{instance_path(dataset)}/metadata").json()
        back = pydicom.Dataset.from_json(told, lambda uri: b"")
        assert back.SOPInstanceUID == dataset.SOPInstanceUID, name
        assert str(back.PatientName) == str(dataset.PatientName)
        if "PixelData" in dataset:
            assert told["7FE00010"]["BulkDataURI"] == f"{BASE}/dicomweb/{instance_path(dataset)}/bulkdata/7FE00010"
    ct = stored["CT_small.dcm"]
    for path in (
        f"studies/{ct.StudyInstanceUID}/metadata",
        f"studies/{ct.StudyInstanceUID}/series/{ct.SeriesInstanceUID}/metadata",
    ):
        assert [row["00080018"]["Value"][0] for row in web().get(path).json()] == [ct.SOPInstanceUID]


def test_frames_are_the_stored_pixels(web, stored):
    for name in ("CT_small.dcm", "MR_small.dcm", "693_UNCI.dcm"):
        dataset = stored[name]
        reply = web().get(f"{instance_path(dataset)}/frames/1", headers={"Accept": "application/octet-stream"})
        assert reply.content == dataset.PixelData[: dataset.Rows * dataset.Columns * 2]
    emri = stored["emri_small.dcm"]
    size = emri.Rows * emri.Columns * 2
    reply = web().get(
        f"{instance_path(emri)}/frames/3,1", headers={"Accept": 'multipart/related; type="application/octet-stream"'}
    )
    first, second = [
        part.partition(b"\r\n\r\n")[2][:size]
        for part in reply.content.split(b"--" + reply.headers["content-type"].split("boundary=")[1].encode())[1:3]
    ]
    assert first == emri.PixelData[2 * size : 3 * size]
    assert second == emri.PixelData[:size]


def test_compressed_frames_come_in_their_stored_form(web, stored):
    cine = stored["examples_ybr_color.dcm"]
    expected = list(pydicom.encaps.generate_frames(cine.PixelData, number_of_frames=30))
    reply = web().get(f"{instance_path(cine)}/frames/30", headers={"Accept": "image/jpeg"})
    assert reply.status_code == 200
    assert reply.content == expected[29]
    ohif = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    assert expected[0] in web().get(f"{instance_path(cine)}/frames/1", headers={"Accept": ohif}).content
    refused = web().get(f"{instance_path(cine)}/frames/1", headers={"Accept": "image/jphc"})
    assert refused.status_code == 406
    assert "1.2.840.10008.1.2.4.50" in refused.json()["message"]


@pytest.mark.parametrize(("frames", "status"), [("0", 404), ("31", 404), ("1,x", 400), ("1,,2", 400), ("-1", 400)])
def test_frames_that_are_not_there(web, stored, frames, status):
    assert (
        web()
        .get(f"{instance_path(stored['examples_ybr_color.dcm'])}/frames/{frames}", headers={"Accept": "image/jpeg"})
        .status_code
        == status
    )


def test_an_instance_comes_back_byte_for_byte_in_its_own_syntax_and_406_in_others(web, stored, samples):
    path = instance_path(stored["RG3_J2KI.dcm"])
    anything = web().get(path, headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
    assert samples("RG3_J2KI.dcm")[128:] in anything.content
    other = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.201'
    assert web().get(path, headers={"Accept": other}).status_code == 406
    assert web().get(path, headers={"Accept": "image/png"}).status_code == 406
    assert web().get(path).status_code == 200


def test_another_facility_finds_and_retrieves_nothing(web, stored):
    ct = stored["CT_small.dcm"]
    office, path = web("office"), instance_path(ct)
    for search in ("studies", "studies?PatientID=1CT1", "series", "instances", f"studies/{ct.StudyInstanceUID}/series"):
        assert office.get(search).status_code == 204, search
    missing = office.get(instance_path(ct).replace(ct.StudyInstanceUID, "1.2.3"))
    for hidden in (
        path,
        f"{path}/metadata",
        f"{path}/frames/1",
        f"studies/{ct.StudyInstanceUID}",
        f"studies/{ct.StudyInstanceUID}/metadata",
    ):
        reply = office.get(hidden)
        assert (reply.status_code, reply.content) == (404, missing.content), hidden


def test_the_same_study_of_two_facilities_stays_two(web, stow, stored, samples):
    assert stow(samples("CT_small.dcm"), organization="office").status_code == 200
    assert len(web("office").get("studies").json()) == 1
    assert len(web().get("studies?PatientID=1CT1").json()) == 1


def test_wildcards_take_time_by_length_alone(web, stow, samples):
    import time

    dataset = pydicom.dcmread(io.BytesIO(samples("MR_small.dcm")))
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = pydicom.uid.generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.PatientName = "a" * 60
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    assert stow(out.getvalue()).status_code == 200
    begun = time.process_time()
    assert web().get("studies?PatientName=" + "*a" * 12 + "*c").status_code == 204
    assert time.process_time() - begun < 5
    assert web().get("studies?PatientName=" + "*a" * 12 + "*").status_code == 200
    assert web().get("studies?PatientName=" + "x" * 2000).status_code == 400


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("*", "", True),
        ("*", "x", True),
        ("?", "", False),
        ("a*c", "abc", True),
        ("a*c", "ab", False),
        ("*a*b*", "xaxbx", True),
        ("a?c", "abc", True),
        ("", "", True),
        ("**a", "a", True),
    ],
)
def test_the_matching_of_wildcards(pattern, value, matches):
    from imaging.qido.matching import like as _like

    assert _like(pattern, value) is matches


def test_what_stands_above_comes_along_where_the_path_does_not_name_it(web, stored):
    ct = stored["CT_small.dcm"]
    [row] = web().get(f"instances?SOPInstanceUID={ct.SOPInstanceUID}").json()
    assert row["00100020"]["Value"] == ["1CT1"]
    assert row["00080060"]["Value"] == ["CT"]
    [row] = web().get(f"studies/{ct.StudyInstanceUID}/instances?SOPInstanceUID={ct.SOPInstanceUID}").json()
    assert "00100020" not in row
    assert row["00080060"]["Value"] == ["CT"]


def test_implicit_files_are_given_explicit_where_nothing_else_is_asked_for(web, stow, samples):
    source = pydicom.dcmread(io.BytesIO(samples("rtdose.dcm")))
    assert source.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian
    assert stow(samples("rtdose.dcm")).status_code == 200
    given = web().get(instance_path(source), headers={"Accept": "application/dicom"})
    assert given.headers["content-type"].endswith("transfer-syntax=1.2.840.10008.1.2.1")
    back = pydicom.dcmread(io.BytesIO(given.content))
    assert back.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert back.PixelData == source.PixelData
    as_it_is = web().get(instance_path(source), headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert as_it_is.content[128:] == samples("rtdose.dcm")[128:]


def test_metadata_is_json_or_406(web, stored):
    path = f"{instance_path(stored['CT_small.dcm'])}/metadata"
    assert web().get(path, headers={"Accept": "application/dicom+xml"}).status_code == 406
    assert web().get(path, headers={"Accept": "application/dicom+json"}).status_code == 200


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="DCMTK is not installed: make test-tools")
def test_dcmtk_reads_what_is_given(web, stored, tmp_path):
    for name in ("CT_small.dcm", "RG3_J2KI.dcm", "emri_small.dcm"):
        file = tmp_path / name
        file.write_bytes(
            web().get(instance_path(stored[name]), headers={"Accept": "application/dicom; transfer-syntax=*"}).content
        )
        done = subprocess.run(["dcmdump", "+P", "SOPInstanceUID", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert stored[name].SOPInstanceUID in done.stdout
