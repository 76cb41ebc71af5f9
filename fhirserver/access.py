"""Principal x type x interaction -> allowed; and ``visible``, which is put on every read.

A hidden resource is answered like a missing one, and a reference to it like a reference to nothing.
https://hl7.org/fhir/R4/security.html#access
"""

from __future__ import annotations

import re

from auth.principal import ANONYMOUS, Principal
from fhirserver.definitions import ResourceType
from fhirserver.errors import Conflict, Forbidden, InsufficientScope, Issue, NoSuchReference, NotFound, Unauthorized
from fhirserver.messages import Context
from fhirserver.moments import milliseconds
from fhirserver.scoped import DIRECTORY, parts, withheld
from fhirserver.search.reference import local
from fhirserver.validation import Document, references
from fhirserver.versions import Part, Stored, Visible, Write

# https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#scopes-for-requesting-fhir-resources
LETTERS = {
    "read": "r",
    "vread": "r",
    "history-instance": "r",
    "history-type": "s",
    "history-system": "s",
    "search-type": "s",
    "search-compartment": "s",
    "search-system": "s",
    "create": "c",
    "update": "u",
    "patch": "u",
    "delete": "d",
}


# "Patient?identifier=…": a transaction has made a reference of it; elsewhere it is none
_CONDITIONAL = re.compile(r"[A-Z]\w+\?")


def authenticated(principal: Principal) -> None:
    if principal is ANONYMOUS:
        raise Unauthorized("Send an access token: Authorization: Bearer …")


def require(principal: Principal, type_: ResourceType, letter: str) -> None:
    """401 for nobody, 403 for a scope too small."""
    authenticated(principal)
    if not permitted(principal, type_, letter):
        raise InsufficientScope(f"The token has no scope for this: {type_.name}.{letter} is needed.")


def permitted(principal: Principal, type_: ResourceType, letters: str) -> bool:
    """Whether the scopes give one of these letters on some resources of the type."""
    return _parts(principal, type_, letters) != ()


def _parts(principal: Principal, type_: ResourceType, letters: str) -> tuple[Part, ...] | None:
    return parts(principal.scopes, principal.patient, principal.myself, type_, letters)


def visible(principal: Principal, type_: ResourceType, letters: str) -> Visible:
    """The access keys that the caller holds, and what its scopes reach of the type by one of these letters."""
    kept = withheld(principal.withheld, type_) if principal.withheld else None
    return Visible(principal.keys, None, _parts(principal, type_, letters), kept)


def held(principal: Principal) -> Visible:
    """By access keys alone: what the server looks up for a caller that it does not tell."""
    return Visible(principal.keys)


def includable(principal: Principal, type_: ResourceType) -> Visible | None:
    """What of this type may come along with others; None without a scope to read or search it."""
    seen = visible(principal, type_, "rs")
    return seen if seen.parts != () else None


def found(ctx: Context, type_: ResourceType, id_: str, letters: str) -> Stored:
    """The current version as this caller sees it by one of these letters, what this request has already changed included."""
    pending = ctx.changes.writes.get((type_.name, id_))
    if pending is not None:
        base, grants = tuple(pending.base), (*pending.kept, *pending.grants)
        deleted = pending.data is None
        return Stored(
            type_.name, id_, pending.version, pending.ts, deleted, pending.owner, pending.json, base, grants,
            generation=pending.generation, sealed=pending.sealed, compartments=tuple(pending.index.get("c", ())),
        )  # fmt: skip
    stored = ctx.store.get(type_.name, id_, visible(ctx.principal, type_, letters))
    if stored is None:
        raise NotFound(f"No {type_.name} has this id.")
    return stored


def reached(ctx: Context, type_: ResourceType, id_: str, letter: str) -> None:
    """What an operation is called on is what the scopes reach by its letter, whatever else they reach. Error: 404."""
    if visible(ctx.principal, type_, letter).judges:
        found(ctx, type_, id_, letter)


def readable(ctx: Context, type_: ResourceType, id_: str) -> bool:
    """Whether the caller may read it as this request leaves it."""
    write = ctx.changes.writes.get((type_.name, id_))
    if write is not None:
        return visible(ctx.principal, type_, "r").reaches(id_, {**write.index, "json": write.json})
    return ctx.store.get(type_.name, id_, visible(ctx.principal, type_, "r")) is not None


def confined(ctx: Context, type_: ResourceType, id_: str, letters: str) -> None:
    """What this request makes of a resource is within the scopes too: nothing is moved out of their reach, or into it."""
    write = ctx.changes.writes.get((type_.name, id_))
    if write is None or write.data is None:
        return
    if not visible(ctx.principal, type_, letters).reaches(id_, {**write.index, "json": write.json}):
        raise InsufficientScope(f"The token's scopes for {type_.name}.{letters[0]} do not reach a resource with this content.")


def writable(ctx: Context, type_: ResourceType) -> None:
    """People write some types only in their role; a system acts for its organisation."""
    if type_.writers and not any(ctx.principal.acts_as(role) for role in type_.writers):
        raise Forbidden(f"A {type_.name} is written in the role of {' or '.join(type_.writers)}.")


def shows(ctx: Context, written: Write) -> bool:
    """Whether the caller may see what an operation wrote."""
    document = {
        "_id": written.id,
        "owner": written.owner,
        "base": written.base,
        "grants": [*written.kept, *written.grants],
        **{name: written.index.get(name, ()) for name in ("t", "c")},
        "json": written.json,
    }
    return visible(ctx.principal, ctx.store.types[written.type], "rsu").shows(document, milliseconds(ctx.now))


def owned(ctx: Context, stored: Stored) -> None:
    """Plain writes are the owner's; what others may do to a resource, operations do. What is sealed stays as it is."""
    if stored.sealed:
        raise Conflict(f"This {stored.type} is part of a signed report and does not change.")
    if stored.owner != ctx.principal.organization:
        raise Forbidden(f"This {stored.type} belongs to another organisation; it can be read, not changed, from here.")


def resolvable(ctx: Context, sets: list[tuple[str, Document]]) -> None:
    """Every literal reference of these resources is to something the writer can see, or the write is refused.

    ``sets`` are (FHIRPath prefix, resource). One query a type, whatever the number of resources. To refer to a record takes
    a scope to read or search it; the directory is everyone's.
    """
    wanted: dict[str, dict[str, list[str]]] = {}
    broken: list[Issue] = []
    for prefix, data in sets:
        if data.get("resourceType") == "Bundle":
            continue  # what is inside a stored Bundle refers to what is inside it
        for where, reference in references(data, prefix):
            target = local(reference, ctx.base)
            if target is not None:
                wanted.setdefault(target[0], {}).setdefault(target[1], []).append(where)
            elif reference.startswith("urn:") or _CONDITIONAL.match(reference):
                broken.append(_unresolved(where))
    for type_, ids in wanted.items():
        pending = {id_ for t, id_ in (*ctx.changes.writes, *ctx.changes.reserved) if t == type_}
        asked = [id_ for id_ in ids if id_ not in pending]
        served = ctx.store.types.get(type_)
        seen = held(ctx.principal) if type_ in DIRECTORY else visible(ctx.principal, served, "rs") if served else None
        there = {s.id for s in ctx.store.fetch(type_, asked, seen)} if served and seen else set()
        broken += [_unresolved(where) for id_ in asked if id_ not in there for where in ids[id_]]
    if broken:
        raise NoSuchReference(
            "A reference cannot be resolved.", issues=sorted(broken, key=lambda issue: issue.expression or "")
        )


def _unresolved(where: str) -> Issue:
    return Issue("not-found", "This reference is to nothing that you can read here.", where)
