"""The commands about people, systems and apps: ``user``, ``client``, ``provider``, ``token``, ``keys``."""

from __future__ import annotations

import argparse
import getpass
import json
import secrets
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pymongo.database import Database

from auth import scopes
from auth.jwks import KeySets
from auth.keys import new_signing_key, public_keys
from auth.principal import ROLES
from auth.store import AuthStore, otpauth
from fhirserver import scoped
from fhirserver.resources import served
from fhirserver.settings import Settings

Opened = Callable[[Settings], AbstractContextManager[Database[dict[str, Any]]]]


def add_commands(commands: Any, common: argparse.ArgumentParser, opened: Opened) -> None:
    """``opened`` gives the database for as long as a command needs it."""

    def command(group: Any, name: str, help_: str, run: Callable[[argparse.Namespace, Settings, AuthStore], None]) -> Any:
        parser = group.add_parser(name, parents=[common], help=help_)

        def running(options: argparse.Namespace, settings: Settings) -> int:
            with opened(settings) as database:
                run(options, settings, AuthStore(database, settings.organization))
            return 0

        parser.set_defaults(run=running)
        return parser

    _user(commands.add_parser("user", help="people").add_subparsers(required=True, metavar="COMMAND"), command)
    _client(commands.add_parser("client", help="systems and apps").add_subparsers(required=True, metavar="COMMAND"), command)
    providers = commands.add_parser("provider", help="hospitals' own OpenID providers").add_subparsers(
        required=True, metavar="COMMAND"
    )
    provider = command(providers, "add", "let people sign in by a provider, or say anew", _provider_add)
    provider.add_argument("name", help="in the URL to register there: /auth/login/NAME/return")
    provider.add_argument("--issuer", required=True, metavar="URL")
    provider.add_argument("--client-id", required=True, metavar="ID", help="this server, as the provider knows it")
    provider.add_argument("--secret", required=True)
    provider.add_argument("--claim", default="sub", help="of the id_token, that names the person here (sub)")
    provider.add_argument("--title", help="on the sign-in page")
    signing = commands.add_parser("keys", help="the keys that id_tokens are signed with").add_subparsers(
        required=True, metavar="COMMAND"
    )
    command(signing, "rotate", "sign with a new key; the last ones stay published", _keys_rotate)
    token = command(commands, "token", "print an access token and nothing else", _token)
    token.add_argument("--client", required=True, metavar="ID")
    token.add_argument("--scope", required=True)
    token.add_argument("--user", metavar="NAME", help="the person that the token is for")
    token.add_argument("--patient", metavar="ID", help="the patient to whom patient/ scopes are confined")
    token.add_argument("--seconds", type=int, default=3600, help="how long it is good (3600)")


def _user(group: Any, command: Any) -> None:
    add = command(group, "add", "register a person, or say anew what they are", _user_add)
    add.add_argument("name")
    add.add_argument("--role", action="append", required=True, choices=ROLES, help="may be repeated")
    add.add_argument("--practitioner", metavar="ID", help="their Practitioner resource")
    add.add_argument("--organization", metavar="ID", help="theirs; else the installation's own")
    add.add_argument("--display", metavar="NAME", help="as pages call them")
    add.add_argument("--external", metavar="PROVIDER=SUBJECT", help="who they are at a hospital's own OpenID provider")
    command(group, "password", "set a password: typed, or the first line of standard input", _user_password).add_argument(
        "name"
    )
    command(group, "totp", "a new second factor: prints the URI for an authenticator app", _user_totp).add_argument("name")
    command(group, "enable", "let a person in again", _user_enable).add_argument("name")
    command(group, "disable", "end a person's sessions and tokens", _user_disable).add_argument("name")


def _client(group: Any, command: Any) -> None:
    add = command(group, "add", "register a system or an app, or replace its registration", _client_add)
    add.add_argument("id")
    proof = add.add_mutually_exclusive_group(required=True)
    proof.add_argument("--secret", help="- makes one and prints it")
    proof.add_argument("--jwks", metavar="FILE-or-URL", help="its public keys: the safest")
    proof.add_argument("--public", action="store_true", help="an app that can keep no secret")
    add.add_argument("--scope", required=True, help="the most that it may be given")
    add.add_argument(
        "--redirect-uri", action="append", default=[], metavar="URI", help="where people come back; may be repeated"
    )
    add.add_argument("--launch-uri", metavar="URI", help="where it is opened from here")
    add.add_argument("--organization", metavar="ID", help="whose it is; else the installation's own")
    add.add_argument("--name", help="as people are told")
    command(group, "remove", "end a registration and its tokens", _client_remove).add_argument("id")


# ---------------------------------------------------------------- people


def _user_add(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    new = store.add_user(options.name, tuple(options.role), options.practitioner, options.organization, options.display or "")
    if options.external:
        provider, sign, subject = options.external.partition("=")
        if not sign or provider not in [row["_id"] for row in store.providers()]:
            raise ValueError("--external is PROVIDER=SUBJECT, with a provider that was added")
        store.people.link(options.name, provider, subject)
    print(f"user {options.name}: {', '.join(options.role)}" + ("" if new else " (was there: replaced; password kept)"))


def _there(store: AuthStore, name: str) -> None:
    if store.people.get(name) is None:
        raise ValueError(f"no user {name}; add them with: fhirserver user add")


def _user_password(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    _there(store, options.name)
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Again: "):
            raise ValueError("the two are not the same")
    else:
        password = sys.stdin.readline().rstrip("\n")
    store.people.set_password(options.name, password)
    print(f"user {options.name}: password set")


def _user_totp(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    _there(store, options.name)
    print(otpauth(store.people.set_totp(options.name), options.name, settings.organization_name))


def _user_disable(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    _there(store, options.name)
    store.disable_user(options.name)
    print(f"user {options.name}: disabled; let them in again with: fhirserver user enable")


def _user_enable(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    _there(store, options.name)
    store.people.enable(options.name)
    print(f"user {options.name}: enabled")


# ---------------------------------------------------------------- systems and apps


def _client_add(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    types = served(settings.resource_types)
    unknown = [
        word
        for word in options.scope.split()
        if not (scoped.grantable(scope, types) if (scope := scopes.parse(word)) else scopes.special(word))
    ]
    if unknown:
        raise ValueError(f"not a scope that this server grants: {' '.join(unknown)} (example: system/*.cruds)")
    if options.public and not options.redirect_uri:
        raise ValueError("a public client is used by people: give it a --redirect-uri")
    jwks, jwks_uri = _key_set(options.jwks)
    secret = secrets.token_urlsafe(32) if options.secret == "-" else options.secret
    new = store.clients.add(
        options.id, options.scope, secret=secret, jwks=jwks, jwks_uri=jwks_uri, organization=options.organization,
        redirect_uris=tuple(options.redirect_uri), launch_uri=options.launch_uri, name=options.name or "",
    )  # fmt: skip
    print(f"client {options.id}: {options.scope}" + ("" if new else " (was there: replaced)"))
    if jwks:
        print("when its keys change, register it again; with a URL of its key set that is not needed")
    if options.secret == "-":
        print(secret)


def _key_set(source: str | None) -> tuple[dict[str, Any] | None, str | None]:
    if source is None:
        return None, None
    if source.startswith(("http://", "https://")):
        if KeySets().get(source) is None:
            raise ValueError(f"no key set at {source}")
        return None, source
    try:
        return public_keys(json.loads(Path(source).read_text())), None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _client_remove(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    if not store.remove_client(options.id):
        raise ValueError(f"no client {options.id}")
    print(f"client {options.id}: removed")


def _provider_add(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    said = {"title": options.title or options.name, "issuer": options.issuer.rstrip("/"), "client_id": options.client_id}
    store.add_provider(options.name, said | {"client_secret": options.secret, "claim": options.claim})
    print(f"provider {options.name}: return URL {settings.base}/auth/login/{options.name}/return")


def _keys_rotate(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    kid, key = new_signing_key()
    store.add_signing_key(kid, key)
    print(f"signing with {kid}")


def _token(options: argparse.Namespace, settings: Settings, store: AuthStore) -> None:
    client = store.clients.get(options.client)
    user = store.people.get(options.user) if options.user else None
    if client is None:
        raise ValueError(f"no client {options.client}; add it with: fhirserver client add")
    if options.user:
        _there(store, options.user)
    if options.patient is None and "patient/" in options.scope:
        raise ValueError("patient/ scopes are confined to a patient: give --patient ID")
    granted = scopes.narrowed(options.scope, client["scope"], specials=True)
    if not granted:
        raise ValueError(f"the client is registered for: {client['scope']}")
    print(store.issue(client, user, granted, options.seconds, options.patient))
