"""The command line: ``fhirserver serve | demo | user | client | token | backup | restore | reindex``."""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from auth.jwks import KeySets
from auth.keys import public_keys
from auth.principal import ROLES
from auth.scopes import narrowed, parse
from auth.store import AuthStore
from fhirserver import backup, demo, logs, running
from fhirserver.app import Installation, connect
from fhirserver.settings import Settings

_LEVELS = frozenset({"system", "user"})


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        settings = Settings(**_given(options))
        logs.configure(settings.log_format)
        result: int = options.run(options, settings)
    except (RuntimeError, ValueError, OSError, PyMongoError) as error:
        print(f"fhirserver: {error}", file=sys.stderr)
        return 1
    return result


def _given(options: argparse.Namespace) -> dict[str, Any]:
    names = {"host": "host", "port": "port", "data": "data_dir"}
    return {name: getattr(options, option) for option, name in names.items() if getattr(options, option, None) is not None}


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, metavar="DIR", help="data folder (FHIRSERVER_DATA_DIR, else ./data)")
    parser = argparse.ArgumentParser(prog="fhirserver", description="A FHIR R4 server for teleradiology.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="run the server")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int)
    serve.add_argument("--workers", type=int, default=1, metavar="N")
    serve.set_defaults(run=_serve)

    demo_ = commands.add_parser("demo", parents=[common], help="load demo data and print how to try it")
    demo_.add_argument("--serve", action="store_true", help="run the server too")
    demo_.add_argument("--host")
    demo_.add_argument("--port", type=int)
    demo_.set_defaults(run=_demo)

    user = commands.add_parser("user", help="people").add_subparsers(required=True, metavar="add")
    add_user = user.add_parser("add", parents=[common], help="register a person")
    add_user.add_argument("name")
    add_user.add_argument("--role", action="append", required=True, choices=ROLES)
    add_user.add_argument("--practitioner", metavar="ID")
    add_user.add_argument("--organization", metavar="ID")
    add_user.set_defaults(run=_user_add)

    client = commands.add_parser("client", help="systems and apps").add_subparsers(required=True, metavar="add")
    add_client = client.add_parser("add", parents=[common], help="register a system or an app")
    add_client.add_argument("id")
    proof = add_client.add_mutually_exclusive_group(required=True)
    proof.add_argument("--secret")
    proof.add_argument("--jwks", metavar="FILE-or-URL")
    proof.add_argument("--public", action="store_true")
    add_client.add_argument("--scope", required=True)
    add_client.add_argument("--redirect-uri", action="append", default=[])
    add_client.add_argument("--launch-uri")
    add_client.add_argument("--organization", metavar="ID")
    add_client.set_defaults(run=_client_add)

    token = commands.add_parser("token", parents=[common], help="print an access token and nothing else")
    token.add_argument("--client", required=True, metavar="ID")
    token.add_argument("--scope", required=True)
    token.add_argument("--user", metavar="NAME", help="the person that the token is for")
    token.add_argument("--seconds", type=int, default=3600)
    token.set_defaults(run=_token)

    backup_ = commands.add_parser("backup", parents=[common], help="write the database and the images into one file")
    backup_.add_argument("file", metavar="FILE", help="- is standard output")
    backup_.set_defaults(run=_backup)

    restore = commands.add_parser("restore", parents=[common], help="read a backup into a new data folder or an empty database")
    restore.add_argument("file", metavar="FILE", help="- is standard input")
    restore.set_defaults(run=_restore)

    reindex = commands.add_parser(
        "reindex", parents=[common], help="index by the search parameters that were added, and show how far"
    )
    reindex.set_defaults(run=_reindex)
    return parser


@contextmanager
def _database(settings: Settings) -> Iterator[Database[dict[str, Any]]]:
    """The configured database, that of the server running on the data folder, or one started for this command."""
    with running.database_uri(settings) as uri, connect(uri) as client:
        yield client[settings.database]


def _serve(options: argparse.Namespace, settings: Settings) -> int:
    return running.serve(settings, options.workers)


def _demo(options: argparse.Namespace, settings: Settings) -> int:
    if options.serve:
        return running.serve(settings, 1, _load_demo)
    with running.database_uri(settings) as uri:
        _load_demo(settings, uri)
    return 0


def _load_demo(settings: Settings, uri: str) -> None:
    with connect(uri) as client:
        installation = Installation(settings, client[settings.database])
        installation.prepare()
        print(demo.text(demo.load(settings, installation, lambda step: print(step, file=sys.stderr, flush=True))), flush=True)


def _user_add(options: argparse.Namespace, settings: Settings) -> int:
    with _database(settings) as database:
        store = AuthStore(database, settings.organization)
        store.add_user(options.name, tuple(options.role), options.practitioner, options.organization)
    print(f"user {options.name}: {', '.join(options.role)}")
    return 0


def _client_add(options: argparse.Namespace, settings: Settings) -> int:
    unknown = [word for word in options.scope.split() if (scope := parse(word)) is None or scope.level not in _LEVELS]
    if unknown:
        raise ValueError(f"not a scope that this server grants: {' '.join(unknown)} (example: system/*.cruds)")
    jwks, jwks_uri = _key_set(options.jwks)
    with _database(settings) as database:
        AuthStore(database, settings.organization).add_client(
            options.id, options.scope, secret=options.secret, jwks=jwks, jwks_uri=jwks_uri, organization=options.organization,
            redirect_uris=tuple(options.redirect_uri), launch_uri=options.launch_uri,
        )  # fmt: skip
    print(f"client {options.id}: {options.scope}")
    return 0


def _key_set(source: str | None) -> tuple[dict[str, Any] | None, str | None]:
    if source is None:
        return None, None
    if source.startswith(("http://", "https://")):
        if KeySets().get(source) is None:
            raise ValueError(f"no key set at {source}")
        return None, source
    return public_keys(json.loads(Path(source).read_text())), None


def _token(options: argparse.Namespace, settings: Settings) -> int:
    with _database(settings) as database:
        store = AuthStore(database, settings.organization)
        client = store.client(options.client)
        user = store.user(options.user) if options.user else None
        if client is None:
            raise ValueError(f"no client {options.client}; add it with: fhirserver client add")
        if options.user and user is None:
            raise ValueError(f"no user {options.user}; add them with: fhirserver user add")
        granted = narrowed(options.scope, client["scope"], _LEVELS)
        if not granted:
            raise ValueError(f"the client is registered for: {client['scope']}")
        print(store.issue(client, user, granted, options.seconds))
    return 0


def _backup(options: argparse.Namespace, settings: Settings) -> int:
    with _database(settings) as database:
        backup.backup(Installation(settings, database), options.file)
    return 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    if running.of_running_server(settings):
        raise RuntimeError(f"a server is running on the data folder {settings.data_dir}; a backup goes into a new one")
    with _database(settings) as database:
        backup.restore(Installation(settings, database), options.file)
    return 0


def _reindex(options: argparse.Namespace, settings: Settings) -> int:
    """Does it, or watches the server that does."""
    holder = uuid.uuid4().hex
    with _database(settings) as database:
        installation = Installation(settings, database)
        installation.definitions.refresh()
        before = ""
        while True:
            mine = installation.store.registers.lease("reindexing", holder, 30)
            left = installation.reindexing.step(1.0) if mine else bool(installation.reindexing.progress())
            told = ", ".join(f"{name}: {progress}" for name, progress in installation.reindexing.progress().items())
            if told and told != before:
                sys.stderr.write(f"\r{told}\x1b[K" if sys.stderr.isatty() else f"{told}\n")
            before = told
            if not left:
                break
            time.sleep(0.5)
        installation.definitions.refresh()
        waiting = {f"{t.name}.{code}" for t in installation.store.types.values() for code in t.pending}
        sys.stderr.write("\r\x1b[K" if sys.stderr.isatty() else "")
    print("waiting: " + ", ".join(sorted(waiting)) if waiting else "everything is indexed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
