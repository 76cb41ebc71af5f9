"""People and apps for the tests of the authorization server: a person who goes through its pages without JavaScript, and an app
that keeps a verifier."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from conftest import BASE
from starlette.testclient import TestClient

PASSWORD = "correct horse battery"


class Forms(HTMLParser):
    """The forms of a page: action, fields, and the checkboxes and buttons that a person may leave."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[dict[str, Any]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = dict(attrs)
        if tag == "form":
            self.forms.append({"action": at["action"], "method": at.get("method", "get"), "fields": [], "offered": []})
        elif tag == "input" and self.forms:
            form = self.forms[-1]
            kind = at.get("type")
            if kind in ("checkbox", "radio"):
                form["offered"].append(at["value"])
                first = kind == "radio" and len(form["offered"]) == 1  # a person takes the first
                if "checked" not in at and not first:
                    return
            form["fields"].append((at["name"], at.get("value") or ""))

    def handle_data(self, data: str) -> None:
        self.text += data

    def to(self, action: str, marker: str | None = None) -> dict[str, Any]:
        return next(
            f for f in self.forms if f["action"] == action and (marker is None or marker in [name for name, _ in f["fields"]])
        )


class Person:
    """A browser with cookies and somebody at it."""

    def __init__(self, app: Any, base: str = BASE) -> None:
        self.http: httpx.Client = TestClient(app, base_url=base, follow_redirects=False)
        self.base = base

    @classmethod
    def at(cls, http: httpx.Client, base: str) -> Person:
        """At a server that listens."""
        person = cls.__new__(cls)
        person.http, person.base = http, base
        return person

    def follow(self, reply: httpx.Response) -> httpx.Response:
        """As long as it leads inside."""
        while reply.status_code in (302, 303):
            where = reply.headers["location"]
            if not where.startswith(("/", self.base)):
                return reply
            reply = self.http.get(where)
        return reply

    def submit(self, reply: httpx.Response, action: str, marker: str | None = None, **values: Any) -> httpx.Response:
        """The form of the page, with these fields given; a list replaces all of that name."""
        form = Forms(reply.text).to(action, marker)
        fields = [(name, value) for name, value in form["fields"] if name not in values]
        for name, value in values.items():
            fields += [(name, one) for one in value] if isinstance(value, list) else [(name, value)]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.follow(self.http.request(form["method"], form["action"], content=urlencode(fields), headers=headers))

    def sign_in(self, name: str, password: str = PASSWORD, page: httpx.Response | None = None) -> httpx.Response:
        return self.submit(page or self.http.get("/auth/login"), "/auth/login", "password", name=name, password=password)


@dataclass
class App:
    """What an app sends and remembers."""

    client_id: str
    redirect_uri: str
    scope: str
    state: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    secret: str | None = None

    def asked(self, **changed: str | None) -> dict[str, str]:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.scope,
            "state": self.state,
            "aud": f"{BASE}/fhir",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in (asked | changed).items() if value is not None}

    def url(self, **changed: str | None) -> str:
        return f"/auth/authorize?{urlencode(self.asked(**changed))}"

    def form(self, code: str, **changed: str | None) -> dict[str, str]:
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": self.verifier,
            "client_id": None if self.secret else self.client_id,
        }
        return {name: value for name, value in (form | changed).items() if value is not None}

    def redeem(self, http: TestClient, code: str, **changed: str | None) -> httpx.Response:
        auth = {"auth": (self.client_id, self.secret)} if self.secret else {}
        return http.post("/auth/token", data=self.form(code, **changed), **auth)

    def refresh(self, http: TestClient, token: str, **more: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token, **more}
        if self.secret:
            return http.post("/auth/token", data=form, auth=(self.client_id, self.secret))
        return http.post("/auth/token", data=form | {"client_id": self.client_id})


def returned(reply: httpx.Response) -> dict[str, str]:
    """What the app is told in the redirect."""
    assert reply.status_code == 303, reply.text
    return dict(parse_qsl(urlsplit(reply.headers["location"]).query))


def consent(person: Person, app: App, *, name: str, pick: str | None = None, scopes: list[str] | None = None) -> dict[str, str]:
    """The whole way: sign in where needed, choose the patient where asked, allow."""
    reply = person.follow(person.http.get(app.url()))
    if 'name="password"' in reply.text:
        reply = person.sign_in(name, page=reply)
    while 'name="pick"' in reply.text:
        marker = Forms(reply.text).to("/auth/continue", "pick")
        kind = dict(marker["fields"])["pick"]
        chosen = next((one for one in marker["offered"] if one == pick or (pick is None and one.startswith(kind))), None)
        reply = person.submit(reply, "/auth/continue", "pick", **({"chosen": chosen} if chosen else {"skip": "1"}))
    more = {} if scopes is None else {"scope": scopes}
    return returned(person.submit(reply, "/auth/continue", "scope" if scopes is None else None, decision="allow", **more))
