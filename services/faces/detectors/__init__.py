"""The forensic detectors of the faces service, one concept a file; what looks *for* faces is in `finders`.

A detector is `async def detect(picture: Picture, faces: Sequence[DetectedFace], triton: ModelClient) -> Finding`: it
prepares the faces, asks a model by name, and reads the answer. The faces have been found by then, most confident
first; there may be none. `registry.load(__name__)` finds every module of this package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from services.common.detection import Finding, Registry
from services.common.images import Picture
from services.faces.asking import ModelClient
from services.faces.face import DetectedFace

__all__ = ["FaceForensics", "registry"]

FaceForensics = Callable[[Picture, Sequence[DetectedFace], ModelClient], Awaitable[Finding]]

registry: Final[Registry[FaceForensics]] = Registry("faces")
