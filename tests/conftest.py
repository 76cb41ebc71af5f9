"""The real application over a real database: one database process a test worker, one database a module, a client a role."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pydicom  # noqa: F401 - before the application, which hides the codecs from its process: tests decode by them
import pytest
from anyio.from_thread import start_blocking_portal
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from auth.store import AuthStore, documents
from fhirserver.app import connect, create_app
from fhirserver.embedded import EmbeddedDatabase
from fhirserver.settings import Settings

BASE = "http://127.0.0.1:8000"
_MEMORY, _MEMORY_NEEDED = Path("/dev/shm"), 4 << 30


# The files that take longest, begun first: the short ones fill what is left of the two workers' time.
_LONGEST = (
    "flows/",
    "test_backup",
    "test_leak_matrix",
    "test_search_oracle",
    "test_review_leaks",
    "test_state_machine",
    "test_malformed",
    "test_bad_input",
    "test_critical_results",
    "test_dimse",
    "test_sending",
    "test_pulling",
    "test_attacks",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((n for n, name in enumerate(_LONGEST) if name in item.nodeid), len(_LONGEST)))


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command of ours configures logging for its process, which here is pytest's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def the_servers_hasher() -> Iterator[PasswordHasher]:
    """What hashes secrets outside of tests, and is slow as it should be; here they are hashed at the least cost."""
    slow, dummy = documents._HASHER, documents._DUMMY
    documents._HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    documents._DUMMY = documents._HASHER.hash("nobody's")
    yield slow
    documents._HASHER, documents._DUMMY = slow, dummy


@pytest.fixture(scope="session", autouse=True)
def _one_loop() -> Iterator[None]:
    """Clients that are not entered share an event loop; each made one, with its threads, a request."""
    with start_blocking_portal() as portal:
        TestClient.portal = portal
        yield
        TestClient.portal = None


@pytest.fixture(scope="session")
def mongodb_uri() -> Iterator[str]:
    """FHIRSERVER_MONGODB_URI where it is set: the same tests run against any MongoDB. The embedded one in memory where there is
    enough: it syncs each commit as always, which costs nothing there (what a disk keeps is shown in flows/test_durability)."""
    given = os.environ.get("FHIRSERVER_MONGODB_URI")
    if given:
        yield given
        return
    memory = _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MEMORY_NEEDED else None
    folder = Path(tempfile.mkdtemp(prefix="fhirserver-test-", dir=memory))
    embedded = EmbeddedDatabase(folder)
    yield embedded.start()
    embedded.stop()
    shutil.rmtree(folder, ignore_errors=True)


class Server:
    """One application under test, with a clock that only ``wait`` moves."""

    def __init__(self, uri: str, folder: Path, **settings: Any) -> None:
        self.time = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
        self.client = connect(uri)
        self.name = f"test_{uuid.uuid4().hex}"  # this file is imported under two names, so a counter would not do
        self.settings = Settings(data_dir=folder, **settings)
        self.app = create_app(self.settings, self.client[self.name], clock=self.now)
        self.installation = self.app.state.installation
        self.auth: AuthStore = self.installation.auth

    def now(self) -> datetime:
        self.time += timedelta(milliseconds=1)
        return self.time

    def wait(self, **duration: float) -> None:
        self.time += timedelta(**duration)

    def token(
        self,
        organization: str,
        scope: str = "system/*.cruds",
        user: str | None = None,
        roles: tuple[str, ...] = (),
        practitioner: str | None = None,
        patient: str | None = None,
    ) -> str:
        if self.auth.clients.get(organization) is None:  # a secret is hashed slowly, so once
            self.auth.clients.add(
                organization, "system/*.cruds user/*.cruds patient/*.cruds", secret="secret", organization=organization
            )
        client = self.auth.clients.get(organization)
        assert client is not None
        if user:
            self.auth.add_user(user, roles, practitioner, organization)
        return self.auth.issue(client, self.auth.people.get(user) if user else None, scope, 3600, patient)

    def close(self) -> None:
        if "FHIRSERVER_MONGODB_URI" in os.environ:  # the embedded one, which syncs each document that it drops, goes as a whole
            self.client.drop_database(self.name)
        self.client.close()


@pytest.fixture(scope="module")
def server(mongodb_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(mongodb_uri, tmp_path_factory.mktemp("data"))
    with TestClient(server.app, base_url=BASE):
        yield server
    server.close()


As = Callable[..., TestClient]


@pytest.fixture(scope="module")
def as_(server: Server) -> As:
    """A client in an organisation: ``as_("hospital")``, ``as_("centre", user="anna", roles=("reader",), practitioner="p1")``."""

    def make(organization: str = "hospital", **token: Any) -> TestClient:
        headers = {"Authorization": f"Bearer {server.token(organization, **token)}"}
        return TestClient(server.app, base_url=f"{BASE}/fhir/", headers=headers)

    return make


@pytest.fixture(scope="module")
def hospital(as_: As) -> TestClient:
    return as_("hospital")


@pytest.fixture(scope="module")
def office(as_: As) -> TestClient:
    """Another facility, which must not see anything of the hospital's."""
    return as_("office")


def patient(**members: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "name": [{"family": "Nowak", "given": ["Jan"]}], "gender": "male"} | members


def order(subject: str, **members: Any) -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "order",
        "subject": {"reference": subject},
    } | members


def assert_outcome(reply: Any, status: int, code: str, expression: str | None = None) -> list[dict[str, Any]]:
    """The one shape of every failure."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"].startswith("application/fhir+json")
    body = reply.json()
    assert body["resourceType"] == "OperationOutcome"
    assert body["issue"]
    for issue in body["issue"]:
        assert issue["severity"] in ("error", "warning", "fatal", "information")
        assert issue["diagnostics"]
    assert code in [issue["code"] for issue in body["issue"]], body
    if expression is not None:
        assert expression in [e for issue in body["issue"] for e in issue.get("expression", [])], body
    return list(body["issue"])


@pytest.fixture(scope="module")
def created(hospital: TestClient) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def create(resource: dict[str, Any]) -> dict[str, Any]:
        reply = hospital.post(resource["resourceType"], json=resource)
        assert reply.status_code == 201, reply.text
        return dict(reply.json())

    return create
