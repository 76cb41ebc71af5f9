"""Who is asking: all that the rest of the server knows of authentication."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from auth.scopes import Scope, permits

ROLES = ("clerk", "referrer", "dispatcher", "reader", "trainee", "quality", "administrator")


@dataclass(frozen=True, slots=True)
class Principal:
    """A client, acting for itself or for a user, in one organisation. Ids are logical ids of FHIR resources.

    ``patient``: the one in the launch context, to whom ``patient/`` scopes are confined; ``fhir_user``: the token may read
    its own user's resource; ``withheld``: references to the patients whose records are kept from it.
    """

    client: str
    organization: str
    scopes: tuple[Scope, ...] = ()
    user: str | None = None
    roles: frozenset[str] = frozenset()
    practitioner: str | None = None
    patient: str | None = None
    fhir_user: bool = False
    withheld: frozenset[str] = frozenset()

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

    @property
    def myself(self) -> str | None:
        """The Practitioner that ``fhirUser`` names, where the token may ask who that is."""
        return self.practitioner if self.fhir_user else None

    def permits(self, type_: str, letter: str) -> bool:
        """Whether some resources of the type; ``letter`` is one of SMART's create, read, update, delete, search.

        A ``patient/`` scope permits nothing without the launch context that confines it.
        """
        return permits(self._effective, type_, letter)

    def unconfined(self, type_: str, letter: str) -> bool:
        """Whether all that the access lists show of the type: by a scope without a query part, not for one patient alone."""
        return permits((s for s in self._effective if s.level != "patient" and not s.query), type_, letter)

    @property
    def _effective(self) -> tuple[Scope, ...]:
        return self.scopes if self.patient else tuple(s for s in self.scopes if s.level != "patient")

    def confined(self, records: Iterable[str]) -> Principal:
        """The same, to read these records alone, as far as it could before. Who may read a record by name may find it too."""
        named = [one.partition("/") for one in records]
        scopes = tuple(
            Scope(scope.level, type_, "rs", (*scope.query, ("_id", id_)))
            for type_, _, id_ in named
            for scope in self._effective
            if scope.concerns(type_, "r")
        )
        return replace(self, scopes=scopes, fhir_user=False)

    def acts_as(self, role: str) -> bool:
        """A system client acts for its whole organisation; a user only in the roles given to them."""
        return self.user is None or role in self.roles or "administrator" in self.roles


ANONYMOUS = Principal("", "")
