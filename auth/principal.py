"""Who is asking: all that the rest of the server knows of authentication."""

from __future__ import annotations

from dataclasses import dataclass

from auth.scopes import Scope, permits

ROLES = ("clerk", "referrer", "dispatcher", "reader", "trainee", "quality", "administrator")


@dataclass(frozen=True, slots=True)
class Principal:
    """A client, acting for itself or for a user, in one organisation. Ids are logical ids of FHIR resources."""

    client: str
    organization: str
    scopes: tuple[Scope, ...] = ()
    user: str | None = None
    roles: frozenset[str] = frozenset()
    practitioner: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What it holds against the access lists of stored resources."""
        if self is ANONYMOUS:
            return ()
        keys = [f"org/{self.organization}", *(f"role/{role}@org/{self.organization}" for role in sorted(self.roles))]
        if self.practitioner:
            keys.append(f"practitioner/{self.practitioner}@org/{self.organization}")
        return (*keys, "*")

    @property
    def name(self) -> str:
        return f"{self.user}@{self.client}" if self.user else self.client

    def permits(self, type_: str, letter: str) -> bool:
        """``letter`` is one of SMART's create, read, update, delete, search."""
        return permits(self.scopes, type_, letter)

    def acts_as(self, role: str) -> bool:
        """A system client acts for its whole organisation; a user only in the roles given to them."""
        return self.user is None or role in self.roles or "administrator" in self.roles


ANONYMOUS = Principal("", "")
