"""Wires the passive service together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from threadpoolctl import threadpool_limits

from services.common.analyzer import Analyzer
from services.common.limiter import WorkLimiter
from services.common.server import Register, run_server
from services.common.settings import load_settings
from services.common.version import VERSION
from services.passive.detectors import registry
from services.passive.servicer import PassiveServicer
from services.passive.settings import PassiveSettings

__all__ = ["NAME", "main", "wire"]

NAME = "passive"


def main() -> None:
    """Serves until told to stop."""
    settings = load_settings(PassiveSettings)
    run_server(NAME, VERSION, settings, lambda: wire(settings))


@asynccontextmanager
async def wire(settings: PassiveSettings) -> AsyncIterator[Register]:
    """What the service needs, for as long as it serves."""
    limiter = WorkLimiter(workers=settings.workers, queue=settings.queue)
    detectors = registry.load("services.passive.detectors")
    if trust := settings.trust_list:
        detectors = detectors.configured(
            "provenance", {"trust_list": trust.name, "trust_list_date": trust.date}, trust=trust
        )
    analyzer = Analyzer(NAME, detectors, limiter.run)
    servicer = PassiveServicer(analyzer, limiter, settings.image_limits)
    try:
        # Detectors run side by side already. Each product of matrices would keep a second core busy for some 30 ms
        # after it, as OpenBLAS's threads wait for the next one without sleeping.
        with threadpool_limits(1, user_api="blas"):
            yield servicer.register
    finally:
        limiter.close()
