"""What a stream of analyses holds and gives back: places among the analyses, and the work behind them."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import grpc
import pytest
from pentimento.common.v1 import detection_pb2, model_pb2, report_pb2
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import analysis_service_pb2 as pb
from pentimento.passive.v1 import passive_service_pb2 as passive_pb

from services.common.errors import Overloaded
from services.common.images import ImageInfo
from services.common.limiter import AdmissionLimiter
from services.orchestrator import analyzers as analyzers_module
from services.orchestrator.analyzers import Analyzers, ServiceAnswer
from services.orchestrator.engine import AnalysisEngine
from services.orchestrator.intake import Upload
from services.orchestrator.policy import Policy
from services.orchestrator.servicer import AnalysisServicer
from services.orchestrator.storage import AnalysisStore

INFO = ImageInfo(
    width=1,
    height=1,
    format="PNG",
    mode="RGB",
    bits_per_channel=8,
    size_bytes=1,
    sha256="0" * 64,
    frames=1,
    has_alpha=False,
    exif_orientation=1,
    has_icc_profile=False,
)


class Intake:
    async def from_source(self, source):
        return Upload(source.filename, source.content)

    async def check(self, upload, formats):
        if upload.filename == "defect":
            raise RuntimeError("a defect")
        return INFO


class SlowAnalyzers:
    """Answers for one service at once and for another never; tells whether it was closed."""

    def __init__(self, *, forever: bool) -> None:
        self.closed = 0
        self._forever = forever

    async def answers(self, content, options, *, streamed=False):
        try:
            findings = [detection_pb2.Finding() for _ in range(50)]
            answer = ServiceAnswer("passive", report_pb2.AnalyzerReport(findings=findings))
            for piece in answer.pieces() if streamed else ():
                yield piece
            yield answer
            if self._forever:
                await asyncio.sleep(3600)
        finally:
            self.closed += 1


def engine_of(analyzers, admission: AdmissionLimiter) -> AnalysisEngine:
    return AnalysisEngine(
        analyzers=analyzers,
        store=AnalysisStore(None),
        intake=Intake(),
        admission=admission,
        deployment_policy=Policy(),
    )


def request_of(*names: str) -> pb.StreamAnalyzeImagesRequest:
    sources = [analysis_pb2.ImageSource(content=b"x", filename=name) for name in names]
    return pb.StreamAnalyzeImagesRequest(images=sources)


@pytest.fixture
def no_collection():
    """What is freed only by the collection of garbage is not freed in time."""
    gc.disable()
    yield
    gc.enable()


async def has_place(admission: AdmissionLimiter) -> bool:
    await asyncio.sleep(0.05)
    try:
        async with admission.admit():
            return True
    except Overloaded:
        return False


async def test_a_cancelled_analysis_frees_its_place_and_cancels_the_work(no_collection):
    admission = AdmissionLimiter(1)
    analyzers = SlowAnalyzers(forever=True)
    engine = engine_of(analyzers, admission)
    task = asyncio.create_task(
        engine.analyze(Upload("a", b"x"), analysis_pb2.AnalysisOptions(), formats=frozenset({"PNG"}))
    )
    assert not await has_place(admission)
    task.cancel()
    assert await has_place(admission)
    assert analyzers.closed == 1


async def test_a_reader_who_leaves_frees_all_places(no_collection):
    admission = AdmissionLimiter(2)
    analyzers = SlowAnalyzers(forever=True)
    servicer = AnalysisServicer(engine_of(analyzers, admission), Intake(), AnalysisStore(None))
    async with aclosing(servicer.StreamAnalyzeImages(request_of("a", "b", "c"), None)) as stream:
        await anext(stream)
        assert not await has_place(admission)
    assert await has_place(admission)
    assert analyzers.closed == 2


async def test_a_reader_who_sleeps_keeps_nobody_out():
    admission = AdmissionLimiter(1)
    servicer = AnalysisServicer(engine_of(SlowAnalyzers(forever=False), admission), Intake(), AnalysisStore(None))
    async with aclosing(servicer.StreamAnalyzeImages(request_of("a"), None)) as stream:
        await anext(stream)
        assert await has_place(admission)


async def test_a_defect_costs_one_picture_its_answer_and_no_other():
    servicer = AnalysisServicer(
        engine_of(SlowAnalyzers(forever=False), AdmissionLimiter(4)), Intake(), AnalysisStore(None)
    )
    stream = servicer.StreamAnalyzeImages(request_of("a", "defect", "b"), None)
    events = [event async for event in stream]
    (error,) = [event for event in events if event.HasField("error")]
    assert (error.image_index, error.error.reason) == (1, "INTERNAL")
    assert "a defect" not in error.error.message
    assert sorted(event.image_index for event in events if event.HasField("analysis")) == [0, 2]
    assert (events[-1].done.analyzed_count, events[-1].done.failed_count) == (2, 1)


async def test_no_analysis_waits_for_versions_that_do_not_come(monkeypatch):
    asked = 0

    async def models(self):
        nonlocal asked
        asked += 1
        await asyncio.sleep(3600)

    monkeypatch.setattr(Analyzers, "models", models)
    monkeypatch.setattr(analyzers_module, "FIRST_VERSIONS_SECONDS", 0.01)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        analyzers = Analyzers(dict.fromkeys(("passive", "deeplearning", "faces"), channel), timeout_seconds=1)
        async with asyncio.timeout(30):  # for ever, otherwise
            assert [await analyzers.versions() for _ in range(3)] == [None] * 3
        assert asked == 1
        analyzers._refreshing.cancel()


async def test_versions_are_known_only_if_all_services_tell_them(monkeypatch):
    away: list[detection_pb2.Missing] = [detection_pb2.Missing(part="faces")]

    async def models(self):
        return [model_pb2.ModelInfo(name="age", version="1", digest="ab")], away

    async def detectors(self):
        return [detection_pb2.Detector(name="copy_move", version="1", service="passive")], []

    monkeypatch.setattr(Analyzers, "models", models)
    monkeypatch.setattr(Analyzers, "detectors", detectors)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        analyzers = Analyzers(dict.fromkeys(("passive", "deeplearning", "faces"), channel), timeout_seconds=1)
        assert await analyzers.versions() is None
        away.clear()
        assert await analyzers.versions() is None, "asked again only after a while"
        analyzers._versions_due = 0.0
        await analyzers.versions()
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        known = await analyzers.versions()
    assert known.facts["detectors"] == [["passive", "copy_move", "1"]]
    assert known.facts["models"] == [["age", "1", "ab", 0]]


class PassiveStub:
    """A passive service that says one thing and is cut off, or ends as it should."""

    service = "passive"

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends

    async def analyze_stream(self, content, *, detectors=(), include_maps=False):
        finding = detection_pb2.Finding(title="early")
        yield passive_pb.AnalyzeStreamResponse(finding=finding)
        if self._ends:
            yield passive_pb.AnalyzeStreamResponse(done=report_pb2.AnalyzerReport(findings=[finding]))


@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_that_is_cut_off_is_no_answer(monkeypatch, ends):
    async def route(self, detectors):
        return {"passive": []}, []

    monkeypatch.setattr(Analyzers, "_route", route)
    analyzers = Analyzers.__new__(Analyzers)
    analyzers.passive, analyzers.faces = PassiveStub(ends=ends), PassiveStub(ends=ends)
    analyzers.faces.service = "faces"
    items = [item async for item in analyzers.answers(b"x", analysis_pb2.AnalysisOptions(), streamed=True)]
    assert items[0].said.title == "early"
    answer = items[-1]
    if ends:
        assert [finding.title for finding in answer.report.findings] == ["early"]
    else:
        assert answer.report is None
        assert [missing.reason for missing in answer.missing] == ["UNAVAILABLE"]
        assert [item.said.part for item in items[1:-1]] == ["passive"]


async def test_a_named_detector_of_a_service_that_is_away_is_reported_missing(monkeypatch):
    away = detection_pb2.Missing(part="deeplearning", reason="UNAVAILABLE")
    known = detection_pb2.Detector(name="copy_move", service="passive")

    async def detectors(self):
        return [known], [away]

    async def ask(self, service, *_):
        return ServiceAnswer(service, report_pb2.AnalyzerReport())

    monkeypatch.setattr(Analyzers, "detectors", detectors)
    monkeypatch.setattr(Analyzers, "_ask", ask)
    analyzers = Analyzers.__new__(Analyzers)
    options = analysis_pb2.AnalysisOptions(detectors=["copy_move", "resnet50"])
    answers = [item async for item in analyzers.answers(b"x", options)]
    assert {answer.service: [item.part for item in answer.missing] for answer in answers} == {
        "deeplearning": ["deeplearning"],
        "passive": [],
    }
