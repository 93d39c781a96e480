"""Document 002, the screening API: was a picture generated? Pentimento's second question stands beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
from google.api import httpbody_pb2
from pentimento.common.v1 import detection_pb2, evidence_pb2, verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1 import documented_services_pb2_grpc as pb_grpc

from services.common.context import time_remaining
from services.common.errors import DeadlineExceeded, NotImplementedYet, PentimentoError
from services.common.images import ImageLimits
from services.common.limiter import WorkLimiter
from services.common.version import VERSION
from services.orchestrator.intake import Intake, Upload
from services.orchestrator.overlays import Overlay, draw_overlay
from services.orchestrator.policy import even_odds_score
from services.orchestrator.ports import AnalysisEngine
from services.orchestrator.rest.http import Context, Reply, base64_text, facts, iso_time, respond, rounded

__all__ = ["FORMATS", "ScreeningServicer", "analysis_result"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})
FILE_FIELDS: Final = ("file", "image", "files")

ANALYSIS_SECONDS: Final = 30.0
"""Document 002's timeout per image."""

REVIEW_FROM: Final = 0.65
"""Document 002: a statistical score from here on is REVIEW_REQUIRED."""

_SUSPICIOUS: Final = frozenset(
    {analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY, analysis_pb2.DECISION_CONFIRMED_AI_GENERATED}
)
_TECHNIQUES: Final = {
    detection_pb2.TECHNIQUE_COPY_MOVE: "copy_move",
    detection_pb2.TECHNIQUE_SPLICING: "splicing",
    detection_pb2.TECHNIQUE_INPAINTING: "inpainting",
    detection_pb2.TECHNIQUE_FACE: "face",
}


class ScreeningServicer(pb_grpc.ScreeningServiceServicer):
    """Answers document 002's requests.

    Args:
        engine: analyses.
        intake: reads requests.
        work: threads for drawing overlays.
        limits: on files, for drawing overlays.
    """

    def __init__(self, engine: AnalysisEngine, intake: Intake, *, work: WorkLimiter, limits: ImageLimits) -> None:
        self._engine = engine
        self._intake = intake
        self._work = work
        self._limits = limits

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_ScreeningServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["ScreeningService"].full_name]

    async def GetHealth(self, request: pb.ScreeningServiceGetHealthRequest, context: Context) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            return Reply({"status": "ok", "version": VERSION})

        return await respond(context, call)

    async def AnalyzeImage(
        self, request: pb.ScreeningServiceAnalyzeImageRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            seconds = time_remaining(ANALYSIS_SECONDS)
            try:
                async with asyncio.timeout(seconds):
                    data = await self._analyze(request)
            except TimeoutError as error:
                raise DeadlineExceeded(f"Image analysis exceeded {seconds:.0f} second timeout") from error
            return Reply(
                {
                    "success": True,
                    "message": "Image analysis completed",
                    "data": data,
                    "error": None,
                    "timestamp": iso_time(),
                }
            )

        return await respond(context, call)

    async def AnalyzeBatch(
        self, request_iterator: AsyncIterator[pb.ScreeningServiceAnalyzeBatchRequest], context: Context
    ) -> httpbody_pb2.HttpBody:
        return await respond(context, _no_batches)

    async def GetBatchProgress(
        self, request: pb.ScreeningServiceGetBatchProgressRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        return await respond(context, _no_batches)

    async def GetCsvReport(
        self, request: pb.ScreeningServiceGetCsvReportRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        return await respond(context, _no_batches)

    async def _analyze(self, request: pb.ScreeningServiceAnalyzeImageRequest) -> dict[str, Any]:
        upload = await self._intake.single(request.body, fields=FILE_FIELDS)
        options = analysis_pb2.AnalysisOptions(include_maps=request.overlays)
        analysis = await self._engine.analyze(upload, options, formats=FORMATS)
        data = analysis_result(analysis)
        if request.overlays:
            await self._add_overlay(data, upload, analysis)
        return data

    async def _add_overlay(self, data: dict[str, Any], upload: Upload, analysis: analysis_pb2.Analysis) -> None:
        """Adds mask and overlay; where they cannot be drawn the analysis stands all the same, and says so."""
        overlay: Overlay | None = None
        try:
            overlay = await self._work.run(
                draw_overlay, upload.content, self._limits, analysis.findings, _accusers(analysis)
            )
        except PentimentoError as error:
            data["missing"].append({"part": "overlays", "reason": error.reason, "message": error.message})
        data["manipulation"]["mask"] = base64_text(overlay.mask_png) if overlay else None
        data["manipulation"]["overlay"] = base64_text(overlay.overlay_png) if overlay else None


async def _no_batches() -> Reply:
    raise NotImplementedYet("Batches and their reports are not available in this version.")


def analysis_result(analysis: analysis_pb2.Analysis) -> dict[str, Any]:
    """An analysis as document 002's AnalysisResult, with Pentimento's own keys after the documented ones.

    `overall_score` (0-1) is the likelihood ratio of "generated" at even odds, LR / (1 + LR): 0.5 says that nothing is
    known either way. It depends on no prior; `verdict.probability` does, and names it.
    `confidence` (0-100) is how much of that score stands behind `final_decision`; see `_confidence`.
    """
    score = _score(analysis.generated)
    time = iso_time(analysis.create_time) if analysis.HasField("create_time") else iso_time()
    return {
        "filename": analysis.filename,
        "status": "REVIEW_REQUIRED" if score >= REVIEW_FROM else "LIKELY_AUTHENTIC",
        "final_decision": _decision(analysis.decision),
        "decision_explanation": analysis.decision_explanation or None,
        "overall_score": rounded(score),
        "confidence": _confidence(analysis.decision, score),
        "evidence": [_evidence(piece, time) for piece in analysis.evidence],
        "signals": [_signal(signal) for signal in analysis.signals],
        "metric_results": {_metric_type(metric.metric_type): _metric(metric) for metric in analysis.metrics},
        "processing_time": rounded(analysis.duration_seconds, 3),
        "image_size": [analysis.image.width, analysis.image.height],
        "timestamp": time,
        "analysis_id": analysis.name.rpartition("/")[2] or None,
        "verdict": _verdict(analysis.generated),
        "manipulation": {
            "decision": _edit_decision(analysis.edit_decision),
            "probability": rounded(analysis.edited.probability),
            "explanation": analysis.edit_explanation,
            "techniques": [
                {
                    "name": _TECHNIQUES.get(technique.technique, "other"),
                    "probability": rounded(technique.probability),
                    "detectors": list(technique.detectors),
                }
                for technique in analysis.techniques
            ],
            "verdict": _verdict(analysis.edited),
        },
        "faces": None if any(missing.part == "faces" for missing in analysis.missing) else len(analysis.faces),
        "missing": [
            {"part": missing.part, "reason": missing.reason, "message": missing.message} for missing in analysis.missing
        ],
        "policy_version": analysis.policy_version,
        "calibration_version": analysis.calibration_version,
    }


def _score(verdict: verdict_pb2.Verdict) -> float:
    return even_odds_score(verdict.likelihood_ratio.log10) if verdict.HasField("likelihood_ratio") else 0.5


def _confidence(decision: analysis_pb2.Decision.ValueType, score: float) -> int:
    """How sure we are of the decision, 0-100: the share of the score that lies on the decision's side.

    Against a picture it is the score itself (document 002's example: score 0.73, confidence 73), in its favour what
    is left of it. A decision to have it reviewed takes no side: there it says how far the score leans to either, 50
    being not at all.
    """
    if decision in _SUSPICIOUS:
        share = score
    elif decision == analysis_pb2.DECISION_MOSTLY_AUTHENTIC:
        share = 1.0 - score
    else:
        share = max(score, 1.0 - score)
    return round(100 * share)


def _accusers(analysis: analysis_pb2.Analysis) -> frozenset[str]:
    """Names of the detectors that speak for an edit."""
    named = (name for technique in analysis.techniques for name in technique.detectors)
    return frozenset((*analysis.edited.evidence_for, *named))


def _decision(decision: analysis_pb2.Decision.ValueType) -> str | None:
    if decision == analysis_pb2.DECISION_UNSPECIFIED:
        return None
    return analysis_pb2.Decision.Name(decision).removeprefix("DECISION_")


def _edit_decision(decision: analysis_pb2.EditDecision.ValueType) -> str | None:
    if decision == analysis_pb2.EDIT_DECISION_UNSPECIFIED:
        return None
    return analysis_pb2.EditDecision.Name(decision).removeprefix("EDIT_DECISION_")


def _evidence(piece: evidence_pb2.Evidence, time: str) -> dict[str, Any]:
    return {
        "source": piece.source,
        "finding": piece.finding,
        "direction": _word(evidence_pb2.EvidenceDirection.Name(piece.direction), "EVIDENCE_DIRECTION_"),
        "strength": _word(evidence_pb2.EvidenceStrength.Name(piece.strength), "EVIDENCE_STRENGTH_"),
        "confidence": rounded(piece.confidence) if piece.HasField("confidence") else None,
        "details": facts(piece.details),
        "analyzer": piece.analyzer,
        "timestamp": time,
    }


def _signal(signal: evidence_pb2.Signal) -> dict[str, Any]:
    return {
        "name": signal.name,
        "metric_type": _metric_type(signal.metric_type),
        "score": rounded(signal.score),
        "status": _word(evidence_pb2.SignalStatus.Name(signal.status), "SIGNAL_STATUS_"),
        "explanation": signal.explanation,
    }


def _metric(metric: evidence_pb2.MetricResult) -> dict[str, Any]:
    return {
        "metric_type": _metric_type(metric.metric_type),
        "score": rounded(metric.score),
        "confidence": rounded(metric.confidence),
        "details": facts(metric.details),
    }


def _metric_type(metric_type: evidence_pb2.MetricType.ValueType) -> str:
    return _word(evidence_pb2.MetricType.Name(metric_type), "METRIC_TYPE_")


def _verdict(verdict: verdict_pb2.Verdict) -> dict[str, Any]:
    """The answer to one question: what the evidence is worth, and what follows from it under the prior beside it."""
    known = verdict.HasField("likelihood_ratio")
    return {
        "probability": rounded(verdict.probability),
        "prior": rounded(verdict.prior),
        "grade": _word(verdict_pb2.Grade.Name(verdict.grade), "GRADE_"),
        "log10_likelihood_ratio": rounded(verdict.likelihood_ratio.log10) if known else None,
        "calibrated": verdict.likelihood_ratio.calibrated,
        "evidence_for": list(verdict.evidence_for),
        "evidence_against": list(verdict.evidence_against),
        "coverage_complete": verdict.coverage_complete,
    }


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
