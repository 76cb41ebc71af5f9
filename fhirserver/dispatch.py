"""ROUTES, and the one road that every interaction takes: access before, the interaction, commit with audit after.

https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from fhirserver import access, audit, bundle, capability, interactions, metrics, openapi, published, replay, trail
from fhirserver.definitions import Operation, ResourceType
from fhirserver.errors import BadRequest, Conflict, Duplicate, FHIRError, MethodNotAllowed, NotFound
from fhirserver.messages import Alone, Context, Line, Reply, Request
from fhirserver.operations import OPERATIONS, parameters
from fhirserver.operations.plain_writes import way_to
from fhirserver.search.reference import relative
from fhirserver.versions import Changes

RETRIES = 20


@dataclass(frozen=True, slots=True)
class Route:
    """An interaction by method and path. ``{type}``, ``{id}``, ``{version}``, ``{operation}`` are one segment each."""

    method: str
    path: str
    interaction: str

    def pattern(self) -> re.Pattern[str]:
        text = re.escape(self.path).replace(r"\{", "{").replace(r"\}", "}").replace(r"\$", "[$]")
        return re.compile(re.sub(r"\{(\w+)\}", lambda m: rf"(?P<{m[1]}>[A-Za-z0-9\-.]+)", text))


ROUTES = (
    Route("GET", "metadata", "capabilities"),
    Route("GET", "openapi.json", "openapi"),
    Route("POST", "", "bundle"),
    Route("GET", "", "search-system"),
    Route("POST", "_search", "search-system"),
    Route("GET", "_history", "history-system"),
    Route("GET", "{type}", "search-type"),
    Route("POST", "{type}/_search", "search-type"),
    Route("POST", "{type}", "create"),
    Route("PUT", "{type}", "update"),
    Route("PATCH", "{type}", "patch"),
    Route("DELETE", "{type}", "delete"),
    Route("GET", "{type}/_history", "history-type"),
    Route("GET", "{type}/{id}", "read"),
    Route("PUT", "{type}/{id}", "update"),
    Route("PATCH", "{type}/{id}", "patch"),
    Route("DELETE", "{type}/{id}", "delete"),
    Route("GET", "{type}/{id}/_history", "history-instance"),
    Route("GET", "{type}/{id}/_history/{version}", "vread"),
    Route("GET", "{compartment}/{id}/*", "search-compartment"),
    Route("POST", "{compartment}/{id}/_search", "search-compartment"),
    Route("GET", "{compartment}/{id}/{type}", "search-compartment"),
    Route("POST", "{compartment}/{id}/{type}/_search", "search-compartment"),
    Route("POST", "${operation}", "operation"),
    Route("GET", "${operation}", "operation"),
    Route("POST", "{type}/${operation}", "operation"),
    Route("GET", "{type}/${operation}", "operation"),
    Route("POST", "{type}/{id}/${operation}", "operation"),
    Route("GET", "{type}/{id}/${operation}", "operation"),
)
_PATTERNS = [(route, route.pattern()) for route in ROUTES]
_BY_METHOD = {route.method: [row for row in _PATTERNS if row[0].method == route.method] for route in ROUTES}

Handler = Callable[..., Reply]
HANDLERS: dict[str, Handler] = {
    "read": interactions.read,
    "vread": interactions.vread,
    "history-instance": interactions.history_instance,
    "history-type": interactions.history_type,
    "search-type": interactions.search_type,
}
_WRITES = frozenset({"create", "update", "patch", "delete"})


@dataclass(frozen=True, slots=True)
class Call:
    """A request matched to its interaction."""

    interaction: str
    type: ResourceType | None = None
    arguments: tuple[str, ...] = ()
    operation: Operation | None = None

    @property
    def code(self) -> str:
        return self.operation.code if self.operation else ""

    @property
    def writes(self) -> bool:
        return self.interaction in _WRITES or (self.operation is not None and self.operation.affects_state)


def matched(ctx: Context, request: Request) -> Call:
    """Errors: 404 for a path or type that is not served, 405 for a method that the path does not have."""
    rows = _BY_METHOD.get(request.method, ())
    route, match = next(((route, m) for route, pattern in rows if (m := pattern.fullmatch(request.path))), (None, None))
    if route is None or match is None:
        if not any(pattern.fullmatch(request.path) for _, pattern in _PATTERNS):
            raise NotFound("There is nothing at this path.")
        raise MethodNotAllowed(f"This path does not have the method {request.method}.")
    groups = match.groupdict()
    type_ = ctx.store.types.get(groups.get("type", ""))
    if type_ is None and "type" in groups:
        raise NotFound("This resource type is not served here.")
    arguments = tuple(groups[name] for name in ("compartment", "id", "version") if groups.get(name))
    if route.interaction == "operation":
        return Call("operation", type_, arguments, _operation(type_, groups["operation"], bool(arguments), request.method))
    return Call(route.interaction, type_, arguments)


def _operation(type_: ResourceType | None, code: str, instance: bool, method: str) -> Operation:
    level, name = "instance" if instance else "type" if type_ else "system", type_.name if type_ else ""
    for operation in OPERATIONS:
        if operation.code == code and level in operation.levels and operation.concerns(name):
            if method == "GET" and operation.affects_state:
                raise MethodNotAllowed(f"${code} changes state: use POST.")
            return operation
    raise NotFound(f"There is no operation ${code[:40]} at this level.")


def dispatch(ctx: Context, request: Request) -> Reply:
    """The whole of one interaction. A write is planned, then committed by compare-and-set; where another request was
    faster it is planned again on what is there now, so ``If-Match`` answers 412 and a claim has one winner."""
    call = matched(ctx, request)
    name = call.type.name if call.type else ""
    ctx.told.setdefault("interaction", call.interaction)
    ctx.told.setdefault("type", name)
    if call.interaction == "capabilities":
        return Reply(200, capability.statement(ctx))
    if call.interaction == "openapi":
        routes = tuple((route.method, route.path, route.interaction) for route in ROUTES)
        return Reply(200, openapi.document(ctx.base, tuple(ctx.store.types), routes, OPERATIONS))
    begun = time.perf_counter()
    status = 500
    try:
        reply = _heard(ctx, request, call)
        status = reply.status
    except FHIRError as error:
        status = error.status
        raise
    finally:
        metrics.SECONDS.labels(call.interaction).observe(time.perf_counter() - begun)
        metrics.INTERACTIONS.labels(call.interaction, name, call.code, status).inc()
    return reply


def _heard(ctx: Context, request: Request, call: Call) -> Reply:
    """Answered, and the audit told of it."""
    try:
        reply = _answered(ctx, request, call)
    except FHIRError as error:
        outcome = "8" if error.status >= 500 else "4"
        ctx.note(Line(ctx.principal, call.interaction, ctx.now, outcome, query=urlencode(request.query), operation=call.code))
        raise
    if not call.writes and call.interaction != "bundle":
        ctx.note(Line(ctx.principal, call.interaction, ctx.now, "0", reply.touched, urlencode(request.query), call.code))
    return reply


def _answered(ctx: Context, request: Request, call: Call) -> Reply:
    if call.interaction == "bundle":
        access.authenticated(ctx.principal)
        return bundle.process(ctx, request, bundle.Road(dispatch, perform, retried, acts, settle))
    _require(ctx, call)
    if call.writes:
        said = request.headers.get("x-provenance")
        alone = _alone(ctx, call)
        return retried(
            ctx,
            call.interaction,
            call.code,
            lambda fresh: perform(replace(fresh, alone=alone), request, call),
            said,
            replay.named(ctx, request),
        )  # fmt: skip
    _prepared(ctx, request, call)
    return perform(ctx, request, call)


def _prepared(ctx: Context, request: Request, call: Call) -> None:
    """What is made of what is known already, when it is read: AuditEvents, Provenance, the definitions of the server."""
    named = {call.type.name} if call.type else set()
    asked = {word for name, value in request.query for text in (name, value) for word in re.findall(r"\w+", text)}
    if call.type is None or trail.TYPES & (named | asked):
        trail.materialise(ctx.store)
    if published.TYPES & (named | asked):
        published.publish(ctx)


def _alone(ctx: Context, call: Call) -> Alone:
    """For an operation that commits more than once."""

    def alone(plan: Callable[[Context], Any]) -> Any:
        given: list[Any] = []

        def planned(fresh: Context) -> Reply:
            given[:] = [plan(fresh)]
            return Reply(200)

        retried(ctx, call.interaction, call.code, planned)
        return given[0]

    return alone


def retried(
    ctx: Context,
    interaction: str,
    operation: str,
    plan: Callable[[Context], Reply],
    provenance: str | None = None,
    name: replay.Named | None = None,
) -> Reply:
    """Plan and commit, again where a compare-and-set lost. ``provenance`` is what the client says of its write, ``name`` by
    what it may send it again."""
    for left in reversed(range(RETRIES)):
        if name is not None and (before := replay.known(ctx, name)) is not None:
            return before
        fresh = replace(ctx, changes=Changes())
        reply = plan(fresh)
        fresh.changes.answer = name.row(ctx, reply) if name is not None else None
        if not fresh.changes:  # nothing new, and yet something was told
            ctx.note(Line(ctx.principal, interaction, ctx.now, "0", reply.touched, operation=operation))
            if name is not None:
                ctx.store.commit(fresh.changes)
            return reply
        audit.record(fresh, interaction, operation)
        if provenance is not None and fresh.changes.writes:
            said = audit.said_of(fresh, provenance)
            access.resolvable(fresh, [("Provenance", said)])
            audit.add(fresh, said)
        try:
            ctx.store.commit(fresh.changes)
        except Conflict:
            metrics.CONFLICTS.inc()
            if not left:
                raise
            time.sleep(random.uniform(0, 0.02))  # noqa: S311 - so that writers do not meet again
        except Duplicate:
            if left < RETRIES - 1:
                raise
        else:
            return reply
    raise AssertionError("unreachable")


def acts(request: Request) -> bool:
    """Whether a POST is an act of the workflow: it looks at what the plain ones create."""
    return request.method == "POST" and ("$" in request.path or request.path == "Task")


def perform(ctx: Context, request: Request, call: Call | None = None) -> Reply:
    """Read, or plan a write into ``ctx.changes``; commits nothing."""
    if call is None:
        call = matched(ctx, request)
        _require(ctx, call)
    if call.operation is not None:
        return _operate(ctx, request, call)
    if call.interaction == "search-compartment":
        return interactions.search_compartment(ctx, request, call.type, *call.arguments)
    if call.interaction in ("search-system", "history-system"):
        return (interactions.search_system if call.interaction == "search-system" else interactions.history_system)(
            ctx, request
        )
    if call.type is None:
        raise BadRequest("This interaction cannot stand here.")
    if call.interaction in _WRITES:
        return _write(ctx, request, call.type, call)
    return HANDLERS[call.interaction](ctx, request, call.type, *call.arguments)


def settle(ctx: Context, request: Request) -> Request | Reply:
    """What a conditional write comes to, in this context."""
    call = matched(ctx, request)
    if call.type is None or call.interaction not in _WRITES or call.arguments:
        return request
    _require(ctx, call)
    return interactions.settled(ctx, request, call.type)


def _write(ctx: Context, request: Request, type_: ResourceType, call: Call) -> Reply:
    """The type's own way to write; a patch goes the way of the update that it comes to."""
    update = way_to("update", type_)
    if not call.arguments and (call.interaction != "create" or "if-none-exist" in request.headers):
        plain = interactions.settled(ctx, request, type_)
        return plain if isinstance(plain, Reply) else perform(ctx, plain)
    if call.interaction == "patch":
        reply = interactions.patch(ctx, request, type_, call.arguments[0], update)
        if not access.readable(ctx, type_, call.arguments[0]):  # it would tell more than was sent
            reply = replace(reply, body="")
    else:
        reply = way_to(call.interaction, type_)(ctx, request, type_, *call.arguments)
    for reference, *_ in reply.touched:
        written, _, id_ = reference.partition("/")
        access.confined(ctx, ctx.store.types[written], id_, access.LETTERS[call.interaction])
    return reply


def _operate(ctx: Context, request: Request, call: Call) -> Reply:
    operation = call.operation
    assert operation is not None
    inputs = parameters.read(operation, request)
    _references(ctx, operation, inputs)
    named: dict[str, Any] = {"id": call.arguments[0]} if call.arguments else {}
    if operation.type == "Resource":
        named["type"] = call.type
    if call.arguments and call.type and not operation.own_reach:
        access.reached(ctx, call.type, call.arguments[0], "u" if operation.affects_state else "r")
    result: Any = operation.handler(ctx, request, named | inputs)
    if operation.type == "Resource" and operation.affects_state and call.type:
        access.confined(ctx, call.type, call.arguments[0], "u")
    return parameters.answer(operation, result, lambda written: access.shows(ctx, written))


def _references(ctx: Context, operation: Operation, inputs: dict[str, Any]) -> None:
    """What a caller names is what the caller can see; a hidden resource is answered like a missing one."""
    declared = {p.name: p for p in operation.inputs if p.type == "Reference"}
    named = [name for name in inputs if name in declared]
    parameters.targeted([declared[name] for name in named], inputs, ctx.base)
    access.resolvable(ctx, [("Parameters", {name: inputs[name]}) for name in named])
    inputs |= {name: relative(inputs[name], ctx.base) for name in named}


def _require(ctx: Context, call: Call) -> None:
    if call.interaction in ("search-system", "history-system") or (call.type is None and call.interaction != "bundle"):
        access.authenticated(ctx.principal)  # each type is asked for as it is looked at
        return
    if call.type is None:
        raise BadRequest("This interaction cannot stand here.")
    if call.operation is not None and call.operation.free and not call.arguments:
        access.authenticated(ctx.principal)
        return
    if call.operation is not None:
        letter = "u" if call.operation.affects_state else "r" if call.arguments else "s"
    else:
        letter = access.LETTERS[call.interaction]
    access.require(ctx.principal, call.type, letter)
    if call.interaction in _WRITES and not call.arguments and call.interaction != "create":
        access.require(ctx.principal, call.type, "s")
