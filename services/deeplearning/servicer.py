"""The deeplearning service's RPCs: decode, ask the networks, answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from pentimento.common.v1 import detection_pb2
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as pb
from pentimento.deeplearning.v1 import deeplearning_service_pb2_grpc as pb_grpc

from services.common.analyzer import Analyzer
from services.common.convert import heat_map_to_proto
from services.common.errors import InvalidInput, ModelUnavailable
from services.common.images import ImageLimits, Picture, decode_image
from services.common.limiter import WorkLimiter
from services.common.models import ModelCatalogue
from services.common.version import VERSION
from services.deeplearning.detectors.segment import CUT, MIN_SIDE
from services.deeplearning.drawing import draw
from services.deeplearning.models import GENERATED
from services.deeplearning.networks import Networks

__all__ = ["DeepLearningServicer"]

Context = grpc.aio.ServicerContext[Any, Any]

SEGMENT = "segment"
CLASSIFY = "classify"
ON_REQUEST = frozenset({SEGMENT, CLASSIFY})
"""Asked by name, by `Segment` and by `Classify` only, as long as the network is ours: it takes a second a picture, and
its card says that of forgeries by hand it finds few. A network of the deployment's own is always asked."""


class DeepLearningServicer(pb_grpc.DeepLearningServiceServicer):
    """Implements `pentimento.deeplearning.v1.DeepLearningService`; the contract describes the RPCs.

    Args:
        networks_of: the networks as they are asked about one picture, and whether its mask will be.
        analyzer_of: the detectors, for the networks of one picture; without them only to be told of.
        catalogue: the models that this service asks.
        limiter: where pixels are worked on.
        limits: on pictures.
    """

    def __init__(
        self,
        *,
        networks_of: Callable[[Picture, bool], Networks],
        analyzer_of: Callable[[Networks | None], Analyzer],
        catalogue: ModelCatalogue,
        limiter: WorkLimiter,
        limits: ImageLimits,
    ) -> None:
        self._networks_of = networks_of
        self._analyzer_of = analyzer_of
        self._analyzer = analyzer_of(None)
        self._catalogue = catalogue
        self._limiter = limiter
        self._limits = limits

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_DeepLearningServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["DeepLearningService"].full_name]

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        self._analyzer.select(request.detectors)
        picture = await self._decoded(request.image)
        names = request.detectors or await self._present()
        analyzer = self._analyzer_of(self._networks_of(picture, SEGMENT in names))
        report = await analyzer.report(picture, names, include_maps=request.include_maps)
        if not request.detectors:
            # A model that a detector asks is missed by its detector, which was asked just now, or was not meant to be.
            theirs = {model for spec, _ in self._analyzer.select(()) for model in spec.models}
            report.missing.extend(item for item in await self._catalogue.missing() if item.part not in theirs)
        return pb.AnalyzeResponse(report=report)

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:
        picture = await self._decoded(request.image)
        _require_size(picture)
        networks = self._networks_of(picture, True)
        # Asked here, so that its errors come as they are; the detector gets the same answer.
        localisation = await networks.localisation()
        finding = await self._finding(networks, picture, SEGMENT)
        threshold = request.threshold if request.HasField("threshold") else CUT
        drawn = await self._limiter.run(draw, picture.rgb, localisation.mask, threshold=threshold)
        reliability = await self._limiter.run(heat_map_to_proto, localisation.reliability)
        return pb.SegmentResponse(
            mask_png=drawn.mask_png,
            overlay_png=drawn.overlay_png,
            masked_image_png=drawn.masked_image_png,
            reliability_map=reliability,
            manipulated_share=drawn.share,
            finding=finding,
        )

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        picture = await self._decoded(request.image)
        _require_size(picture)
        networks = self._networks_of(picture, False)
        said = await networks.classification()
        classes = [
            pb.ClassProbability(class_name=name, class_id=index, probability=value)
            for index, (name, value) in enumerate(said.classes.items())
        ]
        return pb.ClassifyResponse(
            classes=sorted(classes, key=lambda item: (-item.probability, item.class_id)),
            finding=await self._finding(networks, picture, CLASSIFY),
        )

    async def DetectGenerated(self, request: pb.DetectGeneratedRequest, context: Context) -> pb.DetectGeneratedResponse:
        picture = await self._decoded(request.image)
        report = await self._analyzer_of(self._networks_of(picture, False)).report(
            picture, [GENERATED.name], include_maps=False
        )
        for missing in report.missing:
            raise ModelUnavailable(GENERATED.name, installed=missing.reason != "MODEL_NOT_INSTALLED")
        return pb.DetectGeneratedResponse(finding=report.findings[0])

    async def ListDetectors(self, request: pb.ListDetectorsRequest, context: Context) -> pb.ListDetectorsResponse:
        return pb.ListDetectorsResponse(detectors=self._analyzer.detectors(), service_version=VERSION)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=await self._catalogue.all())

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:
        return pb.GetModelInfoResponse(model=await self._catalogue.info(request.model))

    async def _decoded(self, content: bytes) -> Picture:
        return await self._limiter.run(decode_image, content, self._limits)

    async def _present(self) -> list[str]:
        """The detectors that are asked unless others are named.

        One whose model nobody put in is left out, and so are those of our own `ON_REQUEST`.
        """
        absent = await self._catalogue.absent()
        return [
            spec.name
            for spec, _ in self._analyzer.select(())
            if not (spec.models and absent.issuperset(spec.models))
            and (spec.name not in ON_REQUEST or any(self._catalogue.is_own(model) for model in spec.models))
        ]

    async def _finding(self, networks: Networks, picture: Picture, detector: str) -> detection_pb2.Finding:
        report = await self._analyzer_of(networks).report(picture, [detector], include_maps=False)
        return report.findings[0]


def _require_size(picture: Picture) -> None:
    """Refuses what is too small to be looked at: an empty mask would clear it."""
    if min(picture.info.width, picture.info.height) < MIN_SIDE:
        raise InvalidInput(
            f"The picture has {picture.info.width} x {picture.info.height} pixels; its sides need {MIN_SIDE} or more.",
            reason="TOO_SMALL",
            field="image",
        )
