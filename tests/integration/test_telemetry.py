"""Spans cross services, metrics are scraped, logs carry the request id: with real processes and a real collector."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import analysis_service_pb2 as pb
from pentimento.orchestrator.v1 import analysis_service_pb2_grpc as pb_grpc

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps (service, span name, trace id, span id, parent id) of every span that it is sent."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, bytes, bytes, bytes]] = []

    def Export(self, request, context):
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                self.spans += [(service, s.name, s.trace_id, s.span_id, s.parent_span_id) for s in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def service(name: str, log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PENTIMENTO_", "OTEL_"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"],
            cwd=ROOT,
            env={**clean, "OTEL_BSP_SCHEDULE_DELAY": "100", "DATABASE_URL": "", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_a_call_can_be_followed_through_the_mesh(tmp_path, photograph):
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    orchestrator, passive, metrics = free_port(), free_port(), free_port()
    common = {"PENTIMENTO_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}"}
    passive_settings = {
        "PENTIMENTO_LISTEN": f"127.0.0.1:{passive}",
        "PENTIMENTO_METRICS_LISTEN": f"127.0.0.1:{metrics}",
    }
    orchestrator_settings = {
        "PENTIMENTO_LISTEN": f"127.0.0.1:{orchestrator}",
        "PENTIMENTO_PASSIVE_ADDRESS": f"127.0.0.1:{passive}",
        "PENTIMENTO_DEEPLEARNING_ADDRESS": "127.0.0.1:1",
        "PENTIMENTO_FACES_ADDRESS": "127.0.0.1:1",
    }
    passive_log, orchestrator_log = tmp_path / "passive.log", tmp_path / "orchestrator.log"
    with (
        service("passive", passive_log, **common, **passive_settings),
        service("orchestrator", orchestrator_log, **common, **orchestrator_settings),
        grpc.insecure_channel(f"127.0.0.1:{passive}") as ready,
        grpc.insecure_channel(f"127.0.0.1:{orchestrator}") as channel,
    ):
        grpc.channel_ready_future(ready).result(40)
        grpc.channel_ready_future(channel).result(40)
        request = pb.AnalyzeImageRequest(image=analysis_pb2.ImageSource(content=photograph))
        answer = pb_grpc.AnalysisServiceStub(channel).AnalyzeImage(
            request, metadata=(("x-request-id", "follow-me"),), timeout=30, wait_for_ready=True
        )
        assert {missing.part for missing in answer.analysis.missing} >= {"deeplearning", "faces"}
        page = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and {name for name, *_ in collector.spans} != {
            "pentimento-orchestrator",
            "pentimento-passive",
        }:
            time.sleep(0.1)
    server.stop(0)

    served = [span for span in collector.spans if span[0] == "pentimento-passive"]
    assert served, f"no spans of passive among {collector.spans}"
    parents = {span_id: name for name, _, _, span_id, _ in collector.spans}
    assert any(parents.get(parent) == "pentimento-orchestrator" for *_, parent in served), "spans are not connected"

    assert 'pentimento_calls_total{code="OK",method="/pentimento.passive.v1.PassiveService/Analyze"} 1.0' in page
    assert 'pentimento_detector_results_total{applicability="applied",detector="copy_move"} 1.0' in page

    for log in (passive_log, orchestrator_log):
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        (call,) = [
            line for line in lines if line["event"] == "call" and line["method"].split("/")[-1].startswith("Analyze")
        ]
        assert call["request_id"] == "follow-me"
        assert len(call["trace_id"]) == 32
