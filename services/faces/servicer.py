"""The faces service's RPCs: decode, find the faces, ask about them, answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from pentimento.faces.v1 import faces_service_pb2 as pb
from pentimento.faces.v1 import faces_service_pb2_grpc as pb_grpc

from services.common.analyzer import Analyzer
from services.common.convert import image_info_to_proto
from services.common.errors import ModelUnavailable
from services.common.images import ImageLimits, decode_image
from services.common.limiter import WorkLimiter
from services.common.models import ModelCatalogue
from services.common.version import VERSION
from services.faces.convert import (
    attributes_from_proto,
    detector_from_proto,
    detector_to_proto,
    face_to_proto,
    kind_to_proto,
    missing_to_proto,
)
from services.faces.describing import Describer, biometrics_disabled
from services.faces.face import Attribute, DetectedFace
from services.faces.finders import Finders, Found
from services.faces.models import FACENET, FACENET_REALFAKE

__all__ = ["FacesServicer"]

Context = grpc.aio.ServicerContext[Any, Any]


class FacesServicer(pb_grpc.FacesServiceServicer):
    """Implements `pentimento.faces.v1.FacesService`; the contract describes the RPCs.

    Args:
        finders: look for faces.
        describer: says what networks make of them.
        analyzer_of: the forensic detectors, for the faces of one picture.
        catalogue: the models that this service asks.
        limiter: where pixels are worked on.
        limits: on pictures.
        biometrics: whether this deployment gives biometric answers.
    """

    def __init__(
        self,
        *,
        finders: Finders,
        describer: Describer,
        analyzer_of: Callable[[Sequence[DetectedFace]], Analyzer],
        catalogue: ModelCatalogue,
        limiter: WorkLimiter,
        limits: ImageLimits,
        biometrics: bool,
    ) -> None:
        self._finders = finders
        self._describer = describer
        self._analyzer_of = analyzer_of
        self._catalogue = catalogue
        self._limiter = limiter
        self._limits = limits
        self._biometrics = biometrics

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_FacesServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["FacesService"].full_name]

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        started = time.perf_counter()
        self._analyzer_of(()).select(request.detectors)
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        try:
            found = await self._limiter.run(
                self._finders.find,
                picture,
                detector_from_proto(request.face_detector),
                max_faces=request.max_faces or None,
            )
        except ModelUnavailable as error:
            found = Found((), (error,))
        description = await self._describer.describe(picture, found.faces, attributes_from_proto(request.attributes))
        report = await self._analyzer_of(found.faces).report(
            picture, request.detectors, include_maps=request.include_maps
        )
        report.missing.extend(missing_to_proto(error.model, error) for error in found.passed_over)
        report.missing.extend(missing_to_proto(part, error) for part, error in description.unanswered.items())
        report.duration_seconds = time.perf_counter() - started
        return pb.AnalyzeResponse(
            report=report,
            faces=[face_to_proto(each.face, each) for each in description.faces],
            face_detector=detector_to_proto(found.detector),
        )

    async def DetectFaces(self, request: pb.DetectFacesRequest, context: Context) -> pb.DetectFacesResponse:
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        found = await self._limiter.run(
            self._finders.find,
            picture,
            detector_from_proto(request.face_detector),
            max_faces=request.max_faces or None,
            min_confidence=request.min_confidence if request.HasField("min_confidence") else None,
        )
        return pb.DetectFacesResponse(
            faces=[face_to_proto(face) for face in found.faces],
            image=image_info_to_proto(picture.info),
            face_detector=detector_to_proto(found.detector),
        )

    async def ClassifyKind(self, request: pb.ClassifyKindRequest, context: Context) -> pb.ClassifyKindResponse:
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        found = await self._limiter.run(self._finders.find, picture)
        if not found.faces:
            return pb.ClassifyKindResponse(kind=kind_to_proto(await self._describer.kind_of_picture(picture)))
        description = await self._describer.describe(picture, found.faces, {Attribute.KIND})
        for error in description.unanswered.values():
            raise error
        faces = [face_to_proto(each.face, each) for each in description.faces]
        return pb.ClassifyKindResponse(kind=faces[0].kind, faces=faces)

    async def DetectDeepfake(self, request: pb.DetectDeepfakeRequest, context: Context) -> pb.DetectDeepfakeResponse:
        raise ModelUnavailable(FACENET_REALFAKE.name, installed=False)

    async def EmbedFaces(self, request: pb.EmbedFacesRequest, context: Context) -> pb.EmbedFacesResponse:
        self._require_biometrics()
        raise ModelUnavailable(FACENET.name, installed=False)

    async def CompareFaces(self, request: pb.CompareFacesRequest, context: Context) -> pb.CompareFacesResponse:
        self._require_biometrics()
        raise ModelUnavailable(FACENET.name, installed=False)

    async def ListDetectors(self, request: pb.ListDetectorsRequest, context: Context) -> pb.ListDetectorsResponse:
        return pb.ListDetectorsResponse(detectors=self._analyzer_of(()).detectors(), service_version=VERSION)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=await self._catalogue.all())

    def _require_biometrics(self) -> None:
        if not self._biometrics:
            raise biometrics_disabled()
