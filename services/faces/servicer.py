"""The faces service's RPCs: decode, find the faces, ask about them, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from pentimento.common.v1 import face_pb2, report_pb2
from pentimento.faces.v1 import faces_service_pb2 as pb
from pentimento.faces.v1 import faces_service_pb2_grpc as pb_grpc

from services.common.analyzer import Analyzer
from services.common.convert import image_info_to_proto
from services.common.errors import InvalidInput, ModelUnavailable
from services.common.images import ImageLimits, decode_image
from services.common.limiter import WorkLimiter
from services.common.models import ModelCatalogue
from services.common.version import VERSION
from services.faces.attributes.embedding import FALSE_MATCH_RATE, THRESHOLD
from services.faces.convert import (
    attributes_from_proto,
    deepfake_to_proto,
    detector_from_proto,
    detector_to_proto,
    embedding_from_proto,
    embedding_to_proto,
    face_to_proto,
    kind_to_proto,
    missing_to_proto,
)
from services.faces.describing import Describer, Description, biometrics_disabled
from services.faces.face import Attribute, DescribedFace
from services.faces.finders import Finders, Found
from services.faces.models import FACENET, FACENET_REALFAKE, VGG16_CARTOON

__all__ = ["FacesServicer"]

Context = grpc.aio.ServicerContext[Any, Any]

NOTHING_FOUND: Final = Description((), {})


class FacesServicer(pb_grpc.FacesServiceServicer):
    """Implements `pentimento.faces.v1.FacesService`; the contract describes the RPCs.

    Args:
        finders: look for faces.
        describer: says what networks make of them.
        analyzer_of: the forensic detectors, for the faces of one picture as the networks described them.
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
        analyzer_of: Callable[[Description], Analyzer],
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
        self._analyzer_of(NOTHING_FOUND).select(request.detectors)
        absent = await self._catalogue.absent()
        chosen = list(request.detectors) or self._present(absent)
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        try:
            found = await self._finders.find(
                picture, detector_from_proto(request.face_detector), max_faces=request.max_faces or None
            )
        except ModelUnavailable as error:
            found = Found((), (error,))
        attributes = attributes_from_proto(request.attributes)
        if attributes and FACENET_REALFAKE.name in chosen:
            attributes |= {Attribute.DEEPFAKE}
        description = await self._describer.describe(picture, found.faces, attributes)
        report = report_pb2.AnalyzerReport(image=image_info_to_proto(picture.info))
        if chosen:
            analyzer = self._analyzer_of(description)
            report = await analyzer.report(picture, chosen, include_maps=request.include_maps)
        # A detector that lacks its network says so itself; what nobody put in is no lack, unless it was asked for.
        silent = {*chosen, *(absent if not request.attributes else ())}
        unanswered = {part: error for part, error in description.unanswered.items() if part not in silent}
        passed_over = [error for error in found.passed_over if request.face_detector or error.model not in absent]
        report.missing.extend(missing_to_proto(error.model, error) for error in passed_over)
        report.missing.extend(missing_to_proto(part, error) for part, error in unanswered.items())
        report.duration_seconds = time.perf_counter() - started
        return pb.AnalyzeResponse(
            report=report,
            faces=[face_to_proto(each.face, each) for each in description.faces],
            face_detector=detector_to_proto(found.detector),
        )

    async def DetectFaces(self, request: pb.DetectFacesRequest, context: Context) -> pb.DetectFacesResponse:
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        found = await self._finders.find(
            picture,
            detector_from_proto(request.face_detector),
            max_faces=request.max_faces or None,
            min_confidence=request.min_confidence if request.HasField("min_confidence") else None,
        )
        attributes = attributes_from_proto(request.attributes)
        if attributes:
            description = await self._describer.describe(picture, found.faces, attributes)
        else:
            description = Description(tuple(DescribedFace(face=face) for face in found.faces), {})
        absent = frozenset() if request.face_detector else await self._catalogue.absent()
        missing = [missing_to_proto(error.model, error) for error in found.passed_over if error.model not in absent]
        missing += [missing_to_proto(part, error) for part, error in description.unanswered.items()]
        return pb.DetectFacesResponse(
            faces=[face_to_proto(each.face, each) for each in description.faces],
            image=image_info_to_proto(picture.info),
            face_detector=detector_to_proto(found.detector),
            missing=missing,
        )

    async def ClassifyKind(self, request: pb.ClassifyKindRequest, context: Context) -> pb.ClassifyKindResponse:
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        found = await self._finders.find(picture)
        if not found.faces:
            return pb.ClassifyKindResponse(kind=kind_to_proto(await self._describer.kind_of_picture(picture)))
        description = await self._describer.describe(picture, found.faces, {Attribute.KIND})
        if description.faces[0].kind is None:
            raise description.unanswered[VGG16_CARTOON.name]
        faces = [face_to_proto(each.face, each) for each in description.faces]
        return pb.ClassifyKindResponse(kind=faces[0].kind, faces=faces)

    async def DetectDeepfake(self, request: pb.DetectDeepfakeRequest, context: Context) -> pb.DetectDeepfakeResponse:
        picture = await self._limiter.run(decode_image, request.image, self._limits)
        found = await self._finders.find(picture)
        if not found.faces:
            whole = None
            if request.whole_image_fallback:
                estimate = await self._describer.picture_real_or_fake(picture, augmented=request.augmented)
                whole = deepfake_to_proto(estimate)
            return pb.DetectDeepfakeResponse(whole_image=whole)
        estimates = await self._describer.real_or_fake(picture, found.faces, augmented=request.augmented)
        described = (
            DescribedFace(face=face, deepfake=estimate) for face, estimate in zip(found.faces, estimates, strict=True)
        )
        return pb.DetectDeepfakeResponse(faces=[face_to_proto(each.face, each) for each in described])

    async def EmbedFaces(self, request: pb.EmbedFacesRequest, context: Context) -> pb.EmbedFacesResponse:
        self._require_biometrics()
        return pb.EmbedFacesResponse(
            faces=await self._embedded(request.image, request.max_faces or None),
            threshold=THRESHOLD,
            false_match_rate=FALSE_MATCH_RATE,
        )

    async def CompareFaces(self, request: pb.CompareFacesRequest, context: Context) -> pb.CompareFacesResponse:
        self._require_biometrics()
        pictures = (("image_a", request.image_a), ("image_b", request.image_b))
        face_a, face_b = await asyncio.gather(*(self._one_embedded(image, field) for field, image in pictures))
        similarity = embedding_from_proto(face_a.embedding).similarity(embedding_from_proto(face_b.embedding))
        for face in (face_a, face_b):
            face.ClearField("embedding")  # biometric data: leaves only where it is asked for
        return pb.CompareFacesResponse(
            similarity=similarity,
            threshold=THRESHOLD,
            false_match_rate=FALSE_MATCH_RATE,
            same_person=similarity > THRESHOLD,
            face_a=face_a,
            face_b=face_b,
        )

    async def _one_embedded(self, image: bytes, field: str) -> face_pb2.Face:
        """The most confident face of a picture with its embedding."""
        faces = await self._embedded(image, 1)
        if not faces:
            raise InvalidInput("No face was found in the picture.", reason="NO_FACE", field=field)
        return faces[0]

    async def _embedded(self, image: bytes, max_faces: int | None) -> list[face_pb2.Face]:
        picture = await self._limiter.run(decode_image, image, self._limits)
        found = await self._finders.find(picture, max_faces=max_faces)
        embeddings = await self._describer.embed(picture, found.faces)
        version = self._catalogue.digest_of(FACENET.name)
        faces = [face_to_proto(face) for face in found.faces]
        for face, embedding in zip(faces, embeddings, strict=True):
            face.embedding.CopyFrom(embedding_to_proto(embedding, version=version))
        return faces

    async def ListDetectors(self, request: pb.ListDetectorsRequest, context: Context) -> pb.ListDetectorsResponse:
        return pb.ListDetectorsResponse(detectors=self._analyzer_of(NOTHING_FOUND).detectors(), service_version=VERSION)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=await self._catalogue.all())

    def _present(self, absent: frozenset[str]) -> list[str]:
        """The detectors that this deployment is meant to have: one whose network nobody put in is left out."""
        specs = (spec for spec, _ in self._analyzer_of(NOTHING_FOUND).select(()))
        return [spec.name for spec in specs if not (spec.models and absent.issuperset(spec.models))]

    def _require_biometrics(self) -> None:
        if not self._biometrics:
            raise biometrics_disabled()
