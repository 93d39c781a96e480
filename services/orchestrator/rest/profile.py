"""Document 003, the profile API: the faces of a profile picture. Its clients read `message`, also on errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.api import httpbody_pb2
from pentimento.common.v1 import face_pb2
from pentimento.faces.v1 import faces_service_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1 import documented_services_pb2_grpc as pb_grpc

from services.common.errors import (
    DamagedImage,
    DeadlineExceeded,
    Forbidden,
    ModelUnavailable,
    Overloaded,
    PentimentoError,
    RejectedUrl,
    UnsupportedFormat,
)
from services.orchestrator.intake import Intake
from services.orchestrator.ports import FacesClient
from services.orchestrator.rest.http import IMAGE_NOT_FOUND, Context, Reply, error_reply, respond, rounded

__all__ = ["ProfileServicer"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP", "GIF"})

NO_FACES_FOUND: Final = "No faces found"
FACES_FOUND: Final = "faces found"
CARTOON: Final = "Cartoon Image"
NOT_CARTOON: Final = "Non-Cartoon Image"

KIND_MODEL: Final = "vgg16_cartoon"
_BIOMETRICS_DISABLED: Final = "BIOMETRICS_DISABLED"

_GENDERS: Final = {face_pb2.GENDER_FEMALE: "female", face_pb2.GENDER_MALE: "male"}


class ProfileServicer(pb_grpc.ProfileServiceServicer):
    """Answers document 003's requests.

    Args:
        faces: finds and describes faces.
        intake: reads requests and fetches pictures.
    """

    def __init__(self, faces: FacesClient, intake: Intake) -> None:
        self._faces = faces
        self._intake = intake

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_ProfileServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["ProfileService"].full_name]

    async def DetectYunet(
        self, request: pb.ProfileServiceDetectYunetRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        return await self._detect(request.body, context, face_pb2.FACE_DETECTOR_YUNET)

    async def DetectMediapipe(
        self, request: pb.ProfileServiceDetectMediapipeRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        return await self._detect(request.body, context, face_pb2.FACE_DETECTOR_MEDIAPIPE)

    async def DetectHaar(self, request: pb.ProfileServiceDetectHaarRequest, context: Context) -> httpbody_pb2.HttpBody:
        return await self._detect(request.body, context, face_pb2.FACE_DETECTOR_HAAR)

    async def EstimateGender(
        self, request: pb.ProfileServiceEstimateGenderRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            answer = await self._faces.analyze(
                await self._picture(request.body),
                attributes=[face_pb2.FACE_ATTRIBUTE_AGE, face_pb2.FACE_ATTRIBUTE_GENDER],
            )
            if not answer.faces:
                return Reply({"message": NO_FACES_FOUND})
            face = _most_confident(answer.faces)
            if not face.HasField("age") or not face.HasField("gender"):
                raise _missing_estimate(answer, face)
            boxes = [_corners(face.box)]
            return Reply(
                {
                    "message": FACES_FOUND,
                    "gender": _GENDERS.get(face.gender.gender),
                    "age": face.age.range,
                    "bounding boxes ": boxes,
                    "bounding_boxes": boxes,
                    "gender_probability": rounded(face.gender.probability),
                    "age_years": rounded(face.age.years, 1),
                }
            )

        return await respond(context, call, on_error=_worded)

    async def DetectCartoon(
        self, request: pb.ProfileServiceDetectCartoonRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            answer = await self._faces.classify_kind(await self._picture(request.body))
            if answer.kind.kind == face_pb2.FACE_KIND_UNSPECIFIED:
                raise ModelUnavailable(KIND_MODEL)
            is_cartoon = answer.kind.kind == face_pb2.FACE_KIND_CARTOON
            return Reply(
                {
                    "message": CARTOON if is_cartoon else NOT_CARTOON,
                    "probability": rounded(answer.kind.probability),
                }
            )

        return await respond(context, call, on_error=_worded)

    async def _detect(
        self, body: httpbody_pb2.HttpBody, context: Context, detector: face_pb2.FaceDetector.ValueType
    ) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            answer = await self._faces.detect_faces(await self._picture(body), detector)
            if not answer.faces:
                return Reply({"message": NO_FACES_FOUND})
            face = _most_confident(answer.faces)
            left, top, right, bottom = _corners(face.box)
            return Reply(
                {
                    "message": FACES_FOUND,
                    "x1": left,
                    "y1": top,
                    "x2": right,
                    "y2": bottom,
                    "confidence": rounded(face.confidence),
                    "faces": len(answer.faces),
                }
            )

        return await respond(context, call, on_error=_worded)

    async def _picture(self, body: httpbody_pb2.HttpBody) -> bytes:
        upload = await self._intake.single(body)
        await self._intake.check(upload, FORMATS)
        return upload.content


def _worded(error: PentimentoError) -> Reply:
    """The error with the only words that document 003 has for what is no picture; the detail stands in `error`."""
    no_picture = isinstance(error, RejectedUrl | UnsupportedFormat | DamagedImage)
    return error_reply(error, message=IMAGE_NOT_FOUND if no_picture else None)


def _most_confident(faces: Sequence[face_pb2.Face]) -> face_pb2.Face:
    return max(faces, key=lambda face: face.confidence)


def _corners(box: Any) -> list[int]:
    """x1, y1, x2, y2 in whole pixels of the upright picture."""
    return [round(box.x_min), round(box.y_min), round(box.x_max), round(box.y_max)]


def _missing_estimate(answer: faces_service_pb2.AnalyzeResponse, face: face_pb2.Face) -> PentimentoError:
    """Why a face has no age or no gender: the deployment forbids it, or the model did not answer."""
    wanted = "gender" if face.HasField("age") else "age"
    for missing in answer.report.missing:
        if missing.part != wanted:
            continue
        if missing.reason == _BIOMETRICS_DISABLED:
            return Forbidden(missing.message, reason=missing.reason)
        if missing.reason == Overloaded.default_reason:
            return Overloaded(missing.message)
        if missing.reason == DeadlineExceeded.default_reason:
            return DeadlineExceeded(missing.message)
        return ModelUnavailable(wanted, missing.message, installed=missing.reason != "MODEL_NOT_INSTALLED")
    return ModelUnavailable(wanted)
