"""Sources: which calling AE belongs to which organisation, and how it is told from another that gives the same title.

An AE title is a name and no proof. A source is proven by its certificate; by its address only where the installation says
that addresses will do; and on the loopback interface by being there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pymongo import IndexModel
from pymongo.database import Database

from imaging.dataset import encodings

Row = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")  # PS3.5: AE
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Source:
    """``certificate``: the SHA-256 of the one that it shows. ``charset``: of data sets that do not tell theirs. ``quiet``: seconds
    without an instance after which a study of it is complete."""

    title: str
    organization: str
    certificate: str | None = None
    addresses: tuple[str, ...] = ()
    charset: str | None = None
    quiet: float | None = None

    @property
    def id(self) -> str:
        return f"{self.title}|{self.organization}"

    def networks(self) -> list[Network]:
        """Error: ValueError."""
        return [ipaddress.ip_network(text) for text in self.addresses]


def proven(source: Source, address: str, fingerprint: str | None, by_address: bool) -> bool:
    """Whether who calls from this address, with this certificate or none, is the source whose title it gives."""
    where = ipaddress.ip_address(address.partition("%")[0])
    where = (where.ipv4_mapped if isinstance(where, ipaddress.IPv6Address) else None) or where
    if source.certificate is not None and source.certificate != fingerprint:
        return False
    if source.addresses and not any(where in network for network in source.networks()):
        return False
    return source.certificate is not None or where.is_loopback or (by_address and bool(source.addresses))


class Sources:
    """The registry. Thread-safe."""

    def __init__(self, database: Database[Row]) -> None:
        self._sources = database["dicom_sources"]

    def prepare(self) -> None:
        self._sources.create_indexes([IndexModel([("title", 1)], name="title")])

    def add(self, source: Source) -> bool:
        """False where that replaced a registration. Error: ValueError for what is not a source, or could be taken for another."""
        _checked(source)
        for other in self._titled(source.title):
            if other.organization != source.organization and not _distinct(source, other):
                raise ValueError(
                    f"{source.title} is registered for {other.organization}; "
                    "two of one title need certificates that differ, or addresses that do not overlap"
                )
        row = {
            "_id": source.id,
            "title": source.title,
            "organization": source.organization,
            "certificate": source.certificate,
            "addresses": list(source.addresses),
            "charset": source.charset,
            "quiet": source.quiet,
        }
        return self._sources.replace_one({"_id": source.id}, row, upsert=True).matched_count == 0

    def remove(self, title: str, organization: str) -> bool:
        return self._sources.delete_one({"_id": f"{title}|{organization}"}).deleted_count == 1

    def all(self) -> list[Source]:
        return [_source(row) for row in self._sources.find({}).sort("_id", 1)]

    def known(self, title: str, address: str, fingerprint: str | None, by_address: bool) -> Source | None:
        """The one source that this is; None where it is none, or could be two."""
        found = [source for source in self._titled(title) if proven(source, address, fingerprint, by_address)]
        return found[0] if len(found) == 1 else None

    def _titled(self, title: str) -> list[Source]:
        return [_source(row) for row in self._sources.find({"title": title})]


def _source(row: Row) -> Source:
    return Source(row["title"], row["organization"], row["certificate"], tuple(row["addresses"]), row["charset"], row["quiet"])


def _checked(source: Source) -> None:
    if not _TITLE.fullmatch(source.title):
        raise ValueError(r"an AE title has 1 to 16 ASCII characters, none of them \ and no space at either end")
    if not _ID.fullmatch(source.organization):
        raise ValueError("an organisation's id has 1 to 64 letters, digits, . and -")
    source.networks()
    if source.charset is not None:
        encodings(source.charset)
    if source.quiet is not None and not 0 < source.quiet <= 86_400:
        raise ValueError("the quiet seconds are between 0 and a day")


def _distinct(one: Source, other: Source) -> bool:
    if one.certificate and other.certificate and one.certificate != other.certificate:
        return True
    return bool(one.addresses and other.addresses) and not _overlap(one.networks(), other.networks())


def _overlap(some: Iterable[Network], others: list[Network]) -> bool:
    return any(a.version == b.version and a.overlaps(b) for a in some for b in others)
