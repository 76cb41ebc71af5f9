"""What a query has to look up before it can be asked: the other ends of chains, value sets, lists. As the caller sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.errors import Unsupported
from fhirserver.search.clause import Clause
from fhirserver.versions import Stored

Pairs = Iterable[tuple[str, str]]


def _nothing(*_: Any) -> Any:
    raise Unsupported("This is not searched for here.")


@dataclass(frozen=True, slots=True)
class Lookup:
    """``base`` is this server's own URL. ``find``: (type, pairs) -> the resources found; ``held``: (reference parameter,
    target type, parameter, value) -> the clause for contained targets; ``same``: references -> those and what they were merged with;
    ``positions``: (type, parameter, rough clause) -> (id, position)."""

    types: dict[str, ResourceType]
    base: str
    find: Callable[[str, Pairs], list[Stored]]
    held: Callable[[SearchParam, ResourceType, str, str], Clause | None] = lambda *_: None
    same: Callable[[list[str]], list[str]] = list
    positions: Callable[[ResourceType, SearchParam, Clause], list[tuple[str, Any]]] = _nothing


NO_LOOKUP = Lookup({}, "", _nothing)
