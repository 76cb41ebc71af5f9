"""What a parameter asks of the index: a flat part that an index serves, and an exact part for the second stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Filter = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clause:
    """``weight``: the smaller, the more selective; the smallest leads the first stage, all others go to the second."""

    flat: Filter
    weight: int
    exact: Filter | None = None

    @property
    def second(self) -> Filter:
        return self.exact if self.exact is not None else self.flat


IDENTIFYING, REFERRING, TEXT, DATED, CODED, NEGATIVE = range(6)
