"""The three analysers, asked side by side; one that fails or is slow is reported as missing."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from pentimento.common.v1 import detection_pb2, evidence_pb2, face_pb2, model_pb2, report_pb2
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as deeplearning_pb
from pentimento.deeplearning.v1.deeplearning_service_pb2_grpc import DeepLearningServiceStub
from pentimento.faces.v1 import faces_service_pb2 as faces_pb
from pentimento.faces.v1.faces_service_pb2_grpc import FacesServiceStub
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.passive.v1 import passive_service_pb2 as passive_pb
from pentimento.passive.v1.passive_service_pb2_grpc import PassiveServiceStub

from services.common.channel import call, call_stream
from services.common.errors import InvalidInput, PentimentoError, Unavailable, internal_message
from services.common.limiter import AdmissionLimiter

__all__ = [
    "Analyzers",
    "DeepLearningClient",
    "FacesClient",
    "PassiveClient",
    "Piece",
    "Said",
    "ServiceAnswer",
    "Versions",
]

log = structlog.get_logger()

QUESTIONS: Final = {
    "passive": (detection_pb2.QUESTION_GENERATED, detection_pb2.QUESTION_EDITED),
    "deeplearning": (detection_pb2.QUESTION_GENERATED, detection_pb2.QUESTION_EDITED),
    "faces": (detection_pb2.QUESTION_EDITED,),
}
"""The questions that lack an answer while a service is away."""

STREAMING: Final = frozenset({"passive"})
"""Services that send each finding by itself; the others answer at once or not at all."""

LISTING_SECONDS: Final = 3.0
DETECTORS_SECONDS: Final = 30.0
"""How long the lists of detectors and models are trusted; they change only with a deployment."""

RETRY_SECONDS: Final = 5.0
"""After which versions that could not be had are asked for again."""

FIRST_VERSIONS_SECONDS: Final = 0.5
"""How long the very first analysis waits for them."""

Said = (
    detection_pb2.Finding
    | evidence_pb2.Evidence
    | evidence_pb2.MetricResult
    | evidence_pb2.Signal
    | detection_pb2.Missing
    | face_pb2.Face
)
"""One thing that a service says about a picture."""


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """What one service said about a picture; `report` is None if it did not answer, and `missing` says why."""

    service: str
    report: report_pb2.AnalyzerReport | None
    faces: Sequence[face_pb2.Face] = ()
    missing: Sequence[detection_pb2.Missing] = ()

    def pieces(self) -> list[Piece]:
        """All that was said, one by one."""
        report = self.report or report_pb2.AnalyzerReport()
        said: list[Said] = [*report.findings, *report.evidence, *report.metrics, *report.signals]
        said += [*self.faces, *self.missing]
        return [Piece(self.service, each) for each in said]


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that a service says about a picture, as soon as it says it."""

    service: str
    said: Said


@dataclass(frozen=True, slots=True)
class Versions:
    """What would look at a picture now: all detectors and models of all services, with their versions."""

    services: Mapping[str, str]
    detectors: Sequence[detection_pb2.Detector]
    models: Sequence[model_pb2.ModelInfo]

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON values, always in the same order."""
        return {
            "services": dict(sorted(self.services.items())),
            "detectors": sorted([item.service, item.name, item.version] for item in self.detectors),
            "models": sorted([item.name, item.version, item.digest, item.state] for item in self.models),
        }


class _Client:
    """What the clients below have in common.

    Args:
        timeout_seconds: longest wait for the service.
        admission: how many calls may be in progress and wait, where their number is not bounded elsewhere; one more
            raises `Overloaded`. Lists are not counted.
    """

    service = ""

    def __init__(self, *, timeout_seconds: float, admission: AdmissionLimiter | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._admission = admission

    async def _call(self, method: Any, request: Any) -> Any:
        async with self._admission.admit() if self._admission else nullcontext():
            return await call(method, request, service=self.service, limit_seconds=self._timeout_seconds)

    async def _list(self, method: Any, request: Any) -> Any:
        return await call(method, request, service=self.service, limit_seconds=LISTING_SECONDS)


class PassiveClient(_Client):
    """The passive service; every method raises what `services.common.channel.call` raises."""

    service = "passive"

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_seconds: float, admission: AdmissionLimiter | None = None
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, admission=admission)
        self._stub: Any = PassiveServiceStub(channel)

    async def analyze(
        self, content: bytes, *, detectors: Sequence[str] = (), include_maps: bool = False
    ) -> passive_pb.AnalyzeResponse:
        """PassiveService.Analyze."""
        request = passive_pb.AnalyzeRequest(image=content, detectors=detectors, include_maps=include_maps)
        answer: passive_pb.AnalyzeResponse = await self._call(self._stub.Analyze, request)
        return answer

    async def analyze_stream(
        self, content: bytes, *, detectors: Sequence[str] = (), include_maps: bool = False
    ) -> AsyncGenerator[passive_pb.AnalyzeStreamResponse]:
        """PassiveService.AnalyzeStream."""
        request = passive_pb.AnalyzeStreamRequest(image=content, detectors=detectors, include_maps=include_maps)
        stream = call_stream(
            self._stub.AnalyzeStream, request, service=self.service, limit_seconds=self._timeout_seconds
        )
        async with aclosing(stream) as messages:
            async for message in messages:
                yield message

    async def list_detectors(self) -> passive_pb.ListDetectorsResponse:
        """PassiveService.ListDetectors."""
        answer: passive_pb.ListDetectorsResponse = await self._list(
            self._stub.ListDetectors, passive_pb.ListDetectorsRequest()
        )
        return answer


class DeepLearningClient(_Client):
    """The deeplearning service; every method raises what `services.common.channel.call` raises."""

    service = "deeplearning"

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_seconds: float, admission: AdmissionLimiter | None = None
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, admission=admission)
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

    async def list_detectors(self) -> deeplearning_pb.ListDetectorsResponse:
        """DeepLearningService.ListDetectors."""
        answer: deeplearning_pb.ListDetectorsResponse = await self._list(
            self._stub.ListDetectors, deeplearning_pb.ListDetectorsRequest()
        )
        return answer

    async def list_models(self) -> deeplearning_pb.ListModelsResponse:
        """DeepLearningService.ListModels."""
        answer: deeplearning_pb.ListModelsResponse = await self._list(
            self._stub.ListModels, deeplearning_pb.ListModelsRequest()
        )
        return answer


class FacesClient(_Client):
    """The faces service; every method raises what `services.common.channel.call` raises."""

    service = "faces"

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_seconds: float, admission: AdmissionLimiter | None = None
    ) -> None:
        super().__init__(timeout_seconds=timeout_seconds, admission=admission)
        self._stub: Any = FacesServiceStub(channel)

    async def analyze(
        self,
        content: bytes,
        *,
        detectors: Sequence[str] = (),
        attributes: Sequence[face_pb2.FaceAttribute.ValueType] = (),
        face_detector: face_pb2.FaceDetector.ValueType = face_pb2.FACE_DETECTOR_UNSPECIFIED,
        include_maps: bool = False,
        max_faces: int = 0,
    ) -> faces_pb.AnalyzeResponse:
        """FacesService.Analyze."""
        request = faces_pb.AnalyzeRequest(
            image=content,
            detectors=detectors,
            attributes=attributes,
            face_detector=face_detector,
            include_maps=include_maps,
            max_faces=max_faces,
        )
        answer: faces_pb.AnalyzeResponse = await self._call(self._stub.Analyze, request)
        return answer

    async def detect_faces(
        self,
        content: bytes,
        detector: face_pb2.FaceDetector.ValueType,
        *,
        max_faces: int = 0,
        attributes: Sequence[face_pb2.FaceAttribute.ValueType] = (),
    ) -> faces_pb.DetectFacesResponse:
        """FacesService.DetectFaces."""
        request = faces_pb.DetectFacesRequest(
            image=content, face_detector=detector, max_faces=max_faces, attributes=attributes
        )
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

    async def embed_faces(self, content: bytes, *, max_faces: int = 0) -> faces_pb.EmbedFacesResponse:
        """FacesService.EmbedFaces."""
        request = faces_pb.EmbedFacesRequest(image=content, max_faces=max_faces)
        answer: faces_pb.EmbedFacesResponse = await self._call(self._stub.EmbedFaces, request)
        return answer

    async def compare_faces(self, content_a: bytes, content_b: bytes) -> faces_pb.CompareFacesResponse:
        """FacesService.CompareFaces."""
        request = faces_pb.CompareFacesRequest(image_a=content_a, image_b=content_b)
        answer: faces_pb.CompareFacesResponse = await self._call(self._stub.CompareFaces, request)
        return answer

    async def list_detectors(self) -> faces_pb.ListDetectorsResponse:
        """FacesService.ListDetectors."""
        answer: faces_pb.ListDetectorsResponse = await self._list(
            self._stub.ListDetectors, faces_pb.ListDetectorsRequest()
        )
        return answer

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
        self._listed: dict[str, _Listed] = {}
        self._versions: Versions | None = None
        self._versions_due = -math.inf
        self._refreshing: asyncio.Task[None] | None = None

    async def answers(
        self, content: bytes, options: analysis_pb2.AnalysisOptions, *, streamed: bool = False
    ) -> AsyncGenerator[Piece | ServiceAnswer]:
        """Asks the services about one picture, side by side; each answer as soon as it is there.

        Closing it cancels what is still being worked on.

        Args:
            content: the picture's file, already checked.
            options: how to look at it. Services that have none of the named detectors are not asked. A name that is not
                known while a service is away may be one of that service's, which is then missing.
            streamed: whether each thing that a service says comes by itself first, as soon as it is said.

        Raises:
            InvalidInput: a detector that no service knows.
            Unavailable: no service runs any of the named detectors at the moment.
        """
        chosen, away = await self._route(options.detectors)
        arriving: asyncio.Queue[Piece | ServiceAnswer] = asyncio.Queue()
        for absent in away:
            arriving.put_nowait(ServiceAnswer(absent.part, None, missing=[absent]))
        tasks = [
            asyncio.create_task(
                self._ask(service, content, names, options, arriving if streamed else None), name=service
            )
            for service, names in chosen.items()
        ]
        for task in tasks:
            task.add_done_callback(lambda done: None if done.cancelled() else arriving.put_nowait(_result(done)))
        try:
            for _ in range(len(away) + len(tasks)):
                while isinstance(item := await arriving.get(), Piece):
                    yield item
                if streamed and (item.service not in chosen or item.service not in STREAMING):
                    for piece in item.pieces():
                        yield piece
                yield item
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(
        self,
        service: str,
        content: bytes,
        names: Sequence[str],
        options: analysis_pb2.AnalysisOptions,
        pieces: asyncio.Queue[Piece | ServiceAnswer] | None,
    ) -> ServiceAnswer:
        answer: Any
        try:
            if service == self.faces.service:
                answer = await self.faces.analyze(
                    content,
                    detectors=names,
                    attributes=options.face_attributes,
                    face_detector=options.face_detector,
                    include_maps=options.include_maps,
                    max_faces=options.max_faces,
                )
                return ServiceAnswer(service, answer.report, faces=answer.faces, missing=answer.report.missing)
            if pieces is not None and service in STREAMING:
                report = await self._stream_passive(content, names, options, pieces)
                return ServiceAnswer(service, report, missing=report.missing)
            client = self.passive if service == self.passive.service else self.deeplearning
            answer = await client.analyze(content, detectors=names, include_maps=options.include_maps)
        except PentimentoError as error:
            missing = _missing_service(service, error)
            if pieces is not None and service in STREAMING:
                pieces.put_nowait(Piece(service, missing))
            return ServiceAnswer(service, None, missing=[missing])
        return ServiceAnswer(service, answer.report, missing=answer.report.missing)

    async def _stream_passive(
        self,
        content: bytes,
        names: Sequence[str],
        options: analysis_pb2.AnalysisOptions,
        pieces: asyncio.Queue[Piece | ServiceAnswer],
    ) -> report_pb2.AnalyzerReport:
        stream = self.passive.analyze_stream(content, detectors=names, include_maps=options.include_maps)
        async with aclosing(stream) as messages:
            async for message in messages:
                if message.HasField("done"):
                    return message.done
                kind = message.WhichOneof("event")
                if kind is not None:
                    pieces.put_nowait(Piece(self.passive.service, getattr(message, kind)))
        raise Unavailable("The passive service broke off its answer.", metadata={"service": self.passive.service})

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
        missing = await self._refresh_detectors()
        return [
            detector
            for service in self._clients
            if service in self._listed
            for detector in self._listed[service].detectors
        ], missing

    async def service_versions(self) -> dict[str, str]:
        """The version of each service that ever answered, by name; of those that answer now, the present one."""
        await self._refresh_detectors()
        return {service: listed.version for service, listed in self._listed.items()}

    async def _refresh_detectors(self) -> list[detection_pb2.Missing]:
        now = time.monotonic()
        stale = [
            service
            for service in self._clients
            if service not in self._listed or now - self._listed[service].at >= DETECTORS_SECONDS
        ]
        answers, missing = await _all_of({service: self._clients[service].list_detectors() for service in stale})
        for service, answer in answers.items():
            self._listed[service] = _Listed(now, answer.service_version, list(answer.detectors))
        return missing

    async def models(self) -> tuple[list[model_pb2.ModelInfo], list[detection_pb2.Missing]]:
        """The models of all services by name, and the services that could not be asked."""
        answers, missing = await _all_of(
            {"deeplearning": self.deeplearning.list_models(), "faces": self.faces.list_models()}
        )
        models = [model for answer in answers.values() for model in answer.models]
        return sorted(models, key=lambda model: model.name), missing

    async def versions(self) -> Versions | None:
        """What would look at a picture now, as of a while ago; None if that is not known, or some service is away.

        Asked in the background, so that no analysis waits for a service that hangs: only the first one waits, shortly.
        """
        now = time.monotonic()
        if self._refreshing is None and now >= self._versions_due:
            self._refreshing = asyncio.create_task(self._refresh_versions())
            if self._versions_due == -math.inf:
                await asyncio.wait({self._refreshing}, timeout=FIRST_VERSIONS_SECONDS)
        return self._versions

    async def _refresh_versions(self) -> None:
        try:
            models, away = await self.models()
            detectors, silent = await self.detectors()
            known = not away and not silent
            services = {name: listed.version for name, listed in self._listed.items()}
            self._versions = Versions(services, detectors, models) if known else None
            self._versions_due = time.monotonic() + (DETECTORS_SECONDS if known else RETRY_SECONDS)
        except Exception:
            # A defect of ours, or of a service's answer: nothing is repeated then, and everything is looked at.
            log.exception("versions_unknown")
            self._versions, self._versions_due = None, time.monotonic() + RETRY_SECONDS
        finally:
            self._refreshing = None


@dataclass(frozen=True, slots=True)
class _Listed:
    """The detectors of a service, its version, and when it told them."""

    at: float
    version: str
    detectors: Sequence[detection_pb2.Detector]


def _result(done: asyncio.Task[ServiceAnswer]) -> ServiceAnswer:
    """What a task found; a defect of ours is that service's silence, and no reason to lose the others' answers."""
    error = done.exception()
    if error is None:
        return done.result()
    service = done.get_name()
    log.error("analyzer_call_failed", service=service, exc_info=error)
    return ServiceAnswer(service, None, missing=[_missing_service(service, PentimentoError(internal_message()))])


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
