"""How a reading centre assigns: which rule packs hold, and what weighs how much in the ranking. Pure.

It is kept as the content (JSON) of a Library whose identifier names the centre; a decision stores the policy that it was made
by, so that it can be replayed whatever the policy says later. Without one, these defaults hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

POLICIES = "urn:fhirserver:assignment-policy"  # the system of the Library's identifier; the value is the centre
DEFAULT_URL = "urn:fhirserver:assignment-policy:default"
Weight = Annotated[float, msgspec.Meta(ge=0, le=100)]
Urgency = Literal["routine", "urgent", "asap", "stat"]


class Pack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The rules of a country: ``exclusive``: while a reader has open readings of these urgencies for one facility, they get
    none of these for another."""

    exclusive: tuple[Urgency, ...] = ()


# Poland, draft MZ 1818 of 2025-09-30: no simultaneous service for more than one entity for patients of certain urgency.
PACKS: Mapping[str, Pack] = {"PL": Pack(exclusive=("stat",))}


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What each part of the score weighs; a part is between 0 and 1. For stat the load now counts, for routine that of the
    shift (Intelerad's distinction of instantaneous and cumulative load)."""

    specialty: Weight = 3.0
    load: Weight = 4.0
    shift_load: Weight = 1.0
    deadline: Weight = 1.0
    prior: Weight = 2.0
    fairness: Weight = 1.0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``packs``: countries of PACKS that hold for every facility, beside that of the facility's own jurisdiction."""

    url: str = DEFAULT_URL
    version: str = "1"
    weights: Weights = Weights()
    packs: tuple[str, ...] = ()
    lease_minutes: Annotated[int, msgspec.Meta(ge=1, le=1440)] = 30
    lapsing_days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 30

    def __post_init__(self) -> None:
        if unknown := set(self.packs) - set(PACKS):
            raise ValueError(f"there is no rule pack of {', '.join(sorted(unknown))}; there are {', '.join(PACKS)}")

    @property
    def canonical(self) -> str:
        return f"{self.url}|{self.version}"

    def exclusive(self, jurisdiction: str | None) -> frozenset[str]:
        """The urgencies in which one facility's readings exclude another's."""
        names = {*self.packs, *([jurisdiction] if jurisdiction in PACKS else [])}
        return frozenset(urgency for name in names if name for urgency in PACKS[name].exclusive)


DEFAULT = Policy()


def parsed(content: bytes) -> Policy:
    """Errors: ValueError that names the place and what is wrong there."""
    try:
        return msgspec.json.decode(content, type=Policy)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
