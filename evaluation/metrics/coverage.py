"""How often a detector had anything to say.

A detector that abstains on hard pictures looks good on the rest. So every table names its convention: *applied only*
(abstentions left out, coverage beside it) or *all pictures* (an abstention is no alarm, `abstentions_as_no_alarm`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics._arrays import BoolArray, FloatArray
from evaluation.metrics.errors import InvalidData, Undefined
from evaluation.metrics.intervals import CONFIDENCE, Interval, wilson
from services.common.detection import Applicability

__all__ = ["Coverage", "abstentions_as_no_alarm", "applied_only", "coverage", "coverage_by_detector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Pictures by what the detector made of them.

    Attributes:
        applied: it looked. not_applicable: nothing to look at. failed: it should have looked and could not.
        interval: Wilson's, of the share of pictures on which it applied.
    """

    applied: int
    not_applicable: int
    failed: int
    interval: Interval

    @property
    def total(self) -> int:
        """Pictures."""
        return self.applied + self.not_applicable + self.failed

    @property
    def share(self) -> float:
        """Share of pictures on which it applied, 0-1."""
        return self.applied / self.total


def coverage(applicabilities: Sequence[Applicability], *, confidence: float = CONFIDENCE) -> Coverage:
    """Counts what a detector said of each picture. Raises Undefined without pictures."""
    if not applicabilities:
        raise Undefined("coverage of no pictures")
    counts = {kind: sum(1 for seen in applicabilities if seen is kind) for kind in Applicability}
    if sum(counts.values()) != len(applicabilities):
        raise InvalidData("an applicability is APPLIED, NOT_APPLICABLE or FAILED")
    applied = counts[Applicability.APPLIED]
    return Coverage(
        applied=applied,
        not_applicable=counts[Applicability.NOT_APPLICABLE],
        failed=counts[Applicability.FAILED],
        interval=wilson(applied, len(applicabilities), confidence=confidence),
    )


def coverage_by_detector(
    applicabilities: Mapping[str, Sequence[Applicability]], *, confidence: float = CONFIDENCE
) -> dict[str, Coverage]:
    """`coverage` of every detector, by name, in the order of names."""
    return {name: coverage(applicabilities[name], confidence=confidence) for name in sorted(applicabilities)}


def applied_only(scores: Sequence[float | None]) -> BoolArray:
    """Where there is a score, bool (n,): to index labels, scores and groups with."""
    return np.array([score is not None and not math.isnan(score) for score in scores], dtype=np.bool_)


def abstentions_as_no_alarm(scores: Sequence[float | None]) -> FloatArray:
    """Scores as float64 (n,), -inf where there is none (None or NaN): below every threshold, tied with each other."""
    return np.array([-math.inf if score is None or math.isnan(score) else score for score in scores], dtype=np.float64)
