"""Odd pictures through the passive service's RPCs: every detector answers, whole or in a stream, or none is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from odd_pictures import odd_pictures, refused_files
from pentimento.common.v1 import detection_pb2
from pentimento.passive.v1 import passive_service_pb2 as pb
from pentimento.passive.v1 import passive_service_pb2_grpc as pb_grpc

from services.common.server import running_server
from services.passive.main import wire
from services.passive.settings import PassiveSettings

PICTURES = dict(odd_pictures())
APPLICABILITIES = {detection_pb2.APPLICABILITY_APPLIED, detection_pb2.APPLICABILITY_NOT_APPLICABLE}


@pytest.fixture
async def stub() -> AsyncIterator[pb_grpc.PassiveServiceStub]:
    settings = PassiveSettings(listen="127.0.0.1:0", drain_seconds=0, grace_seconds=1)
    async with wire(settings) as register, running_server(settings, register) as (_, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield pb_grpc.PassiveServiceStub(channel)


async def names_of(stub) -> list[str]:
    listed = await stub.ListDetectors(pb.ListDetectorsRequest())
    names = [detector.name for detector in listed.detectors]
    assert names == sorted(set(names))
    assert len(names) >= 17
    return names


@pytest.mark.parametrize("name", PICTURES)
async def test_every_detector_answers_whole_and_in_a_stream(stub, name: str):
    names = await names_of(stub)
    answer = await stub.Analyze(pb.AnalyzeRequest(image=PICTURES[name], include_maps=True))
    request = pb.AnalyzeStreamRequest(image=PICTURES[name], include_maps=True)
    events = [event async for event in stub.AnalyzeStream(request)]
    assert events[-1].WhichOneof("event") == "done"
    streamed = [event.finding for event in events if event.WhichOneof("event") == "finding"]
    for report, findings in ((answer.report, answer.report.findings), (events[-1].done, streamed)):
        assert sorted(finding.provenance.detector for finding in findings) == names
        assert not report.missing
        assert {finding.applicability for finding in findings} <= APPLICABILITIES
        assert all(finding.explanation for finding in findings)
    scores = {finding.provenance.detector: finding.score for finding in answer.report.findings}
    assert {finding.provenance.detector: finding.score for finding in streamed} == scores


@pytest.mark.parametrize(("name", "content", "reason"), list(refused_files()), ids=lambda value: str(value)[:20])
async def test_what_is_broken_is_refused_by_name_whole_and_in_a_stream(stub, name: str, content: bytes, reason: str):
    with pytest.raises(grpc.aio.AioRpcError) as whole:
        await stub.Analyze(pb.AnalyzeRequest(image=content))
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        [event async for event in stub.AnalyzeStream(pb.AnalyzeStreamRequest(image=content))]
    for refused in (whole.value, stream.value):
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in rpc_status.from_call(refused).details)
        assert info.reason == reason
