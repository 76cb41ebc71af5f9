"""What a query has to look up before it can be asked: the other ends of chains, value sets, lists. As the caller sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.errors import Unsupported
from fhirserver.search.clause import Clause
from fhirserver.versions import Stored

Pairs = Iterable[tuple[str, str]]


def _nothing(*_: Any) -> Any:
    raise Unsupported("This is not searched for here.")


@dataclass(frozen=True, slots=True)
class Lookup:
    """``base`` is this server's own URL. ``find``: (type, pairs) -> the resources found; ``meeting``: (type, clause) -> those
    that meet it; ``same``: references -> those and what they were merged with; ``may``: whether the caller may search
    a type."""

    types: dict[str, ResourceType]
    base: str
    find: Callable[[str, Pairs], list[Stored]]
    meeting: Callable[[ResourceType, Clause], list[Stored]] = _nothing
    same: Callable[[list[str]], list[str]] = list
    may: Callable[[str], bool] = lambda _: True


NO_LOOKUP = Lookup({}, "", _nothing)
