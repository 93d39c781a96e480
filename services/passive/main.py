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

NAME = "passive"


def main() -> None:
    """Serves until told to stop."""
    settings = load_settings(ServiceSettings)

    @asynccontextmanager
    async def wire() -> AsyncIterator[Register]:
        limiter = WorkLimiter(workers=settings.workers, queue=settings.queue)
        analyzer = Analyzer(NAME, registry.load("services.passive.detectors"), limiter.run)
        servicer = PassiveServicer(analyzer, limiter, settings.image_limits)
        try:
            yield servicer.register
        finally:
            limiter.close()

    run_server(NAME, VERSION, settings, wire)
