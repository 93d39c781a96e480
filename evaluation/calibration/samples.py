"""What a calibration is fitted on: labelled, scored pictures of known source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics._arrays import BoolArray, FloatArray, as_labels
from evaluation.metrics.errors import InvalidData, MetricError

__all__ = ["DetectorSamples", "InsufficientData", "Samples"]


class InsufficientData(MetricError):
    """Too few sources to say what a score is worth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectorSamples:
    """The pictures on which one detector applied; (n,) each.

    Attributes:
        labels: True for false pictures.
        groups: source of each picture.
        scores: 0-1.
    """

    labels: BoolArray
    groups: np.ndarray
    scores: FloatArray

    def __getitem__(self, index: BoolArray) -> DetectorSamples:
        return DetectorSamples(labels=self.labels[index], groups=self.groups[index], scores=self.scores[index])

    @property
    def positive_sources(self) -> int:
        """Sources of false pictures."""
        return int(np.unique(self.groups[self.labels]).size)

    @property
    def negative_sources(self) -> int:
        """Sources of honest pictures."""
        return int(np.unique(self.groups[~self.labels]).size)

    @property
    def weights(self) -> FloatArray:
        """float64 (n,): within a class every source weighs 1, shared by its pictures.

        Otherwise the photograph of which most forgeries were made would decide.
        """
        weights = np.empty(self.labels.size)
        for chosen in (self.labels, ~self.labels):
            _, code, count = np.unique(self.groups[chosen], return_inverse=True, return_counts=True)
            weights[chosen] = 1.0 / count[code]
        return weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Pictures for one question, and what every detector of that question said of them.

    Attributes:
        labels: True for false pictures (as the question means it), (n,).
        groups: name of the source of each picture, (n,).
        scores: by detector, (n,) in 0-1, NaN where it did not apply or failed.
    """

    labels: BoolArray
    groups: np.ndarray
    scores: Mapping[str, FloatArray]

    @classmethod
    def of(
        cls, labels: ArrayLike, groups: Sequence[str], scores: Mapping[str, Sequence[float | None] | FloatArray]
    ) -> Samples:
        """Checks and converts; None or NaN stands for a missing score.

        Raises InvalidData if lengths differ or a score is outside 0-1.
        """
        truth = as_labels(labels)
        sources = np.asarray(groups, dtype=np.str_)
        if sources.shape != truth.shape:
            raise InvalidData(f"{truth.size} labels, but groups of shape {sources.shape}")
        arrays = {}
        for name in sorted(scores):
            array = np.array([np.nan if score is None else score for score in scores[name]], dtype=np.float64)
            if array.shape != truth.shape:
                raise InvalidData(f"{truth.size} labels, but scores of {name} of shape {array.shape}")
            if not (np.isnan(array) | ((array >= 0.0) & (array <= 1.0))).all():
                raise InvalidData(f"a score of {name} is outside 0-1")
            arrays[name] = array
        return cls(labels=truth, groups=sources, scores=arrays)

    def detector(self, name: str) -> DetectorSamples:
        """The pictures on which this detector applied."""
        applied = ~np.isnan(self.scores[name])
        return DetectorSamples(
            labels=self.labels[applied], groups=self.groups[applied], scores=self.scores[name][applied]
        )

    def rows(self) -> Iterator[tuple[str, bool, tuple[tuple[str, float], ...]]]:
        """Source, label and (detector, score) of each picture, for a digest."""
        for i in range(self.labels.size):
            known = ((name, float(values[i])) for name, values in self.scores.items() if not np.isnan(values[i]))
            yield str(self.groups[i]), bool(self.labels[i]), tuple(known)
