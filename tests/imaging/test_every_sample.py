"""All files of pydicom and pydicom-data: what is valid DICOM is stored and comes back byte for byte; what is not is refused."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import data_store
import pydicom
import pydicom.data
import pytest
from conftest import BASE

from imaging import multipart
from imaging.dataset import parse

ROOTS = (Path(pydicom.data.__file__).parent, Path(data_store.__file__).parent)
UID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
MEANT = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
AS_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}

# Files whose data sets have their UIDs and which are broken elsewhere
BROKEN = {
    "MR_truncated.dcm": 0xC000,
    "badVR.dcm": 0xA900,
    "meta_missing_tsyntax.dcm": 0xC000,
}


@dataclass(frozen=True)
class Sample:
    path: Path
    data: bytes
    uids: tuple[str, ...]  # study, series, instance, class
    patient: str

    @property
    def refusal(self) -> int | None:
        if self.data[128:132] != b"DICM":
            return 0xC000
        if self.path.name in BROKEN:
            return BROKEN[self.path.name]
        return None if all(len(uid) <= 64 and UID.fullmatch(uid) for uid in self.uids) else 0xA900


def read(path: Path) -> Sample:
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            uids = tuple(str(dataset.get(name) or "") for name in MEANT)
            return Sample(path, data, uids, str(dataset.get("PatientID") or ""))
        except Exception:
            return Sample(path, data, ("",) * 4, "")


@pytest.fixture(scope="module")
def samples_there():
    paths = sorted(path for root in ROOTS for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return [read(path) for path in paths]


@pytest.fixture(scope="module")
def facilities(samples_there):
    """Valid samples by who stores them: at one facility a UID is of one file, and a study of one patient."""
    found = defaultdict(list)
    for sample in (sample for sample in samples_there if sample.refusal is None):
        number = 0
        while any(
            other.uids[2] == sample.uids[2] or (other.uids[0] == sample.uids[0] and other.patient != sample.patient)
            for other in found[number]
            if other.data[128:] != sample.data[128:]
        ):
            number += 1
        found[number].append(sample)
    return {f"facility-{number}": rows for number, rows in found.items()}


@pytest.fixture(scope="module")
def clients(web, facilities):
    return {owner: web(owner) for owner in [*facilities, "refused"]}


def sent(client, samples):
    boundary = multipart.new_boundary()
    body = b"".join(multipart.written(boundary, (("application/dicom", (one.data,)) for one in samples)))
    return client.post(
        "studies", content=body, headers={"Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'}
    )


@pytest.fixture(scope="module")
def stored(clients, facilities):
    """One request a facility."""
    return {owner: sent(clients[owner], rows) for owner, rows in facilities.items()}


def test_there_are_as_many_as_there_should_be(samples_there, facilities):
    assert len(samples_there) > 270
    assert sum(map(len, facilities.values())) > 215


def test_what_is_valid_is_stored(facilities, stored):
    for owner, reply in stored.items():
        assert reply.status_code == 200, reply.headers.get("warning")
        told = {row["00081155"]["Value"][0] for row in reply.json()["00081199"]["Value"]}
        assert told == {sample.uids[2] for sample in facilities[owner]}


def test_it_comes_back_byte_for_byte_after_the_preamble(facilities, stored, clients):
    for owner, rows in facilities.items():
        client = clients[owner]
        for sample in rows:
            study, series, instance, _ = sample.uids
            reply = client.get(f"studies/{study}/series/{series}/instances/{instance}", headers=AS_STORED)
            assert reply.status_code == 200, sample.path.name
            boundary = reply.headers["content-type"].rpartition("boundary=")[2].strip('"').encode()
            head, _, rest = reply.content.partition(b"\r\n\r\n")
            assert head.startswith(b"--" + boundary)
            assert rest.removesuffix(b"\r\n--" + boundary + b"--\r\n") == bytes(128) + sample.data[128:], sample.path.name


def test_the_same_again_is_200_and_a_study_is_what_it_was(facilities, stored, clients):
    client, rows = clients["facility-1"], facilities["facility-1"]
    before = client.get("instances?limit=1000").json()
    assert len(before) == len(rows)
    assert sent(client, rows).status_code == 200
    assert client.get("instances?limit=1000").json() == before


def test_what_is_not_valid_is_refused_with_its_reason(samples_there, clients):
    refused = [sample for sample in samples_there if sample.refusal is not None]
    assert len(refused) > 50
    reply = sent(clients["refused"], refused)
    assert reply.status_code == 409
    body = reply.json()
    assert "00081199" not in body
    told = [row["00081197"]["Value"][0] for tag in ("00081198", "0008119A") for row in body[tag]["Value"]]
    assert sorted(told) == sorted(sample.refusal for sample in refused)


def test_nothing_of_a_data_set_is_logged(samples_there, clients, caplog):
    """The DICOM library warns of values that it does not like, and says them."""
    for name in ("badVR.dcm", "rtdose_rle.dcm", "bad_sequence.dcm"):
        sent(clients["refused"], [one for one in samples_there if one.path.name == name])
    assert [record.getMessage() for record in caplog.records if record.name.startswith("pydicom")] == []


def test_url_of_the_answer_is_under_the_public_url(stored):
    for reply in stored.values():
        for row in reply.json()["00081199"]["Value"]:
            assert row["00081190"]["Value"][0].startswith(f"{BASE}/dicomweb/studies/")


def value_at(dataset: pydicom.Dataset, path: str) -> bytes:
    """As pydicom reads it: sequences and items by turns, then the element."""
    *above, tag = path.split(".")
    for sequence, item in zip(above[::2], above[1::2], strict=True):
        dataset = dataset[int(sequence, 16)].value[int(item)]
    value = dataset.get_item(int(tag, 16)).value
    return value if isinstance(value, bytes) else bytes(dataset[int(tag, 16)].value)


def test_each_large_value_is_where_the_metadata_say(samples_there):
    looked_at, nested = 0, 0
    for sample in samples_there:
        if sample.refusal is not None:
            continue
        instance = parse(sample.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(sample.path)
        for path, offset, length in instance.bulk:
            assert sample.data[offset : offset + length] == value_at(dataset, path), (sample.path.name, path)
            looked_at += 1
            nested += "." in path
    assert looked_at > 100
    assert nested > 0
