"""Logs for people, or one JSON object a line for machines. No text of an exception is written: it may hold patient data.

JSON logs also have a line for each request: who asked for what kind of thing, with which outcome, how long it took; never a
URL, a query or a body, which the audit trail alone keeps.
"""

from __future__ import annotations

import logging
import traceback
from types import TracebackType
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

REQUESTS = logging.getLogger("fhirserver.requests")
_Trace = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def told(error: _Trace) -> str:
    """Which exception, and where."""
    type_, value, trace = error
    where = "".join(traceback.format_tb(trace))
    cause = value.__cause__ if value else None
    return f"{where}{type_.__name__ if type_ else ''}" + (f" (of {type(cause).__name__})" if cause else "")


class _Text(logging.Formatter):
    def formatException(self, ei: _Trace) -> str:  # noqa: N802 - as logging calls it
        return told(ei)


class _Json(JsonFormatter):
    def formatException(self, ei: _Trace) -> str:  # noqa: N802 - as logging calls it
        return told(ei)


def configure(format_: Literal["text", "json"]) -> None:
    """For this process."""
    handler = logging.StreamHandler()
    if format_ == "json":
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(
            _Json("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=names, datefmt="%Y-%m-%dT%H:%M:%S%z")
        )
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("pymongo", "httpx", "pydicom"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    REQUESTS.setLevel(logging.INFO if format_ == "json" else logging.WARNING)
