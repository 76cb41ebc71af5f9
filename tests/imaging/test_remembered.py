"""What is remembered from one request to the next: whose a study is, who may see it, where a series' bytes are. Never too long."""

from __future__ import annotations

import errno

import psutil
import pydicom
import pytest
from conftest import BASE
from files import fresh, opened, path, saved
from pymongo.errors import AutoReconnect
from starlette.testclient import TestClient

from fhirserver.moments import milliseconds
from fhirserver.versions import Changes, Grant

WHOLE = {"Accept": "application/dicom; transfer-syntax=*"}


def series(number: int, **members: str) -> list[pydicom.Dataset]:
    """So many instances of one series."""
    made = [opened(fresh("CT_small.dcm", AccessionNumber="", **members)) for _ in range(number)]
    for one in made[1:]:
        one.StudyInstanceUID, one.SeriesInstanceUID = made[0].StudyInstanceUID, made[0].SeriesInstanceUID
    return made


@pytest.fixture
def record(hospital):
    def find(dataset: pydicom.Dataset) -> str:
        [entry] = hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{dataset.StudyInstanceUID}").json()["entry"]
        return f"ImagingStudy/{entry['resource']['id']}"

    return find


@pytest.fixture
def settled(server):
    """Nothing more comes of the study: from then on a series' rows are read ahead."""

    def settle(dataset: pydicom.Dataset) -> None:
        server.wait(seconds=6)
        server.installation.images.arrivals.settle()
        row = server.installation.images.index.row("hospital", str(dataset.StudyInstanceUID))
        assert row is not None
        assert not row["held"], row

    return settle


def test_a_study_whose_sharing_ends_is_gone_at_once_though_it_was_just_seen(stow, web, record, server):
    [one] = series(1)
    assert stow(saved(one)).status_code == 200
    store, order, reader = server.installation.store, "ServiceRequest/shared", web("elsewhere")
    urls = (path(one), f"{path(one)}/frames/1", f"{path(one)}/metadata")
    assert [reader.get(url).status_code for url in urls] == [404] * 3
    sharing = Changes()
    sharing.share("ImagingStudy", record(one).partition("/")[2], Grant(order, "org/elsewhere"), "hospital")
    store.commit(sharing)
    assert [reader.get(url).status_code for url in urls] == [200] * 3
    ending = Changes()
    ending.withdraw(order, "org/elsewhere", milliseconds(server.now()))
    store.commit(ending)
    assert [reader.get(url).status_code for url in urls] == [404] * 3
    assert reader.get(f"studies?StudyInstanceUID={one.StudyInstanceUID}").status_code == 204


def test_a_study_that_another_process_hides_is_gone_within_a_second(stow, web, record, server):
    [one] = series(1)
    assert stow(saved(one)).status_code == 200
    assert web().get(path(one)).status_code == 200
    rows = server.installation.store.database["ImagingStudy"]
    rows.update_one({"_id": record(one).partition("/")[2]}, {"$set": {"acl": [], "base": [], "grants": []}})
    server.wait(seconds=1)
    assert web().get(path(one)).status_code == 404


def test_what_one_caller_saw_shows_nothing_to_another(stow, web):
    [one] = series(1)
    assert stow(saved(one)).status_code == 200
    for _ in range(2):
        assert web().get(path(one)).status_code == 200
        assert web("elsewhere").get(path(one)).status_code == 404
        assert web(scope="system/ImagingStudy.s").get(path(one)).status_code == 403


def test_a_study_that_was_not_there_is_there_as_soon_as_it_is(stow, web):
    [one] = series(1)
    assert web().get(path(one)).status_code == 404
    assert stow(saved(one)).status_code == 200
    assert web().get(path(one)).status_code == 200


def test_a_series_that_is_looked_through_is_read_at_once_and_given_rightly(stow, web, settled, server, monkeypatch):
    many = series(8)
    assert stow(*(saved(one) for one in many)).status_code == 200
    settled(many[0])
    index, read = server.installation.images.index, []
    single = type(index)._rows
    monkeypatch.setattr(type(index), "_rows", lambda self, *a: read.append(a) or single(self, *a))
    viewer = web()
    for one in many:
        reply = viewer.get(path(one), headers=WHOLE)
        assert (reply.status_code, reply.content[128:]) == (200, saved(one)[128:])
    assert len(read) == 3  # the fourth reads those of all
    assert viewer.get(f"{path(many[0])[:-4]}9999").status_code == 404
    assert viewer.get(path(many[0]).replace(str(many[0].SeriesInstanceUID), "1.2.3")).status_code == 404


def test_what_comes_to_a_series_that_was_read_at_once_is_there_at_once(stow, web, settled):
    many = series(6)
    late = many.pop()
    assert stow(*(saved(one) for one in many)).status_code == 200
    settled(many[0])
    for one in many:
        assert web().get(path(one)).status_code == 200
    assert web().get(path(late)).status_code == 404
    assert stow(saved(late)).status_code == 200
    assert web().get(path(late), headers=WHOLE).content[128:] == saved(late)[128:]


def test_what_is_replaced_by_hand_is_shown_at_once(stow, web, settled, record, hospital, server):
    many = series(5, PatientID="AHEAD-1")
    assert stow(*(saved(one) for one in many)).status_code == 200
    settled(many[0])
    for one in many:
        assert web().get(path(one)).status_code == 200
    again = opened(saved(many[0]))
    again.StationName = "CORRECTED"
    assert stow(saved(again)).status_code == 202
    server.installation.images.arrivals.settle()
    tasks = hospital.get(f"Task?focus={record(again)}&status=requested").json()["entry"]
    [task] = [t["resource"] for t in tasks if t["resource"]["reasonCode"]["coding"][0]["code"] == "set-aside"]
    done = hospital.post(
        f"Task/{task['id']}/$reconcile",
        json={"resourceType": "Parameters", "parameter": [{"name": "decision", "valueCode": "replace"}]},
    )
    assert done.status_code == 200, done.text
    assert web().get(path(again), headers=WHOLE).content[128:] == saved(again)[128:]


# ---------------------------------------------------------------- the edge


@pytest.mark.parametrize(("method", "url", "status", "allowed"), [
    ("GET", "/dicomweb/nowhere", 404, None), ("GET", "/dicomweb", 405, "OPTIONS"), ("DELETE", "/dicomweb/studies/1.2", 405, "POST, GET"),
    ("POST", "/dicomweb/series", 405, "GET"), ("PUT", "/dicomweb/studies", 405, "GET, POST"), ("GET", "/dicomwebs", 404, None),
])  # fmt: skip
def test_what_is_not_there_or_not_done_there_is_told(server, method, url, status, allowed):
    reply = TestClient(server.app, base_url=BASE).request(method, url)
    assert reply.status_code == status
    if allowed:
        assert sorted(reply.headers["allow"].split(", ")) == sorted(allowed.split(", "))
        assert reply.json()["message"].startswith("Here is ")


def test_head_is_answered_as_get_and_a_slash_at_the_end_changes_nothing(stow, web):
    [one] = series(1)
    assert stow(saved(one)).status_code == 200
    got, head = web().get(f"{path(one)}/metadata"), web().head(f"{path(one)}/metadata/")
    assert (head.status_code, head.headers["etag"]) == (200, got.headers["etag"])


# ---------------------------------------------------------------- parts that are stored together


def test_of_two_parts_under_one_uid_the_first_stays(stow, web):
    [one] = series(1)
    other = opened(saved(one))
    other.StationName = "OTHER"
    reply = stow(saved(one), saved(one), saved(other))
    assert reply.status_code == 202
    warned = [row.get("00081196", {}).get("Value") for row in reply.json()["00081199"]["Value"]]
    assert warned == [None, None, [0xB000]]
    assert web().get(path(one), headers=WHOLE).content[128:] == saved(one)[128:]


def test_many_parts_are_answered_each_in_order(stow, web):
    many = series(40)
    sent = [saved(one) if n % 5 else b"no DICOM" for n, one in enumerate(many)]
    reply = stow(*sent)
    assert reply.status_code == 202
    told = [row["00081155"]["Value"][0] for row in reply.json()["00081199"]["Value"]]
    assert told == [str(one.SOPInstanceUID) for n, one in enumerate(many) if n % 5]
    assert len(reply.json()["0008119A"]["Value"]) == 8
    assert web().get(f"studies/{many[0].StudyInstanceUID}/instances/count").status_code in (200, 404)
    assert len(web().get(f"studies/{many[0].StudyInstanceUID}/instances").json()) == 32


def test_a_study_whose_first_mark_failed_is_marked_when_it_is_sent_again(stow, web, server, monkeypatch):
    [one] = series(1)
    index = server.installation.images.index
    with monkeypatch.context() as patched:
        patched.setattr(index, "mark", lambda *_: (_ for _ in ()).throw(AutoReconnect("away")))
        assert stow(saved(one)).status_code == 503
    assert stow(saved(one)).status_code == 200
    assert web().get(path(one)).status_code == 200


def test_parts_that_wait_hold_no_descriptor_and_leave_no_file(stow, server, monkeypatch):
    many = series(30)
    images, most, kept = server.installation.images, [0], []
    keep, spool = images.blobs.keep, images.blobs.spool

    def full(incoming) -> str:
        open_files = [f.path for f in psutil.Process().open_files() if f.path.startswith(str(spool))]
        most[0] = max(most[0], len(open_files))
        kept.append(incoming)
        if len(kept) == 20:
            raise OSError(errno.ENOSPC, "full")
        return keep(incoming)

    monkeypatch.setattr(images.blobs, "keep", full)
    assert stow(*(saved(one) for one in many)).status_code == 507
    assert most[0] <= 3
    assert list(spool.iterdir()) == []
