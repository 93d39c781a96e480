"""Gradient statistics: how edges are distributed over strength, direction and scale.

Lenses and sensors leave gradients of a certain kind: heavy-tailed, seldom exactly zero, alike at several scales. What a
generator paints is often smoother where it is smooth and more coherent along edges. Scharr gradients at full and half
size give, each time, the mean, the variation and the kurtosis of the gradients, the share that is nearly flat, and the
coherence of the structure tensor; the principal components of the gradient field give the ratio of its eigenvalues.

References:
    J. Huang and D. Mumford, "Statistics of natural images and models", CVPR 1999. 10.1109/CVPR.1999.786990
    J. Bigun and G. Granlund, "Optimal orientation detection of linear symmetry", 1987 (structure tensor).
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

__all__ = ["STATISTIC", "detect_gradient_statistics"]

RGB = NDArray[np.uint8]
Plane = NDArray[np.float32]

FLAT: Final = 1.0
"""Gradients below this many grey levels a pixel count as flat."""
TENSOR_SIGMA: Final = 2.0
"""Standard deviation in pixels of the window over which the structure tensor is averaged."""


def _measure(rgb: RGB) -> list[float]:
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)
    return [*_at_scale(grey), *_at_scale(np.asarray(cv2.pyrDown(grey), np.float32))]


def _at_scale(grey: Plane) -> list[float]:
    """Log mean, variation, log kurtosis, flat share, coherence and eigenvalue ratio of the gradients."""
    across, down = (np.asarray(cv2.Scharr(grey, cv2.CV_32F, *way), np.float32) / 32.0 for way in ((1, 0), (0, 1)))
    strength = np.hypot(across, down)
    mean = float(strength.mean()) + 1e-3
    xx, yy, xy = (
        np.asarray(cv2.GaussianBlur(product, (0, 0), TENSOR_SIGMA), np.float32)
        for product in (across * across, down * down, across * down)
    )
    coherence = np.sqrt((xx - yy) ** 2 + 4.0 * xy**2) / (xx + yy + 1e-3)
    eigenvalues = np.linalg.eigvalsh(np.cov(np.stack([across.ravel(), down.ravel()])))
    return [
        float(np.log(mean)),
        float(strength.std()) / mean,
        float(np.log(kurtosis(across))),
        float((strength < FLAT).mean()),
        float(coherence.mean()),
        float(eigenvalues[0] / (eigenvalues[1] + 1e-6)),
    ]


STATISTIC: Final = Statistic(
    metric_type=MetricType.GRADIENT,
    name="Gradient Field PCA",
    facts=(
        Fact("log_mean", "strong edges", "weak edges"),
        Fact("variation", "edges of very different strength", "edges of much the same strength"),
        Fact("log_kurtosis", "few edges that stand out", "many edges of middling strength"),
        Fact("flat_share", "much that is perfectly smooth", "little that is perfectly smooth"),
        Fact("coherence", "edges that run very straight", "edges without direction"),
        Fact("eigenvalue_ratio", "edges in all directions alike", "edges in one direction above others"),
        Fact("half_log_mean", "strong edges at half size", "weak edges at half size"),
        Fact("half_variation", "uneven edges at half size", "even edges at half size"),
        Fact("half_log_kurtosis", "few edges that stand out at half size", "many middling edges at half size"),
        Fact("half_flat_share", "large smooth areas", "few smooth areas"),
        Fact("half_coherence", "long straight edges", "edges without direction at half size"),
        Fact("half_eigenvalue_ratio", "long edges in all directions alike", "long edges in one direction"),
    ),
    measure=_measure,
)


@registry.detector(
    name="gradient_statistics",
    version="1",
    title="Gradient statistics",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=("10.1109/CVPR.1999.786990",),
    parameters={"decision_score": FLAGGED},
)
def detect_gradient_statistics(picture: Picture) -> Finding:
    """Measures how edges are distributed over strength, direction and scale, and how far that is from photographs."""
    return judge(STATISTIC, picture)
