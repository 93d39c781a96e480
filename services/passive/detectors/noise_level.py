"""Local noise level: a view for the eye of where the picture has more grain than elsewhere.

1. A second-order high-pass filter takes the content away; its mean absolute response in blocks of `BLOCK` pixels gives
   the standard deviation of the noise there, if noise were all that is left (Immerkaer).
2. Texture is left too. So in each window of `WINDOW` x `WINDOW` blocks the `QUANTILE` of the blocks counts: the
   smoother ones, in which noise outweighs texture.
3. The map shows how far the logarithm of that level lies above the picture's median, in robust standard deviations.

A piece from another camera or sensitivity, or with noise added, is brighter or darker than its surroundings; so is
every honest texture, and all that is out of focus. On noise-mismatched pieces in photographs of 0.15 megapixels the
map's pixel AUC is 0.73, 0.72, 0.65 and 0.63 (saved as PNG, JPEG 95, 85, 75), but no statistic of it tells pictures with
such a piece from their twins (AUC 0.46 to 0.55). So this is a view: its score is always 0 and it moves no verdict.

References:
    J. Immerkaer, "Fast noise variance estimation", 1996. 10.1006/cviu.1996.0060
    M. Gardella et al., "Noisesniffer: a fully automatic image forgery detector based on noise analysis", 2021.
        10.1109/IWBF50991.2021.9465095
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry

__all__ = ["detect_noise_level", "noise_levels"]

Plane = NDArray[np.float32]

HIGH_PASS: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
BLOCK: Final = 8
"""Side in pixels of the blocks, and of the map's cells."""
WINDOW: Final = 5
"""Side of the windows, in blocks."""
QUANTILE: Final = 0.3
MIN_SIDE: Final = 64
LEAST_LEVEL: Final = 0.1
"""Grey levels that are added before the logarithm: differences below it show nothing."""
LEAST_SPREAD: Final = 0.1
"""Least robust standard deviation of the logarithm that the map is scaled by."""
FULL: Final = 3.0
"""Robust standard deviations above the median that are shown as brightest."""
_STRIP: Final = 64
"""Rows of blocks that are filtered at a time, so that a large picture is never held as floating-point numbers."""


def noise_levels(grey: NDArray[np.uint8]) -> Plane:
    """Standard deviation of the noise in grey levels, float32 (h // 8, w // 8), of uint8 (h, w), both at least 8."""
    rows, columns = grey.shape[0] // BLOCK, grey.shape[1] // BLOCK
    blocks = np.empty((rows, columns), np.float32)
    for first in range(0, rows, _STRIP):
        last = min(rows, first + _STRIP)
        above = min(first, 1)  # a block whose pixels the filter needs
        strip = grey[(first - above) * BLOCK : (last + 1) * BLOCK]
        response = np.abs(np.asarray(cv2.filter2D(strip, cv2.CV_32F, HIGH_PASS), np.float32))
        inside = response[above * BLOCK :][: (last - first) * BLOCK, : columns * BLOCK]
        blocks[first:last] = inside.reshape(last - first, BLOCK, columns, BLOCK).mean((1, 3))
    padded = np.pad(blocks, WINDOW // 2, mode="symmetric")
    windows = sliding_window_view(padded, (WINDOW, WINDOW)).reshape(rows, columns, WINDOW * WINDOW)
    rank = int(QUANTILE * WINDOW * WINDOW)
    level = np.partition(windows, rank, axis=2)[..., rank] * np.float32(math.sqrt(math.pi / 2) / 6)
    return np.asarray(level, np.float32)


@registry.detector(
    name="noise_level",
    version="1",
    title="Noise level (view)",
    question=Question.EDITED,
    techniques=(Technique.SPLICING, Technique.OTHER),
    papers=("10.1006/cviu.1996.0060", "10.1109/IWBF50991.2021.9465095"),
    parameters={"block": BLOCK, "window": WINDOW, "quantile": QUANTILE},
)
def detect_noise_level(picture: Picture) -> Finding:
    """Shows where the picture has more grain than elsewhere: a view for the eye that decides nothing."""
    if min(picture.rgb.shape[:2]) < MIN_SIDE:
        return Finding.not_applicable(f"The shorter side has fewer than {MIN_SIDE} pixels.")
    levels = noise_levels(np.asarray(cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2GRAY), np.uint8))
    logarithm = np.log(levels + np.float32(LEAST_LEVEL))
    usual = float(np.median(logarithm))
    spread = max(1.4826 * float(np.median(np.abs(logarithm - usual))), LEAST_SPREAD)
    low, middle, high = (float(level) for level in np.percentile(levels, (5, 50, 95)))
    return Finding(
        applicability=Applicability.APPLIED,
        score=0.0,
        explanation="A view for the eye: bright parts have more grain than the rest. Textures always do; only like "
        "parts that differ from one another are worth a question.",
        heat_map=np.clip((logarithm - usual) / (FULL * spread), 0.0, 1.0).astype(np.float32),
        details={
            "usual_level": round(middle, 2),
            "quiet_level": round(low, 2),
            "noisy_level": round(high, 2),
        },
    )
