"""AuditEvent and Provenance.

A write carries both in its transaction. A read appends one line to a local file before its reply; a job stores closed
files as segments, and a segment becomes AuditEvents when somebody reads them.
https://hl7.org/fhir/R4/auditevent.html https://hl7.org/fhir/R4/provenance.html
"""

from __future__ import annotations

import base64
import json
import os
import threading
import uuid
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from auth.principal import Principal
from fhirserver.errors import Conflict
from fhirserver.messages import Context, Note, Touched
from fhirserver.moments import milliseconds
from fhirserver.search.query import index
from fhirserver.store import Store
from fhirserver.validation import Document, Resource, built, instant, loads
from fhirserver.versions import Changes, Write

INTERACTION = "http://hl7.org/fhir/restful-interaction"
CLIENTS = "urn:fhirserver:client"
_ACTIONS = {"create": "C", "update": "U", "delete": "D", "operation": "E", "transaction": "E", "batch": "E"}
_BATCH = 200


def agents(principal: Principal) -> list[Document]:
    """Who acted, and for whom."""
    who: Document = {"identifier": {"system": CLIENTS, "value": principal.client or "anonymous"}, "display": principal.name}
    if principal.practitioner:
        who = {"reference": f"Practitioner/{principal.practitioner}", "display": principal.name}
    return [{"who": who, "requestor": True}]


def event(
    principal: Principal,
    interaction: str,
    when: str,
    outcome: str,
    touched: Iterable[str],
    query: str = "",
    operation: str = "",
) -> Document:
    """An AuditEvent. ``outcome``: 0 success, 4 minor failure (refused), 8 serious failure."""
    entities: list[Document] = [{"what": {"reference": reference}} for reference in touched]
    if query:
        entities.append({"query": base64.b64encode(query.encode()).decode(), "type": {"code": "2"}})
    document: Document = {
        "resourceType": "AuditEvent",
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest"},
        "subtype": [{"system": INTERACTION, "code": interaction}] + ([{"code": operation}] if operation else []),
        "action": _ACTIONS.get(interaction, "R"),
        "recorded": when,
        "outcome": outcome,
        "agent": agents(principal),
        "source": {
            "observer": {"reference": f"Organization/{principal.organization}"}
            if principal.organization
            else {"display": "fhirserver"}
        },
    }
    if entities:
        document["entity"] = entities
    return document


def provenance(ctx: Context, targets: Iterable[str], activity: str, extra: Document | None = None) -> Document:
    """A Provenance of this request's writes; ``activity`` is a v3-DataOperation code or an operation's name."""
    standard = activity in ("CREATE", "UPDATE", "DELETE")
    coding = {"system": "http://terminology.hl7.org/CodeSystem/v3-DataOperation"} if standard else {}
    [agent] = agents(ctx.principal)
    organization = {"reference": f"Organization/{ctx.principal.organization}"}
    return {
        "resourceType": "Provenance",
        "target": [{"reference": target} for target in targets],
        "recorded": instant(ctx.now),
        "activity": {"coding": [coding | {"code": activity}]},
        "agent": [{"who": agent["who"], "onBehalfOf": organization}],
        **(extra or {}),
    }


def record(ctx: Context, interaction: str, operation: str = "") -> None:
    """Add this request's AuditEvents, and the Provenance of every write that has none yet, to the changes."""
    writes = [w for w in ctx.changes.writes.values() if w.type != "Provenance"]
    proofs = [w.data for w in ctx.changes.writes.values() if w.type == "Provenance" and w.data]
    proven = {target["reference"] for proof in proofs for target in proof["target"]}
    unproven = [w for w in writes if f"{w.reference}/_history/{w.version}" not in proven]
    kinds = {w.reference: operation or ("DELETE" if w.data is None else "UPDATE" if w.expected else "CREATE") for w in unproven}
    for activity in sorted(set(kinds.values())):
        targets = [f"{w.reference}/_history/{w.version}" for w in unproven if kinds[w.reference] == activity]
        add(ctx, provenance(ctx, targets, activity))
    touched = [(w.reference, w.owner) for w in writes] or [(f"{t}/{i}", "") for (t, i), _, _ in ctx.changes.shares]
    for owner, document in events(ctx.principal, interaction, instant(ctx.now), "0", touched, operation=operation):
        add(ctx, document, [f"org/{owner}"])


def events(
    principal: Principal, interaction: str, when: str, outcome: str, touched: Iterable[Touched], query: str = "", operation: str = ""
) -> Iterator[tuple[str, Document]]:  # fmt: skip
    """(organisation, event): the caller's own with everything, and each other owner's with what is theirs and no query."""
    rows = list(touched)
    own = principal.organization
    yield own, event(principal, interaction, when, outcome, [reference for reference, _ in rows], query, operation)
    for owner in sorted({owner for _, owner in rows} - {own, ""}):
        theirs = [reference for reference, whose in rows if whose == owner]
        yield owner, event(principal, interaction, when, outcome, theirs, operation=operation)


def add(ctx: Context, document: Document, base: list[str] | None = None) -> Write:
    """A resource of the server's own making, owned by the caller's organisation."""
    return _add(ctx.changes, ctx.store, built(document), ctx.new_id(), ctx.now, ctx.principal.organization, base)


def _add(
    changes: Changes, store: Store, resource: Resource, id_: str, now: datetime, owner: str, base: list[str] | None
) -> Write:
    type_ = store.types[resource.type]
    keys = base if base is not None else type_.base_keys(owner, resource.data)
    write = Write(
        resource.type,
        id_,
        0,
        milliseconds(now),
        "POST",
        owner,
        keys,
        resource.text(id_, 1, now),
        resource.data,
        index(type_, resource.data),
    )
    changes.add(write)
    return write


class Trail:
    """The local file of reads, one a process, in the data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._file: Any = None

    def append(self, note: Note) -> None:
        """Written to the operating system before the reply leaves: it survives the process."""
        principal = note.principal
        who = [principal.client, principal.user, principal.organization, principal.practitioner]
        line = json.dumps(
            [
                milliseconds(note.when),
                who,
                note.interaction,
                note.outcome,
                note.touched,
                note.query,
                note.operation,
            ]
        )
        with self._lock:
            if self._file is None:
                self._file = open(self.folder / f"{uuid.uuid4().hex}.open", "ab", buffering=0)  # noqa: SIM115 - open until the segment is closed
            self._file.write(line.encode() + b"\n")

    def store_segments(self, store: Store) -> int:
        """Close this process's file and store it, and those of processes that are gone, as segments."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                Path(self._file.name).rename(Path(self._file.name).with_suffix(".closed"))
                self._file = None
        closed = sorted(self.folder.glob("*.closed"))
        for path in closed:
            store.add_segment({"_id": path.stem, "data": zlib.compress(path.read_bytes())})
            path.unlink(missing_ok=True)
        return len(closed)

    def adopt(self) -> None:
        """At start: files that a killed process left open are closed."""
        for path in self.folder.glob("*.open"):
            if not _in_use(path):
                path.rename(path.with_suffix(".closed"))


def _in_use(path: Path) -> bool:
    """Whether some process still holds the file open (Linux); elsewhere a file a day old is taken as left behind."""
    proc = Path("/proc")
    if not proc.is_dir():
        return datetime.now(timezone.utc).timestamp() - path.stat().st_mtime < 86_400
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                if any(os.readlink(fd) == str(path.resolve()) for fd in (entry / "fd").iterdir()):
                    return True
            except OSError:
                continue
    return False


def materialise(store: Store) -> None:
    """Make AuditEvents of the stored segments. Ids are made from the segment, so that a second run changes nothing."""
    for segment in store.segments():
        lines = zlib.decompress(segment["data"]).splitlines()
        for start in range(0, len(lines), _BATCH):
            changes = Changes()
            for number, line in enumerate(lines[start : start + _BATCH], start):
                _materialise(changes, store, f"{segment['_id']}-{number}", loads(line))
            try:
                store.commit(changes)
            except Conflict:
                continue  # done before, by us or by another process
        store.drop_segment(segment["_id"])


def _materialise(changes: Changes, store: Store, id_: str, line: list[Any]) -> None:
    ts, (client, user, organization, practitioner), interaction, outcome, touched, query, operation = line
    principal = Principal(client, organization, (), user, frozenset(), practitioner)
    when = datetime.fromtimestamp(ts / 1000, timezone.utc)
    rows = [(reference, owner) for reference, owner in touched]
    for number, (owner, document) in enumerate(events(principal, interaction, instant(when), outcome, rows, query, operation)):
        _add(changes, store, built(document), f"{id_}-{number}", when, organization, [f"org/{owner}"])
