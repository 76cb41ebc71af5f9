"""What a row of a country's table says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Number:
    """``form`` tells people what it looks like; ``personal``: a person has one at a time, so two differing are two people."""

    system: str
    name: str
    form: str
    valid: Callable[[str], bool]
    personal: bool = False
