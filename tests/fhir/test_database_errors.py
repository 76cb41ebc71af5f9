"""What the database says is told in one place: what passes is 503, what is full 507, what does not fit 413."""

from __future__ import annotations

import pytest
from pymongo import errors

from fhirserver.errors import Conflict, Duplicate, InsufficientStorage, TooLarge, Unavailable
from fhirserver.store import translated


def labelled():
    return errors.OperationFailure("x", 112, {"errorLabels": ["TransientTransactionError"]})


def bulk(code, **more):
    return errors.ClientBulkWriteException({"writeErrors": [{"code": code, "errmsg": "x", "idx": 0} | more]}, verbose=True)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.AutoReconnect("x"), Unavailable),
        (errors.ServerSelectionTimeoutError("x"), Unavailable),
        (errors.ExecutionTimeout("x", 50), Unavailable),
        (errors.WTimeoutError("x", 64), Unavailable),
        (labelled(), Unavailable),
        (errors.OperationFailure("x", 189), Unavailable),
        (errors.OperationFailure("x", 1), Unavailable),
        (errors.OperationFailure("x", 14031), InsufficientStorage),
        (errors.WriteError("x", 17419), TooLarge),
        (errors.DocumentTooLarge("x"), TooLarge),
        (errors.DuplicateKeyError("x", 11000, {"code": 11000, "keyPattern": {"u": 1}}), Duplicate),
        (errors.DuplicateKeyError("x", 11000, {"code": 11000, "keyPattern": {"_id": 1}}), Conflict),
        (bulk(11000, keyPattern={"u": 1}), Duplicate),
        (bulk(11000, keyPattern={"_id": 1}), Conflict),
        (bulk(10334), TooLarge),
        (bulk(50), Unavailable),
    ],
    ids=lambda value: (
        f"{type(value).__name__}-{getattr(value, 'code', '')}" if isinstance(value, Exception) else value.__name__
    ),
)
def test_an_error_of_the_database_is_told_as(error, told):
    with pytest.raises(told) as raised, translated():
        raise error
    assert raised.value.__cause__ is None  # their texts may hold the document


def test_what_is_not_known_is_our_mistake():
    with pytest.raises(errors.OperationFailure), translated():
        raise errors.OperationFailure("x", 40415)
