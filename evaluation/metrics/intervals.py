"""Intervals: what a number measured on few pictures is worth.

Pictures made from one source (crops, forgeries of one photograph) are not independent. Every interval here takes the
source of each picture (`groups`) and treats the source as the unit of chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special  # type: ignore[import-untyped]

from evaluation.metrics._arrays import Groups, IntArray, as_labels, group_codes
from evaluation.metrics.errors import InvalidData, Undefined

__all__ = [
    "CONFIDENCE",
    "MAX_UNDEFINED_SHARE",
    "Estimate",
    "Interval",
    "Proportion",
    "bootstrap",
    "clopper_pearson",
    "proportion",
    "rule_of_three",
    "wilson",
]

CONFIDENCE: Final = 0.95
"""Coverage of an interval where nothing else is said."""

RESAMPLES: Final = 1000
"""Bootstrap resamples: the 2.5% quantile then rests on 25 of them (Efron & Tibshirani 1993, chapter 13)."""

MAX_UNDEFINED_SHARE: Final = 0.1
"""If the statistic is undefined in more resamples than this share, there is no interval: the rest would be a choice."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval, low <= high."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def width(self) -> float:
        """The distance from low to high."""
        return self.high - self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A statistic with its bootstrap interval.

    Attributes:
        value: on the pictures as they are.
        interval: percentile interval; None with fewer than two groups, or with too many undefined resamples.
        confidence: nominal coverage of the interval, 0-1.
        groups: sources that were resampled.
        resamples: how many resamples were drawn.
        undefined: in how many of them the statistic had no value.
    """

    value: float
    interval: Interval | None
    confidence: float
    groups: int
    resamples: int
    undefined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A share of pictures.

    Attributes:
        successes: pictures that count.
        total: pictures.
        groups: sources among them.
        value: successes / total, 0-1.
        interval: see `proportion`.
    """

    successes: int
    total: int
    groups: int
    value: float
    interval: Interval


def bootstrap(
    statistic: Callable[[IntArray], float],
    groups: Groups,
    *,
    length: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Cluster bootstrap: sources are drawn with replacement, each with all its pictures; percentile interval.

    Equal seeds and groups give equal resamples, so two detectors on the same pictures are compared on the same ones.
    The interval of a statistic that sits at its limit (no false alarm, AUC 1) collapses to a point: for a share use
    `proportion`, which does not.

    Args:
        statistic: from indices of pictures, int64 (m,) with repetitions, to a number; raises Undefined (or returns NaN)
            where it has no value.
        groups: source of every picture, (n,); None (then `length` is needed) if each picture is its own.
        length: number of pictures, if `groups` is None.
        resamples: how many.
        seed: of the random numbers.
        confidence: nominal coverage, 0-1 exclusive.

    Raises:
        Undefined: if the statistic has no value on the pictures as they are.
        InvalidData: without pictures.

    References: Davison & Hinkley, Bootstrap Methods and their Application (1997), 3.8,
    10.1017/CBO9780511802843; Field & Welsh 2007, 10.1111/j.1467-9868.2007.00593.x.
    """
    _check_confidence(confidence)
    codes = group_codes(groups, length if length is not None else (0 if groups is None else len(groups)))
    if not codes.size:
        raise InvalidData("no pictures to resample")
    value = float(statistic(np.arange(codes.size, dtype=np.int64)))
    if math.isnan(value):
        raise Undefined("the statistic has no value on these pictures")
    order = np.argsort(codes, kind="stable").astype(np.int64)
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    count = sizes.size
    if count < 2:
        return Estimate(value=value, interval=None, confidence=confidence, groups=count, resamples=0, undefined=0)
    random = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        chosen = random.integers(0, count, size=count)
        drawn = sizes[chosen]
        begin = np.repeat(starts[chosen] - (np.cumsum(drawn) - drawn), drawn)
        try:
            value_of_resample = float(statistic(order[begin + np.arange(begin.size)]))
        except Undefined:
            continue
        if not math.isnan(value_of_resample):
            values.append(value_of_resample)
    undefined = resamples - len(values)
    interval = None
    if values and undefined <= MAX_UNDEFINED_SHARE * resamples:
        tail = (1.0 - confidence) / 2.0
        low, high = np.quantile(values, [tail, 1.0 - tail])
        interval = Interval(float(low), float(high))
    return Estimate(
        value=value, interval=interval, confidence=confidence, groups=count, resamples=resamples, undefined=undefined
    )


def wilson(successes: float, total: float, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a binomial share: close to nominal on average, short, never outside 0-1.

    `successes` and `total` may be fractional (effective counts). Raises InvalidData unless 0 <= successes <= total
    and total > 0. Wilson 1927, 10.1080/01621459.1927.10502953; Brown, Cai & DasGupta 2001, 10.1214/ss/1009213286.
    """
    _check_counts(successes, total)
    _check_confidence(confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    share = successes / total
    denominator = 1.0 + z * z / total
    centre = (share + z * z / (2.0 * total)) / denominator
    half = z * math.sqrt(share * (1.0 - share) / total + z * z / (4.0 * total * total)) / denominator
    # At the limits the formula's end is exact, up to rounding.
    return Interval(
        0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == total else min(1.0, centre + half)
    )


def clopper_pearson(successes: float, total: float, *, confidence: float = CONFIDENCE) -> Interval:
    """The exact interval of a binomial share: covers at least as often as it says, for every true share.

    `successes` and `total` may be fractional (effective counts). Raises InvalidData unless 0 <= successes <= total
    and total > 0. Clopper & Pearson 1934, 10.1093/biomet/26.4.404.
    """
    _check_counts(successes, total)
    _check_confidence(confidence)
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if successes <= 0 else float(special.betaincinv(successes, total - successes + 1.0, tail))
    high = 1.0 if successes >= total else float(special.betaincinv(successes + 1.0, total - successes, 1.0 - tail))
    return Interval(low, high)


def rule_of_three(total: int) -> float:
    """Upper 95% limit, one-sided, of a share of which no case was seen in `total`: 3 / total, at most 1.

    An approximation of `1 - 0.05 ** (1 / total)`. Hanley & Lippman-Hand 1983, 10.1001/jama.1983.03330370053031.
    """
    _check_counts(0, total)
    return min(1.0, 3.0 / total)


def proportion(flags: ArrayLike, groups: Groups = None, *, confidence: float = CONFIDENCE) -> Proportion:
    """A share of pictures with the interval of Korn and Graubard: Clopper-Pearson at the effective number of pictures.

    With every picture its own source this is Clopper-Pearson. Otherwise the number of pictures is divided by the design
    effect, the ratio of the between-source variance of the share to what independent pictures would have, and corrected
    for the few degrees of freedom of few sources. Where the share is 0 or 1 nothing can be seen of that variance, and
    the number of sources is taken: 0 alarms on 100 pictures of 20 photographs bound the rate like 0 of 20.

    Args:
        flags: True for the pictures that count, (n,).
        groups: source of every picture, (n,), or None.
        confidence: nominal coverage, 0-1 exclusive.

    Raises:
        Undefined: without pictures.

    References: Korn & Graubard, Confidence intervals for proportions with small expected number of positive counts
    estimated from survey data, Survey Methodology 24 (1998) 193-201.
    """
    counted = as_labels(flags)
    total = counted.size
    if not total:
        raise Undefined("a share of no pictures")
    codes = group_codes(groups, total)
    sizes = np.bincount(codes)
    successes = int(counted.sum())
    share = successes / total
    effective = _effective_total(np.bincount(codes, weights=counted), sizes, confidence)
    return Proportion(
        successes=successes,
        total=total,
        groups=sizes.size,
        value=share,
        interval=clopper_pearson(share * effective, effective, confidence=confidence),
    )


def _effective_total(successes: np.ndarray, sizes: np.ndarray, confidence: float) -> float:
    total, count = float(sizes.sum()), sizes.size
    if count == total:
        return total
    share = successes.sum() / total
    if share in {0.0, 1.0} or count < 2:
        return float(count)
    variance = count / (count - 1) * float(((successes - share * sizes) ** 2).sum()) / total**2
    quantile = 0.5 + confidence / 2.0
    correction = float(special.stdtrit(total - 1, quantile) / special.stdtrit(count - 1, quantile)) ** 2
    # A variance below that of independent pictures is chance: it earns no more than as many pictures as there are.
    independent = share * (1.0 - share)
    return max(1.0, min(total, independent / variance if variance > 0 else total) * correction)


def _check_counts(successes: float, total: float) -> None:
    if not (total > 0 and 0 <= successes <= total * (1 + 1e-12)):
        raise InvalidData(f"{successes} of {total} is no share")


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise InvalidData(f"confidence {confidence} is not between 0 and 1")
