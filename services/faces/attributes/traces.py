"""What CLIP's first blocks see of a face (`triton_models/clip_face`): looked at once, and read by several networks.

How a picture was made shows behind these blocks, and whom it shows: `age` and `gender` are read off these numbers, and
`facenet_realfake` is given them beside its own view of the face.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.faces.alignment import face_chip

__all__ = ["INPUT", "MODEL", "OUTPUT", "SIDE", "cut", "stacked"]

MODEL: Final = "clip_face"
INPUT: Final = "faces"
OUTPUT: Final = "traces"
"""Also the name by which networks take them: float32 (n, 3072)."""
SIDE: Final = 160

cut: Final = partial(face_chip, size=SIDE)
"""From the full-size picture, uint8 (h, w, 3) RGB, and a face of it to what is looked at, uint8 (160, 160, 3)."""


def stacked(chips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Chips as a batch: uint8 (n, 160, 160, 3), RGB; bytes are a quarter of what numbers are to send."""
    return np.stack(list(chips))
