"""The passive service's RPCs: decode, run the detectors, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc
from pentimento.common.v1 import report_pb2
from pentimento.passive.v1 import passive_service_pb2 as pb
from pentimento.passive.v1 import passive_service_pb2_grpc as pb_grpc

from services.common.analyzer import Analyzer
from services.common.convert import image_info_to_proto
from services.common.images import ImageLimits, decode_image
from services.common.limiter import WorkLimiter
from services.common.version import VERSION

__all__ = ["PassiveServicer"]

Context = grpc.aio.ServicerContext[Any, Any]


class PassiveServicer(pb_grpc.PassiveServiceServicer):
    """Implements `pentimento.passive.v1.PassiveService`; the contract describes the RPCs."""

    def __init__(self, analyzer: Analyzer, limiter: WorkLimiter, limits: ImageLimits) -> None:
        self._analyzer = analyzer
        self._limiter = limiter
        self._limits = limits

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_PassiveServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["PassiveService"].full_name]

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        self._analyzer.select(request.detectors)
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        report = await self._analyzer.report(picture, request.detectors, include_maps=request.include_maps)
        return pb.AnalyzeResponse(report=report)

    async def AnalyzeStream(
        self, request: pb.AnalyzeStreamRequest, context: Context
    ) -> AsyncIterator[pb.AnalyzeStreamResponse]:
        self._analyzer.select(request.detectors)
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        report = report_pb2.AnalyzerReport(image=image_info_to_proto(picture.info))
        arriving = self._analyzer.results(picture, request.detectors, include_maps=request.include_maps)
        async with aclosing(arriving):
            async for result in arriving:
                report.findings.append(result.finding)
                yield pb.AnalyzeStreamResponse(finding=result.finding)
                report.evidence.extend(result.evidence)
                for piece in result.evidence:
                    yield pb.AnalyzeStreamResponse(evidence=piece)
                report.metrics.extend(result.metrics)
                for metric in result.metrics:
                    yield pb.AnalyzeStreamResponse(metric=metric)
                report.signals.extend(result.signals)
                for signal in result.signals:
                    yield pb.AnalyzeStreamResponse(signal=signal)
                if result.missing:
                    report.missing.append(result.missing)
                    yield pb.AnalyzeStreamResponse(missing=result.missing)
        yield pb.AnalyzeStreamResponse(done=report)

    async def ListDetectors(self, request: pb.ListDetectorsRequest, context: Context) -> pb.ListDetectorsResponse:
        return pb.ListDetectorsResponse(detectors=self._analyzer.detectors(), service_version=VERSION)
