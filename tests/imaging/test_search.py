"""PS3.18 section 10.6 and PS3.4 C.2.2.2: what QIDO-RS matches and what it gives back."""

from __future__ import annotations

import pydicom
import pytest
from files import fresh, opened, saved

NAMES = {
    "LATIN": ("Łukasiewicz^Jan^^Dr", "ISO_IR 192"),
    "CYRILLIC": ("Люксембург", "ISO_IR 192"),
    "KANJI": ("Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
    "GREEK": ("Διονυσιος", "ISO_IR 126"),
}


def requested(step: str, procedure: str, number: str) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.ScheduledProcedureStepID, item.RequestedProcedureID, item.AccessionNumber = step, procedure, number
    return item


@pytest.fixture(scope="module")
def stored(stow):
    files = {
        patient: fresh("CT_small.dcm", PatientID=patient, PatientName=name, SpecificCharacterSet=charset, StudyDate=f"202601{10 + n}",
                       StudyTime=f"{10 + n:02}3000.5", AccessionNumber=f"ACC{n}", RequestAttributesSequence=[requested(f"S{n}", f"P{n}", f"R{n}"), requested("S9", f"Q{n}", "")])
        for n, (patient, (name, charset)) in enumerate(NAMES.items())
    }  # fmt: skip
    mr = opened(files["LATIN"])
    mr.SOPInstanceUID = mr.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    mr.SeriesInstanceUID, mr.Modality, mr.SeriesNumber = pydicom.uid.generate_uid(), "MR", 7
    reply = stow(*files.values(), saved(mr))
    assert reply.status_code == 200, reply.text
    return {patient: opened(data) for patient, data in files.items()}


@pytest.fixture(scope="module")
def found(web, stored, server):
    server.installation.images.arrivals.settle()

    def patients(query: str) -> set[str]:
        reply = web().get(f"studies?{query}")
        assert reply.status_code in (200, 204), reply.text
        return {row["00100020"]["Value"][0] for row in reply.json()} if reply.status_code == 200 else set()

    return patients


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("PatientName=lukasiewicz*", {"LATIN"}),
        ("PatientName=ŁUKASIEWICZ^JAN^^DR", {"LATIN"}),
        ("PatientName=люкс*", {"CYRILLIC"}),
        ("PatientName=山田*", {"KANJI"}),
        ("PatientName=やまだ^たろう", {"KANJI"}),
        ("PatientName=διον*", {"GREEK"}),
        ("fuzzymatching=true&PatientName=jan", {"LATIN"}),
        ("fuzzymatching=true&PatientName=tar yam", {"KANJI"}),
        ("PatientName=jan", set()),
        ("00100010=lukasiewicz*", {"LATIN"}),
        ("StudyDate=20260110-20260111", {"LATIN", "CYRILLIC"}),
        ("StudyDate=20260112-", {"KANJI", "GREEK"}),
        ("StudyDate=-20260110", {"LATIN"}),
        ("StudyDate=20260111", {"CYRILLIC"}),
        ("StudyTime=1200-", {"KANJI", "GREEK"}),
        ("StudyTime=103000.5-103000.5", {"LATIN"}),
        ("StudyTime=1030-1030", {"LATIN"}),
        # two ranges are one of moments: 10 January 11:00 to 12 January 12:00 leaves out what was at 10:30 and at 12:30
        ("StudyDate=20260110-20260112&StudyTime=1100-1200", {"CYRILLIC"}),
        ("StudyDate=20260110-20260112&StudyTime=1000-1300", {"LATIN", "CYRILLIC", "KANJI"}),
        ("ModalitiesInStudy=MR", {"LATIN"}),
        ("ModalitiesInStudy=MR,US", {"LATIN"}),
        ("AccessionNumber=ACC?&ModalitiesInStudy=CT&PatientID=K*", {"KANJI"}),
        ("PatientID=LATIN&AccessionNumber=ACC1", set()),
        ("SOPClassesInStudy=1.2.840.10008.5.1.4.1.1.2&PatientID=GREEK", {"GREEK"}),
    ],
)
def test_what_matches(found, query, expected):
    assert found(query) == expected


def test_a_list_of_uids_matches_each(found, stored):
    uids = ",".join(stored[name].StudyInstanceUID for name in ("LATIN", "KANJI"))
    assert found(f"StudyInstanceUID={uids}") == {"LATIN", "KANJI"}
    assert found(f"StudyInstanceUID={uids.replace(',', '%5C')}") == {"LATIN", "KANJI"}


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("RequestAttributesSequence.ScheduledProcedureStepID=S2", 1),
        ("00400275.00401001=P2", 1),
        ("RequestAttributesSequence.ScheduledProcedureStepID=S9", 5),
        # one item has to match in all: S9 and P2 stand in two
        ("RequestAttributesSequence.ScheduledProcedureStepID=S9&RequestAttributesSequence.RequestedProcedureID=P2", 0),
        ("RequestAttributesSequence.ScheduledProcedureStepID=S9&RequestAttributesSequence.RequestedProcedureID=Q2", 1),
        ("RequestAttributesSequence.AccessionNumber=R3", 1),
    ],
)
def test_sequences_match_item_by_item(web, found, query, number):
    reply = web().get(f"series?{query}")
    assert len(reply.json() if reply.status_code == 200 else []) == number
    for row in reply.json() if number else []:
        assert row["00400275"]["Value"][0]["00400009"]["vr"] == "SH"
    assert web().get(f"studies?{query}").status_code == 400


def test_what_is_asked_for_beside_comes_along(web, found, stored):
    ct = stored["KANJI"]
    where = f"studies/{ct.StudyInstanceUID}/series/{ct.SeriesInstanceUID}/instances"
    [plain] = web().get(where).json()
    assert "00180050" not in plain
    assert "00100020" not in plain
    [some] = web().get(f"{where}?includefield=00180050,PatientID&includefield=00080008").json()
    assert some["00180050"]["Value"] == [float(ct.SliceThickness)]
    assert some["00100020"]["Value"] == ["KANJI"]
    [whole] = web().get(f"{where}?includefield=all").json()
    assert whole["00181151"]["vr"] == "IS"
    assert "7FE00010" not in whole
    [study] = web().get(f"studies?StudyInstanceUID={ct.StudyInstanceUID}&includefield=00101030").json()
    assert study["00101030"]["Value"] == [float(ct.PatientWeight)]
    assert study["00100010"]["Value"] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    ]


@pytest.mark.parametrize(("what", "number"), [("studies", 4), ("series", 5), ("instances", 5)])
def test_a_count_tells_how_many_there_are_for_the_caller(web, found, what, number):
    assert web().get(f"{what}/count?PatientID=*&AccessionNumber=ACC*").json() == {"count": number}
    assert web("office").get(f"{what}/count").json() == {"count": 0}


def test_pages_say_that_there_is_more(web, found):
    first = web().get("studies?limit=3&offset=0&AccessionNumber=ACC*")
    rest = web().get("studies?limit=3&offset=3&AccessionNumber=ACC*")
    assert first.headers["warning"] == "299 fhirserver: There are additional results that can be requested"
    assert "warning" not in rest.headers
    assert [len(first.json()), len(rest.json())] == [3, 1]


def test_what_is_not_supported_is_told(web, found):
    reply = web().get("studies?AccessionNumber=ACC1&emptyvaluematching=true")
    assert "emptyvaluematching parameter is not supported" in reply.headers["warning"]
    assert web().get("studies?limit=-1").status_code == 400
    assert web().get("studies?RequestAttributesSequence.StudyDate=2").status_code == 400
