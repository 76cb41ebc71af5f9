"""A row of the index, and what is read of one. Plain values."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from imaging.attributes import INSTANCE
from imaging.dataset import Instance
from imaging.dataset.metadata import BULK_MARK

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an instance's bytes are. ``count``: of frames; ``frames``: where they are, if that is known. ``bulk``: path -> (offset,
    length) of the values that the metadata refer to."""

    owner: str
    study: str
    series: str
    uid: str
    sop_class: str
    transfer_syntax: str
    digest: str
    size: int
    count: int
    frames: tuple[tuple[tuple[int, int], ...], ...]
    bulk: dict[str, tuple[int, int]]
    number: int | None = None


def row_of(owner: str, instance: Instance, digest: str, size: int) -> Row:
    return {
        "_id": f"{owner}|{instance.uid}",
        "owner": owner,
        "series": f"{owner}|{instance.study}|{instance.series}",
        "uid": instance.uid,
        "class": instance.sop_class,
        "syntax": instance.transfer_syntax,
        "number": integer(instance.attributes[INSTANCE].get("InstanceNumber")),
        "title": instance.title,
        "digest": digest,
        "size": size,
        "count": instance.count,
        "frames": _packed(instance.frames),
        "bulk": [list(one) for one in instance.bulk],
        "q": instance.attributes[INSTANCE],
        "meta": instance.metadata,
    }


def linked(text: bytes, base: str) -> bytes:
    """A text of metadata with the URLs of its bulk data. ``base``: the URL of /dicomweb."""
    return text.replace(BULK_MARK.encode(), f"{BULK_MARK[:-1]}{base}".encode())


def within(study: str) -> Row:
    """All series of a study, by the one index on their keys."""
    return {"series": {"$gte": f"{study}|", "$lt": f"{study}}}"}}


def in_order(row: Row) -> tuple[int, str]:
    return row["number"] or 0, row["uid"]


def told(row: Row) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(zlib.decompress(row["meta"]))
    return metadata


def stored_of(row: Row) -> Stored:
    owner, study, series = row["series"].split("|")
    bulk = {path: (offset, length) for path, offset, length in row["bulk"]}
    return Stored(
        owner,
        study,
        series,
        row["uid"],
        row["class"],
        row["syntax"],
        row["digest"],
        row["size"],
        row["count"],
        _unpacked(row["frames"]),
        bulk,
        row["number"],
    )


def integer(text: str | None) -> int | None:
    """An Integer String, which has 32 bits: PS3.5 table 6.2-1. What is none, is none."""
    try:
        found = int(text) if text else None
    except ValueError:
        return None
    return found if found is not None and -(2**31) <= found < 2**31 else None


def _packed(frames: tuple[tuple[tuple[int, int], ...], ...]) -> Row | list[list[list[int]]]:
    """Frames that follow each other as (start, length, count); others as they are."""
    if frames and all(
        len(f) == 1 and f[0] == (frames[0][0][0] + i * frames[0][0][1], frames[0][0][1]) for i, f in enumerate(frames)
    ):
        return {"at": frames[0][0][0], "length": frames[0][0][1], "count": len(frames)}
    return [[list(segment) for segment in frame] for frame in frames]


def _unpacked(packed: Any) -> tuple[tuple[tuple[int, int], ...], ...]:
    if isinstance(packed, dict):
        return tuple(((packed["at"] + i * packed["length"], packed["length"]),) for i in range(packed["count"]))
    return tuple(tuple((offset, length) for offset, length in frame) for frame in packed)
