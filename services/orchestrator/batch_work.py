"""What a worker does for one picture of a batch: get it, analyse it, keep the analysis, write the result.

It may be done twice (a worker died, or was believed dead), so every step can be: the analysis of the third picture of
a batch always has the same name, whoever makes it, is kept once, and the picture's row takes one result.

A batch has time, so what is only away at the moment is waited for: an analysis in which a part is missing because it
was just being restarted is made again, as long as the picture's own time allows.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from pentimento.orchestrator.v1 import analysis_pb2
from prometheus_client import Counter, Histogram

from services.common.context import begin_call
from services.common.errors import DeadlineExceeded, Overloaded, PentimentoError, Unavailable, internal_message
from services.orchestrator.batch_store import BatchStore, Task
from services.orchestrator.batches import out_of_time
from services.orchestrator.engine import AnalysisEngine
from services.orchestrator.intake import Intake, Link, Source, Upload
from services.orchestrator.objects import ObjectStore
from services.orchestrator.storage import AnalysisStore

__all__ = ["Again", "ImageWork", "KeptLater"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})

MAX_ATTEMPTS: Final = 8
"""How often a picture is taken up: after about two minutes of waiting for parts that are away, or as many crashes of
its workers, the others of its batch should not wait for it."""

LONGEST_PAUSE_SECONDS: Final = 30.0
"""Between two attempts; the first pause is two seconds, and each is twice the one before."""

TRANSIENT: Final = frozenset({"UNAVAILABLE", "MODEL_UNAVAILABLE", "OVERLOADED"})
"""Why something may be missing in an analysis that may be there in a moment."""

GIVEN_UP_SECONDS: Final = 60.0
"""So long a part is not waited for again that one picture has waited for in vain."""

ANSWER_SECONDS: Final = 1.0
"""Of a picture's time, what is left when an analyser that hangs is given up."""

WRITE_TRIES: Final = 40
"""How often a result is written, a second apart, while the database is away; then somebody else makes it anew."""

IMAGES = Counter("pentimento_batch_images", "Pictures of batches by what became of them.", ["outcome"])
IMAGE_SECONDS = Histogram(
    "pentimento_batch_image_seconds",
    "Time from taking up a picture of a batch to its result.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)

T = TypeVar("T")
log = structlog.get_logger()


class Again(Exception):
    """A job is to be done again; nothing is wrong with it.

    Args:
        seconds: not before so many have passed.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds:g} s")
        self.seconds = seconds


class KeptLater(AnalysisStore):
    """Finds what is kept, but keeps nothing when the engine asks it to: a worker keeps what it accepts, by `keep`."""

    async def save(self, analysis: analysis_pb2.Analysis) -> None:
        """Does nothing yet."""

    async def keep(self, analysis: analysis_pb2.Analysis) -> None:
        """Keeps an analysis; keeping it again changes nothing. See `AnalysisStore.save`."""
        await super().save(analysis)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a picture has no analysis, for machines and for people."""

    reason: str
    message: str


class ImageWork:
    """Does it.

    Args:
        store: batches.
        analyses: where analyses are kept.
        engine: analyses pictures; its store is `analyses`.
        intake: fetches pictures that are given by URL.
        objects: where the others are.
        image_seconds: how long one picture may take.
        batch_seconds: how long a batch may take.
    """

    def __init__(
        self,
        *,
        store: BatchStore,
        analyses: KeptLater,
        engine: AnalysisEngine,
        intake: Intake,
        objects: ObjectStore,
        image_seconds: float,
        batch_seconds: float,
    ) -> None:
        self._store = store
        self._analyses = analyses
        self._engine = engine
        self._intake = intake
        self._objects = objects
        self._image_seconds = image_seconds
        self._out_of_time = out_of_time(batch_seconds)
        self._given_up: dict[str, float] = {}  # parts that were waited for in vain, until when

    async def run(self, batch_id: uuid.UUID, position: int) -> None:
        """Does all that is to be done for a picture.

        Raises:
            Again: something that is needed is away; to be done again.
            Unavailable: the database is.
            asyncio.CancelledError: the batch was stopped, or this process is.
        """
        request_id = begin_call(f"batch-{batch_id}-{position}", None)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.monotonic()
        task = await self._store.take_up(batch_id, position)
        if task is None:
            return
        if task.seconds_left <= 0:
            await self._insist(lambda: self._store.end(batch_id, self._out_of_time))
            return
        if task.attempts > MAX_ATTEMPTS:
            result: analysis_pb2.Analysis | _Failure = _Failure(
                "WORKER_CRASHED",
                f"The analysis was begun {MAX_ATTEMPTS} times and never came to its end.",
            )
        else:
            seconds = min(self._image_seconds, task.seconds_left)
            try:
                # An analyser that hangs is given up before the picture's time is over, and the others are heard.
                begin_call(request_id, max(seconds / 2, seconds - ANSWER_SECONDS))
                async with asyncio.timeout(seconds):
                    result = await self._result(task)
            except (TimeoutError, DeadlineExceeded):
                if task.seconds_left < self._image_seconds:
                    await self._insist(lambda: self._store.end(batch_id, self._out_of_time))
                    return
                result = _Failure("DEADLINE_EXCEEDED", f"Image analysis exceeded {seconds:.0f} second timeout")
        await self._write(batch_id, position, task, result)
        seconds = time.monotonic() - started
        outcome = "analyzed" if isinstance(result, analysis_pb2.Analysis) else result.reason
        IMAGES.labels(outcome).inc()
        IMAGE_SECONDS.observe(seconds)
        log.info("batch_image", batch=str(batch_id), position=position, outcome=outcome, seconds=round(seconds, 3))

    async def give_back(self, batch_id: uuid.UUID, position: int) -> None:
        """Leaves a picture, which was taken up, to another worker."""
        await self._store.give_back(batch_id, position)

    async def _result(self, task: Task) -> analysis_pb2.Analysis | _Failure:
        try:
            source: Source = (
                Upload(task.filename, await self._objects.get(task.object_key))
                if task.object_key
                else Link(task.uri or "", task.filename)
            )
            upload = dataclasses.replace(await self._intake.load(source), filename=task.filename)
            return await self._whole_analysis(upload, task.options)
        except DeadlineExceeded:
            raise
        except (Unavailable, Overloaded) as error:
            if task.attempts < MAX_ATTEMPTS:
                log.info("batch_image_again", reason=error.reason, attempts=task.attempts)
                raise Again(min(LONGEST_PAUSE_SECONDS, 2.0**task.attempts)) from error
            return _Failure(error.reason, error.message)
        except PentimentoError as error:
            return _Failure(error.reason, error.message)
        except Exception as error:
            if isinstance(error, TimeoutError):
                raise
            # A defect that one picture brings out must not cost the others their results.
            log.exception("batch_image_failed")
            return _Failure("INTERNAL", internal_message())

    async def _whole_analysis(self, upload: Upload, options: analysis_pb2.AnalysisOptions) -> analysis_pb2.Analysis:
        """An analysis; made again while parts are missing for the moment, as long as there is time."""
        without_maps = analysis_pb2.AnalysisOptions()
        without_maps.CopyFrom(options)
        without_maps.include_maps = False
        ends = time.monotonic() + self._image_seconds
        pause = 1.0
        while True:
            began = time.monotonic()
            analysis = await self._engine.analyze(upload, without_maps, formats=FORMATS)
            missing = {item.part for item in analysis.missing if item.reason in TRANSIENT}
            now = time.monotonic()
            self._given_up = {part: until for part, until in self._given_up.items() if until > now and part in missing}
            away = sorted(missing - self._given_up.keys())
            if not away:
                return analysis
            if now + pause + 2 * (now - began) + 1 > ends:
                self._given_up |= dict.fromkeys(away, now + GIVEN_UP_SECONDS)
                return analysis
            log.info("batch_image_partial", missing=away)
            await asyncio.sleep(pause)
            pause *= 1.5

    async def _write(
        self, batch_id: uuid.UUID, position: int, task: Task, result: analysis_pb2.Analysis | _Failure
    ) -> None:
        if isinstance(result, _Failure):
            failure = result
            await self._insist(
                lambda: self._store.finish(batch_id, position, reason=failure.reason, message=failure.message)
            )
            return
        analysis = result
        analysis_id = uuid.uuid5(batch_id, str(position))
        analysis.name = f"analyses/{analysis_id}"
        if analysis.reused_from == analysis.name:
            analysis.reused_from = ""  # kept by a worker that died before it could say so
        if task.retained_until is not None:
            analysis.expire_time.FromDatetime(task.retained_until)
        await self._insist(lambda: self._analyses.keep(analysis))
        if not await self._insist(lambda: self._store.finish(batch_id, position, analysis_id=analysis_id)):
            # Stopped or deleted in this moment: what is in no batch would be deleted with none.
            await self._insist(lambda: self._store.delete_orphan(batch_id, position, analysis_id))

    @staticmethod
    async def _insist(write: Callable[[], Awaitable[T]]) -> T:
        """Writes, and waits for a database that is away: the work is done and should not have to be done again."""
        for _ in range(WRITE_TRIES):
            try:
                return await write()
            except Unavailable:
                await asyncio.sleep(1.0)
        return await write()
