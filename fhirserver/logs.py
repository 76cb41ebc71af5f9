"""Logs for people, or one JSON object a line for machines. No text of an exception is written: it may hold patient data.

JSON logs also have a line for each request: who asked for what kind of thing, with which outcome, how long it took; never a
URL, a query or a body, which the audit trail alone keeps.
"""

from __future__ import annotations

import logging
import traceback
from datetime import datetime, timezone
from types import TracebackType
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
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
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - as logging calls it
        return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")

    def formatException(self, ei: _Trace) -> str:  # noqa: N802 - as logging calls it
        return told(ei)


def configure(format_: Literal["text", "json"]) -> None:
    """For this process."""
    handler = logging.StreamHandler()
    if format_ == "json":
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        layout = "%(asctime)s %(levelname)s %(name)s %(message)s"
        # uvicorn repeats its messages with the codes of a terminal in them
        handler.setFormatter(_Json(layout, rename_fields=names, reserved_attrs=[*RESERVED_ATTRS, "color_message"]))
    else:
        handler.setFormatter(_Text("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("pymongo", "httpx", "pydicom", "pynetdicom"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    REQUESTS.setLevel(logging.INFO if format_ == "json" else logging.WARNING)
