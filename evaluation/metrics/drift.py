"""Whether scores still come as they did when the calibration was fitted.

PSI is the symmetric Kullback-Leibler divergence of two histograms with fixed bins (`SCORE_EDGES`, which are also the
buckets of the live metric). By custom below 0.1 is stable and above 0.25 has shifted, but on few pictures chance alone
gives more: without any drift PSI times n m / (n + m) is about chi-squared with one degree of freedom less than bins.

References: Siddiqi, Credit Risk Scorecards (2006); Yurdakul & Naranjo 2020, 10.21314/JRMV.2020.227 (its distribution).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy import special  # type: ignore[import-untyped]

from evaluation.metrics.errors import InvalidData, Undefined
from services.common.calibration import SCORE_EDGES, population_stability_index, score_histogram

__all__ = ["SHIFTED_FROM", "STABLE_BELOW", "Drift", "drift", "drift_of_counts"]

STABLE_BELOW: Final = 0.1
"""PSI below which scores count as stable, by custom (Siddiqi 2006)."""

SHIFTED_FROM: Final = 0.25
"""PSI from which scores count as shifted, by custom (Siddiqi 2006)."""

CHANCE_CONFIDENCE: Final = 0.95
"""`Drift.chance` is exceeded without drift in 1 of 20 comparisons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Two samples of scores, compared.

    Attributes:
        psi: population stability index, >= 0.
        chance: the PSI that samples of these sizes stay below in 19 of 20 cases if nothing drifted.
        reference: scores in the reference sample. current: in the current one.
    """

    psi: float
    chance: float
    reference: int
    current: int

    @property
    def drifted(self) -> bool:
        """True if the index is both large by custom and more than chance gives."""
        return self.psi >= SHIFTED_FROM and self.psi > self.chance


def drift(reference: Sequence[float], current: Sequence[float]) -> Drift:
    """Compares two samples of scores in 0-1, which may differ in size.

    Raises:
        Undefined: if one of them is empty.
        InvalidData: for scores outside 0-1.
    """
    try:
        histograms = score_histogram(reference), score_histogram(current)
    except ValueError as error:
        raise InvalidData(str(error)) from error
    return drift_of_counts(*histograms)


def drift_of_counts(reference: Sequence[int], current: Sequence[int]) -> Drift:
    """Compares two histograms over `SCORE_EDGES`, such as a calibration artefact and the live metric hold.

    Raises:
        Undefined: if one of them is empty.
        InvalidData: for histograms of another length.
    """
    sizes = sum(reference), sum(current)
    if not all(sizes):
        raise Undefined("drift from or to no scores")
    try:
        index = population_stability_index(reference, current)
    except ValueError as error:
        raise InvalidData(str(error)) from error
    quantile = float(special.chdtri(len(SCORE_EDGES) - 2, 1.0 - CHANCE_CONFIDENCE))
    return Drift(psi=index, chance=quantile * (1.0 / sizes[0] + 1.0 / sizes[1]), reference=sizes[0], current=sizes[1])
