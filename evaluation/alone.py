"""What each passive detector alone makes of honest pictures: what it read, its alarms, and the strong findings.

    python -m evaluation alone DATA --split dev --sets camera_jpeg,pristine

A *strong finding* is one that accuses by itself: evidence for "generated" or "edited" that is strong or conclusive, or
a finding for which the balanced policy, given nothing else, answers SUSPICIOUS_AI_LIKELY, CONFIRMED_AI_GENERATED or
EDITED, with the likelihood ratio of the shipped calibration or, without one, the detector's own. An *alarm* is a score
from the detector's own threshold on; an alarm without a likelihood ratio is shown to a person and moves no decision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

import cv2
from tqdm import tqdm

from evaluation._metadata import decode
from evaluation.metrics.intervals import clopper_pearson
from evaluation.samples import Label, Sample
from services.common.calibration import SHIPPED, Calibration, load_calibration
from services.common.detection import Applicability, DetectorSpec, Direction, Evidence, Finding, Question, Strength
from services.common.errors import InvalidInput
from services.orchestrator.policy import (
    Decision,
    EditDecision,
    EditInput,
    EvidenceItem,
    GeneratedInput,
    Policy,
    ScoredFinding,
    decide_edited,
    decide_generated,
)
from services.passive.detectors import registry

__all__ = ["Alone", "is_strong", "measure_alone", "table"]

ACCUSING: Final = frozenset({Direction.AI_GENERATED, Direction.EDITED})
STRONG: Final = frozenset({Strength.STRONG, Strength.CONCLUSIVE})
SUSPICIOUS: Final = frozenset({Decision.SUSPICIOUS_AI_LIKELY, Decision.CONFIRMED_AI_GENERATED})


@dataclass(slots=True)
class Alone:
    """Counts of one detector over honest pictures.

    Attributes:
        spec: the detector.
        pictures: how many it was shown.
        applied: to how many it applied. failed: on how many it failed.
        evidence: pictures with evidence that accuses, of any strength.
        alarms: names of the pictures at which its score reached its threshold; empty for one without a threshold.
        strong: names of the pictures with a strong finding.
    """

    spec: DetectorSpec
    pictures: int = 0
    applied: int = 0
    failed: int = 0
    evidence: int = 0
    alarms: list[str] = field(default_factory=list)
    strong: list[str] = field(default_factory=list)


def is_strong(spec: DetectorSpec, finding: Finding, calibration: Calibration | None) -> bool:
    """Whether a finding accuses by itself; see the module's docstring."""
    if any(piece.direction in ACCUSING and piece.strength in STRONG for piece in finding.evidence):
        return True
    ratio, calibrated = finding.log10_likelihood_ratio, False
    if calibration is not None and finding.score is not None:
        known = calibration.log10_likelihood_ratio(spec.name, finding.score, version=spec.version)
        ratio, calibrated = (ratio, calibrated) if known is None else (known, True)
    findings = (
        [ScoredFinding(spec.name, spec.title, ratio, finding.technique, calibrated=calibrated)]
        if ratio is not None
        else []
    )
    fusion = calibration.fusions.get(spec.question) if calibration is not None else None
    generated = GeneratedInput(
        evidence=_items(finding, Question.GENERATED),
        findings=findings if spec.question is Question.GENERATED else [],
        fusion=fusion,
    )
    edited = EditInput(
        evidence=_items(finding, Question.EDITED),
        findings=findings if spec.question is Question.EDITED else [],
        fusion=fusion,
    )
    return (
        decide_generated(generated, Policy()).decision in SUSPICIOUS
        or decide_edited(edited, Policy()).decision is EditDecision.EDITED
    )


def _items(finding: Finding, question: Question) -> list[EvidenceItem]:
    return [_item(piece) for piece in finding.evidence if piece.question is question]


def _item(piece: Evidence) -> EvidenceItem:
    return EvidenceItem(piece.direction, piece.strength, piece.finding, piece.source)


def measure_alone(samples: Sequence[Sample], *, jobs: int, only: Sequence[str] = ()) -> tuple[list[Alone], list[str]]:
    """Passive detectors on every honest picture; also the pictures that could not be decoded.

    Args:
        samples: of which the honest ones are looked at.
        jobs: worker processes.
        only: names of the detectors; empty for all.

    Raises:
        ValueError: there is no such detector.
    """
    honest = [sample for sample in samples if sample.label is Label.HONEST]
    registry.load("services.passive.detectors")
    if unknown := sorted(name for name in only if name not in registry):
        raise ValueError(f"unknown detector {unknown[0]}")
    counts = {spec.name: Alone(spec) for spec, _ in registry if not only or spec.name in only}
    unread: list[str] = []
    with ProcessPoolExecutor(jobs, get_context("spawn"), _initialise, (tuple(counts),)) as pool:
        answers = pool.map(_measure, honest, chunksize=4)
        for sample, said in zip(honest, tqdm(answers, total=len(honest), unit="picture"), strict=True):
            if said is None:
                unread.append(sample.name)
                continue
            for name, what in said.items():
                count = counts[name]
                count.pictures += 1
                count.applied += what["applied"]
                count.failed += what["failed"]
                count.evidence += what["evidence"]
                if what["alarm"]:
                    count.alarms.append(sample.name)
                if what["strong"]:
                    count.strong.append(sample.name)
    return sorted(counts.values(), key=lambda count: count.spec.name), unread


class _Worker:
    """What a worker process keeps between pictures."""

    calibration: Calibration | None = None
    names: tuple[str, ...] = ()


def _initialise(names: tuple[str, ...]) -> None:
    cv2.setNumThreads(1)
    _Worker.names = names
    registry.load("services.passive.detectors")
    _Worker.calibration = load_calibration(SHIPPED)


def _measure(sample: Sample) -> dict[str, Counter[str]] | None:
    try:
        picture = decode(sample.path.read_bytes())
    except (InvalidInput, OSError):
        return None
    said = {}
    for spec, detect in (registry[name] for name in _Worker.names):
        finding = detect(picture)
        threshold = spec.parameters.get("decision_score")
        alarm = finding.score is not None and isinstance(threshold, int | float) and finding.score >= threshold
        said[spec.name] = Counter(
            applied=finding.applicability is Applicability.APPLIED,
            failed=finding.applicability is Applicability.FAILED,
            evidence=any(piece.direction in ACCUSING for piece in finding.evidence),
            alarm=alarm,
            strong=is_strong(spec, finding, _Worker.calibration),
        )
    return said


def table(counts: Sequence[Alone]) -> str:
    """One row a detector, for people."""
    rows = [
        "| detector | applied | accusing evidence | alarms | strong findings | at most (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for count in counts:
        threshold = "decision_score" in count.spec.parameters
        alarms = f"{len(count.alarms)} = {len(count.alarms) / count.pictures:.1%}" if threshold else "-"
        bound = clopper_pearson(len(count.strong), count.pictures).high
        rows.append(
            f"| {count.spec.name} | {count.applied} of {count.pictures} | {count.evidence} | {alarms} | "
            f"{len(count.strong)} = {len(count.strong) / count.pictures:.1%} | {bound:.1%} |"
        )
    return "\n".join(rows) + "\n"
