"""A refusal leaves everything as it was: each stored document, its version, who sees it, and the history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Made in the background of what was done before.
_MADE_LATER = frozenset({"AuditEvent", "Provenance", "SearchParameter", "OperationDefinition"})
_KEPT = {"json": 1, "v": 1, "g": 1, "grants": 1, "acl": 1, "base": 1, "owner": 1, "deleted": 1, "sealed": 1, "w": 1}
_Documents = dict[str, dict[str, Any]]


@contextmanager
def unchanged(server: Any) -> Iterator[None]:
    """What happens in here changes no resource of anybody's."""
    server.installation.images.arrivals.settle()  # what is due is done before, not meanwhile
    while server.installation.timers.ring():
        pass
    before = _documents(server)
    yield
    after = _documents(server)
    changed = sorted(
        f"{name}/{id_}"
        for name in {*before, *after}
        for id_ in {*before.get(name, {}), *after.get(name, {})}
        if before.get(name, {}).get(id_) != after.get(name, {}).get(id_)
    )
    assert not changed, f"changed: {changed}"


def _documents(server: Any) -> _Documents:
    """Every current document, byte for byte, and which versions there are."""
    database = server.client[server.name]
    types = sorted(({*server.installation.store.types} - _MADE_LATER) & {*database.list_collection_names()})
    found = {name: {row["_id"]: row for row in database[name].find({}, _KEPT)} for name in types}
    versions = (row["_id"] for row in database["history"].find({"type": {"$in": types}}, {"_id": 1}))
    return found | {
        "history": dict.fromkeys(versions, True),
        "figures": {row["_id"]: row for row in database["figures"].find({})},
    }
