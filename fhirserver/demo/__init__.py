"""``fhirserver demo``: two facilities, a reading centre, five readers, and an order in every state that an order can be in.

Everything is made through the same interactions and operations that clients use, from real DICOM files. Names are invented.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from fhirserver.app import Installation
from fhirserver.demo.rows import orders
from fhirserver.demo.scene import HOSPITAL, OFFICE, READERS, Demo, Made
from fhirserver.errors import FHIRError
from fhirserver.settings import Settings
from fhirserver.validation import Document

TOKEN_SECONDS = 12 * 3600


def load(settings: Settings, installation: Installation, progress: Callable[[str], None]) -> Document:
    """Make the demo, or find the one that is there; new tokens each time. What it says is also kept for the page."""
    path = settings.data_dir / "demo.json"
    if path.exists():
        told: Document = json.loads(path.read_text())
    else:
        demo = Demo(installation)
        progress("demo: organisations and readers")
        demo.places()
        progress("demo: an order in every state, with its images")
        try:
            orders(demo)
        except FHIRError as error:
            raise RuntimeError(f"The demo could not be made: {error.diagnostics} {error.issues}") from error
        told = {"orders": [{name: getattr(m, name) for name in Made.__slots__} for m in demo.made]}
    told |= {"url": settings.base, "logins": _logins(installation)}
    told["curl"] = _curls(settings.base, told)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(told, file)
    return told


def _logins(installation: Installation) -> list[dict[str, str]]:
    """A token for each role."""
    home, store = installation.settings.organization, installation.auth
    for organization in (HOSPITAL, OFFICE, home):
        store.clients.add(
            f"demo-{organization}", "system/*.cruds user/*.cruds", organization=organization, secret=os.urandom(16).hex()
        )
    people: list[tuple[str, str, str, str | None]] = [
        ("clerk", HOSPITAL, "clerk", None),
        ("dr-lis", OFFICE, "referrer", None),
        ("dispatcher", home, "dispatcher", None),
    ]
    people += [(name, home, "reader", f"{home}-{name}") for name, *_ in READERS]
    logins = [_login(installation, f"EHR of the {organization}", organization, None) for organization in (HOSPITAL, OFFICE)]
    for name, organization, role, practitioner in people:
        store.add_user(name, (role,), practitioner, organization)
        store.people.set_password(name, password := f"demo-{secrets.token_hex(5)}")
        login = _login(installation, f"{role} {name}" if name != role else role, organization, name)
        logins.append(login | {"user": name, "password": password})
    return logins


def _login(installation: Installation, who: str, organization: str, user: str | None) -> dict[str, str]:
    client = installation.auth.clients.get(f"demo-{organization}")
    assert client is not None
    scope = "user/*.cruds" if user else "system/*.cruds"
    token = installation.auth.issue(client, installation.auth.people.get(user) if user else None, scope, TOKEN_SECONDS)
    return {"who": who, "organization": organization, "token": token}


def _curls(base: str, told: Document) -> list[list[str]]:
    tokens = {login["who"]: login["token"] for login in told["logins"]}
    ehr, anna = tokens["EHR of the hospital"], tokens["reader anna"]
    study = next(o["study"] for o in told["orders"] if o["row"] == "8")
    search = "status=final&_include=DiagnosticReport:subject&_include=DiagnosticReport:imaging-study"
    return [
        [
            "The hospital's final reports, with patient and study",
            f"curl -H 'Authorization: Bearer {ehr}' '{base}/fhir/DiagnosticReport?{search}'",
        ],
        [
            "What reader Anna may take from the pool",
            f"curl -H 'Authorization: Bearer {anna}' '{base}/fhir/Task/$worklist?view=pool'",
        ],
        [
            "The images of a study that was read",
            f"curl -H 'Authorization: Bearer {anna}' '{base}/dicomweb/studies/{study}/metadata'",
        ],
    ]


def text(told: Mapping[str, Any]) -> str:
    """What the command prints."""
    lines = [
        f"\nThe server    {told['url']}",
        f"FHIR          {told['url']}/fhir",
        f"DICOMweb      {told['url']}/dicomweb",
        "",
        "Tokens, good for 12 hours:",
    ]
    lines += [f"  {login['who']:<24} {login['token']}" for login in told["logins"]]
    lines += ["", f"Sign in at    {told['url']}/auth/login", ""]
    lines += [f"  {login['user']:<24} {login['password']}" for login in told["logins"] if "user" in login]
    lines += ["", "Orders, one for each state:"]
    lines += [f"  {o['row']:>3}  {o['state']:<34} {o['facility']:<9} ServiceRequest/{o['order']}" for o in told["orders"]]
    lines += ["", "Try:"]
    for what, command in told["curl"]:
        lines += [f"  # {what}", f"  {command}"]
    return "\n".join(lines) + "\n"
