"""Error-level analysis: a view for the eye of how much each part of the picture changes when it is saved once more.

The picture is saved as JPEG of quality `QUALITY`, and the change of each pixel is averaged over blocks. Parts that were
compressed less often than the rest change more; so do edges and textures, in every honest picture. That is why this is
a view and no signal: its score is always 0 and it moves no verdict. On the pictures that it is usually shown with it
looks convincing. On pieces that were compressed once more than the rest its pixel AUC is 0.63, 0.72 and 0.81 at final
quality 75, 85 and 95.

References:
    N. Krawetz, "A picture's worth: digital image analysis and forensics", 2007.
    N. B. A. Warif et al., "An evaluation of error level analysis in image forensics", 2015.
        10.1109/ICSengT.2015.7412439
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry

__all__ = ["detect_error_level", "error_levels"]

QUALITY: Final = 90
CELL: Final = 8
"""Side in pixels of the cells of the map."""
MIN_SIDE: Final = 64
BRIGHT_PERCENTILE: Final = 99.0
"""Cells that change this much, relative to all, are shown as brightest."""
LEAST_RANGE: Final = 2.0
"""Grey levels below which the map is not stretched further: what changes nowhere shall look dark."""


def error_levels(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean absolute change per cell in grey levels, float32 (h // 8, w // 8), of uint8 (h, w, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    buffer.seek(0)
    change = np.abs(np.asarray(Image.open(buffer), np.int16) - rgb).astype(np.float32)
    rows, columns = rgb.shape[0] // CELL, rgb.shape[1] // CELL
    cells = change[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3)
    return np.asarray(cells.mean((1, 3, 4)), np.float32)


@registry.detector(
    name="error_level",
    version="1",
    title="Error-level analysis (view)",
    question=Question.EDITED,
    techniques=(Technique.OTHER,),
    papers=("10.1109/ICSengT.2015.7412439",),
    parameters={"quality": QUALITY},
)
def detect_error_level(picture: Picture) -> Finding:
    """Shows how much each part changes when the picture is saved once more: a view for the eye that decides nothing."""
    if min(picture.rgb.shape[:2]) < MIN_SIDE:
        return Finding.not_applicable(f"The shorter side has fewer than {MIN_SIDE} pixels.")
    levels = error_levels(picture.working)
    brightest = max(float(np.percentile(levels, BRIGHT_PERCENTILE)), LEAST_RANGE)
    return Finding(
        applicability=Applicability.APPLIED,
        score=0.0,
        explanation="A view for the eye: bright parts change more when the picture is saved once more. Edges and "
        "textures always do; only like parts that differ from one another are worth a question.",
        heat_map=np.clip(levels / brightest, 0.0, 1.0).astype(np.float32),
        details={"mean_change": round(float(levels.mean()), 3), "brightest_change": round(brightest, 3)},
    )
