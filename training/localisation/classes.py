"""The classes that the network tells apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.common.detection import Technique

__all__ = ["CLASSES", "CLASS_OF", "OTHER", "PRISTINE"]

CLASSES: Final = ("splicing", "copymove", "inpainting", "face", "pristine")
"""In the order of the network's output: document 001's four, and pristine."""
PRISTINE: Final = CLASSES.index("pristine")
OTHER: Final = -1
"""Class of a forgery that is none of the four: all that is known is that the picture is not pristine."""
CLASS_OF: Final[Mapping[Technique, int]] = {
    Technique.SPLICING: CLASSES.index("splicing"),
    Technique.COPY_MOVE: CLASSES.index("copymove"),
    Technique.INPAINTING: CLASSES.index("inpainting"),
    Technique.FACE: CLASSES.index("face"),
    Technique.OTHER: OTHER,
}
"""The network's class of a technique."""
