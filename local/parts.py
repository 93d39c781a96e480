"""The parts of the mesh on one machine, as data: what starts each, and how one sees that it is ready."""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from local.settings import LOOPBACK, LocalSettings, service_environment, worker_environment

__all__ = ["Part", "PortUse", "Probe", "all_parts", "ports_in_use"]

PROBE_TIMEOUT_SECONDS: Final = 1.0

Probe = Callable[[], str | None]
"""Asks a part whether it is ready: None if it is, else what it lacks, in a few words. It never raises."""


@dataclass(frozen=True, slots=True)
class PortUse:
    """A port that a part listens on.

    Attributes:
        address: where it is bound.
        port: its number.
        use: what it is for.
    """

    address: str
    port: int
    use: str


@dataclass(frozen=True, slots=True)
class Part:
    """One process that the process manager keeps.

    Attributes:
        name: also the name of its log file.
        command: its command line.
        probe: whether it is ready.
        ports: where it listens.
        tier: parts of a higher tier are stopped before those of a lower one; those of one tier side by side.
        depends_on: the parts that are ready before it is started. It is started without them if they do not come up.
        environment: what only it gets.
        stop_seconds: how long it may take to end after SIGTERM.
    """

    name: str
    command: tuple[str, ...]
    probe: Probe
    tier: int = 1
    ports: tuple[PortUse, ...] = ()
    depends_on: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: int = 10


def grpc_probe(port: int) -> Probe:
    """grpc.health.v1: the server as a whole serves."""

    def ask() -> str | None:
        try:
            socket.create_connection((LOOPBACK, port), PROBE_TIMEOUT_SECONDS).close()
        except OSError as error:
            return f"port {port}: {error}"
        import grpc  # noqa: PLC0415 - not before the process manager was started: gRPC does not survive a fork
        from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

        # A connection of its own: one that was refused would wait longer and longer before it tries again.
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=options) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_SECONDS)
            except grpc.RpcError as error:
                return f"health check: {error.code().name}"
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return None if status == "SERVING" else f"health check: {status}"

    return ask


def http_probe(port: int, path: str) -> Probe:
    """GET answers 200."""

    def ask() -> str | None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"{path}: {error}"
        finally:
            connection.close()
        return None if status == http.HTTPStatus.OK else f"{path}: {status}"

    return ask


def postgres_probe(url: str) -> Probe:
    """A query with the password that the services use."""

    def ask() -> str | None:
        import psycopg  # noqa: PLC0415 - it takes a while, which the parts need not wait for

        try:
            with psycopg.connect(url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            lines = str(error).strip().splitlines()
            return lines[-1].strip() if lines else type(error).__name__
        return None

    return ask


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


def _service(settings: LocalSettings, name: str, depends_on: tuple[str, ...] = ()) -> Part:
    ports = settings.ports
    return Part(
        name=name,
        command=_module(f"services.{name}"),
        probe=grpc_probe(ports.service(name)),
        tier=3 if name == "orchestrator" else 2,
        ports=(
            PortUse(LOOPBACK, ports.service(name), f"gRPC of {name}"),
            PortUse(LOOPBACK, ports.metrics(name), f"metrics of {name}"),
        ),
        depends_on=depends_on,
        environment=service_environment(settings, name),
        # A service lets calls in flight end: PENTIMENTO_DRAIN_SECONDS and PENTIMENTO_GRACE_SECONDS.
        stop_seconds=25,
    )


def all_parts(settings: LocalSettings, database_url: str) -> tuple[Part, ...]:
    """The mesh, in the order in which it is stopped last to first.

    Args:
        settings: of this run.
        database_url: where the database is. The embedded one is a part only if no other is set.
    """
    ports = settings.ports
    postgres = Part(
        name="postgres",
        command=_module("local.postgres"),
        probe=postgres_probe(database_url),
        ports=(PortUse(LOOPBACK, ports.postgres, "PostgreSQL"),),
        stop_seconds=20,
    )
    triton = Part(
        name="triton",
        command=_module("local.triton"),
        probe=http_probe(ports.triton_http, "/v2/health/ready"),
        ports=(
            PortUse(LOOPBACK, ports.triton_grpc, "gRPC of Triton"),
            PortUse(LOOPBACK, ports.triton_http, "HTTP of Triton"),
            PortUse(LOOPBACK, ports.triton_metrics, "metrics of Triton"),
        ),
        stop_seconds=15,
    )
    worker = Part(
        name="worker",
        command=_module("services.orchestrator.worker"),
        probe=grpc_probe(ports.worker),
        tier=3,
        ports=(
            PortUse(LOOPBACK, ports.worker, "health of the worker"),
            PortUse(LOOPBACK, ports.worker_metrics, "metrics of the worker"),
        ),
        depends_on=("postgres",) if not settings.database_url else (),
        environment=worker_environment(settings),
        # It finishes what it has, or puts it back.
        stop_seconds=25,
    )
    envoy = Part(
        name="envoy",
        command=_module("local.envoy"),
        probe=http_probe(ports.envoy_admin, "/ready"),
        tier=4,
        ports=(
            PortUse(settings.bind, ports.edge, "the API"),
            PortUse(LOOPBACK, ports.envoy_admin, "Envoy's admin page"),
        ),
        # The edge opens when there is somebody to answer. The analysers may still be on their way: the answers say so.
        depends_on=("orchestrator",),
    )
    return (
        *((postgres,) if not settings.database_url else ()),
        triton,
        _service(settings, "passive"),
        _service(settings, "deeplearning"),
        _service(settings, "faces"),
        _service(settings, "orchestrator", depends_on=("postgres",) if not settings.database_url else ()),
        worker,
        envoy,
    )


def ports_in_use(parts: tuple[Part, ...]) -> tuple[PortUse, ...]:
    """Every port of a run."""
    return tuple(use for part in parts for use in part.ports)
