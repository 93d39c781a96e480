"""One analysis from a file to a decision: check, look whether it is known, fan out, decide, keep."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, Literal

import structlog
from pentimento.common.v1 import detection_pb2, evidence_pb2, image_pb2, verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2

from services.common.calibration import Calibration
from services.common.convert import image_info_to_proto, technique_to_proto
from services.common.detection import Direction, Question, Strength, Technique
from services.common.errors import InvalidInput, PentimentoError, Unavailable
from services.common.images import ImageInfo
from services.common.limiter import AdmissionLimiter
from services.orchestrator import policy
from services.orchestrator.analyzers import Analyzers, Piece, Said, ServiceAnswer, Versions
from services.orchestrator.intake import Intake, Upload
from services.orchestrator.storage import AnalysisStore

__all__ = ["UNCALIBRATED", "AnalysisEngine"]

log = structlog.get_logger()

UNCALIBRATED: Final = "uncalibrated"
"""Version of the calibration where there is none: likelihood ratios are the detectors' own stated ones."""

LASTING: Final = frozenset({"MODEL_NOT_INSTALLED", "BIOMETRICS_DISABLED", "NOT_ASKED", "NOT_LOOKED_AT"})
"""Why something may be missing that will be missing tomorrow as well. An analysis that lacks something for another
reason is not repeated to the next who sends the same file: for him it might be there."""

NOT_ASKED: Final = detection_pb2.Missing(
    part="other detectors",
    reason="NOT_ASKED",
    message="The request names the detectors to run; the others were not asked.",
    questions=[detection_pb2.QUESTION_GENERATED, detection_pb2.QUESTION_EDITED],
)
"""An analysis by chosen detectors clears no picture either."""

DIRECTIONS: Final = {
    evidence_pb2.EVIDENCE_DIRECTION_AI_GENERATED: Direction.AI_GENERATED,
    evidence_pb2.EVIDENCE_DIRECTION_EDITED: Direction.EDITED,
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
GRADES: Final = {grade: verdict_pb2.Grade.Value(f"GRADE_{grade.name}") for grade in policy.Grade}
PRESETS: Final = {analysis_pb2.PolicyPreset.Value(f"POLICY_PRESET_{preset.name}"): preset for preset in policy.Preset}
PRESET_VALUES: Final = {preset: value for value, preset in PRESETS.items()}

Event = Piece | analysis_pb2.Analysis


class AnalysisEngine:
    """Analyses pictures.

    Args:
        analyzers: the services to ask.
        store: where analyses are kept.
        intake: checks that uploads are pictures.
        admission: how many analyses may be in progress.
        deployment_policy: what decides, where a request says nothing else.
        calibration: what scores are worth; None takes the ratios that the detectors state.
        reuse_seconds: how old an analysis may be that is repeated for the same file; 0 repeats none.
        biometrics: whether this deployment gives biometric answers.
    """

    def __init__(
        self,
        *,
        analyzers: Analyzers,
        store: AnalysisStore,
        intake: Intake,
        admission: AdmissionLimiter,
        deployment_policy: policy.Policy,
        calibration: Calibration | None = None,
        reuse_seconds: float = 0.0,
        biometrics: bool = True,
    ) -> None:
        self._analyzers = analyzers
        self._store = store
        self._intake = intake
        self._admission = admission
        self._policy = deployment_policy
        self._calibration = calibration
        self._calibration_version = calibration.version if calibration else UNCALIBRATED
        self._reuse_seconds = reuse_seconds
        self._biometrics = biometrics

    async def analyze(
        self, upload: Upload, options: analysis_pb2.AnalysisOptions, *, formats: frozenset[str]
    ) -> analysis_pb2.Analysis:
        """Analyses one picture and keeps the result.

        Args:
            upload: the picture.
            options: how to analyse it.
            formats: names of the formats that the API in question takes.

        Raises:
            InvalidInput: no picture, a damaged or too large one, an unknown detector, or a policy that cannot be.
            Overloaded: too many analyses are in progress.
            Unavailable: nothing could analyse it.
        """
        analysis = None
        async with aclosing(self._run(upload, options, formats=formats, streamed=False)) as events:
            async for event in events:
                if isinstance(event, analysis_pb2.Analysis):
                    analysis = event
        assert analysis is not None
        return analysis

    async def stream(
        self, upload: Upload, options: analysis_pb2.AnalysisOptions, *, formats: frozenset[str]
    ) -> AsyncGenerator[Event]:
        """Like `analyze`, but yields each thing that is found as soon as it is; the analysis comes last.

        Close it (`contextlib.aclosing`): until then a caller who stops listening holds a place among the analyses.
        """
        async with aclosing(self._run(upload, options, formats=formats, streamed=True)) as events:
            async for event in events:
                yield event

    async def _run(
        self,
        upload: Upload,
        options: analysis_pb2.AnalysisOptions,
        *,
        formats: frozenset[str],
        streamed: bool,
    ) -> AsyncGenerator[Event]:
        chosen = self._chosen_policy(options)
        async with self._admission.admit():
            started = time.perf_counter()
            info = await self._intake.check(upload, formats)
            versions = await self._versions_for_reuse(options)
            fingerprint = self._fingerprint(info, versions, options, chosen) if versions else ""
            analysis = await self._known(fingerprint, options)
            if analysis is not None:
                analysis.filename = upload.filename
                if streamed:
                    for piece in _pieces(analysis):
                        yield piece
            else:
                answers = []
                asked = self._analyzers.answers(upload.content, options, streamed=streamed)
                async with aclosing(asked) as answering:
                    async for item in answering:
                        self._calibrate(item)
                        if isinstance(item, Piece):
                            yield item
                        else:
                            answers.append(item)
                if all(answer.report is None for answer in answers):
                    raise Unavailable(
                        "Nothing could analyse the picture: no analysis service answers. Try again in a moment.",
                        reason="NO_ANALYZER",
                    )
                analysis = self._conclude(upload.filename, image_info_to_proto(info), answers, options, chosen)
                if versions and _may_be_repeated(analysis, versions):
                    analysis.fingerprint = fingerprint
            analysis.name = f"analyses/{uuid.uuid4()}"
            analysis.create_time.GetCurrentTime()
            analysis.duration_seconds = time.perf_counter() - started
            await self._keep(analysis)
            yield analysis

    # ---- the policy of a request ----

    def _chosen_policy(self, options: analysis_pb2.AnalysisOptions) -> policy.Policy:
        """The deployment's policy with what the request changes."""
        chosen = self._policy
        try:
            if options.preset in PRESETS:
                chosen = chosen.with_preset(PRESETS[options.preset])
            replaced = {item.name: value for item, value in options.thresholds.ListFields()}
            return dataclasses.replace(
                chosen,
                thresholds=dataclasses.replace(chosen.thresholds, **replaced),
                prior_generated=_given(options, "prior_generated", chosen.prior_generated),
                prior_edited=_given(options, "prior_edited", chosen.prior_edited),
                weights={**chosen.weights, **options.weights},
            )
        except policy.InvalidPolicy as error:
            raise InvalidInput(str(error), reason="INVALID_POLICY", field=f"options.{error.field}") from error

    # ---- the same file again ----

    async def _versions_for_reuse(self, options: analysis_pb2.AnalysisOptions) -> Versions | None:
        """What would look at the picture; None where nothing can be repeated: maps are not kept, for one."""
        if not self._reuse_seconds or options.include_maps or not self._store.configured:
            return None
        return await self._analyzers.versions()

    def _fingerprint(
        self, info: ImageInfo, versions: Versions, options: analysis_pb2.AnalysisOptions, chosen: policy.Policy
    ) -> str:
        """SHA-256 over all that an analysis depends on."""
        facts = {
            "sha256": info.sha256,
            **versions.facts,
            "asked": sorted(options.detectors),
            "face_detector": options.face_detector,
            "face_attributes": sorted(options.face_attributes),
            "max_faces": options.max_faces,
            "biometrics": self._biometrics,
            "policy": policy.POLICY_VERSION,
            "thresholds": dataclasses.asdict(chosen.thresholds),
            "preset": chosen.preset.value,
            "priors": [chosen.prior_generated, chosen.prior_edited],
            "weights": dict(sorted(chosen.weights.items())),
            "calibration": self._calibration_version,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    async def _known(self, fingerprint: str, options: analysis_pb2.AnalysisOptions) -> analysis_pb2.Analysis | None:
        """A copy of the analysis of this fingerprint, as one of its own; None if there is none, or none is wanted."""
        if not fingerprint or options.recompute:
            return None
        try:
            known = await self._store.find(fingerprint, max_age_seconds=self._reuse_seconds)
        except PentimentoError:
            return None
        if known is not None:
            known.reused_from = known.name
            known.ClearField("expire_time")  # of the picture that was kept for it; none is for this one
        return known

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

    # ---- what follows from the answers ----

    def _calibrate(self, item: Piece | ServiceAnswer) -> None:
        """Gives findings the ratio that the calibration knows for their score; the others keep what they state."""
        findings: Iterable[Any] = ()
        if isinstance(item, Piece):
            findings = (item.said,) if isinstance(item.said, detection_pb2.Finding) else ()
        elif item.report is not None:
            findings = item.report.findings
        for finding in findings:
            made = finding.provenance
            if self._calibration is None or not finding.HasField("score"):
                continue
            log10 = self._calibration.log10_likelihood_ratio(made.detector, finding.score, version=made.version)
            if log10 is not None:
                finding.likelihood_ratio.CopyFrom(
                    detection_pb2.LikelihoodRatio(
                        log10=log10, calibrated=True, source=f"calibration {self._calibration_version}"
                    )
                )

    def _conclude(
        self,
        filename: str,
        image: image_pb2.ImageInfo,
        answers: Sequence[ServiceAnswer],
        options: analysis_pb2.AnalysisOptions,
        chosen: policy.Policy,
    ) -> analysis_pb2.Analysis:
        reports = [answer.report for answer in answers if answer.report is not None]
        findings = sorted(
            (finding for report in reports for finding in report.findings),
            key=lambda finding: finding.provenance.detector,
        )
        all_evidence = [piece for report in reports for piece in report.evidence]
        evidence = [piece for piece in all_evidence if not _is_on_editing(piece)]
        edit_evidence = [piece for piece in all_evidence if _is_on_editing(piece)]
        missing = sorted(
            (item for answer in answers for item in answer.missing), key=lambda item: (item.part, item.reason)
        )
        if options.detectors:
            missing.append(NOT_ASKED)
        if image.frame_count > 1:
            missing.append(_other_frames(image.frame_count))
        fusions = self._calibration.fusions if self._calibration else {}
        unanswered_generated = _parts(missing, detection_pb2.QUESTION_GENERATED)
        unanswered_edited = _parts(missing, detection_pb2.QUESTION_EDITED)
        generated = policy.decide_generated(
            policy.GeneratedInput(
                evidence=[_evidence_item(piece) for piece in evidence],
                findings=_scored(findings, detection_pb2.QUESTION_GENERATED),
                missing=unanswered_generated,
                fusion=fusions.get(Question.GENERATED),
            ),
            chosen,
        )
        edited = policy.decide_edited(
            policy.EditInput(
                evidence=[_evidence_item(piece) for piece in edit_evidence],
                findings=_scored(findings, detection_pb2.QUESTION_EDITED),
                missing=unanswered_edited,
                fusion=fusions.get(Question.EDITED),
            ),
            chosen,
        )
        return analysis_pb2.Analysis(
            filename=filename,
            image=image,
            decision=analysis_pb2.Decision.Value(f"DECISION_{generated.decision.name}"),
            decision_explanation=generated.explanation,
            generated=_verdict(
                detection_pb2.QUESTION_GENERATED,
                generated,
                prior=chosen.prior_generated,
                complete=not unanswered_generated,
            ),
            edit_decision=analysis_pb2.EditDecision.Value(f"EDIT_DECISION_{edited.decision.name}"),
            edit_explanation=edited.explanation,
            edited=_verdict(
                detection_pb2.QUESTION_EDITED, edited, prior=chosen.prior_edited, complete=not unanswered_edited
            ),
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
            edit_evidence=edit_evidence,
            metrics=[metric for report in reports for metric in report.metrics],
            signals=[signal for report in reports for signal in report.signals],
            faces=[face for answer in answers for face in answer.faces],
            missing=missing,
            policy_version=policy.POLICY_VERSION,
            policy=_policy_to_proto(chosen),
            calibration_version=self._calibration_version,
        )


def _given(
    options: analysis_pb2.AnalysisOptions, name: Literal["prior_generated", "prior_edited"], default: float
) -> float:
    return float(getattr(options, name)) if options.HasField(name) else default


def _policy_to_proto(chosen: policy.Policy) -> analysis_pb2.DecisionPolicy:
    return analysis_pb2.DecisionPolicy(
        version=policy.POLICY_VERSION,
        preset=PRESET_VALUES[chosen.preset],
        thresholds=analysis_pb2.DecisionThresholds(**dataclasses.asdict(chosen.thresholds)),
        prior_generated=chosen.prior_generated,
        prior_edited=chosen.prior_edited,
        weights=dict(chosen.weights),
    )


def _may_be_repeated(analysis: analysis_pb2.Analysis, versions: Versions) -> bool:
    """Whether all that should answer did, and in the versions that the fingerprint names."""
    named = {detector.name: detector.version for detector in versions.detectors}
    digests = {model.name: model.digest for model in versions.models}
    made = [finding.provenance for finding in analysis.findings]
    return (
        all(item.reason in LASTING for item in analysis.missing)
        and all(named.get(each.detector) == each.version for each in made)
        and all(digests.get(model) == digest for each in made for model, digest in each.model_digests.items())
    )


def _pieces(analysis: analysis_pb2.Analysis) -> Iterator[Piece]:
    """What an analysis consists of, as if it were found now."""
    said: list[Said] = [*analysis.findings, *analysis.evidence, *analysis.edit_evidence, *analysis.metrics]
    said += [*analysis.signals, *analysis.faces, *analysis.missing]
    for each in said:
        yield Piece("", each)


def _is_on_editing(piece: evidence_pb2.Evidence) -> bool:
    edited = evidence_pb2.EVIDENCE_DIRECTION_EDITED
    return piece.question == detection_pb2.QUESTION_EDITED or piece.direction == edited


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
    outcome: policy.Outcome[Any],
    *,
    prior: float,
    complete: bool,
) -> verdict_pb2.Verdict:
    return verdict_pb2.Verdict(
        question=question,
        likelihood_ratio=detection_pb2.LikelihoodRatio(
            log10=outcome.log10_likelihood_ratio,
            calibrated=outcome.calibrated,
            source=f"the contributions' ratios together, policy {policy.POLICY_VERSION}",
        ),
        grade=GRADES[outcome.grade],
        probability=outcome.probability,
        prior=prior,
        evidence_for=outcome.evidence_for,
        evidence_against=outcome.evidence_against,
        coverage_complete=complete,
        explanation=outcome.explanation,
        miss_rate=outcome.miss_rate,
        contributions=[
            verdict_pb2.Contribution(
                detector=item.name,
                title=item.title,
                log10=item.log10,
                weight=item.weight,
                calibrated=item.calibrated,
                technique=technique_to_proto(item.technique),
                decisive=item.decisive,
            )
            for item in outcome.contributions
        ],
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
            calibrated=finding.likelihood_ratio.calibrated,
        )
        for finding in findings
        if finding.question == question and finding.HasField("likelihood_ratio")
    ]


def _other_frames(count: int) -> detection_pb2.Missing:
    """Of an animation the first frame is looked at; whatever the others show, that clears no picture."""
    return detection_pb2.Missing(
        part="other frames",
        reason="NOT_LOOKED_AT",
        message=f"The picture is an animation of {count:,} frames, and only the first was looked at.",
        questions=[detection_pb2.QUESTION_GENERATED, detection_pb2.QUESTION_EDITED],
    )


def _parts(missing: Iterable[detection_pb2.Missing], question: detection_pb2.Question.ValueType) -> list[str]:
    return sorted({item.part for item in missing if question in item.questions})
