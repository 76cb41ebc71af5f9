"""A worklist as a search: what waits in one queue, the more urgent first, then what is due first.

One compound index serves it (``ResourceType.queues``), so that a page costs the same however much waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.search.index import QUEUE_ORDER

Filter = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Queue:
    """``name`` as ResourceType.queues gives it; ``tags``: a resource has one of each of these sets; ``dates``: ranges."""

    type: ResourceType
    name: str | tuple[str, ...]
    tags: tuple[frozenset[str], ...] = ()
    dates: Mapping[str, Filter] | None = None

    @property
    def sort(self) -> list[tuple[str, int]]:
        return [*((f"o.{code}", 1) for code in QUEUE_ORDER), ("_id", 1)]

    def stages(self, arrays: str = "") -> tuple[Filter, list[Filter]]:
        """https://hl7.org/fhir/R4/search.html has no such search: it is for ``$worklist``."""
        narrowed: list[Filter] = [{"t": {"$in": sorted(tags)}} for tags in self.tags]
        narrowed += [{path: wanted} for path, wanted in (self.dates or {}).items()]
        name: Any = self.name if isinstance(self.name, str) else {"$in": list(self.name)}
        return {"w": name}, narrowed
