"""The detectors of the deeplearning service, one concept a file.

A detector is `async def detect(picture: Picture, networks: Networks) -> Finding`: it prepares the picture, asks a
model by name, and reads the answer. `registry.load(__name__)` finds every module of this package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.common.detection import Finding, Registry
from services.common.images import Picture
from services.deeplearning.networks import Networks

__all__ = ["NetworkDetector", "registry"]

NetworkDetector = Callable[[Picture, Networks], Awaitable[Finding]]

registry: Registry[NetworkDetector] = Registry("deeplearning")
