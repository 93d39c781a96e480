"""Document 004, the deepfake API: is a face real or fake?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.api import httpbody_pb2
from pentimento.common.v1 import face_pb2, model_pb2
from pentimento.faces.v1 import faces_service_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1 import documented_services_pb2_grpc as pb_grpc

from services.common.errors import ModelUnavailable
from services.common.version import VERSION
from services.orchestrator.intake import Intake
from services.orchestrator.ports import FacesClient
from services.orchestrator.rest.http import Context, Reply, respond, rounded

__all__ = ["DeepfakeServicer"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})

MODEL: Final = "facenet_realfake"
INPUT_SHAPE: Final = (1, 160, 160, 3)
"""What document 004's clients read in debug_info: one face of 160 x 160 pixels in colour."""
NO_FACE: Final = "No face was found; the whole picture was looked at, of which the network knows little."
FAKE_FROM: Final = 0.5
"""Scores from here on are labelled fake; document 004 has no third label."""


class DeepfakeServicer(pb_grpc.DeepfakeServiceServicer):
    """Answers document 004's requests.

    Args:
        faces: tells real faces from fake ones.
        intake: reads requests.
    """

    def __init__(self, faces: FacesClient, intake: Intake) -> None:
        self._faces = faces
        self._intake = intake

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_DeepfakeServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["DeepfakeService"].full_name]

    async def Detect(self, request: pb.DeepfakeServiceDetectRequest, context: Context) -> httpbody_pb2.HttpBody:
        return await self._detect(request.body, context, augmented=False)

    async def DetectAugmented(
        self, request: pb.DeepfakeServiceDetectAugmentedRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        return await self._detect(request.body, context, augmented=True)

    async def GetHealth(self, request: pb.DeepfakeServiceGetHealthRequest, context: Context) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            return Reply({"status": "healthy", "version": VERSION})

        return await respond(context, call)

    async def GetModelInfo(
        self, request: pb.DeepfakeServiceGetModelInfoRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            listed = await self._faces.list_models()
            for model in listed.models:
                if model.name == MODEL:
                    return Reply(_model_info(model))
            raise ModelUnavailable(MODEL, installed=False)

        return await respond(context, call)

    async def _detect(self, body: httpbody_pb2.HttpBody, context: Context, *, augmented: bool) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            started = time.perf_counter()
            upload = await self._intake.single(body)
            await self._intake.check(upload, FORMATS)
            answer = await self._faces.detect_deepfake(upload.content, augmented=augmented, whole_image_fallback=True)
            estimate = _estimate(answer)
            is_fake = estimate.score >= FAKE_FROM
            reply: dict[str, Any] = {
                "prediction": "fake" if is_fake else "real",
                "confidence": rounded(estimate.score if is_fake else 1.0 - estimate.score),
                "processing_time": rounded(time.perf_counter() - started, 3),
                "debug_info": {"input_shape": list(INPUT_SHAPE), "raw_prediction": rounded(estimate.score)},
                "faces": len(answer.faces),
            }
            if not answer.faces:
                reply["message"] = NO_FACE
            if estimate.HasField("stability"):
                reply["stability"] = rounded(estimate.stability)
            return Reply(reply)

        return await respond(context, call)


def _estimate(answer: faces_service_pb2.DetectDeepfakeResponse) -> face_pb2.DeepfakeEstimate:
    """The most suspicious face's estimate, for one fake face makes a fake picture; without faces the whole picture's.

    Raises:
        ModelUnavailable: there is none.
    """
    estimates = [face.deepfake for face in answer.faces if face.HasField("deepfake")]
    if estimates:
        return max(estimates, key=lambda estimate: estimate.score)
    if answer.HasField("whole_image"):
        return answer.whole_image
    raise ModelUnavailable(MODEL)


def _model_info(model: model_pb2.ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "description": model.description,
        "state": model_pb2.ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower(),
        "input_shape": list(INPUT_SHAPE),
        "inputs": [_tensor(tensor) for tensor in model.inputs],
        "outputs": [_tensor(tensor) for tensor in model.outputs],
        "classes": list(model.classes),
        "digest": model.digest,
        "license": model.license,
        "scores": {name: rounded(score) for name, score in sorted(model.scores.items())},
    }


def _tensor(tensor: model_pb2.TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
