"""Noise statistics: what is left when the picture's content is taken away.

A sensor's noise grows with brightness, is everywhere, and is alike in the colours that were interpolated from one
another; a generator has none of that for a reason. A second-order high-pass filter takes the content away; measured are
the noise level in the quietest and the middling blocks, how it depends on brightness, how it varies over the picture,
how far the channels agree, its kurtosis, its correlation with its neighbours, and the noise of the colour differences.

References:
    J. Immerkaer, "Fast noise variance estimation", 1996. 10.1006/cviu.1996.0060 (the filter)
    H. Farid, "Image forgery detection", 2009. 10.1109/MSP.2008.931079
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Finding, MetricType, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._statistics import FLAGGED, Fact, Statistic, judge, kurtosis

__all__ = ["STATISTIC", "detect_noise_statistics"]

RGB = NDArray[np.uint8]
Plane = NDArray[np.float32]

HIGH_PASS: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 4.0
BLOCK: Final = 16
"""Side in pixels of the blocks in which the noise level is measured."""
QUIET_PERCENTILE: Final = 30.0
"""The dependence on brightness is measured in the quietest part of the blocks, where content disturbs least."""


def _measure(rgb: RGB) -> list[float]:
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)
    residual = _residual(grey)
    levels, brightness = _blocks(np.abs(residual)), _blocks(grey)
    quiet = levels <= np.percentile(levels, QUIET_PERCENTILE)
    channels = [_residual(np.ascontiguousarray(rgb[..., i], dtype=np.float32)) for i in range(3)]
    colours = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb), np.float32)
    power = float((residual**2).mean()) + 1e-6
    return [
        *(float(np.log(level + 0.05)) for level in np.percentile(levels, (5, 25, 50))),
        _correlation(brightness[quiet], levels[quiet]),
        float(np.log(levels.std() / (levels.mean() + 0.05) + 1e-3)),
        _correlation(channels[0], channels[1]),
        _correlation(channels[1], channels[2]),
        float(np.log(kurtosis(residual))),
        float((residual[:, 1:] * residual[:, :-1]).mean() + (residual[1:] * residual[:-1]).mean()) / (2.0 * power),
        float((residual[:, 2:] * residual[:, :-2]).mean() + (residual[2:] * residual[:-2]).mean()) / (2.0 * power),
        float((residual[1:, 1:] * residual[:-1, :-1]).mean()) / power,
        *(float(np.log(np.abs(_residual(np.ascontiguousarray(colours[..., i]))).mean() + 0.02)) for i in (1, 2)),
    ]


def _residual(plane: Plane) -> Plane:
    return np.asarray(cv2.filter2D(plane, -1, HIGH_PASS), np.float32)


def _blocks(plane: Plane) -> Plane:
    """Means of whole blocks, float32 (rows, columns)."""
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    cells = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return np.asarray(cells.mean((1, 3)), np.float32)


def _correlation(one: Plane, other: Plane) -> float:
    """Pearson's, 0 where either does not vary."""
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-9 else 0.0


STATISTIC: Final = Statistic(
    metric_type=MetricType.NOISE,
    name="Noise Consistency",
    facts=(
        Fact("quietest_level", "noise even in the quietest parts", "no noise in the quietest parts"),
        Fact("quiet_level", "much noise in smooth parts", "little noise in smooth parts"),
        Fact("middle_level", "much fine grain", "little fine grain"),
        Fact("brightness_dependence", "noise that grows with brightness", "noise that does not grow with brightness"),
        Fact("spread", "noise that varies over the picture", "noise that is the same everywhere"),
        Fact("red_green", "red and green noise that agree", "red and green noise that differ"),
        Fact("green_blue", "green and blue noise that agree", "green and blue noise that differ"),
        Fact("log_kurtosis", "noise in spikes", "noise without spikes"),
        Fact("neighbours", "noise that neighbouring pixels share", "noise without relation to its neighbours"),
        Fact("second_neighbours", "a period of two pixels", "no period of two pixels"),
        Fact("diagonals", "diagonal structure in the noise", "no diagonal structure in the noise"),
        Fact("red_difference", "coloured noise", "no coloured noise"),
        Fact("blue_difference", "bluish noise", "no bluish noise"),
    ),
    measure=_measure,
)


@registry.detector(
    name="noise_statistics",
    version="1",
    title="Noise statistics",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=("10.1006/cviu.1996.0060",),
    parameters={"decision_score": FLAGGED},
)
def detect_noise_statistics(picture: Picture) -> Finding:
    """Measures level, brightness dependence, channels and neighbours of the noise against photographs'."""
    return judge(STATISTIC, picture)
