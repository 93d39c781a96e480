"""Pentimento's own API: converts, calls the engine, converts."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final

import grpc
import structlog
from pentimento.common.v1 import detection_pb2, evidence_pb2, face_pb2
from pentimento.orchestrator.v1 import analysis_pb2, system_service_pb2, system_service_pb2_grpc
from pentimento.orchestrator.v1 import analysis_service_pb2 as pb
from pentimento.orchestrator.v1 import analysis_service_pb2_grpc as pb_grpc

from services.common.errors import PentimentoError, internal_message
from services.orchestrator.analyzers import Analyzers, Piece
from services.orchestrator.batches import Batches
from services.orchestrator.engine import AnalysisEngine
from services.orchestrator.health import HealthReporter
from services.orchestrator.intake import Intake
from services.orchestrator.storage import AnalysisFilter, AnalysisStore

__all__ = ["AnalysisServicer", "SystemServicer"]

Context = grpc.aio.ServicerContext[Any, Any]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})
DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 100
"""More analyses than this would not surely fit into one message."""
STREAMED_AT_ONCE: Final = 2
"""Pictures of one stream that are analysed side by side."""

log = structlog.get_logger()


class AnalysisServicer(pb_grpc.AnalysisServiceServicer):
    """Implements `pentimento.orchestrator.v1.AnalysisService`; the contract describes the RPCs."""

    def __init__(
        self, engine: AnalysisEngine, intake: Intake, store: AnalysisStore, batches: Batches | None = None
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._store = store
        self._batches = batches

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_AnalysisServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["AnalysisService"].full_name]

    async def AnalyzeImage(self, request: pb.AnalyzeImageRequest, context: Context) -> pb.AnalyzeImageResponse:
        upload = await self._intake.from_source(request.image)
        analysis = await self._engine.analyze(upload, request.options, formats=FORMATS)
        return pb.AnalyzeImageResponse(analysis=analysis)

    async def StreamAnalyzeImages(
        self, request: pb.StreamAnalyzeImagesRequest, context: Context
    ) -> AsyncIterator[pb.StreamAnalyzeImagesResponse]:
        events: asyncio.Queue[pb.StreamAnalyzeImagesResponse | None] = asyncio.Queue()
        places = asyncio.Semaphore(STREAMED_AT_ONCE)

        async def analyze(index: int, source: analysis_pb2.ImageSource) -> bool:
            async with places:
                failure: pb.ImageError | None = None
                try:
                    upload = await self._intake.from_source(source)
                    async with aclosing(self._engine.stream(upload, request.options, formats=FORMATS)) as answers:
                        async for event in answers:
                            events.put_nowait(_message(index, event))
                except PentimentoError as error:
                    failure = pb.ImageError(reason=error.reason, message=error.message)
                except Exception:
                    # A defect that one picture brings out must not cost the others their answers.
                    log.exception("streamed_analysis_failed", image_index=index)
                    failure = pb.ImageError(reason="INTERNAL", message=internal_message())
                if failure:
                    events.put_nowait(pb.StreamAnalyzeImagesResponse(image_index=index, error=failure))
                # A slow reader holds up his own next picture, and not, in the midst of an analysis, everybody's.
                await events.join()
                return failure is None

        async def analyze_all() -> int:
            analyzed = sum(await asyncio.gather(*(analyze(*item) for item in enumerate(request.images))))
            events.put_nowait(None)
            return analyzed

        working = asyncio.create_task(analyze_all())
        try:
            while (event := await events.get()) is not None:
                yield event
                events.task_done()
            analyzed = await working
        finally:
            working.cancel()
        done = pb.StreamDone(analyzed_count=analyzed, failed_count=len(request.images) - analyzed)
        yield pb.StreamAnalyzeImagesResponse(done=done)

    async def GetAnalysis(self, request: pb.GetAnalysisRequest, context: Context) -> pb.GetAnalysisResponse:
        return pb.GetAnalysisResponse(analysis=await self._store.get(request.name))

    async def ListAnalyses(self, request: pb.ListAnalysesRequest, context: Context) -> pb.ListAnalysesResponse:
        page = await self._store.list(
            page_size=min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE),
            token=request.page_token,
            which=_filter(request),
        )
        return pb.ListAnalysesResponse(analyses=page.analyses, next_page_token=page.next_token)

    async def DeleteAnalysis(self, request: pb.DeleteAnalysisRequest, context: Context) -> pb.DeleteAnalysisResponse:
        if self._batches is not None:
            # First the picture: whoever is told that all is deleted can rely on it, whoever is not can ask again.
            await self._batches.delete_upload_of(request.name)
        await self._store.delete(request.name)
        return pb.DeleteAnalysisResponse()


class SystemServicer(system_service_pb2_grpc.SystemServiceServicer):
    """Implements `pentimento.orchestrator.v1.SystemService`; the contract describes the RPCs."""

    def __init__(self, analyzers: Analyzers, health: HealthReporter) -> None:
        self._analyzers = analyzers
        self._health = health

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        system_service_pb2_grpc.add_SystemServiceServicer_to_server(self, server)
        return [system_service_pb2.DESCRIPTOR.services_by_name["SystemService"].full_name]

    async def GetHealth(
        self, request: system_service_pb2.GetHealthRequest, context: Context
    ) -> system_service_pb2.GetHealthResponse:
        return await self._health.report()

    async def ListDetectors(
        self, request: system_service_pb2.ListDetectorsRequest, context: Context
    ) -> system_service_pb2.ListDetectorsResponse:
        detectors, missing = await self._analyzers.detectors()
        return system_service_pb2.ListDetectorsResponse(detectors=detectors, missing=missing)

    async def ListModels(
        self, request: system_service_pb2.ListModelsRequest, context: Context
    ) -> system_service_pb2.ListModelsResponse:
        models, missing = await self._analyzers.models()
        return system_service_pb2.ListModelsResponse(models=models, missing=missing)


EVENTS: Final = {
    detection_pb2.Finding: "finding",
    evidence_pb2.Evidence: "evidence",
    evidence_pb2.MetricResult: "metric",
    evidence_pb2.Signal: "signal",
    face_pb2.Face: "face",
    detection_pb2.Missing: "missing",
    analysis_pb2.Analysis: "analysis",
}
"""Fields of the stream's messages, by what they hold."""


def _message(index: int, event: Piece | analysis_pb2.Analysis) -> pb.StreamAnalyzeImagesResponse:
    said: Any = event.said if isinstance(event, Piece) else event
    return pb.StreamAnalyzeImagesResponse(image_index=index, **{EVENTS[type(said)]: said})


def _filter(request: pb.ListAnalysesRequest) -> AnalysisFilter:
    times = {}
    if request.HasField("create_time_from"):
        times["made_from"] = request.create_time_from.ToDatetime(dt.UTC)
    if request.HasField("create_time_before"):
        times["made_before"] = request.create_time_before.ToDatetime(dt.UTC)
    return AnalysisFilter(
        sha256=request.sha256,
        decision=request.decision,
        edit_decision=request.edit_decision,
        filename_prefix=request.filename_prefix,
        **times,
    )
