"""Pentimento's own API for faces: converts, calls, converts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar

import grpc
from pentimento.common.v1 import detection_pb2, face_pb2
from pentimento.orchestrator.v1 import analysis_pb2, gallery_service_pb2
from pentimento.orchestrator.v1 import face_service_pb2 as pb
from pentimento.orchestrator.v1 import face_service_pb2_grpc as pb_grpc

from services.common.errors import PentimentoError
from services.orchestrator.analyzers import FacesClient
from services.orchestrator.engine import AnalysisEngine
from services.orchestrator.gallery import Gallery
from services.orchestrator.intake import Intake, Upload
from services.orchestrator.profile import Seen, profile_report

__all__ = ["FaceServicer"]

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})
MATCHES: Final = 3
"""Enrolled people that a profile's report names."""


class FaceServicer(pb_grpc.FaceServiceServicer):
    """Implements `pentimento.orchestrator.v1.FaceService`; the contract describes the RPCs."""

    def __init__(self, engine: AnalysisEngine, faces: FacesClient, gallery: Gallery, intake: Intake) -> None:
        self._engine = engine
        self._faces = faces
        self._gallery = gallery
        self._intake = intake

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_FaceServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["FaceService"].full_name]

    async def DetectFaces(self, request: pb.DetectFacesRequest, context: Context) -> pb.DetectFacesResponse:
        upload = await self._picture(request.image)
        answer = await self._faces.detect_faces(
            upload.content, request.face_detector, max_faces=request.max_faces, attributes=request.attributes
        )
        return pb.DetectFacesResponse(
            faces=answer.faces, image=answer.image, face_detector=answer.face_detector, missing=answer.missing
        )

    async def DetectDeepfake(self, request: pb.DetectDeepfakeRequest, context: Context) -> pb.DetectDeepfakeResponse:
        upload = await self._picture(request.image)
        answer = await self._faces.detect_deepfake(
            upload.content, augmented=request.augmented, whole_image_fallback=request.whole_image_fallback
        )
        whole = answer.whole_image if answer.HasField("whole_image") else None
        return pb.DetectDeepfakeResponse(faces=answer.faces, whole_image=whole)

    async def CompareFaces(self, request: pb.CompareFacesRequest, context: Context) -> pb.CompareFacesResponse:
        one, other = await asyncio.gather(self._picture(request.image_a), self._picture(request.image_b))
        answer = await self._faces.compare_faces(one.content, other.content)
        return pb.CompareFacesResponse(
            similarity=answer.similarity,
            threshold=answer.threshold,
            false_match_rate=answer.false_match_rate,
            same_person=answer.same_person,
            face_a=answer.face_a,
            face_b=answer.face_b,
        )

    async def ReportProfile(self, request: pb.ReportProfileRequest, context: Context) -> pb.ReportProfileResponse:
        upload = await self._intake.from_source(request.image)
        # The analysis first: it refuses what is no picture, and says whether there is a face to ask further about.
        analysis = await self._engine.analyze(upload, request.options, formats=FORMATS)
        missing: list[detection_pb2.Missing] = []
        kind, fakes, matches = await asyncio.gather(
            _or_missing(self._kind_without_face(upload, analysis), "vgg16_cartoon", missing),
            _or_missing(self._fakes(upload, analysis), "facenet_realfake", missing),
            _or_missing(self._matches(upload, analysis), "gallery", missing),
        )
        known = {item.part for item in analysis.missing}
        seen = Seen(
            analysis=analysis,
            kind=kind,
            fakes=fakes or (),
            matches=matches or (),
            missing=[item for item in missing if item.part not in known],
        )
        return pb.ReportProfileResponse(report=profile_report(seen))

    async def _picture(self, source: analysis_pb2.ImageSource) -> Upload:
        upload = await self._intake.from_source(source)
        await self._intake.check(upload, FORMATS)
        return upload

    async def _kind_without_face(self, upload: Upload, analysis: analysis_pb2.Analysis) -> face_pb2.KindEstimate | None:
        return None if analysis.faces else (await self._faces.classify_kind(upload.content)).kind

    async def _fakes(self, upload: Upload, analysis: analysis_pb2.Analysis) -> Sequence[face_pb2.Face]:
        """The faces by several passes, where a single one says that there is something to look at."""
        if not any(face.deepfake.score >= 0.5 for face in analysis.faces):
            return ()
        answer = await self._faces.detect_deepfake(upload.content, augmented=True, whole_image_fallback=False)
        return answer.faces

    async def _matches(
        self, upload: Upload, analysis: analysis_pb2.Analysis
    ) -> Sequence[gallery_service_pb2.PersonMatch]:
        if not self._gallery.searchable or not analysis.faces:
            return ()
        embedded = await self._faces.embed_faces(upload.content, max_faces=1)
        store = self._gallery.store(biometric=True)
        return [
            match
            for face in embedded.faces
            for match in await store.nearest(face.embedding, most=MATCHES, threshold=embedded.threshold)
        ]


async def _or_missing(answer: Awaitable[T], part: str, missing: list[detection_pb2.Missing]) -> T | None:
    """The answer, or None with the reason in `missing`: one that cannot be had costs the report no other."""
    try:
        return await answer
    except PentimentoError as error:
        missing.append(detection_pb2.Missing(part=part, reason=error.reason, message=error.message))
        return None
