"""What is counted and timed for Prometheus. Labels are names of the standard and of this server: never of a patient.

With several workers each keeps its numbers in files below ``PROMETHEUS_MULTIPROC_DIR``, and any of them answers for all.
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import REGISTRY, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

disable_created_metrics()  # type: ignore[no-untyped-call]
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

INTERACTIONS = Counter(
    "fhirserver_interactions", "FHIR interactions, the entries of a batch too", ("interaction", "type", "operation", "status")
)
SECONDS = Histogram(
    "fhirserver_interaction_seconds", "Time of a FHIR interaction, its commit included", ("interaction",), buckets=_BUCKETS
)
REQUESTS = Counter("fhirserver_http_requests", "HTTP requests", ("area", "method", "status"))
CONFLICTS = Counter("fhirserver_conflicts", "Writes planned again, since another was faster")
JOBS = Counter("fhirserver_jobs", "Runs of background work", ("job", "outcome"))

# name, help, label, and its values now
Gauge = tuple[str, str, str, Iterable[tuple[str, float]]]
Gauges = Callable[[], Iterable[Gauge]]


class _State:
    """What is so at the moment of asking."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, text, label, values in self._gauges():
            family = GaugeMetricFamily(name, text, labels=[label] if label else [])
            for value, number in values:
                family.add_metric([value] if label else [], number)
            yield family


def exposition(gauges: Gauges) -> bytes:
    """All of it, as text. ``gauges`` are those that this process finds out now."""
    registry = CollectorRegistry()
    registry.register(_State(gauges))
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(REGISTRY) + generate_latest(registry)
