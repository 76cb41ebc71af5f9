"""A refusal leaves every resource as it was: all that is stored, byte by byte, before and after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_AUDIT = ("AuditEvent", "Provenance")
_BESIDE = ("figures", "shares", "orders_to_match")


@contextmanager
def unchanged(server: Any) -> Iterator[None]:
    """Every current document with its access list, every version, what is shared and measured; not the audit, which grows."""
    while server.installation.timers.ring():  # what is due by itself is done before, not meanwhile
        pass
    before = _stored(server)
    yield
    after = _stored(server)
    assert after == before, [name for name in {*before, *after} if before.get(name) != after.get(name)]


def _stored(server: Any) -> dict[str, list[Any]]:
    database = server.client[server.name]
    types = sorted({*server.installation.store.types, *_BESIDE}.intersection(database.list_collection_names()) - {*_AUDIT})
    found = {name: sorted(database[name].find({}), key=lambda row: str(row["_id"])) for name in types}
    versions = database["history"].find({}, {"_id": 1, "type": 1})
    return found | {"history": sorted(row["_id"] for row in versions if row["type"] not in _AUDIT)}
