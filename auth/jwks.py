"""Key sets that clients publish: fetched over https (or from this machine), bounded in time and size, kept no longer than the
client's Cache-Control says.

https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import socket
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from auth.keys import public_keys

_TIMEOUT = 5
_MAX_BYTES = 64 * 1024
_KEEP = 300.0
_AGAIN = 10.0  # seconds between two looks for a key that was not there
_LOCAL = ("localhost", "127.0.0.1", "::1")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class _Connection(http.client.HTTPSConnection):
    """Looks once more at where it got to: a name may resolve otherwise the second time."""

    def connect(self) -> None:
        super().connect()
        tunnelled = getattr(self, "_tunnel_host", None)  # a proxy has its own rules
        if not tunnelled and self.host not in _LOCAL and not ipaddress.ip_address(self.sock.getpeername()[0]).is_global:
            self.close()
            raise OSError("inside a private network")


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Connection, request)


class KeySets:
    """URL -> key set."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, float, dict[str, Any]]] = {}  # until, fetched, keys
        self._opener = urllib.request.build_opener(_NoRedirect, _Https)

    def get(self, url: str, *, again: bool = False) -> dict[str, Any] | None:
        """None where the URL is not acceptable or gives no key set. ``again``: the kept one lacks a key, look whether the client
        has a new one."""
        until, fetched, keys = self._kept.get(url, (0.0, 0.0, {}))
        now = time.monotonic()
        if until > now and not (again and now - fetched > _AGAIN):
            return keys
        try:
            found, seconds = fetch(url, self._opener)
        except (OSError, ValueError):
            return None
        self._kept[url] = (now + seconds, now, found)
        return found


def fetch(url: str, opener: urllib.request.OpenerDirector) -> tuple[dict[str, Any], float]:
    """(key set, seconds that it may be kept). Errors: OSError, ValueError."""
    allowed(url)
    with opener.open(url, timeout=_TIMEOUT) as answer:
        body = answer.read(_MAX_BYTES + 1)
        control = answer.headers.get("Cache-Control") or ""
    if len(body) > _MAX_BYTES:
        raise ValueError("the key set is too large")
    return public_keys(json.loads(body)), _lifetime(control)


def _lifetime(control: str) -> float:
    """ "SHALL NOT cache a JWKS for longer than the client's cache-control header indicates." """
    if "no-store" in control or "no-cache" in control:
        return 0.0
    told = re.search(r"max-age=(\d{1,9})", control)
    return min(_KEEP, float(told[1])) if told else _KEEP


def allowed(url: str) -> None:
    """https, to an address that is public; or plain http on this machine, for trials. Error: ValueError.

    A URL that a client registers must not make this server ask inside its own network.
    """
    parts = urlsplit(url)
    if parts.hostname in _LOCAL and parts.scheme in ("http", "https"):
        return
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("a key set is fetched over https")
    try:
        found = {row[4][0] for row in socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)}
    except OSError:
        raise ValueError(f"{parts.hostname} is not known") from None
    if not all(ipaddress.ip_address(address).is_global for address in found):
        raise ValueError(f"{parts.hostname} is inside a private network")
