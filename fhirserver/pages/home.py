"""``/``: what this server is, where it answers, and, on a demo, what the demo made and how to try it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from fhirserver import __version__

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #16212b; --soft: #5b6b7a; --line: #d5dde4; --paper: #fff; --tint: #f2f6f9; --mark: #0b6e8f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9fb0bf; --line: #2e3b47; --paper: #10171e; --tint: #18222b; --mark: #58b7d6; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.9rem; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); } a { color: var(--mark); }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
code, pre { font: .85em/1.45 ui-monospace, monospace; } td code { overflow-wrap: anywhere; }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
"""


def router(base: str, demo: Path) -> APIRouter:
    """``demo``: the file that ``fhirserver demo`` leaves. Its tokens are shown to this machine alone."""
    routes = APIRouter()

    @routes.get("/", response_class=HTMLResponse)
    def home(request: Request) -> HTMLResponse:
        told = json.loads(demo.read_text()) if demo.exists() and _from_here(request) else None
        return HTMLResponse(page(base, told), headers=_HEADERS)

    return routes


def _from_here(request: Request) -> bool:
    """From a loopback address, and not through a proxy."""
    try:
        here = request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False
    host = request.headers.get("host", "").rsplit(":", 1)[0].strip("[]")
    return (
        here
        and "x-forwarded-for" not in request.headers
        and "forwarded" not in request.headers
        and host in ("127.0.0.1", "localhost", "::1")
    )


def page(base: str, told: Mapping[str, Any] | None) -> str:
    parts = [
        "<h1>Teleradiology server</h1>",
        f'<p class="soft">FHIR R4 and DICOMweb for reading networks · version {escape(__version__)}</p>',
        "<h2>Where it answers</h2>",
        _table((), [[_place(base, path, open_), escape(what)] for path, what, open_ in _PLACES]),
    ]
    if told is not None:
        parts += _demo(base, told)
    else:
        parts.append(
            "<p>Every FHIR and DICOMweb request but the first needs an access token; the README says how to get one.</p>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Teleradiology server</title><style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"
    )


_PLACES = (
    ("/fhir/metadata", "CapabilityStatement: what FHIR is served", True),
    ("/fhir", "FHIR R4 base", False),
    ("/dicomweb", "DICOMweb: STOW-RS, QIDO-RS, WADO-RS", False),
    ("/auth/apps", "Sign in; the apps that you let in", True),
    ("/viewer", "Images, opened from an order, a study or a report: ?order=ServiceRequest/…", False),
    ("/auth/token", "OAuth 2.0 token endpoint", False),
    ("/.well-known/smart-configuration", "SMART discovery", True),
    ("/readyz", "Whether it can serve", True),
)


def _demo(base: str, told: Mapping[str, Any]) -> list[str]:
    orders = [
        [
            escape(o["row"]),
            escape(o["state"]),
            escape(o["facility"]),
            escape(o["patient"]),
            f"<code>ServiceRequest/{escape(o['order'])}</code>",
            f'<a href="{escape(base)}/viewer?order=ServiceRequest/{escape(o["order"])}">Images</a>' if o["study"] else "",
        ]
        for o in told["orders"]
    ]
    logins = [
        [escape(login["who"]), escape(login["organization"]), f"<code>{escape(login['token'])}</code>"]
        for login in told["logins"]
    ]
    people = [
        [f"<code>{escape(login['user'])}</code>", f"<code>{escape(login['password'])}</code>"]
        for login in told["logins"]
        if "user" in login
    ]
    curls = [f"<p>{escape(what)}</p><pre>{escape(command)}</pre>" for what, command in told["curl"]]
    return [
        "<h2>Try it</h2>",
        *curls,
        "<h2>Tokens of the demo</h2>",
        '<p class="soft">Good for 12 hours. Shown to this machine alone; people and patients are invented.</p>',
        _table(("Who", "Organisation", "Token"), logins),
        "<h2>People of the demo</h2>",
        '<p class="soft">They sign in at <code>/auth/login</code>.</p>',
        _table(("User name", "Password"), people),
        "<h2>Orders, one for each state</h2>",
        _table(("Row", "State", "Facility", "Patient", "Order", ""), orders),
    ]


def _place(base: str, path: str, open_: bool) -> str:
    """A link where a browser gets an answer without a token."""
    text = f"<code>{escape(path)}</code>"
    return f'<a href="{escape(base + path)}">{text}</a>' if open_ else text


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    top = f"<thead><tr>{''.join(f'<th scope=col>{escape(h)}</th>' for h in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'
