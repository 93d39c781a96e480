"""What the five statistical metrics of document 002 share: facts about the pixels, weighed into a score.

A `Statistic` measures a few named facts about a picture. Each fact is standardised by its mean and spread over
photographs and generated pictures, the standardised facts are weighed by a logistic regression, and its log-odds give
the score: strictly increasing, `WARNING` (0.40) at the log-odds that 60 % of photographs stay below and `FLAGGED`
(0.70) at those that 95 % stay below. So "flagged" means: five photographs of a hundred look like this or more so.

The numbers stand in `statistics_weights.json`, fitted on training pictures of which all, photographs and generated
ones, were cropped, resized and compressed alike (`python -m training.screening_metrics`). They are hints of the kind
that a person may weigh, not evidence: a detector's likelihood ratio is left to the calibration of the deployment.
"""

from __future__ import annotations

import functools
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Metric, MetricType, Signal
from services.common.images import Picture

__all__ = ["FLAGGED", "WARNING", "Fact", "Fitted", "Statistic", "judge", "kurtosis", "window"]

RGB = NDArray[np.uint8]
Plane = NDArray[np.float32]

WEIGHTS: Final = Path(__file__).parents[1] / "statistics_weights.json"

WINDOW: Final = 768
"""Side in pixels of the window in the middle of the picture that is measured at full size: no fact gains from more."""
MIN_SIDE: Final = 96
"""Shortest side in pixels: below it the facts are mostly chance."""
MIN_DEVIATION: Final = 2.0
"""Smallest standard deviation (grey levels) of the window: a plain picture has no statistics."""
WARNING: Final = 0.40
"""Document 002: a signal with this score or more is a warning."""
FLAGGED: Final = 0.70
"""Document 002: a signal with this score or more is flagged."""
MAX_STANDARDISED: Final = 4.0
"""A fact counts for at most so many standard deviations: one odd number must not decide alone."""
FULL_CONFIDENCE_PIXELS: Final = 512 * 512


@dataclass(frozen=True, slots=True)
class Fact:
    """A number about the pixels, and what a person calls it when it is higher or lower than usual."""

    name: str
    high: str
    low: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One of the five metrics.

    Attributes:
        metric_type: which.
        name: what a person calls it.
        facts: what `measure` returns, in its order.
        measure: the facts of uint8 (h, w, 3) pixels: floats, possibly not finite.
    """

    metric_type: MetricType
    name: str
    facts: tuple[Fact, ...]
    measure: Callable[[RGB], Sequence[float]]

    def numbers(self, rgb: RGB) -> NDArray[np.float64]:
        """The facts as float64 (len(facts),), finite: what cannot be measured is 0."""
        values = np.asarray(self.measure(rgb), dtype=np.float64)
        if values.shape != (len(self.facts),):
            raise ValueError(f"{self.name} measured {values.shape} numbers for {len(self.facts)} facts")
        return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What was fitted for one statistic.

    Attributes:
        means, spreads, weights: one number a fact.
        intercept: of the log-odds (natural logarithm) at even odds.
        photographs: log-odds of photographs at 0, 1, ... 100 %, increasing.
        auc: area under the ROC curve on pictures that were not fitted on.
    """

    means: tuple[float, ...]
    spreads: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    photographs: tuple[float, ...]
    auc: float

    def standardised(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The facts in standard deviations from their means, within `MAX_STANDARDISED`: float64 (len(weights),)."""
        deviations = (numbers - np.asarray(self.means)) / np.asarray(self.spreads)
        limited: NDArray[np.float64] = np.clip(deviations, -MAX_STANDARDISED, MAX_STANDARDISED)
        return limited

    def score(self, log_odds: float) -> float:
        """The score (0-1, both exclusive) of log-odds: strictly increasing."""
        warning, flagged = self.photographs[60], self.photographs[95]
        steepness = (_logit(FLAGGED) - _logit(WARNING)) / (flagged - warning)
        return _sigmoid(_logit(WARNING) + steepness * (log_odds - warning))

    def share_of_photographs(self, log_odds: float) -> float:
        """Which share (0-1) of photographs has log-odds as high or higher."""
        return 1.0 - bisect_left(self.photographs, log_odds) / len(self.photographs)


def judge(statistic: Statistic, picture: Picture) -> Finding:
    """Measures a picture and says how much it looks like a generated one; never raises for a decodable picture."""
    height, width = picture.rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Finding.not_applicable(f"The shorter side has {min(height, width)} pixels; {MIN_SIDE} are needed.")
    pixels = window(picture.rgb)
    if float(pixels.std()) < MIN_DEVIATION:
        return Finding.not_applicable("The picture is too plain to have statistics.")
    fitted = _fitted()[statistic.metric_type]
    numbers = statistic.numbers(picture.working if statistic.metric_type is MetricType.COLOR else pixels)
    deviations = fitted.standardised(numbers)
    contributions = deviations * np.asarray(fitted.weights)
    log_odds = fitted.intercept + float(contributions.sum())
    score = fitted.score(log_odds)
    share = fitted.share_of_photographs(log_odds)
    explanation = f"{_in_words(statistic.facts, deviations, contributions)} {_share_in_words(share)}"
    # How far to trust it: what it could tell apart when it was fitted, and how many pixels it had.
    confidence = (2.0 * max(fitted.auc, 0.5) - 1.0) * min(
        1.0, pixels.shape[0] * pixels.shape[1] / FULL_CONFIDENCE_PIXELS
    )
    details = {
        **{fact.name: round(float(number), 4) for fact, number in zip(statistic.facts, numbers, strict=True)},
        "log_odds": round(log_odds, 4),
        "share_of_photographs_as_high": round(share, 2),
        "auc": fitted.auc,
    }
    return Finding(
        applicability=Applicability.APPLIED,
        score=score,
        explanation=explanation,
        details=details,
        metrics=(Metric(metric_type=statistic.metric_type, score=score, confidence=confidence, details=details),),
        signals=(Signal(name=statistic.name, metric_type=statistic.metric_type, score=score, explanation=explanation),),
    )


def window(rgb: RGB) -> RGB:
    """The middle of a picture at full size: uint8 (h, w, 3) with sides of at most `WINDOW`, contiguous."""
    height, width = rgb.shape[:2]
    top, left = max(0, (height - WINDOW) // 2), max(0, (width - WINDOW) // 2)
    return np.ascontiguousarray(rgb[top : top + WINDOW, left : left + WINDOW])


def kurtosis(values: Plane) -> float:
    """The fourth standardised moment (3 for a normal distribution); 3 where nothing varies."""
    centred = values.astype(np.float64) - float(values.mean())
    variance = float((centred**2).mean())
    return float((centred**4).mean()) / variance**2 if variance > 1e-12 else 3.0


def _in_words(facts: Sequence[Fact], deviations: NDArray[np.float64], contributions: NDArray[np.float64]) -> str:
    """The two facts that decided most, in the direction of the score."""
    direction = 1.0 if contributions.sum() > 0 else -1.0
    strongest = [i for i in np.argsort(-direction * contributions)[:2] if direction * contributions[i] > 0]
    seen = " and ".join(facts[i].high if deviations[i] > 0 else facts[i].low for i in strongest)
    return f"{'Unlike' if direction > 0 else 'Like'} most photographs: {seen or 'nothing that stands out'}."


def _share_in_words(share: float) -> str:
    if share < 0.01:
        return "Fewer than 1 in 100 photographs look like that or more so."
    return f"{round(100 * share)} in 100 photographs look like that or more so."


@functools.cache
def _fitted() -> Mapping[MetricType, Fitted]:
    stored = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return {
        MetricType(name): Fitted(
            means=tuple(entry["means"]),
            spreads=tuple(entry["spreads"]),
            weights=tuple(entry["weights"]),
            intercept=entry["intercept"],
            photographs=tuple(entry["photographs"]),
            auc=entry["auc"],
        )
        for name, entry in stored["statistics"].items()
    }


def _logit(share: float) -> float:
    return math.log(share / (1.0 - share))


def _sigmoid(value: float) -> float:
    """The logistic function, kept off 0 and 1."""
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, value))))
