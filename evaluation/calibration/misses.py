"""How many false pictures pass: what "nothing found" is worth, for an explanation.

The policy decides every false picture as the orchestrator would, by the calibrated ratios of all detectors; how its
ratios are distributed is kept in the artefact. Pictures that no detector is made for count as well: to whoever asks
whether a picture was edited it does not matter why the edit was missed.

The maps were fitted on the same pictures. They are monotone in one score and bounded, so the rates are hardly better
for it than on others; the dev split says by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.subjects import Subject
from services.common.calibration import Calibration
from services.common.detection import Question, Technique
from services.orchestrator.policy import (
    EditInput,
    GeneratedInput,
    Policy,
    ScoredFinding,
    decide_edited,
    decide_generated,
)

__all__ = ["with_misses"]

STEP = 0.01
"""Decades of the likelihood ratio to which the curve is rounded, upwards."""


def with_misses(
    calibration: Calibration,
    question: Question,
    subjects: Sequence[Subject],
    pictures: Sequence[tuple[str, Mapping[str, float | None]]],
) -> Calibration:
    """The artefact with the curve of missed pictures of a question.

    Args:
        calibration: with a fusion for the question.
        question: which one.
        subjects: the detectors that answer it.
        pictures: false pictures: the source, and the score of every detector by name (None where it did not apply).
    """
    ratios = np.array([policy_ratio(calibration, question, subjects, scores) for _, scores in pictures])
    sources = np.array([source for source, _ in pictures])
    _, code, count = np.unique(sources, return_inverse=True, return_counts=True)
    weights = 1.0 / count[code] / count.size
    levels = np.ceil(np.round(ratios / STEP, 6)) * STEP
    curve = [
        (round(float(level), 2), min(1.0, round(float(weights[levels <= level].sum()), 6)))
        for level in np.unique(levels)
    ]
    fusion = calibration.fusions[question].model_copy(update={"missed": tuple(curve), "false_pictures": len(pictures)})
    return calibration.model_copy(update={"fusions": {**calibration.fusions, question: fusion}})


def policy_ratio(
    calibration: Calibration, question: Question, subjects: Sequence[Subject], scores: Mapping[str, float | None]
) -> float:
    """log10 ratio that the policy gives a picture with these scores."""
    findings = []
    for subject in subjects:
        log10 = calibration.log10_likelihood_ratio(subject.name, scores.get(subject.name), version=subject.version)
        if log10 is not None:
            findings.append(
                ScoredFinding(
                    detector=subject.name,
                    title=subject.title,
                    log10_likelihood_ratio=log10,
                    technique=_technique(subject) if log10 > 0 else None,
                    calibrated=True,
                )
            )
    fusion = calibration.fusions.get(question)
    if question is Question.EDITED:
        return decide_edited(EditInput(findings=findings, fusion=fusion), Policy()).log10_likelihood_ratio
    return decide_generated(GeneratedInput(findings=findings, fusion=fusion), Policy()).log10_likelihood_ratio


def _technique(subject: Subject) -> Technique | None:
    """What a detector that finds something says that it saw, if it is made for one technique only."""
    return subject.techniques[0] if len(subject.techniques) == 1 else None
