"""``fhirserver gateway``: takes C-STORE on a facility's network, keeps it on disk, sends it on by outbound HTTPS.

It needs no database, no inbound connection from outside, and nothing of the server but its URL and a client of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fhirserver import __version__

log = logging.getLogger("fhirserver.gateway")

_SCOPE = "system/ImagingStudy.c"
_TELL = 60.0  # seconds between lines in the log
_WRITE = 2.0  # seconds between writes of the status file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spool", type=Path, required=True, metavar="DIR", help="folder in which instances wait to be sent")
    parser.add_argument("--status", action="store_true", help="print how a gateway on this spool is doing, and end")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where modalities send to")
    parser.add_argument("--to", metavar="URL", help="the server's DICOMweb: https://host/dicomweb")
    parser.add_argument("--token-url", metavar="URL", help="its token endpoint: https://host/auth/token")
    parser.add_argument("--client", metavar="ID", help="the client that this gateway is")
    proof = parser.add_mutually_exclusive_group()
    proof.add_argument("--key", type=Path, metavar="FILE", help="its private key, JWK or PEM: RSA or EC P-384")
    proof.add_argument("--secret", help="its secret; - reads it from FHIRSERVER_GATEWAY_SECRET")
    parser.add_argument("--scope", default=_SCOPE, help=f"what it asks for ({_SCOPE})")
    parser.add_argument("--ae-title", metavar="TITLE", help="that modalities have to call; unset: any")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="AETITLE", help="who may send; may be repeated; unset: all"
    )
    parser.add_argument(
        "--charset", metavar="TERM", help='Specific Character Set of data sets that do not tell theirs, such as "ISO_IR 144"'
    )
    parser.add_argument("--connections", type=int, default=4, metavar="N", help="uploads at a time (4)")
    parser.add_argument("--associations", type=int, default=20, metavar="N", help="associations at a time (20)")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificates (PEM) of who signs the server's")
    parser.add_argument("--spool-bytes", type=int, default=100 * 1024**3, metavar="N", help="that may wait (100 GiB)")
    parser.add_argument(
        "--reserve-bytes", type=int, default=512 * 1024**2, metavar="N", help="that stay free on the disk (512 MiB)"
    )
    parser.add_argument("--max-part-bytes", type=int, default=2 * 1024**3, metavar="N", help="of one instance (2 GiB)")


def main(arguments: Sequence[str]) -> int:
    """Of the words after ``gateway``."""
    parser = argparse.ArgumentParser(prog="fhirserver gateway", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"fhirserver: {error}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    """Until a signal ends it. Errors: ValueError, RuntimeError, OSError."""
    if options.status:
        print(status(options.spool))
        return 0
    from fhirserver import logs

    logs.configure("json" if os.environ.get("FHIRSERVER_LOG_FORMAT") == "json" else "text")
    missing = [f"--{name.replace('_', '-')}" for name in ("listen", "to", "token_url", "client") if not getattr(options, name)]
    if missing or not (options.key or options.secret):
        raise ValueError(f"missing: {' '.join([*missing, *([] if options.key or options.secret else ['--key or --secret'])])}")
    return _Gateway(options).run()


class _Gateway:
    """The running one."""

    def __init__(self, options: argparse.Namespace) -> None:
        import httpx

        from auth.keys import client_assertion
        from fhirserver.gateway.spool import Spool
        from fhirserver.gateway.taking import listener
        from fhirserver.gateway.upload import Target, Uploads
        from imaging.dataset import is_charset

        host, _, port = options.listen.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("--listen is HOST:PORT")
        secret = os.environ.get("FHIRSERVER_GATEWAY_SECRET") if options.secret == "-" else options.secret
        key = options.key.read_text() if options.key else None
        if key is not None:
            client_assertion({}, key)  # that it is one
        if options.charset and not is_charset(options.charset):
            raise ValueError(f"not a Specific Character Set of DICOM: {options.charset} (example: ISO_IR 100)")
        studies = f"{_safe(options.to).rstrip('/')}/studies"
        target = Target(studies, _safe(options.token_url), options.client, secret, key, options.scope, options.charset)
        verify = ssl.create_default_context(cafile=str(options.ca) if options.ca else None)
        self.http = httpx.Client(
            verify=verify,
            timeout=httpx.Timeout(60.0, connect=15.0, read=300.0),
            limits=httpx.Limits(max_connections=options.connections + 1),
            headers={"User-Agent": f"fhirserver-gateway/{__version__}"},
        )
        self.spool = Spool(options.spool, options.spool_bytes, options.reserve_bytes)
        self.uploads = Uploads(self.spool, self.http, target, options.connections)
        before = _read(options.spool)
        self.uploads.sent, self.uploads.sent_bytes = before.get("sent", 0), before.get("sentBytes", 0)
        self.listener = listener(
            self.spool, host.strip("[]"), int(port), options.ae_title, frozenset(options.allow), options.associations,
            options.max_part_bytes,
        )  # fmt: skip
        self.stopping = threading.Event()

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        if self.spool.unreadable:
            log.error("%s files in the spool are damaged; they stay there", self.spool.unreadable)
        self._write()
        self.listener.start()
        self.uploads.start()
        told = time.monotonic()
        while not self.stopping.wait(_WRITE):
            self._write()
            if time.monotonic() - told > _TELL:
                told = time.monotonic()
                log.info("%s", status(self.spool.folder))
        self.listener.stop()
        self.uploads.stop()
        self.http.close()
        self._write(running=False)
        self.spool.close()
        return 0

    def _write(self, *, running: bool = True) -> None:
        count, size, oldest = self.spool.waiting()
        figures = {
            "pid": os.getpid() if running else None,
            "at": time.time(),
            "waiting": count,
            "waitingBytes": size,
            "oldest": oldest,
            "sent": self.uploads.sent,
            "sentBytes": self.uploads.sent_bytes,
            "refused": self.spool.refused(),
            "unreadable": self.spool.unreadable,
            "rate": round(self.uploads.rate(), 2),
            "trouble": self.uploads.trouble,
        }
        path = _file(self.spool.folder)
        try:
            path.with_suffix(".new").write_text(json.dumps(figures))
            os.replace(path.with_suffix(".new"), path)
        except OSError as error:  # a full disk does not end the gateway, which is what empties it
            log.warning("The status could not be written (%s)", type(error).__name__)


def status(spool: Path) -> str:
    """One line about a gateway, from its status file. Error: ValueError where there is none."""
    found = _read(spool)
    if not found:
        raise ValueError(f"no gateway has used the spool {spool}")
    now = time.time()
    words = [f"waiting {found['waiting']} ({found['waitingBytes'] / 1e6:.1f} MB)"]
    if found["oldest"]:
        words.append(f"oldest {max(0.0, now - found['oldest']):.0f} s")
    words += [
        f"sent {found['sent']} ({found['sentBytes'] / 1e6:.1f} MB)",
        f"refused {found['refused']}",
        f"{found['rate']:.1f}/s",
    ]
    if found["unreadable"]:
        words.append(f"damaged {found['unreadable']}")
    if found["trouble"]:
        words.append(f"not sending: {found['trouble']}")
    if found["pid"] is None or now - found["at"] > 30:
        words.append("not running")
    return ", ".join(words)


def _file(spool: Path) -> Path:
    return spool / "status.json"


def _read(spool: Path) -> dict[str, Any]:
    try:
        found = json.loads(_file(spool).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _safe(url: str) -> str:
    """Images and tokens leave by HTTPS, or stay on this machine. Error: ValueError."""
    parts = urlsplit(url)
    if parts.hostname and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))
    ):
        return url
    raise ValueError(f"not an https URL: {url}")
