"""The commands about DICOM sources: ``source add | remove | list``."""

from __future__ import annotations

import argparse
import hashlib
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pymongo.database import Database

from auth.store import AuthStore
from fhirserver.settings import Settings
from imaging.dimse.sources import Source, Sources

Opened = Callable[[Settings], AbstractContextManager[Database[dict[str, Any]]]]


def add_commands(commands: Any, common: argparse.ArgumentParser, opened: Opened) -> None:
    """``opened`` gives the database for as long as a command needs it."""

    def command(name: str, help_: str, run: Callable[[argparse.Namespace, Settings, Database[dict[str, Any]]], None]) -> Any:
        parser = group.add_parser(name, parents=[common], help=help_)

        def running(options: argparse.Namespace, settings: Settings) -> int:
            with opened(settings) as database:
                run(options, settings, database)
            return 0

        parser.set_defaults(run=running)
        return parser

    group = commands.add_parser("source", help="modalities and PACS that send by C-STORE").add_subparsers(
        required=True, metavar="COMMAND"
    )
    add = command("add", "register a source, or replace its registration", _add)
    add.add_argument("title", metavar="AETITLE", help="the AE title by which it calls")
    add.add_argument("--organization", metavar="ID", help="whose images it sends; else the installation's own")
    add.add_argument("--certificate", type=Path, metavar="FILE", help="the one that it shows, PEM: what proves it")
    add.add_argument("--address", action="append", default=[], metavar="CIDR", help="where it calls from; may be repeated")
    add.add_argument("--charset", metavar="TERM", help='of data sets that do not tell theirs, such as "ISO_IR 100"')
    add.add_argument("--quiet-seconds", type=float, metavar="N", help="a study is complete when nothing came of it for so long")
    remove = command("remove", "end a registration", _remove)
    remove.add_argument("title", metavar="AETITLE")
    remove.add_argument("--organization", metavar="ID", help="whose; else the installation's own")
    command("list", "those that there are", _list)


def _add(options: argparse.Namespace, settings: Settings, database: Database[dict[str, Any]]) -> None:
    organization = options.organization or settings.organization
    AuthStore(database, settings.organization).clients.distinct(organization)
    fingerprint = None
    if options.certificate:
        try:
            fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(options.certificate.read_text().strip())).hexdigest()
        except ValueError:
            raise ValueError(f"{options.certificate}: not a certificate (PEM)") from None
    source = Source(
        options.title, organization, fingerprint, tuple(options.address), options.charset, options.quiet_seconds
    )  # fmt: skip
    new = Sources(database).add(source)
    print(_told(source) + ("" if new else " (was there: replaced)"))
    if not fingerprint and not options.address:
        print("without --certificate or --address it is taken on the loopback interface alone")
    elif not fingerprint and not settings.dimse_by_address:
        print("an address alone proves it only where FHIRSERVER_DIMSE_BY_ADDRESS is set")


def _remove(options: argparse.Namespace, settings: Settings, database: Database[dict[str, Any]]) -> None:
    organization = options.organization or settings.organization
    if not Sources(database).remove(options.title, organization):
        raise ValueError(f"no source {options.title} of {organization}")
    print(f"source {options.title} of {organization}: removed")


def _list(options: argparse.Namespace, settings: Settings, database: Database[dict[str, Any]]) -> None:
    for source in Sources(database).all():
        print(_told(source))


def _told(source: Source) -> str:
    said = {
        "certificate": source.certificate and f"{source.certificate[:16]}…",
        "address": " ".join(source.addresses),
        "charset": source.charset,
        "quiet seconds": f"{source.quiet:g}" if source.quiet else "",
    }
    return f"source {source.title}: {source.organization}" + "".join(f", {k} {v}" for k, v in said.items() if v)
