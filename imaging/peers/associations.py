"""An association with another archive: asked for, used, and released or aborted.

PS3.8 section 7: https://dicom.nema.org/medical/dicom/current/output/chtml/part08/chapter_7.html
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import imaging.dataset  # noqa: F401  # isort: skip - before pydicom, which it keeps from loading codecs
from pynetdicom import AE, _config, evt

from imaging.peers import Unavailable
from imaging.peers.destinations import Destination, context

# A file is sent from the disk, not from memory; nothing of a data set reaches a log.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").propagate = False

_CONNECT, _ANSWER = 10, 120  # seconds
_PDU = 256 * 1024
NO_ABSTRACT_SYNTAX = 3  # PS3.8 Table 9-18


class NothingTakenError(Exception):
    """The association was accepted, and none of its contexts. ``unknown``: the classes that the peer does not know."""

    def __init__(self, unknown: set[str]) -> None:
        super().__init__()
        self.unknown = unknown


@contextmanager
def association(
    to: Destination, contexts: list[Any], roles: list[Any] | None = None, handlers: list[Any] | None = None
) -> Iterator[Any]:
    ae = AE(ae_title=to.calling)
    ae.connection_timeout, ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = _CONNECT, _CONNECT, _ANSWER, _ANSWER
    tls = (context(to), to.host) if to.tls else None
    opened: list[Any] = []
    hooks = [(evt.EVT_CONN_OPEN, opened.append), *(handlers or [])]
    try:
        open_ = ae.associate(to.host, to.port, contexts, to.called, _PDU, roles, None, tls, hooks)
    except (OSError, ssl.SSLError, RuntimeError):
        raise Unavailable("it cannot be reached") from None
    try:
        if not open_.is_established and open_.rejected_contexts:
            rows = open_.rejected_contexts
            raise NothingTakenError({str(c.abstract_syntax) for c in rows if c.result == NO_ABSTRACT_SYNTAX})
        if not open_.is_established:  # of a refusal that is followed by an end at once the library sees the end alone
            raise Unavailable("it refuses the association" if opened else "it cannot be reached")
        yield open_
        with suppress(RuntimeError):
            open_.release()
    except BaseException:
        open_.abort()
        raise
    finally:
        _closed(open_)


def _closed(association: Any) -> None:
    """The library leaves the socket of a connection that failed to the garbage collector."""
    if association.is_alive():
        association.join(_CONNECT)
    with suppress(OSError, AttributeError):
        association.dul.socket.socket.close()
