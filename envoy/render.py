"""Renders the edge's configuration: `python envoy/render.py > envoy.yaml`.

The text is edge.yaml; this file fills in its placeholders. What depends on the contracts comes out of their descriptor
and is written nowhere else: which services are transcoded, and which paths take which methods.

    ADMIN_PORT BIND PORT TRUSTED_HOPS                     where it listens, and whom it believes
    ORCHESTRATOR_HOST ORCHESTRATOR_PORT                   where it sends to
    DESCRIPTOR DOCUMENTED_SERVICES OWN_SERVICES           what it transcodes
    CORS_ORIGINS STORED_CORS_ORIGINS RATE_LIMITS LOCAL_REPLIES    lists, as JSON (which is YAML)
    GATE_LUA ANSWERS_LUA REFUSE_LUA                       the Lua files, as JSON strings
    ANALYSIS_TIMEOUT BATCH_TIMEOUT UPLOAD_TIMEOUT IDLE_TIMEOUT
    MAX_UPLOAD_BYTES MAX_BATCH_BYTES MAX_JSON_BATCH_BYTES MAX_REQUESTS MAX_STREAMS MAX_CONNECTIONS MAX_HEAP_BYTES

This folder is no Python package: its name would be that of the package that carries the Envoy binary.
"""
# ruff: noqa: INP001

from __future__ import annotations

import base64
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, ServiceDescriptorProto
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.settings import load_settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PUBLIC_PACKAGE = "pentimento.orchestrator.v1"
TIMESTAMP = "%START_TIME(%Y-%m-%dT%H:%M:%S.%6f)%"
REQUEST_ID = "%REQ(X-REQUEST-ID)%"
HTTP_BODY = ".google.api.HttpBody"
MEBIBYTE = 1024 * 1024
BATCH_MARGIN_SECONDS = 30

# Envoy's own answers: status -> `message` and `error`. The words of answers.lua, where it has the same status.
ENVOYS_WORDS = "%LOCAL_REPLY_BODY%"
AWAY = "The service cannot be reached at the moment. Please try again."
LATE = "The answer did not come within the time that is allowed for it."
BUSY = "Too many requests are being worked on. Try again in a moment."
LOCAL_REPLIES = {
    400: ("Validation error", ENVOYS_WORDS),
    403: ("Not allowed", ENVOYS_WORDS),
    404: ("Not found", ENVOYS_WORDS),
    405: ("Method not allowed", ENVOYS_WORDS),
    408: ("Request timeout", "The request did not arrive within the time that is allowed for it."),
    413: ("Validation error", ENVOYS_WORDS),
    415: ("Unsupported media type", ENVOYS_WORDS),
    429: ("Too many requests", ENVOYS_WORDS),
    431: ("Request headers too large", ENVOYS_WORDS),
    500: ("Internal server error", "Internal error."),
    501: ("Not implemented", ENVOYS_WORDS),
    # Envoy would tell of connections and resets, which are nobody's business.
    502: ("Service unavailable", AWAY),
    503: ("Service unavailable", AWAY),
    504: ("Processing timeout", LATE),
}

# Where Envoy has no words, or words about itself: status and what it notes as the reason -> `error`.
REASONS = {
    (400, "path_normalization_failed"): "The path is not well-formed.",
    (400, "missing_host_header"): "The request names no host.",
    (403, "upgrade_failed"): "Connections are not upgraded here.",
    (413, "request_payload_too_large"): "The request exceeds the maximum size.",
    (413, "grpc_json_transcode_failure{request_buffer_size_limit_reached}"): "The request exceeds the maximum size.",
}


class EdgeSettings(BaseSettings):
    """Settings of the edge."""

    model_config = SettingsConfigDict(env_prefix="PENTIMENTO_", frozen=True, extra="ignore")

    bind: str = Field("127.0.0.1", description="Address on which the edge listens; 0.0.0.0 for all.")
    port: int = Field(8080, ge=1, le=65535, description="Port on which the edge listens.")
    envoy_admin_port: int = Field(9901, ge=1, le=65535, description="Port of Envoy's admin page, on 127.0.0.1 only.")
    orchestrator_address: str = Field(
        "127.0.0.1:50051",
        pattern=r"^[A-Za-z0-9._-]+:\d{1,5}$",
        description="Where the orchestrator answers gRPC (host:port); a name may stand for several addresses.",
    )
    descriptor: Path = Field(
        Path("build/descriptor.binpb"),
        description="The contracts' descriptor, as `python protos/generate.py` makes it; relative to the project.",
    )
    trusted_hops: int = Field(
        0,
        ge=0,
        le=10,
        description="How many proxies in front of the edge are trusted to tell the client's address (X-Forwarded-For).",
    )
    cors_origins: str = Field(
        "*",
        description="Origins whose pages may call the API, with commas. * lets any page have pictures analysed, but "
        "read nothing that is kept under /v1 (analyses, batches, people): that takes an origin named here.",
    )
    rate_limit_image: int = Field(
        60,
        ge=0,
        description="Single analyses a minute and client: POST /analyze/image, /v1/images:analyze; 0 for no limit.",
    )
    rate_limit_batch: int = Field(
        10,
        ge=0,
        description="Batches a minute and client: POST /analyze/batch, /v1/batches, /v1/images:streamAnalyze; or 0.",
    )
    rate_limit_report: int = Field(
        30, ge=0, description="Reports a minute and client: /report/csv/{id}; 0 for no limit."
    )
    rate_limit_analysis: int = Field(
        120,
        ge=0,
        description="Calls of the other documented APIs and of /v1/people a minute and client; 0 for no limit.",
    )
    rate_limit_other: int = Field(
        1200, ge=0, description="All other calls (health, progress, lists) a minute and client; 0 for no limit."
    )
    analysis_timeout_seconds: int = Field(60, ge=1, le=3600, description="How long one analysis may take at the edge.")
    batch_timeout_seconds: int = Field(
        900,
        ge=1,
        le=86_400,
        description="How long a batch may take from its first picture on, or a silent stream; the edge waits half a "
        "minute longer.",
    )
    upload_timeout_seconds: int = Field(600, ge=1, le=3600, description="How long the sending of a request may take.")
    max_upload_mib: int = Field(
        16,
        ge=1,
        le=1024,
        description="Largest request with one picture, in MiB. More than the documented 10 MB, so that the "
        "orchestrator can say by how much those are exceeded; Envoy holds 1.5 times as much for each upload in flight.",
    )
    max_batch_mib: int = Field(640, ge=1, le=65536, description="Largest POST /analyze/batch, in MiB.")
    max_json_batch_mib: int = Field(
        80, ge=1, le=1024, description="Largest JSON with several pictures under /v1, in MiB (held in memory)."
    )
    edge_max_requests: int = Field(
        64,
        ge=1,
        description="Whole requests that may be with the orchestrator at a time, each with its picture in memory; "
        "one more is refused with 429.",
    )
    edge_max_streams: int = Field(
        256,
        ge=1,
        description="Batches being sent or awaited, streams and watchers at a time, beside those whole requests; one "
        "more is refused with 429.",
    )
    edge_max_connections: int = Field(4096, ge=1, description="Connections of clients at a time.")
    edge_max_heap_mib: int = Field(2048, ge=128, description="Memory of Envoy, in MiB; near it, requests are refused.")

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, value: str) -> str:
        for origin in _split(value):
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.\-\[\]:_]+", origin):
                raise ValueError(f"{origin!r} is not an origin like https://example.org")
        return value

    @property
    def rate_limits(self) -> dict[str, int]:
        """The limits that a route may name, in requests a minute and client."""
        return {
            "image": self.rate_limit_image,
            "batch": self.rate_limit_batch,
            "report": self.rate_limit_report,
            "analysis": self.rate_limit_analysis,
            "other": self.rate_limit_other,
        }


def render(settings: EdgeSettings) -> str:
    """The configuration of Envoy, as YAML.

    Raises:
        FileNotFoundError: the descriptor has not been generated.
        KeyError, ValueError: edge.yaml and this file do not agree on the placeholders.
    """
    files = FileDescriptorSet.FromString((ROOT / settings.descriptor).read_bytes())
    services = dict(_public_services(files))
    routes = _lua_routes(services.values())
    _forget_response_bodies(services.values())
    documented = [name for name, service in services.items() if _is_documented(service)]
    host, _, port = settings.orchestrator_address.rpartition(":")
    values: dict[str, Any] = {
        "ADMIN_PORT": settings.envoy_admin_port,
        "BIND": settings.bind,
        "PORT": settings.port,
        "TRUSTED_HOPS": settings.trusted_hops,
        "ORCHESTRATOR_HOST": host,
        "ORCHESTRATOR_PORT": int(port),
        # Inlined: the rendered file depends on no other file.
        "DESCRIPTOR": base64.b64encode(files.SerializeToString()).decode(),
        "DOCUMENTED_SERVICES": documented,
        "OWN_SERVICES": [name for name in services if name not in documented],
        "CORS_ORIGINS": _origin_matchers(settings.cors_origins),
        "STORED_CORS_ORIGINS": _origin_matchers(",".join(o for o in _split(settings.cors_origins) if o != "*")),
        "RATE_LIMITS": _rate_limit_descriptors(settings.rate_limits),
        "LOCAL_REPLIES": _local_reply_mappers(),
        "GATE_LUA": routes + (HERE / "gate.lua").read_text(),
        "ANSWERS_LUA": (HERE / "answers.lua").read_text(),
        "REFUSE_LUA": (HERE / "refuse.lua").read_text(),
        "ANALYSIS_TIMEOUT": f"{settings.analysis_timeout_seconds}s",
        "IDLE_TIMEOUT": f"{settings.analysis_timeout_seconds + 15}s",
        "UPLOAD_TIMEOUT": f"{settings.upload_timeout_seconds}s",
        # Longer than the orchestrator's own limit, which has the better words.
        "BATCH_TIMEOUT": f"{settings.batch_timeout_seconds + BATCH_MARGIN_SECONDS}s",
        "MAX_UPLOAD_BYTES": settings.max_upload_mib * MEBIBYTE,
        "MAX_BATCH_BYTES": settings.max_batch_mib * MEBIBYTE,
        "MAX_JSON_BATCH_BYTES": settings.max_json_batch_mib * MEBIBYTE,
        "MAX_REQUESTS": settings.edge_max_requests,
        "MAX_STREAMS": settings.edge_max_streams,
        "MAX_CONNECTIONS": settings.edge_max_connections,
        "MAX_HEAP_BYTES": settings.edge_max_heap_mib * MEBIBYTE,
    }
    # Comments go: a placeholder that a comment mentions need not exist.
    lines = (HERE / "edge.yaml").read_text().splitlines(keepends=True)
    template = Template("".join(line for line in lines if not line.lstrip().startswith("#")))
    unused = values.keys() - set(template.get_identifiers())
    if unused:
        raise ValueError(f"edge.yaml does not use {', '.join(sorted(unused))}")
    # JSON is YAML, and its strings are quoted and escaped.
    return template.substitute({name: json.dumps(value) for name, value in values.items()})


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _public_services(files: FileDescriptorSet) -> Iterator[tuple[str, ServiceDescriptorProto]]:
    for file in files.file:
        if file.package == PUBLIC_PACKAGE:
            for service in file.service:
                yield f"{file.package}.{service.name}", service


def _is_documented(service: ServiceDescriptorProto) -> bool:
    """Whether the service is one of the documented APIs: they write their JSON themselves."""
    return all(method.output_type == HTTP_BODY for method in service.method)


class _Binding(NamedTuple):
    """An HTTP binding of the contracts."""

    method: str
    path: str
    response_body: str
    """The field of the response that is the whole answer; empty for all of it."""


def _rules(services: Iterable[ServiceDescriptorProto]) -> Iterator[http_pb2.HttpRule]:
    for service in services:
        for method in service.method:
            rule = method.options.Extensions[annotations_pb2.http]
            yield from (rule, *rule.additional_bindings)


def _bindings(services: Iterable[ServiceDescriptorProto]) -> Iterator[_Binding]:
    for rule in _rules(services):
        verb = rule.WhichOneof("pattern")
        if verb is not None:
            yield _Binding(verb.upper(), getattr(rule, verb), rule.response_body)


def _forget_response_bodies(services: Iterable[ServiceDescriptorProto]) -> None:
    """Removes what Envoy's transcoder refuses ("response_body is not supported yet"); answers.lua does it instead."""
    for rule in _rules(services):
        rule.ClearField("response_body")


def _lua_pattern(path: str) -> str:
    """A path template as an anchored Lua pattern: a variable is a segment, or what its own template says."""
    path = re.sub(r"\{[a-z_.]+=([^}]*)\}", r"\1", path)
    path = re.sub(r"\{[a-z_.]+\}", "*", path)
    # A colon begins a verb (/v1/batches/*:cancel), so it is no part of an id.
    pieces = [re.sub(r"([^A-Za-z0-9/_])", r"%\1", piece) for piece in path.split("*")]
    return "^" + "[^/:]+".join(pieces) + "$"


def _lua_routes(services: Iterable[ServiceDescriptorProto]) -> str:
    """The table ROUTES of gate.lua: {pattern, {METHOD = response body}, "METHOD, METHOD"}."""
    routes: dict[str, dict[str, str]] = defaultdict(dict)
    for binding in _bindings(services):
        routes[_lua_pattern(binding.path)][binding.method] = binding.response_body
    rows = ""
    for pattern, methods in routes.items():
        fields = ", ".join(f'{method} = "{field}"' for method, field in sorted(methods.items()))
        rows += f'  {{"{pattern}", {{{fields}}}, "{", ".join(sorted(methods))}"}},\n'
    return f"local ROUTES = {{\n{rows}}}\n"


def _origin_matchers(origins: str) -> list[dict[str, Any]]:
    names = _split(origins)
    if "*" in names:
        return [{"safe_regex": {"regex": ".*"}}]
    # An empty list would mean what stands one level higher; no page has such an origin.
    return [{"exact": name} for name in names] or [{"exact": "(none)"}]


def _rate_limit_descriptors(limits: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "entries": [{"key": "limit", "value": name}, {"key": "masked_remote_address"}],
            "token_bucket": {"max_tokens": limit, "tokens_per_fill": limit, "fill_interval": "60s"},
        }
        for name, limit in limits.items()
        if limit
    ]


def _local_reply_mappers() -> list[dict[str, Any]]:
    # A gRPC client gets words as grpc-message, not a JSON text. (A transcoded request looks like gRPC by then, but for
    # the path that the transcoder has kept.)
    is_grpc = [
        {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}},
        {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": False}}},
    ]
    mappers: list[dict[str, Any]] = []
    for (status, reason), error in REASONS.items():
        has_reason = {
            "extension_filter": {
                "name": "envoy.access_loggers.extension_filters.cel",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                    "expression": f"response.code_details == '{reason}'",
                },
            }
        }
        mappers += [
            {
                "filter": {"and_filter": {"filters": [has_reason, *is_grpc]}},
                "body_format_override": {"text_format_source": {"inline_string": error}},
                # Envoy would say UNKNOWN of a message that is too large.
                "headers_to_add": [
                    {
                        "header": {"key": "grpc-status", "value": "8" if status == 413 else "3"},
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    }
                ],
            },
            {"filter": has_reason, "body_format_override": _error_format(LOCAL_REPLIES[status][0], error)},
        ]
    # More than the circuit breaker lets through is no fault of the orchestrator's.
    overflow = {"response_flag_filter": {"flags": ["UO"]}}
    mappers += [
        {
            "filter": {"and_filter": {"filters": [overflow, *is_grpc]}},
            "body_format_override": {"text_format_source": {"inline_string": BUSY}},
        },
        {
            "filter": overflow,
            "status_code": 429,
            "body_format_override": _error_format(LOCAL_REPLIES[429][0], BUSY),
        },
    ]
    for status, (message, error) in LOCAL_REPLIES.items():
        value = {"default_value": status, "runtime_key": f"edge.local_reply_{status}"}
        has_status = {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
        mappers += [
            {
                "filter": {"and_filter": {"filters": [has_status, *is_grpc]}},
                "body_format_override": {"text_format_source": {"inline_string": error}},
            },
            {"filter": has_status, "body_format_override": _error_format(message, error)},
        ]
    return mappers


def _error_format(message: str, error: str) -> dict[str, Any]:
    """The documented shape of an error. The JSON formatter escapes what it puts in."""
    fields = {"message": message, "error": error, "timestamp": TIMESTAMP, "request_id": REQUEST_ID}
    return {"json_format": {"success": False, **fields}}


def main() -> None:
    """Writes the configuration to standard output."""
    settings = load_settings(EdgeSettings)
    if not (ROOT / settings.descriptor).exists():
        raise SystemExit(f"setting PENTIMENTO_DESCRIPTOR: there is no {settings.descriptor}; run protos/generate.py")
    sys.stdout.write(render(settings))


if __name__ == "__main__":
    main()
