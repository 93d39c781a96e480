"""Wires the passive service together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.analyzer import Analyzer
from services.common.limiter import WorkLimiter
from services.common.server import Register, run_server
from services.common.settings import ServiceSettings, load_settings
from services.common.version import VERSION
from services.passive.detectors import registry
from services.passive.servicer import PassiveServicer

__all__ = ["NAME", "main", "wire"]

NAME = "passive"


def main() -> None:
    """Serves until told to stop."""
    settings = load_settings(ServiceSettings)
    run_server(NAME, VERSION, settings, lambda: wire(settings))


@asynccontextmanager
async def wire(settings: ServiceSettings) -> AsyncIterator[Register]:
    """What the service needs, for as long as it serves."""
    limiter = WorkLimiter(workers=settings.workers, queue=settings.queue)
    analyzer = Analyzer(NAME, registry.load("services.passive.detectors"), limiter.run)
    servicer = PassiveServicer(analyzer, limiter, settings.image_limits)
    try:
        yield servicer.register
    finally:
        limiter.close()
