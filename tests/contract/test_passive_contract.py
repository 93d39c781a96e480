"""The passive service as a gRPC client meets it; also what every service of the mesh does around a call."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
import skimage.data
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from pentimento.common.v1 import detection_pb2
from pentimento.passive.v1 import passive_service_pb2 as pb
from pentimento.passive.v1 import passive_service_pb2_grpc as pb_grpc
from PIL import Image

from services.common.analyzer import Analyzer
from services.common.channel import call, open_channel
from services.common.detection import Applicability, Finding, Question, Registry, Technique
from services.common.errors import InvalidInput, Overloaded, Unavailable
from services.common.limiter import WorkLimiter
from services.common.server import running_server
from services.common.settings import ServiceSettings
from services.passive.detectors import registry
from services.passive.servicer import PassiveServicer

SETTINGS = ServiceSettings(listen="127.0.0.1:0", drain_seconds=0, grace_seconds=1)


def jpeg(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


PHOTOGRAPH = jpeg(skimage.data.coffee())


@asynccontextmanager
async def serving(detectors=None, servicer_class=PassiveServicer, queue=16):
    limiter = WorkLimiter(workers=1, queue=queue)
    loaded = detectors if detectors is not None else registry.load("services.passive.detectors")
    servicer = servicer_class(Analyzer("passive", loaded, limiter.run), limiter, SETTINGS.image_limits)
    async with running_server(SETTINGS, servicer.register) as (_, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    limiter.close()


def broken_registry() -> Registry:
    broken = Registry("passive")

    @broken.detector(name="broken", version="1", title="Broken", question=Question.EDITED, techniques=[Technique.OTHER])
    def detect(picture) -> Finding:
        """Always fails."""
        raise RuntimeError("secret path /etc/shadow")

    return broken


async def refusal(awaitable) -> tuple[grpc.aio.AioRpcError, dict[str, object]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    details = {}
    for detail in rpc_status.from_call(caught.value).details:
        for message in (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RequestInfo(),
            error_details_pb2.RetryInfo(),
        ):
            if detail.Unpack(message):
                details[type(message).__name__] = message
    return caught.value, details


async def test_a_report_says_what_made_it():
    async with serving() as channel:
        answer = await pb_grpc.PassiveServiceStub(channel).Analyze(pb.AnalyzeRequest(image=PHOTOGRAPH))
    report = answer.report
    assert (report.image.width, report.image.height, report.image.format) == (600, 400, "JPEG")
    (finding,) = [item for item in report.findings if item.provenance.detector == "copy_move"]
    assert finding.provenance.version
    assert finding.provenance.duration_seconds > 0
    assert finding.provenance.parameters.fields
    assert finding.applicability == detection_pb2.APPLICABILITY_APPLIED
    assert 0 <= finding.score <= 1
    assert not finding.heat_map.png, "maps only where they were asked for"


async def test_a_stream_ends_with_done():
    async with serving() as channel:
        stream = pb_grpc.PassiveServiceStub(channel).AnalyzeStream(
            pb.AnalyzeStreamRequest(image=PHOTOGRAPH, include_maps=True)
        )
        events = [event async for event in stream]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds.count("done") == 1
    assert kinds[-1] == "done"
    done = events[-1].done
    for kind, reported in (("finding", done.findings), ("metric", done.metrics), ("signal", done.signals)):
        sent = [getattr(event, kind) for event in events if event.WhichOneof("event") == kind]
        assert sent, kind
        by_bytes = sorted(item.SerializeToString(deterministic=True) for item in sent)
        assert sorted(item.SerializeToString(deterministic=True) for item in reported) == by_bytes


async def test_detectors_describe_themselves():
    async with serving() as channel:
        answer = await pb_grpc.PassiveServiceStub(channel).ListDetectors(pb.ListDetectorsRequest())
    (detector,) = [item for item in answer.detectors if item.name == "copy_move"]
    assert detector.service == "passive"
    assert detector.papers
    assert detector.description
    assert detector.question == detection_pb2.QUESTION_EDITED


async def test_a_rule_of_the_contract_is_a_bad_request():
    async with serving() as channel:
        error, details = await refusal(pb_grpc.PassiveServiceStub(channel).Analyze(pb.AnalyzeRequest()))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in details["BadRequest"].field_violations] == ["image"]
    assert details["ErrorInfo"].reason == "INVALID_REQUEST"
    assert details["RequestInfo"].request_id


@pytest.mark.parametrize(("kind", "method"), [("unary_unary", "Analyze"), ("unary_stream", "AnalyzeStream")])
async def test_what_is_no_message_is_refused_without_internal_text(kind, method):
    no_utf8 = b"\x12\x02\xff\xfe"  # field 2, `detectors`
    async with serving() as channel:
        asking = getattr(channel, kind)(f"/{pb.DESCRIPTOR.services_by_name['PassiveService'].full_name}/{method}")(
            no_utf8
        )
        error, details = await refusal(asking if kind == "unary_unary" else anext(aiter(asking)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == "MALFORMED_REQUEST"
    assert details["RequestInfo"].request_id
    assert "google" not in error.details()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"hello", "UNSUPPORTED_FORMAT"), (PHOTOGRAPH[: len(PHOTOGRAPH) // 2], "DAMAGED_IMAGE")],
)
async def test_what_is_no_picture_is_refused_by_name(content, reason):
    async with serving() as channel:
        error, details = await refusal(pb_grpc.PassiveServiceStub(channel).Analyze(pb.AnalyzeRequest(image=content)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == reason


async def test_an_unknown_detector_is_refused_with_those_that_exist():
    request = pb.AnalyzeRequest(image=PHOTOGRAPH, detectors=["horoscope"])
    async with serving() as channel:
        error, details = await refusal(pb_grpc.PassiveServiceStub(channel).Analyze(request))
    assert details["ErrorInfo"].reason == "UNKNOWN_DETECTOR"
    assert "copy_move" in error.details()


async def test_a_broken_detector_is_missing_and_leaks_nothing():
    async with serving(broken_registry()) as channel:
        answer = await pb_grpc.PassiveServiceStub(channel).Analyze(pb.AnalyzeRequest(image=PHOTOGRAPH))
    (missing,) = answer.report.missing
    assert (missing.part, missing.reason) == ("broken", "INTERNAL")
    assert list(missing.questions) == [detection_pb2.QUESTION_EDITED]
    assert "shadow" not in str(answer)


class Failing(PassiveServicer):
    async def ListDetectors(self, request, context):
        raise RuntimeError("secret path /etc/shadow")


async def test_internal_text_never_leaves_the_service_but_the_request_id_does():
    async with serving(servicer_class=Failing) as channel:
        pending = pb_grpc.PassiveServiceStub(channel).ListDetectors(
            pb.ListDetectorsRequest(), metadata=(("x-request-id", "abc-123"),)
        )
        error, details = await refusal(pending)
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "shadow" not in error.details()
    assert "abc-123" in error.details()
    assert details["RequestInfo"].request_id == "abc-123"


async def test_the_request_id_comes_back(capsys):
    async with serving() as channel:
        pending = pb_grpc.PassiveServiceStub(channel).ListDetectors(
            pb.ListDetectorsRequest(), metadata=(("x-request-id", "round-trip-1"),)
        )
        await pending
        assert dict(await pending.trailing_metadata())["x-request-id"] == "round-trip-1"


async def test_work_that_does_not_fit_is_refused_at_once():
    async with serving(queue=0) as channel:
        stub = pb_grpc.PassiveServiceStub(channel)
        answers = await asyncio.gather(
            *(stub.Analyze(pb.AnalyzeRequest(image=PHOTOGRAPH)) for _ in range(8)), return_exceptions=True
        )
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert refused
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_health_is_told_per_service():
    async with serving() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "pentimento.passive.v1.PassiveService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services():
    async with serving() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        stream = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = [service.name async for answer in stream for service in answer.list_services_response.service]
    assert "pentimento.passive.v1.PassiveService" in names


@asynccontextmanager
async def a_call_in_flight(grace_seconds):
    """Its answer, to be awaited, and what lets its one detector end; the server stops behind the body."""
    begun, may_end = threading.Event(), threading.Event()
    patient = Registry("passive")

    @patient.detector(name="patient", version="1", title="Patient", question=Question.EDITED, techniques=[])
    def detect(picture) -> Finding:
        """Ends when it may."""
        begun.set()
        may_end.wait(60)
        return Finding(applicability=Applicability.APPLIED, score=0.0, explanation="Nothing was looked for.")

    limiter = WorkLimiter(workers=1, queue=0)
    servicer = PassiveServicer(Analyzer("passive", patient, limiter.run), limiter, SETTINGS.image_limits)
    settings = SETTINGS.model_copy(update={"grace_seconds": grace_seconds})
    try:
        async with running_server(settings, servicer.register) as (_, port):
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            answer = asyncio.create_task(_analyze(channel))
            assert await asyncio.to_thread(begun.wait, 60)
            yield answer, may_end
        await asyncio.wait([answer])
        await channel.close()
    finally:
        may_end.set()
        limiter.close()


async def test_a_call_in_flight_ends_before_its_server_stops():
    async with a_call_in_flight(grace_seconds=60) as (answer, may_end):
        # By then the server is stopping, and waits.
        asyncio.get_running_loop().call_later(0.5, may_end.set)
    assert may_end.is_set()
    assert [finding.provenance.detector for finding in (await answer).report.findings] == ["patient"]


async def test_a_server_stops_without_a_call_that_outlasts_its_grace():
    async with a_call_in_flight(grace_seconds=0.2) as (answer, _):
        pass
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await answer
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def _analyze(channel):
    return await pb_grpc.PassiveServiceStub(channel).Analyze(pb.AnalyzeRequest(image=PHOTOGRAPH))


async def test_an_error_crosses_services_as_what_it_was():
    async with serving(queue=0) as channel:
        stub = pb_grpc.PassiveServiceStub(channel)
        with pytest.raises(InvalidInput) as refused:
            await call(stub.Analyze, pb.AnalyzeRequest(image=b"hello"), service="passive", limit_seconds=5)
        assert refused.value.reason == "UNSUPPORTED_FORMAT"
        busy = [
            call(stub.Analyze, pb.AnalyzeRequest(image=PHOTOGRAPH), service="passive", limit_seconds=5)
            for _ in range(4)
        ]
        answers = await asyncio.gather(*busy, return_exceptions=True)
        assert [answer for answer in answers if isinstance(answer, Overloaded)]


async def test_a_service_that_is_down_is_unavailable_at_once():
    async with open_channel("127.0.0.1:1", max_message_bytes=1024) as channel:
        stub = pb_grpc.PassiveServiceStub(channel)
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await call(stub.ListDetectors, pb.ListDetectorsRequest(), service="passive", limit_seconds=4)


def test_parameters_are_json():
    for spec, _ in registry.load("services.passive.detectors"):
        json.dumps(dict(spec.parameters))
