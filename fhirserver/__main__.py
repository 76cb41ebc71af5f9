"""The command line: serve, demo, user, client, provider, token, keys, source, gateway, destination, route, deliveries, store,
check-images, sweep-images, viewer, backup, restore, reindex."""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from fhirserver import __version__, backup, demo, forwarding, gateway, images, logs, modalities, registration, running
from fhirserver.app import Installation, connect
from fhirserver.pages.viewer import installing
from fhirserver.settings import Settings


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
    names = {"host": "host", "port": "port", "data": "data_dir", "tls_cert": "tls_cert", "tls_key": "tls_key"}
    return {name: getattr(options, option) for option, name in names.items() if getattr(options, option, None) is not None}


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, metavar="DIR", help="data folder (FHIRSERVER_DATA_DIR, else ./data)")
    parser = argparse.ArgumentParser(prog="fhirserver", description="A FHIR R4 server for teleradiology.")
    parser.add_argument("--version", action="version", version=f"fhirserver {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="run the server")
    serve.add_argument("--host", help="address to listen on (FHIRSERVER_HOST, else 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (FHIRSERVER_PORT, else 8000)")
    serve.add_argument("--workers", type=int, default=1, metavar="N", help="processes (1)")
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM: where no proxy does TLS")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    serve.set_defaults(run=_serve)

    demo_ = commands.add_parser("demo", parents=[common], help="load demo data and print how to try it")
    demo_.add_argument("--serve", action="store_true", help="run the server too")
    demo_.add_argument("--host")
    demo_.add_argument("--port", type=int)
    demo_.set_defaults(run=_demo)

    registration.add_commands(commands, common, _database)
    forwarding.add_commands(commands, common, _database)
    images.add_commands(commands, common, _database)
    modalities.add_commands(commands, common, _database)

    gateway_ = commands.add_parser("gateway", help="take C-STORE on a facility's network and send it on by HTTPS")
    gateway.add_arguments(gateway_)
    gateway_.set_defaults(run=lambda options, _: gateway.run(options))

    viewer = commands.add_parser("viewer", help="the image viewer, OHIF").add_subparsers(required=True, metavar="COMMAND")
    install = viewer.add_parser(
        "install", parents=[common], help="fetch it by npm, check it and unpack it into the data folder; once"
    )
    install.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the package, where there is no way to npm")
    install.set_defaults(run=_install_viewer)

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


def _install_viewer(options: argparse.Namespace, settings: Settings) -> int:
    installing.install(settings.data_dir, options.file, lambda step: print(step, file=sys.stderr, flush=True))
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
