"""What all of this package does with pymongo: collections with their indexes, and its errors made ours in one place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pymongo import IndexModel, errors
from pymongo.database import Database

from fhirserver.errors import Conflict, Duplicate, InsufficientStorage, TooLarge, Unavailable
from fhirserver.versions import Document

MAX_INDEXES = 64
_DUPLICATE_KEY = 11000
_NAMESPACE_EXISTS = 48
_OUT_OF_DISK = 14031
_TOO_LARGE = (10334, 17280, 17419)
# Shutting down, stepping down, no longer primary; an embedded server whose storage failed (1) is started again.
_PASSING = (1, 91, 189, 10107, 11600, 13435)


@dataclass(frozen=True, slots=True)
class Index:
    """An index that a type needs: (field, direction) pairs."""

    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    sparse: bool = False

    def model(self) -> IndexModel:
        options = {"unique": True, "sparse": True} if self.unique else {"sparse": True} if self.sparse else {}
        return IndexModel(list(self.keys), name="_".join(name for name, _ in self.keys), **options)


def create(database: Database[Document], name: str, wanted: list[Index]) -> None:
    """The collection and its indexes, where they are not there yet."""
    _within_limits(name, wanted)
    try:
        with suppress(errors.CollectionInvalid):
            database.create_collection(name)
    except errors.OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:  # another process was first
            raise
    if wanted:
        database[name].create_indexes([index.model() for index in wanted])


def _within_limits(name: str, wanted: list[Index]) -> None:
    """MongoDB's own limits, which the embedded server does not keep: https://www.mongodb.com/docs/manual/reference/limits/"""
    if len(wanted) >= MAX_INDEXES:
        raise AssertionError(f"{name} declares {len(wanted)} indexes; MongoDB allows {MAX_INDEXES}, that of _id included")
    for index in wanted:
        if sum(field[:2] in ("d.", "q.") or field in ("t", "acl", "c", "u", "w") for field, _ in index.keys) > 1:
            raise AssertionError(f"{name}: an index may hold one array")


@contextmanager
def translated() -> Iterator[None]:
    """pymongo's errors -> ours, in one place."""
    try:
        yield
    except (errors.DuplicateKeyError, errors.BulkWriteError, errors.ClientBulkWriteException) as error:
        # Their texts hold the document: never passed on.
        first = ((error.details or {}).get("writeErrors") or [error.details or {}])[0]
        if first.get("code") in _TOO_LARGE:
            raise TooLarge("The resource does not fit into the database.") from None
        if first.get("code") != _DUPLICATE_KEY:
            raise Unavailable("The database did not take the write; try again.") from None
        if "u" in first.get("keyPattern", {}):
            raise Duplicate("The organisation already has a resource with this business identifier.") from None
        raise Conflict("The resource was created by another request meanwhile.") from None
    except errors.DocumentTooLarge:
        raise TooLarge("The resource does not fit into the database.") from None
    except (errors.ConnectionFailure, errors.ExecutionTimeout, errors.WTimeoutError):  # before OperationFailure, which some are
        raise Unavailable("The database cannot be reached; try again.") from None
    except errors.OperationFailure as error:
        if error.code in _TOO_LARGE:
            raise TooLarge("The resource does not fit into the database.") from None
        if error.code == _OUT_OF_DISK:
            raise InsufficientStorage("The database's disk is full. Nothing was changed; try again later.") from None
        if error.has_error_label("TransientTransactionError") or error.code in _PASSING:
            raise Unavailable("The database is busy; try again.") from None
        raise


def now_ms() -> int:
    return time.time_ns() // 1_000_000
