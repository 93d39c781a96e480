"""Document 000, the image interface: a copy-move check for a list of URLs.

Each picture gets `[["DBSCAN_CPY_MOVE", 1]]` if a copied region was found in it and 0 if none was. A picture that could
not be checked gets null, which no client takes for a 1, and `ERRORS` beside `PAYLOAD` says why: leaving it out would
break clients that look up what they asked for, and 0 would clear a picture that nobody looked at.

On request (`?masks=true`, `?metadata=true`; document 000's list of proposed features) `MASKS` and `METADATA` stand
beside `PAYLOAD`: compressed masks of the pictures in which a copy was found, and what is known of every picture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from google.api import httpbody_pb2
from pentimento.common.v1 import detection_pb2, report_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1 import documented_services_pb2_grpc as pb_grpc

from services.common.context import time_remaining
from services.common.errors import DeadlineExceeded, PentimentoError, Unavailable, internal_message
from services.common.images import ImageInfo, ImageLimits
from services.common.limiter import WorkLimiter
from services.orchestrator.intake import Intake, Source, Upload
from services.orchestrator.overlays import draw_overlay
from services.orchestrator.ports import PassiveClient
from services.orchestrator.rest.http import Context, Reply, base64_text, error_reply, facts, respond

__all__ = ["FORMATS", "ImageInterfaceServicer"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP", "GIF"})
"""Document 000's own example sends a GIF; its first frame is looked at."""

FILE_FIELDS: Final = ("files", "file", "image")
MAX_IMAGES: Final = 50
SIDE_BY_SIDE: Final = 4
"""Pictures fetched and checked at once for one request: one caller must not fill the passive service."""

ALL_SECONDS: Final = 60.0
"""For all pictures of a request, where its caller sets no nearer deadline."""

ANSWER_SECONDS: Final = 3.0
"""Of them, what is left to answer with: a picture that is not checked by then must not cost the others theirs."""

DETECTOR: Final = "copy_move"
METADATA_DETECTOR: Final = "metadata"
RESULT_NAME: Final = "DBSCAN_CPY_MOVE"
DECISION_SCORE: Final = 0.5
"""Used where the detector does not tell from which score on it reports a copy."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Checked:
    """What became of one picture: whether it holds a copy or, if that is not known, why; and what was asked beside."""

    found: bool | None
    error: PentimentoError | None = None
    mask_png: bytes | None = None
    metadata: dict[str, Any] | None = None


class ImageInterfaceServicer(pb_grpc.ImageInterfaceServiceServicer):
    """Answers document 000's requests.

    Args:
        passive: runs the copy-move detector.
        intake: reads requests and fetches pictures.
        work: threads for drawing masks.
        limits: on files, for drawing masks.
    """

    def __init__(self, passive: PassiveClient, intake: Intake, *, work: WorkLimiter, limits: ImageLimits) -> None:
        self._passive = passive
        self._intake = intake
        self._work = work
        self._limits = limits

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_ImageInterfaceServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["ImageInterfaceService"].full_name]

    async def CheckImages(
        self, request: pb.ImageInterfaceServiceCheckImagesRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            sources = await self._intake.sources(request.body, max_images=MAX_IMAGES, fields=FILE_FIELDS)
            sources = list(dict.fromkeys(sources))
            places = asyncio.Semaphore(SIDE_BY_SIDE)
            seconds = time_remaining(ALL_SECONDS)
            ends = asyncio.get_running_loop().time() + max(seconds / 2, seconds - ANSWER_SECONDS)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._check(source, places, ends, request)) for source in sources]
            return _reply(_unique_names(sources), [task.result() for task in tasks])

        return await respond(context, call)

    async def _check(
        self,
        source: Source,
        places: asyncio.Semaphore,
        ends: float,
        request: pb.ImageInterfaceServiceCheckImagesRequest,
    ) -> _Checked:
        """Checks one picture until `ends` (the loop's time); what goes wrong is about this picture and no other."""
        try:
            async with asyncio.timeout_at(ends), places:
                upload = await self._intake.load(source)
                info = await self._intake.check(upload, FORMATS)
                detectors = [DETECTOR, METADATA_DETECTOR] if request.metadata else [DETECTOR]
                answer = await self._passive.analyze(upload.content, detectors=detectors, include_maps=request.masks)
                found = _has_copy(answer.report.findings)
                mask = await self._draw(upload, answer.report) if found and request.masks else None
                metadata = _metadata(info, answer.report) if request.metadata else None
                return _Checked(found, mask_png=mask, metadata=metadata)
        except PentimentoError as error:
            return _Checked(None, error)
        except TimeoutError:
            return _Checked(None, DeadlineExceeded("There was no time left to check this picture."))
        except Exception:
            log.exception("image_check_failed")
            return _Checked(None, PentimentoError(internal_message()))

    async def _draw(self, upload: Upload, report: report_pb2.AnalyzerReport) -> bytes | None:
        """The mask of a copy; None where it cannot be drawn: the copy was found all the same."""
        try:
            drawn = await self._work.run(draw_overlay, upload.content, self._limits, report.findings, {DETECTOR})
        except PentimentoError as error:
            log.info("mask_not_drawn", reason=error.reason)
            return None
        return drawn.mask_png


def _has_copy(findings: Sequence[detection_pb2.Finding]) -> bool:
    """Whether the detector reports a copied region; a picture that it cannot look at (too small, plain) has none.

    Raises:
        Unavailable: it did not answer.
    """
    for finding in findings:
        if finding.provenance.detector != DETECTOR:
            continue
        if finding.applicability == detection_pb2.APPLICABILITY_NOT_APPLICABLE:
            return False
        if finding.applicability == detection_pb2.APPLICABILITY_APPLIED:
            parameters = finding.provenance.parameters.fields
            threshold = parameters["decision_score"].number_value if "decision_score" in parameters else DECISION_SCORE
            return finding.score >= threshold
    raise Unavailable("The copy-move detector did not answer.", metadata={"detector": DETECTOR})


def _metadata(info: ImageInfo, report: report_pb2.AnalyzerReport) -> dict[str, Any]:
    """What is known of a picture: its file, and what the file says of itself."""
    read = next((each for each in report.findings if each.provenance.detector == METADATA_DETECTOR), None)
    return {
        "format": info.format,
        "width": info.width,
        "height": info.height,
        "size_bytes": info.size_bytes,
        "sha256": info.sha256,
        "explanation": read.explanation if read else None,
        "details": facts(read.details) if read else {},
    }


def _unique_names(sources: Sequence[Source]) -> list[str]:
    """File names as keys: of several pictures of the same name, the second becomes "name (2).jpg" and so on."""
    names: list[str] = []
    taken: set[str] = set()
    for source in sources:
        stem, dot, extension = source.filename.rpartition(".")
        name, number = source.filename, 1
        while name in taken:
            number += 1
            name = f"{stem} ({number}).{extension}" if dot else f"{source.filename} ({number})"
        taken.add(name)
        names.append(name)
    return names


def _reply(names: Sequence[str], results: Sequence[_Checked]) -> Reply:
    """The answer: 200 if at least one picture was checked, else the first picture's error with all of them."""
    payload = {
        name: [[RESULT_NAME, None if result.found is None else int(result.found)]]
        for name, result in zip(names, results, strict=True)
    }
    errors = {
        name: _error_entry(result.error)
        for name, result in zip(names, results, strict=True)
        if result.error is not None
    }
    body: dict[str, Any] = {"PAYLOAD": payload}
    named = list(zip(names, results, strict=True))
    masks = {name: base64_text(result.mask_png) for name, result in named if result.mask_png is not None}
    metadata = {name: result.metadata for name, result in named if result.metadata is not None}
    body |= ({"MASKS": masks} if masks else {}) | ({"METADATA": metadata} if metadata else {})
    if not errors:
        return Reply(body)
    if len(errors) < len(payload):
        return Reply({**body, "ERRORS": errors})
    worst = next(result.error for result in results if result.error is not None)
    refused = error_reply(worst)
    return Reply({**refused.body, "PAYLOAD": payload, "ERRORS": errors}, refused.status, refused.headers)


def _error_entry(error: PentimentoError) -> dict[str, Any]:
    return {"reason": error.reason, "message": error.message}
