"""The commands about other archives: ``destination``, ``route``, ``deliveries``. Secrets are read, and never shown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pymongo.database import Database

from fhirserver.app import Installation
from fhirserver.moments import milliseconds
from fhirserver.settings import Settings
from imaging.peers.destinations import PRIORITIES, Destination, Rule

Opened = Callable[[Settings], AbstractContextManager[Database[dict[str, Any]]]]


def add_commands(commands: Any, common: argparse.ArgumentParser, opened: Opened) -> None:
    """``opened`` gives the database for as long as a command needs it."""

    def command(group: Any, name: str, help_: str, run: Callable[[argparse.Namespace, Installation], None]) -> Any:
        parser = group.add_parser(name, parents=[common], help=help_)

        def running(options: argparse.Namespace, settings: Settings) -> int:
            with opened(settings) as database:
                run(options, Installation(settings, database))
            return 0

        parser.set_defaults(run=running)
        return parser

    def group(name: str, help_: str) -> Any:
        return commands.add_parser(name, help=help_).add_subparsers(required=True, metavar="COMMAND")

    destinations = group("destination", "other centres and archives that studies are sent to and fetched from")
    _destination(command(destinations, "add", "configure one, or say anew", _add))
    remove = command(destinations, "remove", "forget one, its rules and its queue", _remove)
    remove.add_argument("name")
    command(destinations, "list", "all of them, without their secrets", _list)

    routes = group("route", "the rules by which complete studies are sent on")
    add = command(routes, "add", "studies that fit go to a destination", _route_add)
    add.add_argument("name")
    add.add_argument("--to", required=True, metavar="DESTINATION")
    add.add_argument("--facility", metavar="ID", help="whose studies; else those of all that have agreed")
    add.add_argument("--modality", metavar="CODE", help="such as CT")
    add.add_argument("--body-part", metavar="TEXT", help="as DICOM's Body Part Examined, such as HEAD")
    add.add_argument("--priority", choices=PRIORITIES, help="of the order that the study answers")
    route_remove = command(routes, "remove", "end a rule; what is queued is sent all the same", _route_remove)
    route_remove.add_argument("name")
    command(routes, "list", "all of them", _route_list)

    deliveries = command(commands, "deliveries", "what waits to be sent, was sent, and failed", _deliveries)
    deliveries.add_argument("--retry", metavar="DESTINATION", help="try at once what waits or failed")


def _destination(add: Any) -> None:
    add.add_argument("name")
    add.add_argument("--owner", metavar="ID", help="who sends and asks; else the installation's own organisation")
    add.add_argument("--organization", metavar="ID", help="whose system it is")
    add.add_argument("--send", action="store_true", help="studies may be sent there")
    add.add_argument("--query", action="store_true", help="earlier studies may be fetched from there")
    add.add_argument("--dimse", metavar="HOST:PORT", help="by C-STORE, C-FIND and C-GET")
    add.add_argument("--called", default="", metavar="AE", help="its AE title")
    add.add_argument("--calling", default="FHIRSERVER", metavar="AE", help="ours, as it knows us (FHIRSERVER)")
    add.add_argument("--move-to", default="", metavar="AE", help="our listener, for a peer that knows C-MOVE alone")
    add.add_argument("--tls", action="store_true", help="DIMSE over TLS")
    add.add_argument("--url", default="", metavar="URL", help="its DICOMweb, https")
    add.add_argument("--token", metavar="TOKEN", help="a bearer token; - reads it from standard input")
    add.add_argument("--client-id", default="", metavar="ID", help="ours at its authorization server")
    add.add_argument("--token-url", default="", metavar="URL", help="of that server")
    add.add_argument("--secret", metavar="SECRET", help="the client's; - reads it from standard input")
    add.add_argument("--client-key", type=Path, metavar="FILE", help="the client's private key, JWK or PEM: the safest")
    add.add_argument("--scope", default="", help="to ask for")
    add.add_argument("--ca", type=Path, metavar="FILE", help="who signed its certificate, PEM; else the system's")
    add.add_argument("--cert", type=Path, metavar="FILE", help="our certificate, PEM")
    add.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM")
    add.add_argument("--patient-system", metavar="URI", help="of the numbers it knows patients by; else their national ones")
    add.add_argument("--issuer", metavar="TEXT", help="its Issuer of Patient ID")


def _add(options: argparse.Namespace, installation: Installation) -> None:
    if bool(options.dimse) == bool(options.url):
        raise ValueError("give exactly one of --dimse and --url")
    host, _, port = (options.dimse or ":0").rpartition(":")
    if not port.isdecimal():
        raise ValueError("--dimse is a host and a port: HOST:PORT")
    secrets = {
        "token": _given(options.token),
        "secret": _given(options.secret),
        "client_key": options.client_key.read_text() if options.client_key else None,
        "key": options.key.read_text() if options.key else None,
    }
    destination = Destination(
        name=options.name,
        owner=options.owner or installation.settings.organization,
        kind="dimse" if options.dimse else "dicomweb",
        organization=options.organization,
        sends=options.send,
        queries=options.query,
        host=host.strip("[]"),
        port=int(port),
        called=options.called,
        calling=options.calling,
        move_to=options.move_to,
        tls=options.tls,
        url=options.url.rstrip("/"),
        client_id=options.client_id,
        token_url=options.token_url,
        scope=options.scope,
        ca=options.ca.read_text() if options.ca else "",
        cert=options.cert.read_text() if options.cert else "",
        patient_system=options.patient_system,
        issuer=options.issuer,
        secrets={name: value for name, value in secrets.items() if value},
    )
    new = installation.images.destinations.add(destination)
    print(f"destination {destination.name}: {_where(destination)}" + ("" if new else " (was there: replaced)"))


def _given(secret: str | None) -> str | None:
    return sys.stdin.readline().rstrip("\n") if secret == "-" else secret


def _where(destination: Destination) -> str:
    if destination.kind == "dicomweb":
        return destination.url
    return f"{destination.called}@{destination.host}:{destination.port}{' over TLS' if destination.tls else ''}"


def _remove(options: argparse.Namespace, installation: Installation) -> None:
    if not installation.images.destinations.remove(options.name):
        raise ValueError(f"no destination {options.name}")
    installation.images.deliveries.drop(options.name)
    print(f"destination {options.name}: removed")


def _list(options: argparse.Namespace, installation: Installation) -> None:
    for one in installation.images.destinations.all():
        uses = " and ".join(use for use, on in (("send", one.sends), ("query", one.queries)) if on)
        proof = ", ".join(_PROOFS[name] for name in sorted(one.secrets))
        print(
            f"{one.name}: {_where(one)}; {uses}; of {one.owner}"
            + (f"; system of {one.organization}" if one.organization else "")
            + (f"; with {proof}" if proof else "")
        )


_PROOFS = {
    "token": "a bearer token",
    "secret": "a client's secret",
    "client_key": "a client's private key",
    "key": "a client certificate",
}


# ---------------------------------------------------------------- rules and queue


def _route_add(options: argparse.Namespace, installation: Installation) -> None:
    to = installation.images.destinations.get(options.to)
    if to and options.facility and to.owner not in (options.facility, installation.settings.organization):
        raise ValueError(f"{to.name} is a destination of {to.owner}, which sends its own studies there and nobody else's")
    rule = Rule(options.name, options.to, options.facility, options.modality, options.body_part, options.priority)
    new = installation.images.destinations.add_rule(rule)
    print(_said(rule) + ("" if new else " (was there: replaced)"))


def _route_remove(options: argparse.Namespace, installation: Installation) -> None:
    if not installation.images.destinations.remove_rule(options.name):
        raise ValueError(f"no route {options.name}")
    print(f"route {options.name}: removed")


def _route_list(options: argparse.Namespace, installation: Installation) -> None:
    for rule in installation.images.destinations.rules():
        print(_said(rule))


def _said(rule: Rule) -> str:
    parts = (
        ("facility", rule.facility),
        ("modality", rule.modality),
        ("body part", rule.body_part),
        ("priority", rule.priority),
    )
    wanted = ", ".join(f"{name} {value}" for name, value in parts if value is not None)
    return f"route {rule.name}: {wanted or 'every study'} -> {rule.destination}"


def _deliveries(options: argparse.Namespace, installation: Installation) -> None:
    now = milliseconds(installation.clock())
    if options.retry:
        if installation.images.destinations.get(options.retry) is None:
            raise ValueError(f"no destination {options.retry}")
        count = installation.images.deliveries.retry(options.retry, now)
        installation.images.destinations.reached(options.retry)
        print(f"{options.retry}: {count} studies are tried again")
        return
    for one in installation.images.destinations.all():
        if one.sends:
            counted, outage = (
                installation.images.deliveries.figures(one.name),
                installation.images.destinations.outage(one.name),
            )
            oldest = f", the oldest for {(now - counted['oldest']) // 60_000} min" if counted["oldest"] else ""
            print(f"{one.name}: {counted['waiting']} waiting{oldest}, {counted['sent']} sent, {counted['failed']} failed")
            if outage:
                print(f"  not reached since {_when(outage.since)}: {outage.reason}; next at {_when(outage.until)}")
            for row in installation.images.deliveries.failures(one.name)[:20]:
                print(f"  failed, of {row.owner}: study {row.study}: {row.reason}")


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
