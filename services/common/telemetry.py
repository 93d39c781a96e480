"""Logs, metrics and spans: one set-up for every service.

Logs are one JSON object a line, with the event's name, its fields, and the request and trace ids of the call that
they belong to. They never hold image bytes, tokens, or URLs with credentials.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

from services.common.calibration import SCORE_EDGES, InvalidCalibration, read_calibration
from services.common.context import request_id
from services.common.drift import DriftCollector
from services.common.settings import ServiceSettings

__all__ = [
    "CALLS",
    "CALL_SECONDS",
    "DETECTOR_RESULTS",
    "DETECTOR_SCORES",
    "DETECTOR_SECONDS",
    "IN_FLIGHT",
    "set_up_telemetry",
]

CALLS = Counter("pentimento_calls", "gRPC calls served, by method and status code.", ["method", "code"])
CALL_SECONDS = Histogram(
    "pentimento_call_seconds",
    "Time to serve a gRPC call.",
    ["method"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge("pentimento_calls_in_flight", "gRPC calls being served.", ["method"])
DETECTOR_SECONDS = Histogram(
    "pentimento_detector_seconds",
    "Time that a detector took for one picture.",
    ["detector"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
DETECTOR_RESULTS = Counter(
    "pentimento_detector_results", "Pictures by what became of them in a detector.", ["detector", "applicability"]
)
DETECTOR_SCORES = Histogram(
    "pentimento_detector_score",
    "Distribution of a detector's scores; the buckets are those of the calibration's histogram.",
    ["detector", "version"],
    buckets=SCORE_EDGES[1:],
)


def _add_call_ids(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if current := request_id():
        event["request_id"] = current
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = format(span.trace_id, "032x")
    return event


def _set_up_logs(name: str, settings: ServiceSettings) -> None:
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_call_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if settings.log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    level = logging.getLevelNamesMapping()[settings.log_level]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=name)
    # What libraries log through the standard library takes the same form.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    # A stream whose reader goes away is closed from another task, of which OpenTelemetry complains with a trace.
    logging.getLogger("opentelemetry.context").setLevel(logging.CRITICAL)


def _set_up_spans(name: str, version: str, settings: ServiceSettings) -> None:
    if not settings.otlp_endpoint:
        return
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: f"pentimento-{name}", SERVICE_VERSION: version}))
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_endpoint.startswith("http:"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _set_up_drift(settings: ServiceSettings) -> None:
    try:
        calibration = read_calibration(settings.calibration)
    except (InvalidCalibration, OSError) as error:
        raise SystemExit(f"setting PENTIMENTO_CALIBRATION: {error}") from None
    if calibration is not None:
        REGISTRY.register(DriftCollector(calibration, DETECTOR_SCORES))


def set_up_telemetry(name: str, version: str, settings: ServiceSettings) -> None:
    """Configures logs, spans and the metrics endpoint of this process.

    Args:
        name: the service's name: passive, deeplearning, faces or orchestrator.
        version: the service's version.
        settings: of the service.

    Raises:
        SystemExit: the calibration that the settings name cannot be read.
    """
    _set_up_logs(name, settings)
    _set_up_spans(name, version, settings)
    _set_up_drift(settings)
    if settings.metrics_listen:
        host, _, port = settings.metrics_listen.rpartition(":")
        start_http_server(int(port), addr=host)
