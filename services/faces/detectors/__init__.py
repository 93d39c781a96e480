"""The forensic detectors of the faces service, one concept a file; what looks *for* faces is in `finders`.

A detector is `async def detect(picture: Picture, description: Description) -> Finding`. By then the faces have been
found, most confident first, and the networks asked about them; there may be none. It reads what it needs, and raises
what kept its network from answering. `registry.load(__name__)` finds every module of this package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from services.common.detection import Finding, Registry
from services.common.images import Picture
from services.faces.describing import Description

__all__ = ["FaceForensics", "registry"]

FaceForensics = Callable[[Picture, Description], Awaitable[Finding]]

registry: Final[Registry[FaceForensics]] = Registry("faces")
