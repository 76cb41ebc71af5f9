"""A reading network in one process over one database: people who act in it, a clock that only moves when it is told to, a
process that ends between two commits, and what each step wrote, read back from the database itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pydicom
from conftest import Server, order, patient
from operations_conftest import DCM, reader_rows
from pydicom.data import get_testdata_file

from auth.principal import Principal
from fhirserver.app import create_app
from fhirserver.dispatch import dispatch
from fhirserver.errors import FHIRError
from fhirserver.messages import Line, Request
from fhirserver.moments import milliseconds
from fhirserver.workflow import coding, states
from imaging import stow

Document = dict[str, Any]

# name: organisation, roles (none: a system of the organisation), the reader's Practitioner
ACTORS: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "hospital": ("hospital", (), None),
    "clerk": ("hospital", ("clerk",), None),
    "office": ("office", (), None),
    "greta": ("office", ("reader", "clerk"), "office-greta"),
    "centre": ("centre", (), None),
    "dispatcher": ("centre", ("dispatcher",), None),
    "anna": ("centre", ("reader",), "centre-anna"),
    "bela": ("centre", ("reader",), "centre-bela"),
    "hana": ("centre", ("reader",), "centre-hana"),
    "carl": ("centre", ("reader",), "centre-carl"),
    "dora": ("centre", ("reader",), "centre-dora"),
    "fred": ("centre", ("trainee",), "centre-fred"),
    "quinn": ("centre", ("quality",), "centre-quinn"),
    "branch": ("branch", (), None),
    "zoe": ("branch", ("reader",), "branch-zoe"),
}
SYSTEMS = {organization: name for name, (organization, roles, _) in ACTORS.items() if not roles}
PEOPLE = {f"Practitioner/{person}": name for name, (_, _, person) in ACTORS.items() if person}


class Crashed(BaseException):
    """The process ends here."""


@dataclass
class Fuse:
    """Ends the process at one of the commits that come, before it or when it is made."""

    left: int | None = None
    after: bool = False
    commits: int = 0

    def over(self, write: Callable[..., Any], *, counts: bool = False) -> Callable[..., Any]:
        def commit(*arguments: Any, **named: Any) -> Any:
            cut = self.left == 0
            if self.left is not None:
                self.left -= 1
            if cut and not self.after:
                raise Crashed
            made = write(*arguments, **named)
            self.commits += counts
            if cut:
                raise Crashed
            return made

        return commit


@dataclass(frozen=True)
class Version:
    """As it stands in the history."""

    reference: str
    number: int
    ts: int
    owner: str
    deleted: bool
    data: Document

    @property
    def type(self) -> str:
        return self.reference.partition("/")[0]

    @property
    def status(self) -> str:
        return str(self.data.get("status"))


@dataclass(frozen=True)
class Answer:
    status: int
    body: Document = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        return self.status >= 400


@dataclass
class Ordered:
    """An order of this example, and the images that answer it."""

    reference: str
    facility: str
    subject: str
    image: bytes
    study: str
    sent: bool = False


class World:
    def __init__(self, uri: str, folder: Path) -> None:
        self.server = Server(uri, folder)
        self.fuse = Fuse()
        self.steps = self.crashes = 0
        self.docs: dict[str, Version] = {}
        self.orders: list[Ordered] = []
        self.keys: list[str] = []
        self.start: str | None = None
        self.key: str | None = None
        self.act = ""
        self.last: tuple[str, Request] = ("", Request("", ""))
        self._begin()
        self.tokens = {name: self._token(name) for name in ACTORS}
        self._furnish()

    # ------------------------------------------------------------ the process

    def _begin(self) -> None:
        self.installation = self.server.installation
        self.installation.prepare()
        store, index = self.installation.store, self.installation.images.index
        store.commit = self.fuse.over(store.commit, counts=True)
        store.registers.orders_matched = self.fuse.over(store.registers.orders_matched)
        for name in ("add", "mark", "settle", "again"):
            setattr(index, name, self.fuse.over(getattr(index, name)))

    def restart(self) -> None:
        """The process ended; another one goes on with the same database and folder."""
        self.crashes += 1
        if (file := self.installation.trail._file) is not None:  # the operating system closes it
            file.close()
        self.fuse.left = None
        server = self.server
        server.app = create_app(server.settings, server.client[server.name], clock=server.now)
        server.installation = server.app.state.installation
        self._begin()

    @property
    def database(self) -> Any:
        return self.installation.database

    @property
    def now(self) -> int:
        return milliseconds(self.server.time)

    # ------------------------------------------------------------ people

    def _token(self, name: str) -> str:
        organization, roles, person = ACTORS[name]
        auth = self.server.auth
        auth.clients.add(organization, "system/*.cruds user/*.cruds", secret="secret", organization=organization)
        if roles:
            auth.add_user(name, roles, person, organization)
        user = auth.people.get(name) if roles else None
        issued = auth.issue(auth.clients.get(organization), user, f"{'user' if roles else 'system'}/*.cruds", 86_400, None)
        return f"Bearer {issued}"

    def ask(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request by the road that all take; an error of our own is one that nobody catches here."""
        content = msgspec.json.encode(body) if body is not None else b""
        named = {"idempotency-key": self.key} if self.key and method == "POST" else {}
        request = Request(method, path, (), {name.replace("_", "-"): text for name, text in headers.items()} | named, content)
        return self.sent(who, request)

    def sent(self, who: str, request: Request) -> Answer:
        self.last, self.act = (
            (who, request),
            request.path.partition("$")[2] or f"{request.method} {request.path.partition('/')[0]}",
        )
        ctx = self.installation.context(self.installation.authenticate(self.tokens[who]))
        try:
            reply = dispatch(ctx, request)
        except FHIRError as error:
            if error.status >= 500:
                raise
            return Answer(error.status, error.outcome())
        return Answer(reply.status, msgspec.json.decode(reply.body) if reply.body else {})

    @contextmanager
    def keyed(self, key: str) -> Iterator[None]:
        """What is sent within has this Idempotency-Key."""
        self.key = key
        self.keys.append(key)
        try:
            yield
        finally:
            self.key = None

    def resent(self) -> Answer:
        """The last request, once more."""
        return self.sent(*self.last)

    def _made(self, who: str, *resources: Document) -> None:
        for resource in resources:
            answer = self.ask(who, "PUT", f"{resource['resourceType']}/{resource['id']}", resource)
            assert answer.status in (200, 201), answer.body

    def _furnish(self) -> None:
        phone = [{"system": "phone", "value": "+48 22 555 01 01"}]
        for name in ("hospital", "office", "branch"):
            self._made(name, {"resourceType": "Organization", "id": name, "name": name.title(), "telecom": phone})
        reads = {
            "anna": {},
            "bela": {},
            "hana": {},
            "carl": {"period": {"end": "2026-01-31"}},
            "fred": {"read_type": "preliminary"},
        }
        reads["dora"] = {"specialty": [{"coding": [{"system": DCM, "code": "MR"}]}]}
        for name, members in reads.items():
            self._made("centre", *reader_rows(name, **members))
        self._made("centre", reader_rows("anna", "office")[1], reader_rows("quinn")[0])
        self._made("office", *(self._of("office", row) for row in reader_rows("greta", "office")))
        self._made("branch", *(self._of("branch", row) for row in reader_rows("zoe")))
        affiliation = {
            "resourceType": "OrganizationAffiliation",
            "id": "centre-branch",
            "active": True,
            "organization": {"reference": "Organization/centre"},
            "participatingOrganization": {"reference": "Organization/branch"},
        }
        self._made("centre", affiliation)
        self._agreed("hospital", b'{"subcontracting":true}')
        self._agreed("office", b'{"autoAssign":true,"pauses":false,"subcontracting":true}')
        self.look(0)
        self.known = dict(self.docs)

    def _agreed(self, facility: str, content: bytes) -> None:
        library = {
            "resourceType": "Library",
            "id": f"centre-agreement-{facility}",
            "status": "active",
            "type": {"text": "agreement"},
            "identifier": [{"system": "urn:fhirserver:agreement", "value": facility}],
            "content": [{"contentType": "application/json", "data": base64.b64encode(content).decode()}],
        }
        self._made("centre", library)

    @staticmethod
    def _of(organization: str, row: Document) -> Document:
        return msgspec.json.decode(msgspec.json.encode(row).replace(b"centre-", f"{organization}-".encode()))

    # ------------------------------------------------------------ an example

    def fresh(self) -> None:
        """What was before is another story: its Tasks ring no more, nor do they count as anybody's load."""
        self.database["Task"].delete_many({})
        self.passes(86_400)
        since = self.now + 1
        kept = {name: self.docs[name] for name in self.known if name.startswith(("Practitioner", "PractitionerRole"))}
        for name, version in kept.items():
            if _content(version) != _content(self.known[name]):
                self._made(version.owner, _content(self.known[name]))
        self.docs, self.orders, self.keys = kept, [], []
        self.look(since)
        self.start = self.server.time.isoformat(timespec="seconds").replace("+00:00", "Z")

    def ordered(self, facility: str, number: str, same: bool, modality: str, **members: Any) -> Answer:
        """A patient, an order, and the images that are still to be sent."""
        others = [o.subject for o in self.orders if o.facility == facility]
        subject = others[-1] if others and same else None
        if subject is None:
            person = patient(identifier=[{"system": "urn:mrn", "value": f"P{number}"}], birthDate="1970-01-01")
            made = self.ask(facility, "POST", "Patient", person)
            subject = f"Patient/{made.body['id']}"
        mrn = next((v.data["identifier"][0]["value"] for v in self.of("Patient") if v.reference == subject), f"P{number}")
        asked = order(subject, identifier=[{"system": "urn:acsn", "value": f"A{number}"}], **members)
        answer = self.ask(facility, "POST", "ServiceRequest", asked)
        assert answer.status == 201, answer.body
        image, study = _image(f"A{number}", mrn, modality)
        self.orders.append(Ordered(f"ServiceRequest/{answer.body['id']}", facility, subject, image, study))
        return answer

    def send(self, ordered: Ordered) -> None:
        """STOW-RS, without the multipart around it."""
        self.last, self.act = (ordered.facility, Request("", "")), "stow"
        here = self.installation.images
        incoming = here.blobs.receive()
        incoming.write(ordered.image)
        kept = stow.store(incoming, ordered.facility, here.blobs, here.index, None)
        assert isinstance(kept, stow.Kept), kept
        here.arrivals.arrived(Principal(ordered.facility, ordered.facility), ordered.facility, kept.study)
        ordered.sent = True

    def passes(self, seconds: float) -> None:
        """Time; and the server does what is due by itself."""
        self.last, self.act = ("", Request("", "")), "timers"
        self.server.wait(seconds=seconds)
        self.installation.images.arrivals.settle()
        rounds = 0
        while self.installation.timers.ring():
            rounds += 1
            assert rounds < 12, "a timer rings again and again"

    # ------------------------------------------------------------ what is there

    def look(self, since: int) -> Step:
        """What was written since, from the history; and the lines that the audit trail was told, which are taken off it."""
        rows = self.database["history"].find({"ts": {"$gte": since}})
        lines = list(self.database["trail"].find({}))
        if lines:
            self.database["trail"].delete_many({})
        versions = [_version(row) for row in rows]
        versions.sort(key=lambda v: (v.ts, v.type, str(v.data.get("code")), v.number))
        before = dict(self.docs)
        for version in versions:
            self.docs[version.reference] = version
        told = [Line.read(row["line"]) for row in lines]
        return Step(versions, told, before, self.docs, self.now, self.last[0], self.act)

    def of(self, *types: str) -> list[Version]:
        return [v for v in self.docs.values() if v.type in types and not v.deleted]

    def tasks(self, *kinds: str, opened: bool | None = None) -> list[Version]:
        found = [v for v in self.of("Task") if coding.codes(v.data.get("code"), coding.TASK_TYPE) & set(kinds)]
        return [v for v in found if opened is None or (v.status in states.OPEN_TASK) == opened]

    def current(self) -> Iterator[tuple[str, Document]]:
        """Reference and stored document of all of this example."""
        for type_ in sorted({v.type for v in self.docs.values()}):
            ids = [v.reference.partition("/")[2] for v in self.docs.values() if v.type == type_]
            for row in self.database[type_].find({"_id": {"$in": ids}}, {"v": 1, "json": 1}):
                yield f"{type_}/{row['_id']}", row

    def history(self) -> Iterator[Document]:
        return self.database["history"].find({"rid": {"$in": list(self.docs)}}, {"rid": 1, "v": 1, "json": 1})


@dataclass(frozen=True)
class Step:
    """What one step wrote, and how things stood before it and stand now."""

    versions: list[Version]
    lines: list[Line]
    before: dict[str, Version]
    after: dict[str, Version]
    now: int
    who: str
    act: str


def _content(version: Version) -> Document:
    return {name: value for name, value in version.data.items() if name != "meta"}


def _version(row: Document) -> Version:
    return Version(row["rid"], row["v"], row["ts"], row["owner"], row["deleted"], msgspec.json.decode(row["json"]))


def _image(accession: str, mrn: str, modality: str) -> tuple[bytes, str]:
    dataset = _template()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.AccessionNumber, dataset.PatientID, dataset.Modality = accession, mrn, modality
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue(), dataset.StudyInstanceUID


def _template() -> pydicom.Dataset:
    """A CT without its pixels, which nobody looks at here."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.PatientBirthDate = "19700101"
    for keyword in ("PixelData", "DataSetTrailingPadding"):
        with suppress(AttributeError):
            delattr(dataset, keyword)
    return dataset


def references(rows: Iterable[Document]) -> list[str]:
    return [row["reference"] for row in rows if "reference" in row]
