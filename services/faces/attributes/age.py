"""Apparent age: 81 probabilities for the ages 0 to 80, and the profile API's eight ranges.

The ranges of the profile API leave gaps: nobody is 3, 7, 13 or 30 there. Every age counts towards the range that is
nearest to it; of two equally near ones, the younger. The answer is the range that gathers the most probability; of two
with the same, the younger.

A linear head reads it off what CLIP's first blocks see of the face (`triton_models/age`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.faces.attributes._network import TracesNetwork, distributions
from services.faces.face import AgeEstimate

__all__ = ["AGES", "AGE_RANGES", "NETWORK", "range_of", "read"]

AGES: Final = 81
"""The network's classes: the ages 0 to 80; the last stands for 80 and more."""

AGE_RANGES: Final[tuple[tuple[int, int], ...]] = (
    (0, 2),
    (4, 6),
    (8, 12),
    (15, 20),
    (25, 32),
    (38, 43),
    (48, 53),
    (60, 100),
)
"""The profile API's ranges: youngest and oldest age, both inclusive."""

_YEARS: Final = np.arange(AGES, dtype=np.float64)


def range_of(age: int) -> tuple[int, int]:
    """The range that an age counts towards: the nearest, the younger of two that are equally near."""
    return min(AGE_RANGES, key=lambda span: (max(span[0] - age, age - span[1], 0), span))


_RANGE_OF_AGE: Final = np.array([AGE_RANGES.index(range_of(age)) for age in range(AGES)])


def read(probabilities: NDArray[np.floating]) -> list[AgeEstimate]:
    """The network's output, (n, 81), as estimates.

    Raises:
        ValueError: another shape, or numbers that are no probabilities.
    """
    return [_estimate(row) for row in distributions(probabilities, AGES)]


def _estimate(distribution: NDArray[np.float64]) -> AgeEstimate:
    mass = np.bincount(_RANGE_OF_AGE, weights=distribution, minlength=len(AGE_RANGES))
    best = int(np.argmax(mass))
    youngest, oldest = AGE_RANGES[best]
    return AgeEstimate(
        years=float(distribution @ _YEARS),
        distribution=tuple(distribution.tolist()),
        age_range=f"({youngest}-{oldest})",
        range_probability=min(1.0, float(mass[best])),
    )


NETWORK: Final = TracesNetwork(model="age", read=read)
