"""The syntax of a parameter's value: ``,`` between alternatives, ``|`` and ``$`` between parts, ``\\`` before a plain one.

https://hl7.org/fhir/R4/search.html#escaping
"""

from __future__ import annotations

import re

_PARTS = {sign: re.compile(rf"(?:[^\\{re.escape(sign)}]|\\.|\\$)*") for sign in ",|$"}


def divided(value: str, sign: str) -> list[str]:
    """The parts between unescaped signs, still escaped."""
    parts, position = [], 0
    while True:
        match = _PARTS[sign].match(value, position)
        assert match is not None
        parts.append(match[0])
        position = match.end() + 1
        if position > len(value):
            return parts


def split(value: str, sign: str) -> list[str]:
    """The parts, as they are meant."""
    return [plain(part) for part in divided(value, sign)]


def plain(value: str) -> str:
    """``\\,`` ``\\|`` ``\\$`` ``\\\\`` are the characters themselves."""
    return re.sub(r"\\([,|$\\])", r"\1", value) if "\\" in value else value


def escaped(value: str) -> str:
    """A value as it is, with nothing in it that is syntax."""
    return re.sub(r"([,|$\\])", r"\\\1", value)
