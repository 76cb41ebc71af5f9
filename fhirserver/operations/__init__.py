"""The custom operations, one file each, and the plain writes that are the same acts said in FHIR."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhirserver.definitions import Operation
from fhirserver.messages import Reply

OPERATIONS: tuple[Operation, ...] = ()
PLAIN_WRITES: Mapping[tuple[str, str], Callable[..., Reply]] = {}
