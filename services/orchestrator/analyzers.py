"""The three analysers, asked side by side; one that fails or is slow is reported as missing."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from pentimento.common.v1 import detection_pb2, face_pb2, model_pb2, report_pb2
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as deeplearning_pb
from pentimento.deeplearning.v1.deeplearning_service_pb2_grpc import DeepLearningServiceStub
from pentimento.faces.v1 import faces_service_pb2 as faces_pb
from pentimento.faces.v1.faces_service_pb2_grpc import FacesServiceStub
from pentimento.passive.v1 import passive_service_pb2 as passive_pb
from pentimento.passive.v1.passive_service_pb2_grpc import PassiveServiceStub

from services.common.channel import call
from services.common.errors import InvalidInput, PentimentoError, Unavailable

__all__ = ["Analyzers", "DeepLearningClient", "FacesClient", "PassiveClient", "ServiceAnswer"]

QUESTIONS: Final = {
    "passive": (detection_pb2.QUESTION_GENERATED, detection_pb2.QUESTION_EDITED),
    "deeplearning": (detection_pb2.QUESTION_GENERATED, detection_pb2.QUESTION_EDITED),
    "faces": (detection_pb2.QUESTION_EDITED,),
}
"""The questions that lack an answer while a service is away."""

LISTING_SECONDS: Final = 3.0
DETECTORS_SECONDS: Final = 30.0
"""How long the list of detectors is trusted; it changes only with a deployment."""


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """What one service said about a picture; `report` is None if it did not answer, and `missing` says why."""

    service: str
    report: report_pb2.AnalyzerReport | None
    faces: Sequence[face_pb2.Face] = ()
    missing: Sequence[detection_pb2.Missing] = ()


class _Client:
    """What the clients below have in common: a service's name, and how long to wait for it."""

    service = ""

    def __init__(self, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds

    async def _call(self, method: Any, request: Any) -> Any:
        return await call(method, request, service=self.service, limit_seconds=self._timeout_seconds)

    async def _list(self, method: Any, request: Any) -> Any:
        return await call(method, request, service=self.service, limit_seconds=LISTING_SECONDS)


class PassiveClient(_Client):
    """The passive service; every method raises what `services.common.channel.call` raises."""

    service = "passive"

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        super().__init__(timeout_seconds=timeout_seconds)
        self._stub: Any = PassiveServiceStub(channel)

    async def analyze(
        self, content: bytes, *, detectors: Sequence[str] = (), include_maps: bool = False
    ) -> passive_pb.AnalyzeResponse:
        """PassiveService.Analyze."""
        request = passive_pb.AnalyzeRequest(image=content, detectors=detectors, include_maps=include_maps)
        answer: passive_pb.AnalyzeResponse = await self._call(self._stub.Analyze, request)
        return answer

    async def list_detectors(self) -> Sequence[detection_pb2.Detector]:
        """PassiveService.ListDetectors."""
        answer = await self._list(self._stub.ListDetectors, passive_pb.ListDetectorsRequest())
        return list(answer.detectors)


class DeepLearningClient(_Client):
    """The deeplearning service; every method raises what `services.common.channel.call` raises."""

    service = "deeplearning"

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        super().__init__(timeout_seconds=timeout_seconds)
        self._stub: Any = DeepLearningServiceStub(channel)

    async def analyze(
        self, content: bytes, *, detectors: Sequence[str] = (), include_maps: bool = False
    ) -> deeplearning_pb.AnalyzeResponse:
        """DeepLearningService.Analyze."""
        request = deeplearning_pb.AnalyzeRequest(image=content, detectors=detectors, include_maps=include_maps)
        answer: deeplearning_pb.AnalyzeResponse = await self._call(self._stub.Analyze, request)
        return answer

    async def segment(self, content: bytes) -> deeplearning_pb.SegmentResponse:
        """DeepLearningService.Segment."""
        request = deeplearning_pb.SegmentRequest(image=content)
        answer: deeplearning_pb.SegmentResponse = await self._call(self._stub.Segment, request)
        return answer

    async def classify(self, content: bytes) -> deeplearning_pb.ClassifyResponse:
        """DeepLearningService.Classify."""
        request = deeplearning_pb.ClassifyRequest(image=content)
        answer: deeplearning_pb.ClassifyResponse = await self._call(self._stub.Classify, request)
        return answer

    async def list_detectors(self) -> Sequence[detection_pb2.Detector]:
        """DeepLearningService.ListDetectors."""
        answer = await self._list(self._stub.ListDetectors, deeplearning_pb.ListDetectorsRequest())
        return list(answer.detectors)

    async def list_models(self) -> deeplearning_pb.ListModelsResponse:
        """DeepLearningService.ListModels."""
        answer: deeplearning_pb.ListModelsResponse = await self._list(
            self._stub.ListModels, deeplearning_pb.ListModelsRequest()
        )
        return answer


class FacesClient(_Client):
    """The faces service; every method raises what `services.common.channel.call` raises."""

    service = "faces"

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float) -> None:
        super().__init__(timeout_seconds=timeout_seconds)
        self._stub: Any = FacesServiceStub(channel)

    async def analyze(
        self,
        content: bytes,
        *,
        detectors: Sequence[str] = (),
        attributes: Sequence[faces_pb.FaceAttribute.ValueType] = (),
        include_maps: bool = False,
    ) -> faces_pb.AnalyzeResponse:
        """FacesService.Analyze."""
        request = faces_pb.AnalyzeRequest(
            image=content, detectors=detectors, attributes=attributes, include_maps=include_maps
        )
        answer: faces_pb.AnalyzeResponse = await self._call(self._stub.Analyze, request)
        return answer

    async def detect_faces(
        self, content: bytes, detector: face_pb2.FaceDetector.ValueType
    ) -> faces_pb.DetectFacesResponse:
        """FacesService.DetectFaces."""
        request = faces_pb.DetectFacesRequest(image=content, face_detector=detector)
        answer: faces_pb.DetectFacesResponse = await self._call(self._stub.DetectFaces, request)
        return answer

    async def classify_kind(self, content: bytes) -> faces_pb.ClassifyKindResponse:
        """FacesService.ClassifyKind."""
        request = faces_pb.ClassifyKindRequest(image=content)
        answer: faces_pb.ClassifyKindResponse = await self._call(self._stub.ClassifyKind, request)
        return answer

    async def detect_deepfake(
        self, content: bytes, *, augmented: bool, whole_image_fallback: bool
    ) -> faces_pb.DetectDeepfakeResponse:
        """FacesService.DetectDeepfake."""
        request = faces_pb.DetectDeepfakeRequest(
            image=content, augmented=augmented, whole_image_fallback=whole_image_fallback
        )
        answer: faces_pb.DetectDeepfakeResponse = await self._call(self._stub.DetectDeepfake, request)
        return answer

    async def list_detectors(self) -> Sequence[detection_pb2.Detector]:
        """FacesService.ListDetectors."""
        answer = await self._list(self._stub.ListDetectors, faces_pb.ListDetectorsRequest())
        return list(answer.detectors)

    async def list_models(self) -> faces_pb.ListModelsResponse:
        """FacesService.ListModels."""
        answer: faces_pb.ListModelsResponse = await self._list(self._stub.ListModels, faces_pb.ListModelsRequest())
        return answer


class Analyzers:
    """The three together.

    Args:
        channels: to the services, by name: passive, deeplearning and faces. They need not be up yet.
        timeout_seconds: longest wait for one of them.
    """

    def __init__(self, channels: Mapping[str, grpc.aio.Channel], *, timeout_seconds: float) -> None:
        self.passive = PassiveClient(channels["passive"], timeout_seconds=timeout_seconds)
        self.deeplearning = DeepLearningClient(channels["deeplearning"], timeout_seconds=timeout_seconds)
        self.faces = FacesClient(channels["faces"], timeout_seconds=timeout_seconds)
        self._clients = {client.service: client for client in (self.passive, self.deeplearning, self.faces)}
        self._detectors: dict[str, Sequence[detection_pb2.Detector]] = {}
        self._detectors_at: dict[str, float] = {}

    async def answers(
        self, content: bytes, detectors: Sequence[str], *, include_maps: bool
    ) -> AsyncGenerator[ServiceAnswer]:
        """Asks the services about one picture, side by side; each answer as soon as it is there.

        Closing it cancels what is still being worked on.

        Args:
            content: the picture's file, already checked.
            detectors: names of those to run; empty for all. Services that have none of them are not asked. A name that
                is not known while a service is away may be one of that service's, which is then missing.
            include_maps: whether findings carry their heat maps.

        Raises:
            InvalidInput: a detector that no service knows.
            Unavailable: no service runs any of the named detectors at the moment.
        """
        chosen, away = await self._route(detectors)
        for item in away:
            yield ServiceAnswer(item.part, None, missing=[item])
        tasks = [
            asyncio.create_task(self._ask(service, content, names, include_maps=include_maps))
            for service, names in chosen.items()
        ]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, service: str, content: bytes, names: Sequence[str], *, include_maps: bool) -> ServiceAnswer:
        client = self._clients[service]
        try:
            answer = await client.analyze(content, detectors=names, include_maps=include_maps)
        except PentimentoError as error:
            return ServiceAnswer(service, None, missing=[_missing_service(service, error)])
        faces = answer.faces if isinstance(answer, faces_pb.AnalyzeResponse) else ()
        return ServiceAnswer(service, answer.report, faces=faces, missing=answer.report.missing)

    async def _route(self, detectors: Sequence[str]) -> tuple[dict[str, list[str]], list[detection_pb2.Missing]]:
        """Which service runs which of the named detectors, and the services that may run the rest but are away.

        All services, with no names, where none are named.
        """
        if not detectors:
            return {service: [] for service in self._clients}, []
        listed, missing = await self.detectors()
        service_of = {detector.name: detector.service for detector in listed}
        unknown = sorted(set(detectors) - set(service_of))
        if unknown and not missing:
            raise InvalidInput(
                f"Unknown detector {unknown[0]}. There are: {', '.join(sorted(service_of)) or 'none'}.",
                reason="UNKNOWN_DETECTOR",
                field="options.detectors",
            )
        chosen: dict[str, list[str]] = {}
        for name in detectors:
            if name in service_of:
                chosen.setdefault(service_of[name], []).append(name)
        if not chosen:
            raise Unavailable("The services that run these detectors do not answer.", reason="NO_ANALYZER")
        return chosen, missing if unknown else []

    async def detectors(self) -> tuple[list[detection_pb2.Detector], list[detection_pb2.Missing]]:
        """The detectors of all services by service and name, and the services that could not be asked."""
        now = time.monotonic()
        stale = [
            service
            for service in self._clients
            if now - self._detectors_at.get(service, -math.inf) >= DETECTORS_SECONDS
        ]
        answers, missing = await _all_of({service: self._clients[service].list_detectors() for service in stale})
        for service, detectors in answers.items():
            self._detectors[service] = detectors
            self._detectors_at[service] = now
        return [detector for service in self._clients for detector in self._detectors.get(service, [])], missing

    async def models(self) -> tuple[list[model_pb2.ModelInfo], list[detection_pb2.Missing]]:
        """The models of all services by name, and the services that could not be asked."""
        answers, missing = await _all_of(
            {"deeplearning": self.deeplearning.list_models(), "faces": self.faces.list_models()}
        )
        models = [model for answer in answers.values() for model in answer.models]
        return sorted(models, key=lambda model: model.name), missing


async def _all_of(calls: Mapping[str, Awaitable[Any]]) -> tuple[dict[str, Any], list[detection_pb2.Missing]]:
    """The answers by service, and the services that did not answer."""
    answers = await asyncio.gather(*calls.values(), return_exceptions=True)
    found: dict[str, Any] = {}
    missing = []
    for service, answer in zip(calls, answers, strict=True):
        if isinstance(answer, PentimentoError):
            missing.append(_missing_service(service, answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[service] = answer
    return found, missing


def _missing_service(service: str, error: PentimentoError) -> detection_pb2.Missing:
    return detection_pb2.Missing(part=service, reason=error.reason, message=error.message, questions=QUESTIONS[service])
