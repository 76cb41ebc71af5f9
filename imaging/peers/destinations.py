"""Other centres and archives that studies are sent to and pulled from, and the rules by which they are sent.

A destination is configured by an organisation, its owner. Passwords, tokens and private keys are sealed with the installation's key.
"""

from __future__ import annotations

import re
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pymongo.database import Database

from auth.keys import Seal, client_assertion

Row = dict[str, Any]
PRIORITIES = ("stat", "asap", "urgent", "routine")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")  # PS3.5 Table 6.2-1: AE
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_FRESH = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Destination:
    """``organization``: whose system it is, ``owner``: who configured it; ``patient_system``: the system of the numbers by which it
    knows patients, None: those of their country; ``ca``, ``cert``: PEM; ``move_to``: our listener's AE title, for peers that only
    move. ``secrets`` are open here: a bearer ``token``, a client's ``secret`` or ``client_key``, the ``key`` of ``cert``."""

    name: str
    owner: str
    kind: Literal["dimse", "dicomweb"]
    organization: str | None = None
    sends: bool = False
    queries: bool = False
    host: str = ""
    port: int = 0
    called: str = ""
    calling: str = ""
    move_to: str = ""
    tls: bool = False
    url: str = ""
    client_id: str = ""
    token_url: str = ""
    scope: str = ""
    ca: str = ""
    cert: str = ""
    patient_system: str | None = None
    issuer: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Errors: ValueError."""
        if not _NAME.fullmatch(self.name):
            raise ValueError("a destination's name is letters, digits, . _ and -")
        if self.kind == "dimse":
            self._check_dimse()
        else:
            self._check_web()
        if not (self.sends or self.queries):
            raise ValueError("say what it is for: --send, --query, or both")
        if self.queries and not self.organization:
            raise ValueError("--query needs --organization: whose studies are fetched from there?")
        if ("key" in self.secrets) != bool(self.cert):
            raise ValueError("a certificate goes with its private key")
        if self.ca or self.cert:
            context(self)
        if "client_key" in self.secrets:
            client_assertion({"iss": self.client_id}, self.secrets["client_key"])

    def _check_dimse(self) -> None:
        if not self.host or not 0 < self.port < 65_536:
            raise ValueError("a DIMSE destination has a host and a port")
        for title in (self.called, self.calling, *([self.move_to] if self.move_to else [])):
            if not _TITLE.fullmatch(title):
                raise ValueError("an AE title is 1 to 16 printable characters")

    def _check_web(self) -> None:
        for url in (self.url, *([self.token_url] if self.token_url else [])):
            parts = urlsplit(url)
            if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query or parts.fragment:
                raise ValueError("a DICOMweb destination has a URL, without credentials or a query in it")
            if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
                raise ValueError("images and credentials go over https; http is for this machine alone")
        proofs = [name for name in ("token", "secret", "client_key") if name in self.secrets]
        if len(proofs) > 1:
            raise ValueError("give one of a token, a client's secret and a client's key")
        if (proofs in (["secret"], ["client_key"])) != bool(self.client_id and self.token_url):
            raise ValueError("a client has an id, a token URL, and a secret or a key")


@dataclass(frozen=True, slots=True)
class Rule:
    """Studies that it fits go to ``destination``. None fits all."""

    name: str
    destination: str
    facility: str | None = None
    modality: str | None = None
    body_part: str | None = None
    priority: str | None = None

    def fits(self, facility: str, modalities: Iterable[str], body_parts: Iterable[str], priorities: Iterable[str]) -> bool:
        return (
            self.facility in (None, facility)
            and (self.modality is None or self.modality in modalities)
            and (self.body_part is None or self.body_part.casefold() in {part.casefold() for part in body_parts})
            and (self.priority is None or self.priority in priorities)
        )


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when a destination could not be reached, how often it was tried, when it is tried next, and why it failed."""

    since: int
    tries: int
    until: int
    reason: str


class Destinations:
    """All of them, and the rules. Thread-safe. ``seal`` is asked for when there is something to seal or to open."""

    def __init__(self, database: Database[Row], seal: Callable[[], Seal]) -> None:
        self._rows, self._rules, self._seal = database["dicom_destinations"], database["dicom_routes"], seal
        self._known: tuple[float, list[Rule]] = (0.0, [])

    def add(self, destination: Destination) -> bool:
        """False where one of this name was replaced. Errors: ValueError."""
        destination.check()
        row = asdict(destination) | {"secrets": self._seal().close(dict(destination.secrets)) if destination.secrets else ""}
        before = self._rows.find_one({"_id": destination.name}, {"owner": 1})
        if before is not None and before["owner"] != destination.owner:
            raise ValueError(f"{destination.name} is another organisation's destination; remove it first")
        self._rows.replace_one({"_id": destination.name}, row, upsert=True)
        return before is None

    def remove(self, name: str) -> bool:
        self._rules.delete_many({"destination": name})
        return bool(self._rows.delete_one({"_id": name}).deleted_count)

    def get(self, name: str) -> Destination | None:
        row = self._rows.find_one({"_id": name})
        return self._opened(row) if row else None

    def all(self) -> list[Destination]:
        return [self._opened(row) for row in self._rows.find({}).sort("_id", 1)]

    def names(self) -> list[str]:
        """Of those that may be sent to."""
        return [row["_id"] for row in self._rows.find({"sends": True}, {"_id": 1}).sort("_id", 1)]

    def _opened(self, row: Row) -> Destination:
        secrets = self._seal().open(row["secrets"]) if row["secrets"] else {}
        if secrets is None:
            raise ValueError(f"the secrets of destination {row['_id']} were sealed by another installation; add it anew")
        return Destination(
            **{name: row[name] for name in Destination.__slots__ if name in row and name != "secrets"}, secrets=secrets
        )

    # ------------------------------------------------------------ rules

    def add_rule(self, rule: Rule) -> bool:
        """False where one of this name was replaced. Errors: ValueError."""
        if not _NAME.fullmatch(rule.name):
            raise ValueError("a rule's name is letters, digits, . _ and -")
        if rule.priority is not None and rule.priority not in PRIORITIES:
            raise ValueError(f"a priority is one of {', '.join(PRIORITIES)}")
        if (row := self._rows.find_one({"_id": rule.destination}, {"sends": 1})) is None or not row["sends"]:
            raise ValueError(f"no destination {rule.destination} that may be sent to; see: fhirserver destination list")
        replaced = self._rules.replace_one({"_id": rule.name}, asdict(rule), upsert=True)
        return not replaced.matched_count

    def remove_rule(self, name: str) -> bool:
        return bool(self._rules.delete_one({"_id": name}).deleted_count)

    def rules(self) -> list[Rule]:
        return [Rule(**{name: row[name] for name in Rule.__slots__}) for row in self._rules.find({}).sort("_id", 1)]

    def current_rules(self) -> list[Rule]:
        """As they were two seconds ago at most: each arrival asks."""
        until, known = self._known
        if until < time.monotonic():
            self._known = (time.monotonic() + _FRESH, known := self.rules())
        return known

    # ------------------------------------------------------------ whether it can be reached

    def outage(self, name: str) -> Outage | None:
        row = self._rows.find_one({"_id": name}, {"outage": 1})
        return Outage(**row["outage"]) if row and row.get("outage") else None

    def ready(self, now: int) -> list[str]:
        """The names of those that may be sent to, and are not left alone for a while."""
        rows = self._rows.find({"sends": True}, {"outage": 1})
        return [row["_id"] for row in rows if not row.get("outage") or row["outage"]["until"] <= now]

    def failed(self, name: str, outage: Outage) -> None:
        self._rows.update_one({"_id": name}, {"$set": {"outage": asdict(outage)}})

    def reached(self, name: str) -> None:
        self._rows.update_one({"_id": name}, {"$set": {"outage": None}})


def context(destination: Destination) -> ssl.SSLContext:
    """The peer's certificate is checked, by its name and who signed it; ours is shown where there is one. Errors: ValueError."""
    try:
        made = ssl.create_default_context(cadata=destination.ca or None)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if destination.cert:
            with tempfile.TemporaryDirectory(prefix="fhirserver-tls-") as folder:  # 0700; OpenSSL reads keys from files alone
                cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
                cert.write_text(destination.cert)
                key.write_text(destination.secrets["key"])
                made.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError, ValueError):
        raise ValueError("the certificates are not PEM, or do not belong together") from None
    return made
