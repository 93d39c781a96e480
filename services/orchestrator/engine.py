"""One analysis from a file to a decision: check, fan out, decide, keep."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog
from pentimento.common.v1 import detection_pb2, evidence_pb2, image_pb2, verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2

from services.common.convert import image_info_to_proto, technique_to_proto
from services.common.detection import Direction, Strength, Technique
from services.common.errors import PentimentoError, Unavailable
from services.common.limiter import AdmissionLimiter
from services.orchestrator import policy
from services.orchestrator.analyzers import Analyzers, ServiceAnswer
from services.orchestrator.intake import Intake, Upload
from services.orchestrator.storage import AnalysisStore

__all__ = ["AnalysisEngine", "Priors"]

log = structlog.get_logger()

NOT_ASKED: Final = detection_pb2.Missing(
    part="other detectors",
    reason="NOT_ASKED",
    message="The request names the detectors to run; the others were not asked.",
    questions=[detection_pb2.QUESTION_GENERATED, detection_pb2.QUESTION_EDITED],
)
"""An analysis by chosen detectors clears no picture either."""

DIRECTIONS: Final = {
    evidence_pb2.EVIDENCE_DIRECTION_AI_GENERATED: Direction.AI_GENERATED,
    evidence_pb2.EVIDENCE_DIRECTION_AUTHENTIC: Direction.AUTHENTIC,
    evidence_pb2.EVIDENCE_DIRECTION_INDETERMINATE: Direction.INDETERMINATE,
}
STRENGTHS: Final = {
    evidence_pb2.EVIDENCE_STRENGTH_WEAK: Strength.WEAK,
    evidence_pb2.EVIDENCE_STRENGTH_MODERATE: Strength.MODERATE,
    evidence_pb2.EVIDENCE_STRENGTH_STRONG: Strength.STRONG,
    evidence_pb2.EVIDENCE_STRENGTH_CONCLUSIVE: Strength.CONCLUSIVE,
}
TECHNIQUES: Final = {technique_to_proto(technique): technique for technique in Technique}
GRADES: Final = {
    policy.Grade.NO_SUPPORT: verdict_pb2.GRADE_NO_SUPPORT,
    policy.Grade.WEAK: verdict_pb2.GRADE_WEAK,
    policy.Grade.MODERATE: verdict_pb2.GRADE_MODERATE,
    policy.Grade.MODERATELY_STRONG: verdict_pb2.GRADE_MODERATELY_STRONG,
    policy.Grade.STRONG: verdict_pb2.GRADE_STRONG,
    policy.Grade.VERY_STRONG: verdict_pb2.GRADE_VERY_STRONG,
    policy.Grade.EXTREMELY_STRONG: verdict_pb2.GRADE_EXTREMELY_STRONG,
}


@dataclass(frozen=True, slots=True)
class Priors:
    """Assumed shares (0-1, exclusive) of generated and of edited pictures among those that are sent."""

    generated: float
    edited: float


class AnalysisEngine:
    """Analyses pictures.

    Args:
        analyzers: the services to ask.
        store: where analyses are kept.
        intake: checks that uploads are pictures.
        admission: how many analyses may be in progress.
        priors: of this deployment.
    """

    def __init__(
        self,
        *,
        analyzers: Analyzers,
        store: AnalysisStore,
        intake: Intake,
        admission: AdmissionLimiter,
        priors: Priors,
    ) -> None:
        self._analyzers = analyzers
        self._store = store
        self._intake = intake
        self._admission = admission
        self._priors = priors

    async def analyze(
        self, upload: Upload, options: analysis_pb2.AnalysisOptions, *, formats: frozenset[str]
    ) -> analysis_pb2.Analysis:
        """Analyses one picture and keeps the result.

        Args:
            upload: the picture.
            options: how to analyse it.
            formats: names of the formats that the API in question takes.

        Raises:
            InvalidInput: no picture, a damaged or too large one, or an unknown detector.
            Overloaded: too many analyses are in progress.
            Unavailable: nothing could analyse it.
        """
        analysis = None
        async with aclosing(self.stream(upload, options, formats=formats)) as events:
            async for event in events:
                if isinstance(event, analysis_pb2.Analysis):
                    analysis = event
        assert analysis is not None
        return analysis

    async def stream(
        self, upload: Upload, options: analysis_pb2.AnalysisOptions, *, formats: frozenset[str]
    ) -> AsyncGenerator[ServiceAnswer | analysis_pb2.Analysis]:
        """Like `analyze`, but yields each service's answer as soon as it is there; the analysis comes last.

        Close it (`contextlib.aclosing`): until then a caller who stops listening holds a place among the analyses.
        """
        async with self._admission.admit():
            started = time.perf_counter()
            info = await self._intake.check(upload, formats)
            answers = []
            async with aclosing(
                self._analyzers.answers(upload.content, options.detectors, include_maps=options.include_maps)
            ) as answering:
                async for answer in answering:
                    answers.append(answer)
                    yield answer
            if all(answer.report is None for answer in answers):
                raise Unavailable(
                    "Nothing could analyse the picture: no analysis service answers. Try again in a moment.",
                    reason="NO_ANALYZER",
                )
            analysis = self._conclude(upload.filename, image_info_to_proto(info), answers, options)
            analysis.duration_seconds = time.perf_counter() - started
            await self._keep(analysis)
            yield analysis

    async def _keep(self, analysis: analysis_pb2.Analysis) -> None:
        """Keeps the analysis; one that cannot be kept is answered all the same, and says so."""
        if not self._store.configured:
            return
        try:
            await self._store.save(analysis)
        except PentimentoError as error:
            analysis.missing.append(
                detection_pb2.Missing(
                    part="database",
                    reason=error.reason,
                    message="The analysis could not be kept: it cannot be looked up later.",
                )
            )

    def _conclude(
        self,
        filename: str,
        image: image_pb2.ImageInfo,
        answers: Sequence[ServiceAnswer],
        options: analysis_pb2.AnalysisOptions,
    ) -> analysis_pb2.Analysis:
        reports = [answer.report for answer in answers if answer.report is not None]
        findings = sorted(
            (finding for report in reports for finding in report.findings),
            key=lambda finding: finding.provenance.detector,
        )
        evidence = [piece for report in reports for piece in report.evidence]
        missing = sorted(
            (item for answer in answers for item in answer.missing), key=lambda item: (item.part, item.reason)
        )
        if options.detectors:
            missing.append(NOT_ASKED)
        generated_prior = options.prior_generated if options.HasField("prior_generated") else self._priors.generated
        edited_prior = options.prior_edited if options.HasField("prior_edited") else self._priors.edited
        unanswered_generated = _parts(missing, detection_pb2.QUESTION_GENERATED)
        unanswered_edited = _parts(missing, detection_pb2.QUESTION_EDITED)
        generated = policy.decide_generated(
            policy.GeneratedInput(
                evidence=[_evidence_item(piece) for piece in evidence],
                findings=_scored(findings, detection_pb2.QUESTION_GENERATED),
                missing=unanswered_generated,
                prior=generated_prior,
            )
        )
        edited = policy.decide_edited(
            policy.EditInput(
                findings=_scored(findings, detection_pb2.QUESTION_EDITED),
                missing=unanswered_edited,
                prior=edited_prior,
            )
        )
        analysis = analysis_pb2.Analysis(
            name=f"analyses/{uuid.uuid4()}",
            filename=filename,
            image=image,
            decision=analysis_pb2.Decision.Value(f"DECISION_{generated.decision.name}"),
            decision_explanation=generated.explanation,
            generated=_verdict(
                detection_pb2.QUESTION_GENERATED, generated, prior=generated_prior, complete=not unanswered_generated
            ),
            edit_decision=analysis_pb2.EditDecision.Value(f"EDIT_DECISION_{edited.decision.name}"),
            edit_explanation=edited.explanation,
            edited=_verdict(detection_pb2.QUESTION_EDITED, edited, prior=edited_prior, complete=not unanswered_edited),
            techniques=[
                analysis_pb2.TechniqueScore(
                    technique=technique_to_proto(suspicion.technique),
                    probability=suspicion.probability,
                    detectors=suspicion.detectors,
                )
                for suspicion in edited.techniques
            ],
            findings=findings,
            evidence=evidence,
            metrics=[metric for report in reports for metric in report.metrics],
            signals=[signal for report in reports for signal in report.signals],
            faces=[face for answer in answers for face in answer.faces],
            missing=missing,
            policy_version=policy.POLICY_VERSION,
            calibration_version=policy.UNCALIBRATED,
        )
        analysis.create_time.GetCurrentTime()
        return analysis


def _evidence_item(piece: evidence_pb2.Evidence) -> policy.EvidenceItem:
    # An analyser of a later version may know directions and strengths that this one does not: they move nothing.
    return policy.EvidenceItem(
        DIRECTIONS.get(piece.direction, Direction.INDETERMINATE),
        STRENGTHS.get(piece.strength, Strength.WEAK),
        piece.finding,
        piece.source,
    )


def _verdict(
    question: detection_pb2.Question.ValueType,
    outcome: policy.GeneratedOutcome | policy.EditOutcome,
    *,
    prior: float,
    complete: bool,
) -> verdict_pb2.Verdict:
    return verdict_pb2.Verdict(
        question=question,
        likelihood_ratio=_product(outcome.log10_likelihood_ratio),
        grade=GRADES[outcome.grade],
        probability=outcome.probability,
        prior=prior,
        evidence_for=outcome.evidence_for,
        evidence_against=outcome.evidence_against,
        coverage_complete=complete,
        explanation=outcome.explanation,
    )


def _product(log10: float) -> detection_pb2.LikelihoodRatio:
    return detection_pb2.LikelihoodRatio(
        log10=log10, calibrated=False, source=f"product of the findings' ratios, policy {policy.POLICY_VERSION}"
    )


def _scored(
    findings: Iterable[detection_pb2.Finding], question: detection_pb2.Question.ValueType
) -> list[policy.ScoredFinding]:
    return [
        policy.ScoredFinding(
            detector=finding.provenance.detector,
            title=finding.title,
            log10_likelihood_ratio=finding.likelihood_ratio.log10,
            technique=TECHNIQUES.get(finding.technique),
            explanation=finding.explanation,
        )
        for finding in findings
        if finding.question == question and finding.HasField("likelihood_ratio")
    ]


def _parts(missing: Iterable[detection_pb2.Missing], question: detection_pb2.Question.ValueType) -> list[str]:
    return sorted({item.part for item in missing if question in item.questions})
