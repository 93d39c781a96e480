"""Document 002, the screening API: was a picture generated? Pentimento's second question stands beside it."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.api import httpbody_pb2
from pentimento.common.v1 import detection_pb2, evidence_pb2, verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import batch_service_pb2 as batch_pb
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1 import documented_services_pb2_grpc as pb_grpc

from services.common.context import begin_call, time_remaining
from services.common.context import request_id as current_request_id
from services.common.errors import DeadlineExceeded, InvalidInput, PentimentoError
from services.common.images import ImageLimits
from services.common.limiter import AdmissionLimiter, WorkLimiter
from services.common.version import VERSION
from services.orchestrator.batches import MAX_IMAGES, Batches
from services.orchestrator.intake import Intake, Upload, parse_pieces
from services.orchestrator.overlays import Overlay, draw_overlay
from services.orchestrator.ports import AnalysisEngine
from services.orchestrator.reports import csv_report
from services.orchestrator.rest.http import (
    Context,
    FileReply,
    Reply,
    base64_text,
    facts,
    iso_time,
    respond,
    rounded,
)
from services.orchestrator.summary import confidence_in, score_of

__all__ = ["FORMATS", "ScreeningServicer", "analysis_result", "batch_result"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})
FILE_FIELDS: Final = ("file", "image", "files")

ANALYSIS_SECONDS: Final = 30.0
"""Document 002's timeout per image."""

REVIEW_FROM: Final = 0.65
"""Document 002: a statistical score from here on is REVIEW_REQUIRED."""

ANSWER_SECONDS: Final = 1.0
"""Left of them, when an analyser that hangs is given up, for an answer without it."""

PIECE_SECONDS: Final = 20.0
"""Longest silence in the middle of an upload: it holds a place with everything behind it."""

DRAIN_SECONDS: Final = 30.0

TOO_SLOW: Final = "UPLOAD_TOO_SLOW"

_STATUSES: Final = {
    batch_pb.BATCH_STATE_PROCESSING: "processing",
    batch_pb.BATCH_STATE_COMPLETED: "completed",
    batch_pb.BATCH_STATE_FAILED: "failed",
    batch_pb.BATCH_STATE_INTERRUPTED: "interrupted",
}
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{0,128}")
_EDITS: Final = frozenset({analysis_pb2.EDIT_DECISION_EDITED, analysis_pb2.EDIT_DECISION_POSSIBLY_EDITED})
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
        batches: accepts and watches batches.
        work: threads for drawing overlays.
        limits: on files.
        waiting: how many callers may wait for their batch at a time.
        wait_seconds: how long one of them may.
    """

    def __init__(
        self,
        engine: AnalysisEngine,
        intake: Intake,
        batches: Batches,
        *,
        work: WorkLimiter,
        limits: ImageLimits,
        waiting: AdmissionLimiter,
        wait_seconds: float,
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._batches = batches
        self._work = work
        self._limits = limits
        self._waiting = waiting
        self._wait_seconds = wait_seconds

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
            begin_call(current_request_id(), max(seconds / 2, seconds - ANSWER_SECONDS))
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
        """Accepts a batch and answers with its results, or at once if the client would rather have that.

        While the results are awaited nothing is sent: the status of an answer stands at its beginning, and it is not
        known before the end. The edge's time limits allow for that, and it keeps the connection alive.
        """
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        patience = _patience(headers.get("prefer", ""), self._wait_seconds)

        async def call() -> Reply:
            # Whoever gave the request a name of his own may ask for its batch again, and then it should be there.
            named = bool(headers.get("idempotency-key"))
            if patience.is_asynchronous:
                return await self._answer_batch(await self._accept(request_iterator, headers), patience, named=named)
            async with self._waiting.admit():
                return await self._answer_batch(await self._accept(request_iterator, headers), patience, named=named)

        return await respond(context, call)

    async def GetBatchProgress(
        self, request: pb.ScreeningServiceGetBatchProgressRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            batch = await self._batches.get(request.batch_id, items=False)
            if batch.state != batch_pb.BATCH_STATE_PROCESSING:
                batch = await self._batches.get(request.batch_id, items=True)
            return Reply(_progress(batch))

        return await respond(context, call)

    async def GetCsvReport(
        self, request: pb.ScreeningServiceGetCsvReportRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> FileReply:
            batch = await self._batches.get(request.batch_id, items=True)
            batch_id = _id(batch)
            content = csv_report(batch_result(batch), status=_STATUSES[batch.state], batch_id=batch_id)
            return FileReply(
                content,
                "text/csv; charset=utf-8",
                {"content-disposition": f'attachment; filename="pentimento-{batch_id}.csv"'},
            )

        return await respond(context, call)

    async def _accept(
        self, pieces: AsyncIterator[pb.ScreeningServiceAnalyzeBatchRequest], headers: Mapping[str, str]
    ) -> uuid.UUID:
        request_id = headers.get("idempotency-key", "")
        if not _REQUEST_ID.fullmatch(request_id):
            raise InvalidInput(
                "Idempotency-Key must be at most 128 letters, digits and . _ : -", reason="INVALID_FIELD"
            )
        first = await _next(pieces)
        content_type = first.body.content_type if first else ""

        async def data() -> AsyncIterator[bytes]:
            if first is not None:
                yield first.body.data
            while (piece := await _next(pieces)) is not None:
                yield piece.body.data

        sources = parse_pieces(content_type, data(), max_images=MAX_IMAGES, max_bytes=self._limits.max_bytes)
        async with aclosing(sources):
            try:
                return await self._batches.accept(sources, analysis_pb2.AnalysisOptions(), request_id=request_id)
            except PentimentoError as error:
                # Over HTTP/1.1, a client that is answered while it is still sending may never read why.
                if error.reason != TOO_SLOW:
                    await _drain(pieces, 2 * MAX_IMAGES * self._limits.max_bytes)
                raise

    async def _answer_batch(self, batch_id: uuid.UUID, patience: _Patience, *, named: bool) -> Reply:
        try:
            batch = await self._batches.wait(batch_id, seconds=patience.seconds)
        except asyncio.CancelledError:
            if not named:
                # The client has gone away, and with it whoever wanted to know.
                self._batches.cancel_soon(batch_id)
            raise
        if batch.state == batch_pb.BATCH_STATE_PROCESSING:
            return _accepted(batch, patience)
        if batch.state == batch_pb.BATCH_STATE_COMPLETED:
            return Reply(
                {
                    "success": True,
                    "message": "Batch analysis completed",
                    "data": {"batch_id": _id(batch), "result": batch_result(batch)},
                    "error": None,
                    "timestamp": iso_time(),
                }
            )
        # What was done all the same is in the answer to the error.
        interrupted = batch.state == batch_pb.BATCH_STATE_INTERRUPTED
        return Reply(
            {
                "success": False,
                "message": "Processing interrupted" if interrupted else "Processing timeout",
                "data": {"batch_id": _id(batch), "result": batch_result(batch)},
                "error": "The batch was stopped." if interrupted else batch.error_message,
                "timestamp": iso_time(),
                "request_id": current_request_id(),
            },
            499 if interrupted else 504,
        )

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


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long a client waits for its batch (RFC 7240).

    Attributes:
        is_asynchronous: it asked not to be kept waiting.
        seconds: so long it is.
        applied: the preferences that are honoured, for the answer's header.
    """

    is_asynchronous: bool
    seconds: float
    applied: str


def _patience(prefer: str, longest: float) -> _Patience:
    """Reads the header Prefer: respond-async, and with it wait=seconds."""
    preferences = {
        name.strip().lower(): value.strip().strip('"')
        for name, _, value in (item.partition("=") for item in prefer.split(","))
    }
    if "respond-async" not in preferences:
        return _Patience(is_asynchronous=False, seconds=longest, applied="")
    wait = preferences.get("wait", "")
    if not (wait.isascii() and wait.isdigit()):
        return _Patience(is_asynchronous=True, seconds=0.0, applied="respond-async")
    seconds = min(float(wait[:9]), longest)
    return _Patience(is_asynchronous=seconds == 0, seconds=seconds, applied=f"respond-async, wait={seconds:.0f}")


def _accepted(batch: batch_pb.Batch, patience: _Patience) -> Reply:
    """The answer while the results are not there yet."""
    batch_id = _id(batch)
    headers = {"location": f"/batch/{batch_id}/progress", "retry-after": "1"}
    if patience.applied:
        headers["preference-applied"] = patience.applied
    return Reply(
        {
            "success": True,
            "message": "Batch accepted",
            "data": {"batch_id": batch_id, **_progress(batch)},
            "error": None,
            "timestamp": iso_time(),
        },
        202,
        headers,
    )


async def _drain(pieces: AsyncIterator[pb.ScreeningServiceAnalyzeBatchRequest], limit: int) -> None:
    """Reads what a client still sends, and no more than `limit` bytes of it."""
    with suppress(TimeoutError, PentimentoError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while limit >= 0 and (piece := await _next(pieces)) is not None:
                limit -= len(piece.body.data)


async def _next(
    pieces: AsyncIterator[pb.ScreeningServiceAnalyzeBatchRequest],
) -> pb.ScreeningServiceAnalyzeBatchRequest | None:
    """The next piece of an upload; None at its end.

    Raises:
        DeadlineExceeded: the client has stopped sending.
    """
    try:
        async with asyncio.timeout(PIECE_SECONDS):
            return await anext(aiter(pieces), None)
    except TimeoutError as error:
        message = f"Nothing more of the upload came for {PIECE_SECONDS:.0f} seconds."
        raise DeadlineExceeded(message, reason=TOO_SLOW) from error


def _id(batch: batch_pb.Batch) -> str:
    return batch.name.removeprefix("batches/")


def _progress(batch: batch_pb.Batch) -> dict[str, Any]:
    """A batch as GET /batch/{id}/progress tells of it; its result once it has ended."""
    progress = {
        "status": _STATUSES[batch.state],
        "progress": {
            "current": batch.processed_count + batch.failed_count,
            "total": batch.total_count,
            "filename": batch.current_filename,
        },
    }
    if batch.state == batch_pb.BATCH_STATE_PROCESSING:
        return progress
    error = {"error": batch.error_message} if batch.error_message else {}
    return progress | error | {"result": batch_result(batch)}


def batch_result(batch: batch_pb.Batch) -> dict[str, Any]:
    """A batch with its items as document 002's BatchAnalysisResult.

    Beside its keys, `errors` lists the pictures without an analysis, each with its name, a reason for machines and a
    message for people.
    """
    summary = batch.summary
    begun = batch.start_time if batch.HasField("start_time") else batch.create_time
    ended = batch.end_time.ToMicroseconds() if batch.HasField("end_time") else time.time() * 1e6
    return {
        "total_images": batch.total_count,
        "processed": batch.processed_count,
        "failed": batch.failed_count,
        "results": [analysis_result(item.analysis) for item in batch.items if item.HasField("analysis")],
        "errors": [
            {"filename": item.filename, "reason": item.error_reason, "message": item.error_message}
            for item in batch.items
            if item.error_reason
        ],
        "summary": {
            "CONFIRMED_AI_GENERATED": summary.confirmed_ai_generated_count,
            "SUSPICIOUS_AI_LIKELY": summary.suspicious_ai_likely_count,
            "AUTHENTIC_BUT_REVIEW": summary.authentic_but_review_count,
            "MOSTLY_AUTHENTIC": summary.mostly_authentic_count,
            "success_rate": _whole(summary.success_rate),
            "processed": batch.processed_count,
            "failed": batch.failed_count,
            "avg_score": rounded(summary.average_score, 3),
            "avg_confidence": round(summary.average_confidence),
            "avg_proc_time": rounded(summary.average_duration_seconds, 3),
            "EDITED": summary.edited_count,
            "POSSIBLY_EDITED": summary.possibly_edited_count,
            "NO_EDIT_FOUND": summary.no_edit_found_count,
        },
        "total_processing_time": rounded(max(0.0, (ended - begun.ToMicroseconds()) / 1e6), 3),
        "timestamp": iso_time(batch.end_time if batch.HasField("end_time") else None),
    }


def _whole(share: float) -> float | int:
    """A percentage, without decimals where it has none."""
    share = rounded(share, 1)
    return int(share) if share.is_integer() else share


def analysis_result(analysis: analysis_pb2.Analysis) -> dict[str, Any]:
    """An analysis as document 002's AnalysisResult, with Pentimento's own keys after the documented ones.

    `overall_score` (0-1) is the likelihood ratio of "generated" at even odds, LR / (1 + LR): 0.5 says that nothing is
    known either way. It depends on no prior; `verdict.probability` does, and names it.
    `confidence` (0-100) is how much of that score stands behind `final_decision`; see `summary.confidence_in`.
    """
    score = score_of(analysis.generated)
    time = iso_time(analysis.create_time) if analysis.HasField("create_time") else iso_time()
    return {
        "filename": analysis.filename,
        "status": "REVIEW_REQUIRED" if score >= REVIEW_FROM else "LIKELY_AUTHENTIC",
        "final_decision": _decision(analysis.decision),
        "decision_explanation": _explanation(analysis),
        "overall_score": rounded(score),
        "confidence": confidence_in(analysis.decision, score),
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


def _explanation(analysis: analysis_pb2.Analysis) -> str | None:
    """Why the decision is what it is; of an edited picture also that the decision is on another question.

    A client that knows document 002 alone shows this text and not `manipulation`: MOSTLY_AUTHENTIC by itself would tell
    its reader that the picture is in order.
    """
    if analysis.edit_decision not in _EDITS:
        return analysis.decision_explanation or None
    other = f"That is whether it was generated. Whether it was edited: {_edit_decision(analysis.edit_decision)}."
    return f"{analysis.decision_explanation} {other}".strip()


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
