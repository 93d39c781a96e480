"""The deeplearning service's RPCs: decode, ask the networks, answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as pb
from pentimento.deeplearning.v1 import deeplearning_service_pb2_grpc as pb_grpc

from services.common.analyzer import Analyzer
from services.common.errors import ModelUnavailable
from services.common.images import ImageLimits, decode_image
from services.common.limiter import WorkLimiter
from services.common.models import ModelCatalogue
from services.common.version import VERSION
from services.deeplearning.models import GENERATED, MANIPULATION_CLASS, MANIPULATION_MASK

__all__ = ["DeepLearningServicer"]

Context = grpc.aio.ServicerContext[Any, Any]


class DeepLearningServicer(pb_grpc.DeepLearningServiceServicer):
    """Implements `pentimento.deeplearning.v1.DeepLearningService`; the contract describes the RPCs."""

    def __init__(
        self, analyzer: Analyzer, catalogue: ModelCatalogue, limiter: WorkLimiter, limits: ImageLimits
    ) -> None:
        self._analyzer = analyzer
        self._catalogue = catalogue
        self._limiter = limiter
        self._limits = limits

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_DeepLearningServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["DeepLearningService"].full_name]

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        self._analyzer.select(request.detectors)
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        report = await self._analyzer.report(picture, request.detectors, include_maps=request.include_maps)
        if not request.detectors:
            # Of a model that a detector asks, the detector has said just now whether it answers.
            asked = {model for spec, _ in self._analyzer.select(()) for model in spec.models}
            report.missing.extend(item for item in await self._catalogue.missing() if item.part not in asked)
        return pb.AnalyzeResponse(report=report)

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:
        raise ModelUnavailable(MANIPULATION_MASK.name, installed=False)

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        raise ModelUnavailable(MANIPULATION_CLASS.name, installed=False)

    async def DetectGenerated(self, request: pb.DetectGeneratedRequest, context: Context) -> pb.DetectGeneratedResponse:
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        report = await self._analyzer.report(picture, [GENERATED.name], include_maps=False)
        for missing in report.missing:
            raise ModelUnavailable(GENERATED.name, installed=missing.reason != "MODEL_NOT_INSTALLED")
        return pb.DetectGeneratedResponse(finding=report.findings[0])

    async def ListDetectors(self, request: pb.ListDetectorsRequest, context: Context) -> pb.ListDetectorsResponse:
        return pb.ListDetectorsResponse(detectors=self._analyzer.detectors(), service_version=VERSION)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=await self._catalogue.all())

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:
        return pb.GetModelInfoResponse(model=await self._catalogue.info(request.model))
