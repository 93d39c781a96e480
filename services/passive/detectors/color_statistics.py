"""Colour statistics: how saturation, hue and brightness are distributed.

Generators like saturated, harmonious and evenly lit pictures; sensors clip highlights and shadows and see a dull world.
Measured on the picture averaged down to 256 pixels, where compression and noise play no part.

References:
    S. McCloskey and M. Albright, "Detecting GAN-generated imagery using saturation cues", ICIP 2019.
        10.1109/ICIP.2019.8803661
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Finding, MetricType, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._statistics import FLAGGED, Fact, Statistic, judge

__all__ = ["STATISTIC", "detect_color_statistics"]

RGB = NDArray[np.uint8]

SIDE: Final = 256
"""Longer side in pixels at which colours are measured."""
HUES: Final = 24
"""Bins of the hue histogram."""
LEVELS: Final = 16
"""Bins of each channel of the colour histogram."""
CLIPPED: Final = 0.98
DARK: Final = 0.04


def _measure(rgb: RGB) -> list[float]:
    small = _small(rgb)
    unit = small.astype(np.float32) / np.float32(255.0)
    hue, saturation, value = (np.asarray(part) for part in cv2.split(cv2.cvtColor(unit, cv2.COLOR_RGB2HSV)))
    lightness, red_green, blue_yellow = (np.asarray(part) for part in cv2.split(cv2.cvtColor(unit, cv2.COLOR_RGB2LAB)))
    chroma = np.hypot(red_green, blue_yellow)
    hues = np.histogram(hue, HUES, (0.0, 360.0), weights=chroma)[0]
    cells = (small // (256 // LEVELS)).astype(np.int64) @ np.array([LEVELS * LEVELS, LEVELS, 1])
    return [
        float(saturation.mean()),
        float(saturation.std()),
        float(np.percentile(saturation, 90)),
        float(value.mean()),
        float(value.std()),
        float((value > CLIPPED).mean()),
        float((value < DARK).mean()),
        float(np.log(chroma.mean() + 1.0)),
        float(np.log(chroma.std() + 1.0)),
        _entropy(hues),
        _entropy(np.bincount(cells.ravel()).astype(np.float64)),
        float(lightness.std()) / 30.0,
        float(red_green.mean()) / 20.0,
        float(blue_yellow.mean()) / 20.0,
    ]


def _small(rgb: RGB) -> RGB:
    height, width = rgb.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1.0:
        return rgb
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _entropy(counts: NDArray[np.float64]) -> float:
    """Shannon's, in nats; 0 where nothing was counted."""
    total = float(counts.sum())
    if total <= 0.0:
        return 0.0
    shares = counts[counts > 0] / total
    return float(-(shares * np.log(shares)).sum())


STATISTIC: Final = Statistic(
    metric_type=MetricType.COLOR,
    name="Color Distribution",
    facts=(
        Fact("saturation", "strong colours", "pale colours"),
        Fact("saturation_spread", "pale beside strong colours", "colours of one strength"),
        Fact("strongest_saturation", "very strong colours", "no strong colours"),
        Fact("brightness", "a bright picture", "a dark picture"),
        Fact("brightness_spread", "bright beside dark", "one brightness all over"),
        Fact("clipped_share", "blown highlights", "no blown highlights"),
        Fact("dark_share", "black shadows", "no black shadows"),
        Fact("log_chroma", "vivid colours", "muted colours"),
        Fact("log_chroma_spread", "vivid beside muted colours", "evenly vivid colours"),
        Fact("hue_entropy", "many hues", "few hues"),
        Fact("colour_entropy", "many different colours", "few different colours"),
        Fact("contrast", "strong contrast", "weak contrast"),
        Fact("reddish", "reddish colours", "greenish colours"),
        Fact("yellowish", "yellowish colours", "bluish colours"),
    ),
    measure=_measure,
)


@registry.detector(
    name="color_statistics",
    version="1",
    title="Colour statistics",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=("10.1109/ICIP.2019.8803661",),
    parameters={"decision_score": FLAGGED},
)
def detect_color_statistics(picture: Picture) -> Finding:
    """Measures how saturation, hue and brightness are distributed, and how far that is from photographs."""
    return judge(STATISTIC, picture)
