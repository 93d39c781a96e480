"""Document 002's batches, field by field; what stands behind them is tested with a real database."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import uuid
from typing import Any

import grpc
import pytest
from google.api import httpbody_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from pentimento.common.v1 import detection_pb2, image_pb2, verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2, batch_service_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb

from services.common.errors import NotFound, Overloaded, Unavailable
from services.orchestrator.intake import Link, Upload
from services.orchestrator.rest import screening
from services.orchestrator.rest.screening import _patience, batch_result
from services.orchestrator.summary import summarize

from .conftest import BOUNDARY, Mesh, form, json_body

pytestmark = pytest.mark.asyncio

ID = "550e8400-e29b-41d4-a716-446655440000"


def analysis(name: str, decision: int, log10: float, seconds: float, **more: Any) -> analysis_pb2.Analysis:
    verdict = verdict_pb2.Verdict(likelihood_ratio=detection_pb2.LikelihoodRatio(log10=log10))
    return analysis_pb2.Analysis(
        name=f"analyses/{uuid.uuid4()}",
        filename=name,
        image=image_pb2.ImageInfo(width=640, height=480),
        decision=decision,
        decision_explanation="Because.",
        generated=verdict,
        duration_seconds=seconds,
        **more,
    )


def batch(state: int, *items: batch_service_pb2.BatchItem, total: int | None = None) -> batch_service_pb2.Batch:
    analyses = [item.analysis for item in items if item.HasField("analysis")]
    made = batch_service_pb2.Batch(
        name=f"batches/{ID}",
        state=state,
        total_count=len(items) if total is None else total,
        processed_count=len(analyses),
        failed_count=len(items) - len(analyses),
        current_filename="c.jpg",
        items=items,
        create_time=Timestamp(seconds=1000),
        start_time=Timestamp(seconds=1010),
        summary=summarize(analyses, total=len(items)),
    )
    if state != batch_service_pb2.BATCH_STATE_PROCESSING:
        made.end_time.seconds = 1016
    return made


def three() -> batch_service_pb2.Batch:
    """One suspicious (score 10/11), one authentic (score 1/11), one that failed."""
    item = batch_service_pb2.BatchItem
    return batch(
        batch_service_pb2.BATCH_STATE_COMPLETED,
        item(filename="a.jpg", analysis=analysis("a.jpg", analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY, 1.0, 2.0)),
        item(
            filename="=b.jpg",
            analysis=analysis(
                "=b.jpg",
                analysis_pb2.DECISION_MOSTLY_AUTHENTIC,
                -1.0,
                4.0,
                edit_decision=analysis_pb2.EDIT_DECISION_EDITED,
            ),
        ),
        item(filename="c.jpg", error_reason="DAMAGED_IMAGE", error_message="It ends early."),
    )


async def test_the_result_is_document_002s() -> None:
    result = batch_result(three())
    assert [item["filename"] for item in result["results"]] == ["a.jpg", "=b.jpg"]
    assert (result["total_images"], result["processed"], result["failed"]) == (3, 2, 1)
    assert result["total_processing_time"] == 6.0
    assert result["timestamp"] == "1970-01-01T00:16:56.000000"
    assert result["errors"] == [{"filename": "c.jpg", "reason": "DAMAGED_IMAGE", "message": "It ends early."}]
    # Scores 10/11 and 1/11; confidences 91 and 91.
    assert result["summary"] == {
        "CONFIRMED_AI_GENERATED": 0,
        "SUSPICIOUS_AI_LIKELY": 1,
        "AUTHENTIC_BUT_REVIEW": 0,
        "MOSTLY_AUTHENTIC": 1,
        "success_rate": 66.7,
        "processed": 2,
        "failed": 1,
        "avg_score": 0.5,
        "avg_confidence": 91,
        "avg_proc_time": 3.0,
        "EDITED": 1,
        "POSSIBLY_EDITED": 0,
        "NO_EDIT_FOUND": 0,
    }


async def test_nothing_has_no_mean() -> None:
    summary = summarize([], total=2)
    assert (summary.success_rate, summary.average_score, summary.average_confidence) == (0, 0, 0)


@pytest.mark.parametrize(
    ("state", "status", "has_result"),
    [("PROCESSING", "processing", False), ("COMPLETED", "completed", True), ("INTERRUPTED", "interrupted", True)],
)
async def test_progress(mesh: Mesh, state: str, status: str, has_result: bool) -> None:
    made = three()
    made.state = batch_service_pb2.BatchState.Value(f"BATCH_STATE_{state}")
    mesh.batches.answers["get"] = made
    answer = await mesh.ask(
        "ScreeningService.GetBatchProgress", pb.ScreeningServiceGetBatchProgressRequest(batch_id=ID)
    )
    assert answer.status == 200
    assert answer.json["status"] == status
    assert answer.json["progress"] == {"current": 3, "total": 3, "filename": "c.jpg"}
    assert ("result" in answer.json) is has_result
    assert "error" not in answer.json


async def test_progress_of_one_that_failed(mesh: Mesh) -> None:
    made = three()
    made.state = batch_service_pb2.BATCH_STATE_FAILED
    made.error_message = "Processing timeout exceeded"
    mesh.batches.answers["get"] = made
    request = pb.ScreeningServiceGetBatchProgressRequest(batch_id=ID)
    answer = await mesh.ask("ScreeningService.GetBatchProgress", request)
    assert (answer.json["status"], answer.json["error"]) == ("failed", "Processing timeout exceeded")


@pytest.mark.parametrize("method", ["GetBatchProgress", "GetCsvReport"])
async def test_a_batch_that_is_not_there(mesh: Mesh, method: str) -> None:
    mesh.batches.answers["get"] = NotFound("Batch not found")
    answer = await mesh.ask(f"ScreeningService.{method}")
    assert answer.status == 404
    assert (answer.json["success"], answer.json["message"], answer.json["error"]) == (False, "Batch not found", None)


async def send(mesh: Mesh, body: httpbody_pb2.HttpBody, *, piece: int = 1000, **metadata: str) -> tuple[int, Any, Any]:
    """Status, headers and JSON of POST /analyze/batch, the body in pieces as the edge sends it."""
    call = mesh.channel.stream_unary(
        "/pentimento.orchestrator.v1.ScreeningService/AnalyzeBatch",
        request_serializer=pb.ScreeningServiceAnalyzeBatchRequest.SerializeToString,
        response_deserializer=httpbody_pb2.HttpBody.FromString,
    )

    async def pieces():
        for start in range(0, max(1, len(body.data)), piece):
            content_type = "" if start else body.content_type
            part = httpbody_pb2.HttpBody(content_type=content_type, data=body.data[start : start + piece])
            yield pb.ScreeningServiceAnalyzeBatchRequest(body=part)

    running = call(pieces(), metadata=tuple(metadata.items()), timeout=60)
    answer = await running
    headers = {key: str(value) for key, value in await running.initial_metadata()}
    return int(headers["x-http-status"]), headers, json.loads(answer.data)


def accepting(into: list[Any]) -> Any:
    async def accept(sources: Any, options: Any, **more: Any) -> uuid.UUID:
        into.extend([source async for source in sources])
        into.append(more)
        return uuid.UUID(ID)

    return accept


@pytest.mark.parametrize("piece", [1, 7, 1000, 10_000_000])
async def test_a_form_that_comes_in_pieces(mesh: Mesh, piece: int) -> None:
    got: list[Any] = []
    mesh.batches.answers |= {"accept": accepting(got), "wait": three()}
    body = form(
        ("files", "a.jpg", b"\xff\xd8\xff" + bytes(500)),
        ("comment", None, b"not a picture"),
        ("files", "../b.png", b"--" + BOUNDARY.encode()[:3] + b"\r\n"),
        ("urls", None, b"https://example.org/c.webp"),
    )
    status, _, answer = await send(mesh, body, piece=piece)
    assert status == 200
    assert got == [
        Upload("a.jpg", b"\xff\xd8\xff" + bytes(500)),
        Upload("b.png", b"--" + BOUNDARY.encode()[:3] + b"\r\n"),
        Link("https://example.org/c.webp", "c.webp"),
        {"request_id": ""},
    ]
    assert (answer["success"], answer["message"], answer["error"]) == (True, "Batch analysis completed", None)
    assert answer["data"]["batch_id"] == ID
    assert answer["data"]["result"]["total_images"] == 3


async def test_urls_in_json(mesh: Mesh) -> None:
    got: list[Any] = []
    mesh.batches.answers |= {"accept": accepting(got), "wait": three()}
    status, _, _ = await send(mesh, json_body({"urls": ["https://example.org/a.jpg", "https://example.org/b.jpg"]}))
    assert status == 200
    assert [source.url for source in got[:2]] == ["https://example.org/a.jpg", "https://example.org/b.jpg"]


async def test_respond_async(mesh: Mesh) -> None:
    got: list[Any] = []
    mesh.batches.answers |= {
        "accept": accepting(got),
        "wait": batch(batch_service_pb2.BATCH_STATE_PROCESSING, total=3),
    }
    body = form(("files", "a.jpg", b"x"))
    status, headers, answer = await send(mesh, body, prefer="respond-async", **{"idempotency-key": "mine-1"})
    assert status == 202
    assert headers["location"] == f"/batch/{ID}/progress"
    assert headers["preference-applied"] == "respond-async"
    assert answer["data"]["batch_id"] == ID
    assert answer["data"]["status"] == "processing"
    assert got[-1] == {"request_id": "mine-1"}
    assert mesh.batches.calls[-1][2] == {"seconds": 0.0}


@pytest.mark.parametrize(
    ("prefer", "is_asynchronous", "seconds", "applied"),
    [
        ("", False, 900.0, ""),
        ("wait=5", False, 900.0, ""),
        ("respond-async", True, 0.0, "respond-async"),
        ("Respond-Async", True, 0.0, "respond-async"),
        ("handling=lenient, respond-async, wait=10", False, 10.0, "respond-async, wait=10"),
        ('respond-async, wait="3"', False, 3.0, "respond-async, wait=3"),
        ("respond-async, wait=99999999999", False, 900.0, "respond-async, wait=900"),
        ("respond-async, wait=-1", True, 0.0, "respond-async"),
        ("respond-async, wait=²", True, 0.0, "respond-async"),
    ],
)
async def test_patience(prefer: str, is_asynchronous: bool, seconds: float, applied: str) -> None:
    patience = _patience(prefer, 900.0)
    assert (patience.is_asynchronous, patience.seconds, patience.applied) == (is_asynchronous, seconds, applied)


@pytest.mark.parametrize(
    ("state", "status", "message"),
    [("INTERRUPTED", 499, "Processing interrupted"), ("FAILED", 504, "Processing timeout")],
)
async def test_who_waited_for_one_that_ended_early_gets_what_was_done(
    mesh: Mesh, state: str, status: int, message: str
) -> None:
    ended = three()
    ended.state = batch_service_pb2.BatchState.Value(f"BATCH_STATE_{state}")
    mesh.batches.answers |= {"accept": accepting([]), "wait": ended}
    got, _, answer = await send(mesh, form(("files", "a.jpg", b"x")))
    assert (got, answer["success"], answer["message"]) == (status, False, message)
    assert answer["data"]["result"]["processed"] == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("Too many pictures wait.", retry_after_seconds=30), 429),
        (Unavailable("There is no room.", reason="STORAGE_FULL"), 503),
    ],
)
async def test_refusals(mesh: Mesh, error: Exception, status: int) -> None:
    mesh.batches.answers["accept"] = error
    got, headers, answer = await send(mesh, form(("files", "a.jpg", bytes(5000))))
    assert got == status
    assert int(headers["retry-after"]) >= 1
    assert answer["success"] is False


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form(("files", "a.jpg", bytes(10 * 1024 * 1024 + 1))), 413),
        (httpbody_pb2.HttpBody(content_type="multipart/form-data", data=b"x"), 400),
        (httpbody_pb2.HttpBody(content_type=f"multipart/form-data; boundary={BOUNDARY}", data=b"--x"), 400),
        (json_body({"urls": {"a": 1}}), 422),
        (json_body({"urls": [1]}), 422),
        (httpbody_pb2.HttpBody(), 422),
    ],
)
async def test_bodies_that_hold_no_batch(mesh: Mesh, body: httpbody_pb2.HttpBody, status: int) -> None:
    mesh.batches.answers["accept"] = accepting([])
    got, _, answer = await send(mesh, body, piece=1_000_000)
    assert got == status, answer
    assert answer["success"] is False


async def test_whoever_goes_away_stops_his_batch(mesh: Mesh) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any, **__: Any) -> None:
        began.set()
        await asyncio.sleep(30)

    mesh.batches.answers |= {"accept": accepting([]), "wait": wait}
    # The stand-in's methods are coroutines; this one is called without waiting.
    mesh.batches.cancel_soon = lambda batch_id: stopped.set() if str(batch_id) == ID else None  # type: ignore[method-assign]
    sending = asyncio.create_task(send(mesh, form(("files", "a.jpg", b"x"))))
    await asyncio.wait_for(began.wait(), 5)
    sending.cancel()
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await sending
    await asyncio.wait_for(stopped.wait(), 5)


async def test_a_batch_that_has_a_name_outlives_its_caller(mesh: Mesh) -> None:
    """Whoever lost the connection sends the request again by the same name, and should find its results."""
    began, left, stopped = asyncio.Event(), asyncio.Event(), []

    async def wait(*_: Any, **__: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            left.set()

    mesh.batches.answers |= {"accept": accepting([]), "wait": wait}
    mesh.batches.cancel_soon = stopped.append  # type: ignore[method-assign]
    sending = asyncio.create_task(send(mesh, form(("files", "a.jpg", b"x")), **{"idempotency-key": "a-1"}))
    await asyncio.wait_for(began.wait(), 5)
    sending.cancel()
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await sending
    await asyncio.wait_for(left.wait(), 5)
    await asyncio.sleep(0.1)
    assert stopped == []


async def test_an_upload_that_stops_halfway_holds_its_place_no_longer(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "PIECE_SECONDS", 0.2)
    mesh.batches.answers["accept"] = accepting([])
    call = mesh.channel.stream_unary(
        "/pentimento.orchestrator.v1.ScreeningService/AnalyzeBatch",
        request_serializer=pb.ScreeningServiceAnalyzeBatchRequest.SerializeToString,
        response_deserializer=httpbody_pb2.HttpBody.FromString,
    )
    body = form(("files", "a.jpg", b"x" * 1000))

    async def pieces():
        part = httpbody_pb2.HttpBody(content_type=body.content_type, data=body.data[:500])
        yield pb.ScreeningServiceAnalyzeBatchRequest(body=part)
        await asyncio.sleep(30)

    running = call(pieces(), timeout=10)
    answer = json.loads((await running).data)
    assert dict(await running.initial_metadata())["x-http-status"] == "504"
    assert "Nothing more of the upload came" in answer["error"]


async def test_no_more_than_so_many_wait(mesh: Mesh) -> None:
    began = asyncio.Event()

    async def wait(*_: Any, **__: Any) -> Any:
        began.set()
        await asyncio.sleep(1.0)
        return three()

    mesh.batches.answers |= {"accept": accepting([]), "wait": wait}
    first = asyncio.create_task(send(mesh, form(("files", "a.jpg", b"x"))))
    await asyncio.wait_for(began.wait(), 5)
    status, headers, _ = await send(mesh, form(("files", "a.jpg", b"x")))
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert (await first)[0] == 200


async def test_the_report(mesh: Mesh) -> None:
    mesh.batches.answers["get"] = three()
    call = mesh.channel.unary_unary(
        "/pentimento.orchestrator.v1.ScreeningService/GetCsvReport",
        request_serializer=pb.ScreeningServiceGetCsvReportRequest.SerializeToString,
        response_deserializer=httpbody_pb2.HttpBody.FromString,
    )
    running = call(pb.ScreeningServiceGetCsvReportRequest(batch_id=ID), timeout=30)
    answer = await running
    headers = {key: str(value) for key, value in await running.initial_metadata()}
    assert answer.content_type == "text/csv; charset=utf-8"
    assert headers["content-disposition"] == f'attachment; filename="pentimento-{ID}.csv"'
    rows = list(csv.reader(io.StringIO(answer.data.decode())))
    # Document 002, lines 283-310.
    assert rows[:10] == [
        ["BATCH DECISION STATISTICS"],
        ["Total Images", "3"],
        ["Processed", "2"],
        ["Failed", "1"],
        ["CONFIRMED_AI_GENERATED", "0"],
        ["SUSPICIOUS_AI_LIKELY", "1"],
        ["AUTHENTIC_BUT_REVIEW", "0"],
        ["MOSTLY_AUTHENTIC", "1"],
        [],
        ["ANALYSIS RESULTS"],
    ]
    assert rows[11] == ["a.jpg", "SUSPICIOUS_AI_LIKELY", "91", "0.9091", "Because.", "2.0"]
    assert ["c.jpg", "DAMAGED_IMAGE", "It ends early."] in rows
    # A file name that is a formula is none any more, wherever it stands.
    cells = [cell for row in rows for cell in row]
    assert "'=b.jpg" in cells
    assert not [cell for cell in cells if cell.startswith("=")]
