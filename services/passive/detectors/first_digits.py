"""First digits of DCT coefficients: how often the picture was saved as JPEG.

The leading digits of a photograph's DCT coefficients follow a generalised law of Benford, p(d) = N log10(1 + 1 / (s +
d^q)). One JPEG compression keeps them to it; a second one with other steps leaves gaps that break it. For the first
frequencies the digits of the quantised coefficients are counted, the law is fitted, and the deviation is measured as
chi-square divergence of all of them together, which makes the score, and of each frequency.

A second compression is no forgery: every messenger adds one. So this is a fact for the person who weighs the rest, and
moves no verdict.

References:
    D. Fu, Y. Q. Shi and W. Su, "A generalized Benford's law for JPEG coefficients and its applications in image
        forensics", 2007. 10.1117/12.704723
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._jpeg import StoredLuma, stored_luma

__all__ = ["Digits", "count_digits", "detect_first_digits", "law"]

Floats = NDArray[np.float64]

FREQUENCIES: Final = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0))
"""The first nine in zigzag order, (vertical, horizontal)."""
MIN_COUNT: Final = 2_000
"""Fewest coefficients that are not zero, over all frequencies."""
MIN_COUNT_ALONE: Final = 500
"""Fewest of one frequency, for its own divergence to say anything."""
SCALES: Final = np.linspace(-0.9, 2.0, 59)
EXPONENTS: Final = np.linspace(0.8, 2.6, 37)
"""Where the law's two parameters are looked for; a single compression at quality 50-100 has s from -0.7 to 0.1 and q
from 1.1 to 1.9 (Fu et al., table 2)."""
FULL_DIVERGENCE: Final = 0.04
"""Divergence at which the score is 1. Of 60 photographs of the training split that were made smaller and saved once, at
quality 60 to 95, 95 % stay below a tenth of it; saved twice, half exceed it (AUC 0.87)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """How the first digits are distributed.

    Attributes:
        shares: float64 (9,), of the digits 1 to 9.
        count: how many coefficients were counted.
        divergence: chi-square divergence from the best-fitting law, 0 and more.
        by_frequency: that of each of `FREQUENCIES` alone; None for one with fewer than `MIN_COUNT_ALONE` coefficients.
    """

    shares: Floats
    count: int
    divergence: float
    by_frequency: tuple[float | None, ...] = ()


def law(scale: float, exponent: float) -> Floats:
    """The generalised law's shares of the digits 1 to 9, float64 (9,), summing to 1."""
    digits = np.arange(1, 10, dtype=np.float64)
    shares: Floats = np.log10(1.0 + 1.0 / np.maximum(scale + digits**exponent, 1e-3))
    normalised: Floats = shares / shares.sum()
    return normalised


_LEADING: Final = np.array([int(str(level)[0]) for level in range(2048)])
"""The first digit of each quantised coefficient that can be: at most 1024 grey levels, in steps of 1."""

_LAWS: Final = np.stack([law(scale, exponent) for scale in SCALES for exponent in EXPONENTS])


def count_digits(luma: StoredLuma) -> Digits:
    """Counts the first digits of the quantised coefficients in all blocks without clipped pixels."""
    digits = np.zeros((len(FREQUENCIES), 9), np.int64)
    for index, (row, column) in enumerate(FREQUENCIES):
        coefficients = luma.low[..., row, column][luma.usable]
        levels = np.abs(np.rint(coefficients / np.float32(luma.table[row, column]))).astype(np.int64)
        digits[index] = np.bincount(_LEADING[levels], minlength=10)[1:]
    counts = digits.sum(axis=1)
    total = int(counts.sum())
    if not total:
        return Digits(shares=np.zeros(9), count=0, divergence=0.0)
    shares = digits.sum(axis=0) / total
    return Digits(
        shares=shares,
        count=total,
        divergence=_divergence(shares),
        by_frequency=tuple(
            _divergence(mine / count) if count >= MIN_COUNT_ALONE else None
            for mine, count in zip(digits, counts, strict=True)
        ),
    )


def _divergence(shares: Floats) -> float:
    """From the law that fits best."""
    return float(((shares - _LAWS) ** 2 / _LAWS).sum(axis=1).min())


@registry.detector(
    name="first_digits",
    version="2",
    title="First digits (Benford)",
    question=Question.EDITED,
    techniques=(Technique.OTHER,),
    papers=("10.1117/12.704723",),
    parameters={"full_divergence": FULL_DIVERGENCE, "min_count": MIN_COUNT},
)
def detect_first_digits(picture: Picture) -> Finding:
    """Tells from the first digits of the DCT coefficients whether a JPEG was likely saved more than once.

    That is no forgery: every messenger saves pictures again.
    """
    luma = stored_luma(picture)
    if luma is None:
        return Finding.not_applicable("Only colour and grey JPEG files have coefficients to count.")
    digits = count_digits(luma)
    if digits.count < MIN_COUNT:
        return Finding.not_applicable("The picture has too little detail for its digits to be counted.")
    score = min(1.0, digits.divergence / FULL_DIVERGENCE)
    follow = "follow" if score < 0.1 else "do not quite follow" if score < 0.5 else "do not follow"
    means = "as after one compression" if score < 0.1 else "as after more than one compression with other tables"
    return Finding(
        applicability=Applicability.APPLIED,
        score=score,
        explanation=f"The first digits of the coefficients {follow} Benford's law, {means}.",
        details={
            "shares": [round(float(share), 4) for share in digits.shares],
            "count": digits.count,
            "divergence": round(digits.divergence, 5),
            "by_frequency": [
                {"frequency": list(frequency), "divergence": None if alone is None else round(alone, 5)}
                for frequency, alone in zip(FREQUENCIES, digits.by_frequency, strict=True)
            ],
        },
    )
