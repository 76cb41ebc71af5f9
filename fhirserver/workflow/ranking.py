"""Who of the eligible should read this? Pure: the fewer open readings, the better; equal ones in a fixed order.

The policy has a version, and each decision stores it with the candidates and scores, so that it can be replayed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fhirserver.workflow.eligibility import Verdict

POLICY = "urn:fhirserver:assignment-policy:least-loaded|1"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reader, the verdict on them, and how many readings they have open."""

    reader: str
    verdict: Verdict
    load: int

    @property
    def score(self) -> float:
        """Between 0 and 1, the greater the better; 0 for those who may not."""
        return round(1 / (1 + self.load), 4) if self.verdict.eligible else 0.0


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best first; those with a failed soft rule after those without."""
    return sorted(candidates, key=lambda c: (not c.verdict.eligible, bool(c.verdict.soft), c.load, c.reader))


def record(candidates: Iterable[Candidate], chosen: str, mode: str, reason: str | None) -> dict[str, Any]:
    """The decision record."""
    return {
        "policy": POLICY,
        "mode": mode,
        "chosen": chosen,
        **({"overrideReason": reason} if reason else {}),
        "candidates": [
            {
                "reader": c.reader,
                "role": c.verdict.role,
                "eligible": c.verdict.eligible,
                "failed": list(c.verdict.failed),
                "soft": list(c.verdict.soft),
                "load": c.load,
                "score": c.score,
            }
            for c in ranked(candidates)
        ],
    }
