"""Who of the eligible should read this? Pure: parts of a score, weighed by the policy; equal ones in a fixed order.

A decision's record holds the policy, the reading and each candidate's facts: ``replay`` judges and ranks them again.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from fhirserver.workflow.eligibility import Reader, Reading, Verdict, judge
from fhirserver.workflow.policy import Policy, Weights

_HOUR = 3_600_000
_READ = 12 * 60_000  # about what an open reading takes, milliseconds


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reader, the verdict on them, and the parts of their score."""

    reader: Reader
    verdict: Verdict
    parts: Mapping[str, float]
    score: float


def candidates(reading: Reading, readers: Iterable[Reader], policy: Policy, now: int) -> list[Candidate]:
    """The best first: the eligible before those who are not, those with a failed soft rule after those without."""
    rows = list(readers)
    most = max((one.load.shift for one in rows), default=0)
    found = [_candidate(reading, one, policy.weights, now, most) for one in rows]
    return sorted(
        found, key=lambda c: (not c.verdict.eligible, bool(c.verdict.soft), -c.score, c.reader.load.now, c.reader.reference)
    )


def _candidate(reading: Reading, reader: Reader, weights: Weights, now: int, most: int) -> Candidate:
    verdict = judge(reading, reader, now)
    if not verdict.eligible:
        return Candidate(reader, verdict, {}, 0.0)
    parts = _parts(reading, reader, verdict, now, most)
    weighed = {name: getattr(weights, name) * value for name, value in parts.items()}
    whole = sum(getattr(weights, name) for name in parts) or 1.0
    return Candidate(reader, verdict, parts, round(sum(weighed.values()) / whole, 4))


def _parts(reading: Reading, reader: Reader, verdict: Verdict, now: int, most: int) -> dict[str, float]:
    """Each between 0 and 1, the greater the better."""
    privilege = next(p for p in reader.privileges if p.role == verdict.role)
    load = reader.load
    open_now = load.now + 2 * load.stat if reading.priority == "stat" else load.now
    parts = {
        "specialty": 1.0 if not reading.specialty or set(reading.specialty) & set(privilege.specialties) else 0.0,
        "load": 1 / (1 + open_now),
        "shift_load": 1 / (1 + load.shift),
        "prior": 1.0 if reader.prior else 0.0,
        "fairness": 1.0 - load.shift / most if most else 1.0,
    }
    if reading.due is not None:  # whether what is open leaves the time
        left = reading.due - now - load.now * _READ
        parts["deadline"] = 1.0 if left >= _HOUR else max(0.0, left / _HOUR)
    return parts


# ---------------------------------------------------------------- the record of a decision


class Considered(msgspec.Struct, frozen=True, omit_defaults=True):
    """A candidate as stored."""

    reader: Reader
    eligible: bool
    score: float = 0.0
    role: str | None = None
    failed: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why this reader: ``at`` is milliseconds since 1970; ``candidates`` in their order, each with its facts."""

    mode: str
    chosen: str
    at: int
    policy: Policy
    reading: Reading | None = None
    candidates: tuple[Considered, ...] = ()
    override_reason: str | None = None

    def packed(self) -> str:
        """For a Binary: JSON, compressed (application/gzip), in base64."""
        packer = zlib.compressobj(1, wbits=31)
        return base64.b64encode(packer.compress(msgspec.json.encode(self)) + packer.flush()).decode()


def decided(
    mode: str, chosen: str, now: int, policy: Policy, reading: Reading | None = None, found: Iterable[Candidate] = (), reason: str | None = None
) -> Decision:  # fmt: skip
    rows = (Considered(c.reader, c.verdict.eligible, c.score, c.verdict.role, c.verdict.failed, c.verdict.soft) for c in found)
    return Decision(mode, chosen, now, policy, reading, tuple(rows), reason)


def unpacked(data: str) -> Decision:
    """What ``packed`` made. Errors: ValueError for anything else."""
    try:
        return msgspec.json.decode(zlib.decompress(base64.b64decode(data), wbits=31), type=Decision)
    except (zlib.error, msgspec.DecodeError) as error:
        raise ValueError("this is no decision") from error


def replay(decision: Decision) -> list[Candidate]:
    """The same facts judged and ranked again."""
    if decision.reading is None:
        return []
    return candidates(decision.reading, [row.reader for row in decision.candidates], decision.policy, decision.at)


def same(decision: Decision) -> bool:
    """Whether a replay comes to what was decided: order, verdicts, scores."""
    again: list[tuple[Any, ...]] = [
        (c.reader.reference, c.score, c.verdict.role, c.verdict.failed, c.verdict.soft) for c in replay(decision)
    ]
    return again == [(c.reader.reference, c.score, c.role, c.failed, c.soft) for c in decision.candidates]
