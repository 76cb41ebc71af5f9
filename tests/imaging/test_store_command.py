"""``fhirserver store``: files, folders, ZIPs and CDs, into this installation or to any server that speaks STOW-RS."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file

from fhirserver import images, uploading
from fhirserver.__main__ import _parser
from fhirserver.uploading import Local, Remote, Stopped
from imaging import media
from imaging.blobs import Away
from imaging.media import Found, MediaError

CD = Path(str(get_testdata_file("DICOMDIR", download=False))).parent  # 81 instances of two patients
CT = Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()


def ct(**members) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(CT))
    for name, value in ({"SOPInstanceUID": pydicom.uid.generate_uid()} | members).items():
        setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    return out.getvalue()


def uid(data: bytes) -> str:
    return media.head(data[: media.HEAD]).uid


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def store(server, capsys):
    """The exit code and the lines that are printed."""

    def run(*paths: Path, organization: str = "hospital", target=None) -> tuple[int, list[str]]:
        code = images._stored(list(paths), target or Local(server.installation, organization))
        return code, capsys.readouterr().out.splitlines()

    return run


# ---------------------------------------------------------------- what is found


def test_a_cd_is_its_files_and_never_its_dicomdir(store, web):
    code, lines = store(CD, organization="cd")
    assert (code, lines) == (0, ["stored 81, 2 skipped as not DICOM, 8 DICOMDIR not read"])
    assert len(web("cd").get("instances?limit=1000").json()) == 81
    study = web("cd").get("studies").json()[0]["0020000D"]["Value"][0]
    sent = {path.read_bytes()[128:] for path in CD.rglob("*") if path.is_file()}
    reply = web("cd").get(
        f"studies/{study}", headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    )
    parts = [
        part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in reply.content.split(b"--" + boundary(reply))[1:-1]
    ]
    assert parts
    assert all(part[128:] in sent for part in parts)
    assert store(CD, organization="cd") == (0, ["stored 0, 81 already there, 2 skipped as not DICOM, 8 DICOMDIR not read"])


def boundary(reply) -> bytes:
    return reply.headers["content-type"].rpartition("boundary=")[2].strip('"').encode()


def test_what_is_stored_has_its_imaging_study_and_its_line_in_the_audit(store, server, as_, tmp_path):
    data = ct(StudyInstanceUID=pydicom.uid.generate_uid(), SeriesInstanceUID=pydicom.uid.generate_uid())
    (tmp_path / "one.dcm").write_bytes(data)
    assert store(tmp_path, organization="audited")[0] == 0
    study = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    found = as_("audited").get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()["entry"]
    assert found[0]["resource"]["numberOfInstances"] == 1
    events = [e["resource"] for e in as_("audited").get("AuditEvent?_count=100").json()["entry"]]
    assert any("fhirserver store" in json.dumps(event) for event in events)


def test_files_folders_and_zips_together(store, tmp_path):
    one, two, three = ct(), ct(), ct()
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "IM000001").write_bytes(one)
    (tmp_path / "folder" / "report.txt").write_text("not an image")
    (tmp_path / "folder" / "empty").touch()
    zipped(
        tmp_path / "folder" / "export.zip", **{"a/two.dcm": two, "a/readme": b"x", "DICOMDIR": (CD / "DICOMDIR").read_bytes()}
    )
    (tmp_path / "three.dcm").write_bytes(three)
    told = store(tmp_path / "folder", tmp_path / "three.dcm", organization="mixed")
    assert told == (0, ["stored 3, 3 skipped as not DICOM, 1 DICOMDIR not read"])


def test_each_refused_file_is_told_with_its_reason_and_the_others_are_stored(store, tmp_path):
    (tmp_path / "a.dcm").write_bytes(ct())
    (tmp_path / "b.dcm").write_bytes(ct()[:-3000])
    (tmp_path / "c\x1b[2J\n.dcm").write_bytes(ct(StudyInstanceUID=""))
    code, lines = store(tmp_path, organization="reasons")
    assert code == 1
    assert lines[0] == f"refused {tmp_path}/b.dcm: The pixel data are cut off."
    assert re.fullmatch(rf"refused {re.escape(str(tmp_path))}/c\?\[2J\?\.dcm: StudyInstanceUID is missing\.", lines[1])
    assert lines[2] == "stored 1, 2 refused"


def test_what_is_set_aside_for_people_is_told_and_is_kept(store, server, tmp_path):
    first = ct()
    dataset = pydicom.dcmread(io.BytesIO(first))
    (tmp_path / "a.dcm").write_bytes(first)
    assert store(tmp_path, organization="aside") == (0, ["stored 1"])
    second = ct(SOPInstanceUID=dataset.SOPInstanceUID, PatientName="Corrected^Name")
    (tmp_path / "a.dcm").write_bytes(second)
    text = "Other bytes are stored under this UID and stay; these wait for a decision."
    code, lines = store(tmp_path, organization="aside")
    assert (code, lines) == (0, [f"stored with a warning {tmp_path}/a.dcm: {text}", "stored 0, 1 stored with a warning"])
    [row] = server.installation.images.index.quarantine.find({"owner": "aside"})
    assert server.installation.images.blobs.read(row["digest"])[128:] == second[128:]


def test_links_are_not_followed_and_devices_not_read(store, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.dcm").write_bytes(ct())
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").symlink_to(tmp_path / "outside" / "secret.dcm")
    (inside / "folder").symlink_to(tmp_path / "outside")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe")
    archive = zipfile.ZipInfo("link")
    archive.external_attr = 0o120777 << 16
    with zipfile.ZipFile(inside / "links.zip", "w") as out:
        out.writestr(archive, "/etc/passwd")
    assert store(inside, organization="links") == (0, ["stored 0, 4 links and devices not followed"])


def test_a_path_that_is_not_there_is_told_before_anything_is_stored(store, tmp_path, server):
    (tmp_path / "a.dcm").write_bytes(data := ct())
    with pytest.raises(MediaError, match="there is no"):
        store(tmp_path / "a.dcm", tmp_path / "missing", organization="nothing")
    assert server.installation.images.index.instances.find_one({"_id": f"nothing|{uid(data)}"}) is None


def test_a_zip_in_a_zip_is_not_unfolded(store, tmp_path):
    inner = zipped(tmp_path / "inner.zip", image=ct()).read_bytes()
    outer = zipped(tmp_path / "outer.zip", **{"inner.zip": inner})
    assert store(outer, organization="nested") == (0, ["stored 0, 1 skipped as not DICOM"])


def test_names_in_a_zip_are_no_paths(store, tmp_path):
    archive = zipped(tmp_path / "slip.zip", **{"../../evil.dcm": ct(), "/etc/evil.dcm": ct()})
    before = sorted(tmp_path.rglob("*"))
    assert store(archive, organization="slip") == (0, ["stored 2"])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("what", "value", "told"), [("_RATIO", 2, "unfolds to more than 2 times its size"), ("_ENTRIES", 1, "more than 1 files")]
)
def test_a_zip_bomb_is_refused_before_it_unfolds(store, tmp_path, monkeypatch, what, value, told):
    monkeypatch.setattr(media, "_ALWAYS", 1000)
    monkeypatch.setattr(media, what, value)
    bomb = zipped(tmp_path / "bomb.zip", a=bytes(128) + b"DICM" + bytes(10**7), b=b"x")
    code, lines = store(bomb, organization="bomb")
    assert (code, lines[-1]) == (1, "stored 0, 1 refused")
    assert told in lines[0]


def test_a_zip_that_lies_about_sizes_gives_no_more_than_it_says(store, tmp_path):
    data = ct()
    path = zipped(tmp_path / "lie.zip", a=data)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (200).to_bytes(4, "little")
    path.write_bytes(raw)
    code, lines = store(path, organization="lie")
    assert (code, lines[-1]) == (1, "stored 0, 1 refused")


@pytest.mark.parametrize("how", ["cut", "encrypted", "changed"])
def test_a_zip_that_cannot_be_read_is_refused(store, tmp_path, how):
    data = ct()
    path = tmp_path / "broken.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", data)
    raw = bytearray(path.read_bytes())
    if how == "cut":
        raw = raw[: len(raw) // 2]
    elif how == "encrypted":
        raw[raw.index(b"PK\x01\x02") + 8] |= 1
    else:
        raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    code, lines = store(path, organization="broken")
    assert (code, lines[-1]) == (1, "stored 0, 1 refused")
    assert str(path) in lines[0]


def test_a_dicom_file_whose_preamble_looks_like_a_zip_is_a_dicom_file(store, tmp_path):
    (tmp_path / "both").write_bytes(b"PK\x03\x04" + bytes(124) + ct()[128:])
    assert store(tmp_path, organization="both") == (0, ["stored 1"])


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(132), bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\x02\x00\x03\x00UI\xff\xff", CT[:200]]
)
def test_a_head_of_anything_is_told_without_an_error(data):
    assert media.head(data).directory is False


def test_a_file_that_is_larger_than_an_instance_may_be_is_not_taken(store, tmp_path, server, monkeypatch):
    path = tmp_path / "large.dcm"
    path.write_bytes(ct())
    found = Found(path, 2**40)
    [result] = Local(server.installation, "large").results([found])
    assert (result.what, "may hold" in result.reason) == ("refused", True)


def test_a_full_disk_and_a_store_that_is_away_end_it_with_what_was_stored(store, server, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.dcm").write_bytes(ct())
    with monkeypatch.context() as patched:
        patched.setattr(server.installation.room, "enough", lambda: False)
        with pytest.raises(Stopped, match="nearly full"):
            store(tmp_path, organization="full")
        assert capsys.readouterr().out.splitlines() == ["stored 0"]

    def away(_):
        raise Away("The store of the images does not answer: x")

    with monkeypatch.context() as patched:
        patched.setattr(server.installation.images.blobs, "keep", away)
        with pytest.raises(Stopped, match="does not answer"):
            store(tmp_path, organization="full")
    assert list(server.installation.images.blobs.spool.iterdir()) == []
    assert store(tmp_path, organization="full")[1][-1] == "stored 1"


def test_what_was_cut_off_goes_on_where_it_was(store, server, tmp_path, monkeypatch, as_):
    """Killed after an image was stored and before its study was told of it."""
    study = pydicom.uid.generate_uid()
    (tmp_path / "a.dcm").write_bytes(ct(StudyInstanceUID=study))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(server.installation.images.arrivals, "arrived", killed)
        with pytest.raises(KeyboardInterrupt):
            store(tmp_path, organization="cut")
    assert store(tmp_path, organization="cut")[1][-1].startswith("stored 0, 1 already there")
    found = as_("cut").get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()
    assert found["total"] == 1


# ---------------------------------------------------------------- to another server


class Server:
    """As DICOMweb says it; ``refuse``: what becomes of an instance by its UID; ``answers``: given first, one a request."""

    def __init__(self, *answers, **refuse: int) -> None:
        self.answers, self.refuse = list(answers), refuse
        self.requests: list[httpx.Request] = []
        self.stored: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        if request.method == "GET":
            return httpx.Response(204)
        self.requests.append(request)
        assert int(request.headers["content-length"]) == len(body)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return answer
        mark = request.headers["content-type"].rpartition("boundary=")[2].encode()
        parts = [p.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for p in body.split(b"--" + mark)[1:-1]]
        uids = [uid(part) for part in parts]
        failed = [u for u in uids if u in self.refuse]
        self.stored += [part for part, u in zip(parts, uids, strict=True) if u not in self.refuse]
        reply = {
            "00081199": {"Value": [{"00081155": {"Value": [u]}} for u in uids if u not in self.refuse]},
            "00081198": {"Value": [{"00081155": {"Value": [u]}, "00081197": {"Value": [self.refuse[u]]}} for u in failed]},
        }
        return httpx.Response(409 if len(failed) == len(uids) else 202 if failed else 200, json=reply)


def remote(server: Server) -> Remote:
    return Remote("http://pacs/dicomweb/", "secret-token", httpx.MockTransport(server), wait=0)


def test_files_go_in_requests_of_some_each_and_byte_for_byte(store, tmp_path, monkeypatch):
    monkeypatch.setattr(uploading, "_TOGETHER", 3)
    sent = [ct() for _ in range(5)]
    for number, data in enumerate(sent):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    zipped(tmp_path / "more.zip", a=(last := ct()), b=b"text", DICOMDIR=(CD / "DICOMDIR").read_bytes())
    server = Server()
    assert store(tmp_path, target=remote(server)) == (0, ["stored 6, 1 skipped as not DICOM, 1 DICOMDIR not read"])
    assert sorted(server.stored) == sorted([*sent, last])
    assert len(server.requests) == 2
    for request in server.requests:
        assert str(request.url) == "http://pacs/dicomweb/studies"
        assert request.headers["authorization"] == "Bearer secret-token"


def test_what_the_server_refuses_is_told_by_file(store, tmp_path):
    good, bad = ct(), ct()
    (tmp_path / "good.dcm").write_bytes(good)
    (tmp_path / "bad.dcm").write_bytes(bad)
    code, lines = store(tmp_path, target=remote(Server(**{uid(bad): 0xC122})))
    assert code == 1
    assert lines == [
        f"refused {tmp_path}/bad.dcm: its transfer syntax is not taken (0xc122)",
        "stored 1, 1 refused",
    ]


def test_a_warning_of_the_server_is_told(store, tmp_path):
    (tmp_path / "a.dcm").write_bytes(data := ct())
    row = {"00081155": {"Value": [uid(data)]}, "00081196": {"Value": [0xB000]}}
    server = Server(httpx.Response(202, json={"00081199": {"Value": [row]}}))
    code, lines = store(tmp_path, target=remote(server))
    assert (code, lines[1]) == (0, "stored 0, 1 stored with a warning")
    assert "0xb000" in lines[0]


def test_what_is_not_said_to_be_stored_is_not(store, tmp_path):
    (tmp_path / "a.dcm").write_bytes(ct())
    for answer, reason in (
        (httpx.Response(200, json={}), "the server does not say why"),
        (httpx.Response(200, text="?"), "the server does not say why"),
        (
            httpx.Response(409, json={"0008119A": {"Value": [{"00081197": {"Value": [0xC000]}}]}}),
            "it cannot be understood (0xc000)",
        ),
    ):
        code, lines = store(tmp_path, target=remote(Server(answer)))
        assert (code, lines) == (1, [f"refused {tmp_path}/a.dcm: {reason}", "stored 0, 1 refused"])


@pytest.mark.parametrize(
    "trouble",
    [httpx.Response(503, headers={"Retry-After": "0"}), httpx.Response(502), httpx.ConnectError("x"), httpx.ReadTimeout("x")],
)
def test_a_request_that_was_cut_off_is_sent_again(store, tmp_path, trouble):
    (tmp_path / "a.dcm").write_bytes(data := ct())
    server = Server(trouble, trouble)
    assert store(tmp_path, target=remote(server)) == (0, ["stored 1"])
    assert (len(server.requests), server.stored) == (3, [data])


def test_a_server_that_stays_away_ends_it_and_says_how_to_go_on(store, tmp_path, capsys):
    (tmp_path / "a.dcm").write_bytes(ct())
    with pytest.raises(Stopped, match="give the same command again") as told:
        store(tmp_path, target=remote(Server(*[httpx.ConnectError("x")] * 10)))
    assert "secret-token" not in str(told.value) + capsys.readouterr().out


@pytest.mark.parametrize("status", [401, 403, 404, 507])
def test_an_answer_that_stays_the_same_ends_it(store, tmp_path, status):
    (tmp_path / "a.dcm").write_bytes(ct())
    server = Server(httpx.Response(status))
    with pytest.raises(Stopped, match=str(status)):
        store(tmp_path, target=remote(server))
    assert len(server.requests) == 1


def test_a_token_that_is_not_taken_is_told_before_a_body_is_sent(store, tmp_path):
    (tmp_path / "a.dcm").write_bytes(ct())
    transport = httpx.MockTransport(lambda request: httpx.Response(401))
    with pytest.raises(Stopped, match="token"):
        store(tmp_path, target=Remote("http://pacs", "t", transport, wait=0))


def test_a_request_that_is_too_large_is_sent_in_two(store, tmp_path):
    sent = [ct() for _ in range(4)]
    for number, data in enumerate(sent):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    server = Server(httpx.Response(413), None, httpx.Response(413), httpx.Response(413))
    code, lines = store(tmp_path, target=remote(server))
    assert (code, lines[-1]) == (1, "stored 3, 1 refused")
    assert lines[0].endswith("the server answers 413")
    assert len(server.stored) == 3


def test_a_file_that_shrinks_while_it_is_sent_does_not_cost_the_others(store, tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(ct())
    (tmp_path / "b.dcm").write_bytes(good := ct())
    real = Path.stat

    def told(path, **given):
        found = real(path, **given)
        if path.name == "a.dcm" and shrunk:
            return os.stat_result([*found[:6], found.st_size + 10, *found[7:10]])
        return found

    shrunk = []
    server = Server()
    target = remote(server)
    real_post = target._post

    def post(batch):
        shrunk.append(1)
        return real_post(batch)

    monkeypatch.setattr(target, "_post", post)
    monkeypatch.setattr(Path, "stat", told)
    code, lines = store(tmp_path, target=target)
    assert (code, lines) == (1, [f"refused {tmp_path}/a.dcm: it shrank while it was sent", "stored 1, 1 refused"])
    assert server.stored == [good]


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "http://x"], "--token"),
        (["--url", "http://x", "--token", "t", "--organization", "o"], "--token"),
        (["--token", "t"], "--url"),
    ],
)
def test_a_server_and_its_token_belong_together(arguments, told, server):
    options = _parser().parse_args(["store", "x", *arguments])
    with pytest.raises(ValueError, match=told):
        options.run(options, server.settings)


def test_a_token_may_come_from_standard_input_and_so_from_no_list_of_processes(server, tmp_path, monkeypatch, capsys):
    given = []

    class Recorder:
        def __init__(self, url, token):
            given.append((url, token))

        def results(self, found):
            return iter(())

    monkeypatch.setattr(uploading, "Remote", Recorder)
    monkeypatch.setattr("sys.stdin", io.StringIO("from-stdin\nmore\n"))
    options = _parser().parse_args(["store", str(tmp_path), "--url", "http://x", "--token", "-"])
    assert options.run(options, server.settings) == 0
    assert given == [("http://x", "from-stdin")]
