"""Whether a value matches what was asked for.

PS3.4 C.2.2.2: https://dicom.nema.org/medical/dicom/current/output/chtml/part04/sect_C.2.2.2.html
"""

from __future__ import annotations

import re
import unicodedata

from imaging.attributes import Attribute

# Letters that are not a letter and a mark, to Unicode, but are to those who search
_LETTERS = str.maketrans({"ł": "l", "đ": "d", "ø": "o", "ß": "ss", "æ": "ae", "œ": "oe", "ı": "i"})


def matches(attribute: Attribute, wanted: str, value: str, fuzzy: bool) -> bool:
    """``value`` as it is indexed: several with backslashes between."""
    if attribute.vr == "UI":  # C.2.2.2.2: list of UID
        return bool(set(re.split(r"[,\\]", wanted)) & set(value.split("\\")))
    if attribute.vr == "DA":
        low, high = bounds(wanted)
        given = _date(value)
        return bool(given) and (not low or given >= low) and (not high or given <= high)
    if attribute.vr == "TM" and "-" in wanted:  # C.2.2.2.5: range
        low, _, high = wanted.partition("-")
        return bool(value) and _time(low, "0") <= _time(value, "0") <= _time(high or "24", "9")
    if attribute.vr == "PN":
        return any(_named(wanted, name, fuzzy) for name in value.split("\\"))
    if attribute.keyword == "ModalitiesInStudy":
        return any(like(one, part) for one in re.split(r"[,\\]", wanted) for part in value.split("\\"))
    return any(like(wanted, part) for part in value.split("\\"))  # C.2.2.2.1, C.2.2.2.4


def _named(wanted: str, value: str, fuzzy: bool) -> bool:
    """A name, without regard to case and marks, in any of its groups (alphabetic, ideographic, phonetic)."""
    folded, asked = _folded(value), _folded(wanted)
    if fuzzy:  # the beginning of any part of the name
        parts = re.split(r"[\^=\s]+", folded)
        return all(any(part.startswith(word) for part in parts) for word in re.split(r"[\^=\s*]+", asked) if word)
    return any(like(asked, group.rstrip("^")) for group in (folded, *folded.split("=")))


def like(pattern: str, value: str) -> bool:
    """``*`` any run of characters, ``?`` any one; in time that grows with the lengths alone, whatever is asked."""
    wanted, at, given, star, resume = pattern.rstrip("^"), 0, 0, -1, 0
    while given < len(value):
        if at < len(wanted) and wanted[at] == "*":
            star, resume, at = at, given, at + 1
        elif at < len(wanted) and wanted[at] in ("?", value[given]):
            at, given = at + 1, given + 1
        elif star >= 0:
            at, resume = star + 1, resume + 1
            given = resume
        else:
            return False
    return not wanted[at:].strip("*")


def bounds(dates: str) -> tuple[str, str]:
    """``20260101-20261231``, ``20260101-``, ``-20261231``, one date -> first and last, empty where it is open."""
    low, dash, high = dates.partition("-")
    return (_date(low), _date(high)) if dash else (_date(low), _date(low))


def moments(dates: str, times: str) -> tuple[str, str]:
    """The first and the last moment of a range of dates and a range of times, as texts that sort."""
    first, last = bounds(dates)
    begin, _, end = times.partition("-")
    return f"{first or '0' * 8}{_time(begin, '0')}", f"{last or '9' * 8}{_time(end or '24', '9')}"


def _date(text: str) -> str:
    """``2026.01.31`` is how old files write it."""
    return text.replace(".", "")


def _time(text: str, filling: str) -> str:
    """To the microsecond; a time that ends early begins, or ends, with what it leaves out."""
    whole, _, fraction = text.replace(":", "").strip().partition(".")
    return f"{whole:{filling}<6}{fraction:{filling}<6}"


def _folded(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_LETTERS)
