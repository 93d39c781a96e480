"""The one way to start a gRPC server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from opentelemetry.instrumentation.grpc import aio_server_interceptor

from services.common.interceptor import CallInterceptor
from services.common.settings import ServiceSettings
from services.common.telemetry import set_up_telemetry

__all__ = ["Register", "Servicer", "run_server", "running_server", "serve"]

Register = Callable[[grpc.aio.Server], Sequence[str]]
"""Adds the servicers to the server and returns their full names (package.Service)."""


class Servicer(Protocol):
    """A servicer that adds itself to a server."""

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds itself; returns the full names of the services that it answers for."""
        ...


log = structlog.get_logger()


@asynccontextmanager
async def running_server(settings: ServiceSettings, register: Register) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    """A server that answers for the body of the `async with`, with health per service and reflection.

    Yields the server and the port that it listens on (of interest where `settings.listen` ends in ":0"). On the way
    out, health says NOT_SERVING for `drain_seconds`, so that load balancers look elsewhere, and then calls in flight
    get `grace_seconds` to end.
    """
    server = grpc.aio.server(
        interceptors=[aio_server_interceptor(), CallInterceptor()],  # type: ignore[no-untyped-call]
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            # Otherwise a second process on the same port would silently get half of the calls.
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ],
    )
    names = register(server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(
        [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME], server
    )
    port = server.add_insecure_port(settings.listen)
    await server.start()
    for name in ("", *names):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield server, port
    finally:
        await health.enter_graceful_shutdown()
        await asyncio.sleep(settings.drain_seconds)
        await server.stop(settings.grace_seconds)


async def serve(
    name: str, version: str, settings: ServiceSettings, wire: Callable[[], AbstractAsyncContextManager[Register]]
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        name: the service's name.
        version: the service's version.
        settings: of the service.
        wire: makes what the service needs (clients, pools, registries) for as long as it serves.
    """
    set_up_telemetry(name, version, settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    async with wire() as register, running_server(settings, register) as (_, port):
        log.info("serving", service=name, version=version, port=port)
        await stop.wait()
        log.info("stopping", service=name)
    log.info("stopped", service=name)


def run_server(
    name: str, version: str, settings: ServiceSettings, wire: Callable[[], AbstractAsyncContextManager[Register]]
) -> None:
    """`serve` in a new event loop, for `main`; a port in use ends the process with a sentence instead of a trace."""
    try:
        asyncio.run(serve(name, version, settings, wire))
    except RuntimeError as error:
        if "bind" not in str(error).lower():
            raise
        raise SystemExit(f"pentimento-{name}: cannot listen on {settings.listen}: is the port in use?") from None
