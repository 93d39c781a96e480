"""The detectors of the passive service: one concept a file, each registering itself.

`registry.load("services.passive.detectors")` imports them all; importing this package imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.common.detection import Finding, Registry
from services.common.images import Picture

__all__ = ["registry"]

registry: Final[Registry[Callable[[Picture], Finding]]] = Registry("passive")
