"""What a score is worth: calibrated log10 likelihood ratios and their fusion, read from a fitted artefact.

A `Calibration` is made by `evaluation.calibration` and only applied here:

    calibration = load_calibration(path)
    ratio = calibration.log10_likelihood_ratio("copy_move", 0.83, version="2")    # None: not calibrated
    fused = calibration.fuse(Question.EDITED, {"copy_move": ratio, "jpeg_ghosts": None})

What holds for every artefact that loads, whatever it was fitted on: a higher score never gives a lower ratio; a
detector that is missing contributes exactly 0; more suspicion never lowers the sum; no ratio leaves the bounds that the
number of pictures behind it supports.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.common.detection import Question

__all__ = [
    "SCHEMA_VERSION",
    "SCORE_EDGES",
    "SHIPPED",
    "Calibration",
    "DetectorCalibration",
    "Fused",
    "Fusion",
    "InvalidCalibration",
    "Method",
    "ScoreMap",
    "SourceDigest",
    "load_calibration",
    "parse_calibration",
    "population_stability_index",
    "read_calibration",
    "score_histogram",
]

SHIPPED: Final = Path(__file__).with_name("calibration.json")
"""The artefact of this version, beside this file so that every deployment has it; `make calibrate` writes it."""

SCHEMA_VERSION: Final = 1
"""Of the artefact. Raised when an older reader would misread it."""

SCORE_EDGES: Final = tuple(edge / 10 for edge in range(11))
"""Edges of the histogram of scores, fixed for ever: a bin holds low < score <= high, the first also 0 (so do the
buckets of a Prometheus histogram), and drift compares like with like."""

PSEUDO_COUNT: Final = 0.5
"""Added to every bin before a population stability index, so that an empty one is finite (Jeffreys' prior)."""

ROUNDING: Final = 1e-9
"""How far a breakpoint may lie beyond its bounds."""

Method = Literal["isotonic", "logistic", "logistic_of_logit", "uninformative"]
"""How a map was fitted; "uninformative" is 0 everywhere, for a detector whose score says nothing on these pictures."""

SourceDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""First 16 hexadecimal digits of the SHA-256 of a source's name."""

_Score = Annotated[float, Field(ge=0.0, le=1.0)]
_Count = Annotated[int, Field(ge=0)]


class InvalidCalibration(ValueError):
    """An artefact that cannot be read, or that breaks a promise of this module."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ScoreMap(_Frozen):
    """A monotone map from score to log10 likelihood ratio, linear between breakpoints.

    Attributes:
        scores: rising, from 0 to 1.
        log10_likelihood_ratios: one a score, never falling, within `bounds`.
        bounds: the lowest and highest value that the number of pictures supports; 0 lies between them.
    """

    scores: tuple[_Score, ...] = Field(min_length=2)
    log10_likelihood_ratios: tuple[float, ...] = Field(min_length=2)
    bounds: tuple[float, float]

    @model_validator(mode="after")
    def _check(self) -> ScoreMap:
        ratios = self.log10_likelihood_ratios
        if len(ratios) != len(self.scores):
            raise ValueError("a map has as many ratios as scores")
        if self.scores[0] != 0.0 or self.scores[-1] != 1.0 or not _rising(self.scores, strictly=True):
            raise ValueError("the scores of a map rise from 0 to 1")
        if not _rising(ratios, strictly=False):
            raise ValueError("a higher score may not give a lower ratio")
        _check_bounds(self.bounds)
        if ratios[0] < self.bounds[0] - ROUNDING or ratios[-1] > self.bounds[1] + ROUNDING:
            raise ValueError("a ratio lies outside its bounds")
        return self

    def __call__(self, score: float) -> float:
        """log10 likelihood ratio of a score in 0-1. Raises ValueError for another score."""
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"score {score} is outside 0-1")
        right = bisect.bisect_right(self.scores, score)
        if right == len(self.scores):
            return self.log10_likelihood_ratios[-1]
        low, high = self.scores[right - 1], self.scores[right]
        start, end = self.log10_likelihood_ratios[right - 1], self.log10_likelihood_ratios[right]
        # The clamp keeps rounding from breaking monotony.
        return min(end, start + (end - start) * ((score - low) / (high - low)))


class DetectorCalibration(_Frozen):
    """What is known of one detector.

    Attributes:
        version: of the detector; another version answers differently and is not calibrated by this.
        question: to which it speaks.
        positives: false pictures it was fitted on, and positive_sources the sources they come from.
        negatives: honest pictures, and negative_sources likewise.
        method: how the map was fitted.
        cross_validated_cllr: by method, in bits, on sources left out; 1 says nothing.
        score_map: the map.
        histogram: scores of all these pictures over `SCORE_EDGES`, for drift.
    """

    version: str
    question: Question
    positives: _Count
    negatives: _Count
    positive_sources: _Count
    negative_sources: _Count
    method: Method
    cross_validated_cllr: dict[Method, float]
    score_map: ScoreMap
    histogram: tuple[_Count, ...]

    @model_validator(mode="after")
    def _check(self) -> DetectorCalibration:
        if len(self.histogram) != len(SCORE_EDGES) - 1:
            raise ValueError(f"a histogram has {len(SCORE_EDGES) - 1} bins")
        if sum(self.histogram) != self.positives + self.negatives:
            raise ValueError("a histogram counts every picture once")
        return self


class Fusion(_Frozen):
    """How the detectors of one question are put together: a weighted sum of log10 ratios, within bounds.

    There is no constant term, so that a picture of which nothing is known keeps its prior. No weight is above 1, so
    that one detector alone never says more in the sum than by itself.

    Attributes:
        weights: by detector, 0-1.
        bounds: lowest and highest sum that the number of pictures supports; 0 lies between them.
        positives, negatives, positive_sources, negative_sources: pictures it was fitted on, and their sources.
        cross_validated_cllr: of the fused ratio, in bits, on sources left out.
        missed: how the policy's ratio is distributed over false pictures, every source weighing alike: pairs of a
            log10 ratio and the share (0-1) of false pictures at or below it, both rising. Empty where nobody measured.
        false_pictures: how many pictures that is, those included that no detector is made for.
    """

    weights: dict[str, _Score]
    bounds: tuple[float, float]
    positives: _Count
    negatives: _Count
    positive_sources: _Count
    negative_sources: _Count
    cross_validated_cllr: float
    missed: tuple[tuple[float, _Score], ...] = ()
    false_pictures: _Count = 0

    @model_validator(mode="after")
    def _check(self) -> Fusion:
        _check_bounds(self.bounds)
        for column in zip(*self.missed, strict=True):
            if not _rising(column, strictly=True):
                raise ValueError("the shares of missed pictures rise with the ratio")
        return self

    def miss_rate(self, threshold: float) -> float | None:
        """Share (0-1) of false pictures whose log10 ratio lies below a threshold; None where nobody measured."""
        if not self.missed:
            return None
        return max((share for ratio, share in self.missed if ratio < threshold), default=0.0)


class Fused(_Frozen):
    """The detectors of one question together.

    Attributes:
        log10_likelihood_ratio: of all of them, within the bounds of the fusion.
        contributions: what each detector added before the bounds were applied, 0 where it was missing.
    """

    log10_likelihood_ratio: float
    contributions: dict[str, float]


class Calibration(_Frozen):
    """A fitted artefact.

    Attributes:
        schema_version: of its layout.
        created: when it was fitted, ISO 8601.
        data_digest: of the pictures' scores, labels and sources, "sha256:" and 64 hexadecimal digits.
        sources: digests of the sources it was fitted on, sorted: nothing made from them may be reported on.
        detectors: by name.
        fusions: by question, for those that have calibrated detectors.
        uncalibrated: detectors that could not be calibrated, and why.
    """

    schema_version: Literal[1]
    created: str
    data_digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    sources: tuple[SourceDigest, ...]
    detectors: dict[str, DetectorCalibration]
    fusions: dict[Question, Fusion]
    uncalibrated: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Calibration:
        if not _rising(self.sources, strictly=True):
            raise ValueError("sources are sorted, each once")
        for question, fusion in self.fusions.items():
            for name in fusion.weights:
                if name not in self.detectors or self.detectors[name].question is not question:
                    raise ValueError(f"the fusion for {question.value} weighs {name}, which has no map for it")
        return self

    @property
    def version(self) -> str:
        """Tells this artefact from every other: its date, and a digest of all of it."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        return f"{self.created[:10]}.{digest[:12]}"

    def log10_likelihood_ratio(self, detector: str, score: float | None, *, version: str) -> float | None:
        """What a score (0-1) of this detector is worth.

        None if there is no score, or no calibration of this detector in this version.
        """
        known = self.detectors.get(detector)
        if known is None or known.version != version or score is None:
            return None
        return known.score_map(score)

    def fuse(self, question: Question, log10_likelihood_ratios: Mapping[str, float | None]) -> Fused | None:
        """Puts the detectors of a question together; None if there is no fusion for it.

        A detector that is None or absent contributes exactly 0, and so does one that the fusion does not know.
        The order of detectors does not matter.
        """
        fusion = self.fusions.get(question)
        if fusion is None:
            return None
        contributions = {
            name: weight * (log10_likelihood_ratios.get(name) or 0.0) for name, weight in fusion.weights.items()
        }
        low, high = fusion.bounds
        total = min(high, max(low, math.fsum(contributions.values())))
        return Fused(log10_likelihood_ratio=total, contributions=contributions)


def parse_calibration(text: str | bytes) -> Calibration:
    """Reads an artefact from JSON. Raises InvalidCalibration, which says where it is wrong."""
    try:
        return Calibration.model_validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'artefact'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise InvalidCalibration(f"not a calibration of schema version {SCHEMA_VERSION}: {wrong}") from error


def load_calibration(path: Path) -> Calibration:
    """Reads an artefact from a file. Raises InvalidCalibration, and OSError where there is none."""
    return parse_calibration(path.read_bytes())


def read_calibration(setting: str) -> Calibration | None:
    """The artefact that a setting names: "shipped" for the one of this version, a file, or "" for none.

    Raises InvalidCalibration, and OSError where there is no such file.
    """
    if not setting:
        return None
    return load_calibration(SHIPPED if setting == "shipped" else Path(setting))


def score_histogram(scores: Sequence[float]) -> tuple[int, ...]:
    """Scores (0-1) counted over `SCORE_EDGES`. Raises ValueError for a score outside 0-1."""
    counts = [0] * (len(SCORE_EDGES) - 1)
    for score in scores:
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"score {score} is outside 0-1")
        counts[max(0, bisect.bisect_left(SCORE_EDGES, score) - 1)] += 1
    return tuple(counts)


def population_stability_index(reference: Sequence[int], current: Sequence[int]) -> float:
    """PSI of two histograms over the same bins: sum of (p - q) ln(p / q), >= 0, 0 if the shares are equal.

    Half a picture is added to every bin first. Raises ValueError if the lengths differ.
    Siddiqi, Credit Risk Scorecards (2006).
    """
    if len(reference) != len(current) or not reference:
        raise ValueError(f"histograms of {len(reference)} and {len(current)} bins")
    shares = []
    for counts in (reference, current):
        total = sum(counts) + PSEUDO_COUNT * len(counts)
        shares.append([(count + PSEUDO_COUNT) / total for count in counts])
    return math.fsum((q - p) * math.log(q / p) for p, q in zip(*shares, strict=True))


def _rising(values: Sequence[float] | Sequence[str], *, strictly: bool) -> bool:
    return all(a < b if strictly else a <= b for a, b in itertools.pairwise(values))  # type: ignore[operator]


def _check_bounds(bounds: tuple[float, float]) -> None:
    if not bounds[0] <= 0.0 <= bounds[1]:
        raise ValueError("0 lies between the bounds")
