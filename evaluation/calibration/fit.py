"""Fitting a calibration: maps for every detector, a fusion for every question."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from evaluation.calibration.artefact import data_digest, source_digest
from evaluation.calibration.folds import FOLDS
from evaluation.calibration.fusion import FusionInput, fit_fusion
from evaluation.calibration.maps import FittedMap, fit_map
from evaluation.calibration.samples import DetectorSamples, InsufficientData, Samples
from evaluation.metrics.errors import InvalidData
from services.common.calibration import SCHEMA_VERSION, Calibration, DetectorCalibration, Fusion, score_histogram
from services.common.detection import Question

__all__ = ["fit_calibration"]


def fit_calibration(
    samples: Mapping[Question, Samples],
    versions: Mapping[str, str],
    *,
    created: datetime | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> Calibration:
    """Fits what can be fitted; detectors with too few sources are listed as uncalibrated, with the reason.

    Deterministic: the same samples, seed and date give the same artefact, byte for byte.

    Args:
        samples: by question; a detector belongs to one question.
        versions: of every detector in them.
        created: when, with time zone; now if None.
        folds: of the cross-validations.
        seed: of the cross-validations.

    Raises:
        InvalidData: if a detector has no version, or occurs under two questions.
    """
    detectors: dict[str, DetectorCalibration] = {}
    uncalibrated: dict[str, str] = {}
    fusions: dict[Question, Fusion] = {}
    for question in sorted(samples, key=lambda question: question.value):
        of_question = samples[question]
        held_out = {}
        for name in sorted(of_question.scores):
            if name not in versions:
                raise InvalidData(f"no version of {name} is given")
            if name in detectors or name in uncalibrated:
                raise InvalidData(f"{name} occurs under two questions")
            known = of_question.detector(name)
            try:
                fitted = fit_map(known, folds=folds, seed=seed)
            except InsufficientData as reason:
                uncalibrated[name] = str(reason)
                continue
            detectors[name] = _describe(known, fitted, question, versions[name])
            held_out[name] = np.full(of_question.labels.size, np.nan)
            held_out[name][~np.isnan(of_question.scores[name])] = fitted.held_out
        if held_out:
            fusions[question] = fit_fusion(
                FusionInput(labels=of_question.labels, groups=of_question.groups, ratios=held_out),
                folds=folds,
                seed=seed,
            )
    sources = {source_digest(str(name)) for of_question in samples.values() for name in np.unique(of_question.groups)}
    return Calibration(
        schema_version=SCHEMA_VERSION,
        created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
        data_digest=data_digest(samples),
        sources=tuple(sorted(sources)),
        detectors=detectors,
        fusions=fusions,
        uncalibrated=uncalibrated,
    )


def _describe(known: DetectorSamples, fitted: FittedMap, question: Question, version: str) -> DetectorCalibration:
    return DetectorCalibration(
        version=version,
        question=question,
        positives=int(known.labels.sum()),
        negatives=int((~known.labels).sum()),
        positive_sources=known.positive_sources,
        negative_sources=known.negative_sources,
        method=fitted.method,
        cross_validated_cllr=dict(fitted.cross_validated_cllr),
        score_map=fitted.score_map,
        histogram=score_histogram(known.scores.tolist()),
    )
