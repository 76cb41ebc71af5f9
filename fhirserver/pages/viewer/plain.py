"""The plain page: a study's series and images as the archive renders them, for a phone, a slow line, or a server without OHIF.

It works without a script; with its own small one the next image is there at once. Windows: the presets that readers use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

# modality -> (word, centre, width); what is first is used until another is chosen
PRESETS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "CT": (
        ("stored", 0, 0),
        ("brain", 40, 80),
        ("subdural", 75, 215),
        ("soft", 50, 400),
        ("mediastinum", 40, 350),
        ("lung", -600, 1500),
        ("liver", 60, 160),
        ("bone", 400, 1800),
    ),
}
_STORED = (("stored", 0, 0),)
_MOST_FRAMES = 10_000  # a header may say anything
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """One image: an instance, or a frame of it."""

    path: str
    label: str


@dataclass(frozen=True, slots=True)
class Series:
    """``number`` is its own, or else its place."""

    uid: str
    number: str
    title: str
    modality: str
    pictures: tuple[Picture, ...]

    @property
    def presets(self) -> tuple[tuple[str, int, int], ...]:
        return PRESETS.get(self.modality, _STORED)

    @property
    def thumbnail(self) -> str:
        """Of the middle image, which shows most."""
        return f"{self.pictures[len(self.pictures) // 2].path}/thumbnail"


@dataclass(frozen=True, slots=True)
class Study:
    """A study as the page tells it; ``others`` counts what is no image."""

    name: str
    born: str
    number: str
    title: str
    date: str
    accession: str
    series: tuple[Series, ...]
    others: int


def study(rows: Iterable[Row], archive: str) -> Study | None:
    """Of the instances as QIDO-RS tells them, with all attributes; None without any."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(_text(row, "0020000E"), {})[_text(row, "00080018")] = row
    if not found:
        return None
    first = next(iter(next(iter(found.values())).values()))
    groups = sorted(found.values(), key=lambda group: _number(next(iter(group.values())), "00200011"))
    series = [_series(list(group.values()), place, archive) for place, group in enumerate(groups, 1)]
    shown = tuple(one for one in series if one.pictures)
    images = sum(1 for group in found.values() for row in group.values() if _text(row, "00280010"))
    return Study(
        _name(_text(first, "00100010")), _date(_text(first, "00100030")), _text(first, "00100020"), _text(first, "00081030"),
        _date(_text(first, "00080020")), _text(first, "00080050"), shown, sum(len(group) for group in found.values()) - images,
    )  # fmt: skip


def _series(rows: list[Row], place: int, archive: str) -> Series:
    rows.sort(key=lambda row: (_number(row, "00200013"), _text(row, "00080018")))
    pictures: list[Picture] = []
    for row in rows:
        if not _text(row, "00280010"):  # Rows: a report, a state of presentation, a document
            continue
        uids = [quote(_text(row, tag), safe="") for tag in ("0020000D", "0020000E", "00080018")]
        path = "{}/studies/{}/series/{}/instances/{}".format(archive, *uids)
        said = _number(row, "00280008")
        frames = min(int(said), _MOST_FRAMES) if 1 <= said < float("inf") else 1
        label = _text(row, "00200013") or str(len(pictures) + 1)
        if frames == 1:
            pictures.append(Picture(path, label))
        else:
            pictures += [Picture(f"{path}/frames/{n}", f"{label}.{n}") for n in range(1, frames + 1)]
    first = rows[0]
    number = _text(first, "00200011") or str(place)
    return Series(_text(first, "0020000E"), number, _text(first, "0008103E"), _text(first, "00080060"), tuple(pictures))


def window(preset: tuple[str, int, int]) -> str:
    """PS3.18 section 8.3.5.1.4: centre, width, function."""
    _, centre, width = preset
    return f"?{urlencode({'window': f'{centre},{width},linear'}, safe=',')}" if width else ""


def _text(row: Row, tag: str) -> str:
    values = row.get(tag, {}).get("Value") or [""]
    value = values[0]
    return str(value.get("Alphabetic") or next(iter(value.values()), "")) if isinstance(value, dict) else str(value)


def _number(row: Row, tag: str) -> float:
    try:
        return float(_text(row, tag))
    except ValueError:
        return float("inf")


def _name(text: str) -> str:
    """PS3.5 section 6.2.1: family^given^middle^prefix^suffix."""
    family, given, middle, prefix, suffix = (text.split("^") + [""] * 5)[:5]
    last = " ".join(part for part in (prefix, given, middle) if part)
    return ", ".join(part for part in (family, last, suffix) if part)


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text
