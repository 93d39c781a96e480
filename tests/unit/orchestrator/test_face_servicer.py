"""The own API's faces: what is asked of the services behind it, what comes back, and what may be missing."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio
from pentimento.common.v1 import detection_pb2, face_pb2
from pentimento.faces.v1 import faces_service_pb2 as faces_pb
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import face_service_pb2 as pb
from pentimento.orchestrator.v1.face_service_pb2_grpc import FaceServiceStub
from PIL import Image
from skimage import data

from services.common.errors import Forbidden, ModelUnavailable
from services.common.images import ImageLimits
from services.common.interceptor import CallInterceptor
from services.common.limiter import WorkLimiter
from services.orchestrator.face_servicer import FaceServicer
from services.orchestrator.fetching import UrlFetcher
from services.orchestrator.gallery import Gallery
from services.orchestrator.intake import Intake

pytestmark = pytest.mark.asyncio


class StandIn:
    """A part that is not started here: answers each method with a value or an exception."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def method(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return method

    def asked(self) -> list[str]:
        return [name for name, _, _ in self.calls]


@dataclass
class Front:
    stub: Any
    engine: StandIn = field(default_factory=StandIn)
    faces: StandIn = field(default_factory=StandIn)

    async def report(self) -> pb.ProfileReport:
        return (await self.stub.ReportProfile(pb.ReportProfileRequest(image=PICTURE))).report


def png(rgb: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = analysis_pb2.ImageSource(content=png(data.astronaut()[:64, :64]))
OTHER = analysis_pb2.ImageSource(content=png(data.coffee()[:64, :64]))
FACE = face_pb2.Face(confidence=0.9, kind=face_pb2.KindEstimate(kind=face_pb2.FACE_KIND_HUMAN, probability=0.9))
SUSPECT = face_pb2.Face(confidence=0.9, deepfake=face_pb2.DeepfakeEstimate(score=0.8))
STEADY = face_pb2.Face(confidence=0.9, deepfake=face_pb2.DeepfakeEstimate(score=0.8, stability=1.0))


@pytest_asyncio.fixture
async def front() -> AsyncIterator[Front]:
    async with AsyncExitStack() as stack:
        fetcher = await stack.enter_async_context(UrlFetcher())
        work = WorkLimiter(workers=2, queue=64)
        stack.callback(work.close)
        intake = Intake(fetcher, work=work, limits=ImageLimits())
        server = grpc.aio.server(interceptors=[CallInterceptor()])
        engine, faces = StandIn(), StandIn()
        gallery = Gallery(None, enabled=False, biometrics=True)
        FaceServicer(engine, faces, gallery, intake).register(server)  # type: ignore[arg-type]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        yield Front(FaceServiceStub(channel), engine, faces)


async def test_faces_are_asked_for_as_the_request_says(front: Front) -> None:
    missing = detection_pb2.Missing(part="age", reason="BIOMETRICS_DISABLED")
    front.faces.answers["detect_faces"] = faces_pb.DetectFacesResponse(faces=[FACE], missing=[missing])
    request = pb.DetectFacesRequest(
        image=PICTURE,
        face_detector=face_pb2.FACE_DETECTOR_CONSENSUS,
        max_faces=3,
        attributes=[face_pb2.FACE_ATTRIBUTE_AGE],
    )
    answer = await front.stub.DetectFaces(request)
    assert list(answer.faces) == [FACE]
    assert list(answer.missing) == [missing]
    ((_, (content, detector), options),) = front.faces.calls
    assert content == PICTURE.content
    assert detector == face_pb2.FACE_DETECTOR_CONSENSUS
    assert (options["max_faces"], list(options["attributes"])) == (3, [face_pb2.FACE_ATTRIBUTE_AGE])


async def test_two_pictures_are_compared_in_their_order(front: Front) -> None:
    front.faces.answers["compare_faces"] = faces_pb.CompareFacesResponse(
        similarity=0.8, threshold=0.6, false_match_rate=0.001, same_person=True, face_a=FACE
    )
    answer = await front.stub.CompareFaces(pb.CompareFacesRequest(image_a=PICTURE, image_b=OTHER))
    assert (answer.similarity, answer.threshold, answer.false_match_rate, answer.same_person) == (0.8, 0.6, 0.001, True)
    assert answer.face_a == FACE
    ((_, contents, _),) = front.faces.calls
    assert contents == (PICTURE.content, OTHER.content)


async def test_where_biometrics_are_forbidden_nothing_is_compared(front: Front) -> None:
    front.faces.answers["compare_faces"] = Forbidden("No biometric answers.", reason="BIOMETRICS_DISABLED")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await front.stub.CompareFaces(pb.CompareFacesRequest(image_a=PICTURE, image_b=OTHER))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_what_is_no_picture_is_refused_before_anything_is_asked(front: Front) -> None:
    nothing = analysis_pb2.ImageSource(content=b"a letter")
    for call, request in (
        (front.stub.DetectFaces, pb.DetectFacesRequest(image=nothing)),
        (front.stub.DetectDeepfake, pb.DetectDeepfakeRequest(image=nothing)),
        (front.stub.CompareFaces, pb.CompareFacesRequest(image_a=PICTURE, image_b=nothing)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not front.faces.calls


async def test_the_whole_picture_is_looked_at_only_if_asked(front: Front) -> None:
    front.faces.answers["detect_deepfake"] = faces_pb.DetectDeepfakeResponse()
    answer = await front.stub.DetectDeepfake(pb.DetectDeepfakeRequest(image=PICTURE))
    assert not answer.HasField("whole_image")
    assert front.faces.calls[0][2] == {"augmented": False, "whole_image_fallback": False}
    await front.stub.DetectDeepfake(pb.DetectDeepfakeRequest(image=PICTURE, augmented=True, whole_image_fallback=True))
    assert front.faces.calls[1][2] == {"augmented": True, "whole_image_fallback": True}


async def test_an_ordinary_portrait_needs_no_further_questions(front: Front) -> None:
    front.engine.answers["analyze"] = analysis_pb2.Analysis(name="analyses/1", faces=[FACE])
    report = await front.report()
    assert report.assessment == pb.PROFILE_ASSESSMENT_NOTHING_FOUND
    assert report.analysis.name == "analyses/1"
    assert front.faces.calls == []


async def test_without_a_face_the_kind_of_the_picture_is_asked(front: Front) -> None:
    front.engine.answers["analyze"] = analysis_pb2.Analysis()
    front.faces.answers["classify_kind"] = faces_pb.ClassifyKindResponse(
        kind=face_pb2.KindEstimate(kind=face_pb2.FACE_KIND_CARTOON, probability=0.99)
    )
    report = await front.report()
    assert front.faces.asked() == ["classify_kind"]
    assert report.kind.kind == face_pb2.FACE_KIND_CARTOON
    assert report.assessment == pb.PROFILE_ASSESSMENT_SUSPICIOUS


async def test_a_suspect_face_is_looked_at_again_in_several_passes(front: Front) -> None:
    front.engine.answers["analyze"] = analysis_pb2.Analysis(faces=[SUSPECT])
    front.faces.answers["detect_deepfake"] = faces_pb.DetectDeepfakeResponse(faces=[STEADY])
    report = await front.report()
    assert front.faces.calls[0][2]["augmented"]
    assert report.assessment == pb.PROFILE_ASSESSMENT_SUSPICIOUS
    assert report.reasons[0].kind == pb.PROFILE_REASON_KIND_FAKE_FACE


async def test_a_question_that_gets_no_answer_costs_the_report_no_other(front: Front) -> None:
    front.engine.answers["analyze"] = analysis_pb2.Analysis()
    front.faces.answers["classify_kind"] = ModelUnavailable("vgg16_cartoon", installed=False)
    report = await front.report()
    assert [item.part for item in report.analysis.missing] == ["vgg16_cartoon"]
    assert not report.HasField("kind")
    assert pb.PROFILE_REASON_KIND_NO_FACE in {reason.kind for reason in report.reasons}
