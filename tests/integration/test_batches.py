"""Batches in a real PostgreSQL: what is counted, what is rescued, what is deleted."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest
import pytest_asyncio
from pentimento.common.v1 import detection_pb2
from pentimento.orchestrator.v1 import analysis_pb2, batch_service_pb2

from services.common.errors import InvalidInput, NotFound, Overloaded, Unavailable
from services.orchestrator.batch_store import BatchStore
from services.orchestrator.batch_work import MAX_ATTEMPTS, Again, ImageWork, KeptLater
from services.orchestrator.batch_worker import BatchWorker
from services.orchestrator.batches import INTERRUPTED, Batches, out_of_time
from services.orchestrator.database import open_pool
from services.orchestrator.intake import Link, Upload
from services.orchestrator.job_queue import JobQueue
from services.orchestrator.objects import FolderObjects
from services.orchestrator.queue_schema import bring_queue_up_to_date
from services.orchestrator.retention import delete_expired_uploads, sweep_orphans
from services.orchestrator.storage import AnalysisFilter, AnalysisStore
from services.orchestrator.webhooks import Webhooks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

OPTIONS = analysis_pb2.AnalysisOptions(detectors=["copy_move"])


def ask(url, query):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()


class Poster:
    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.posts = []

    async def check(self, url):
        pass

    async def post(self, url, *, content, headers):
        self.posts.append(headers["webhook-id"])
        return self.statuses.pop(0) if self.statuses else 200


class Engine:
    """Analyses what is asked for as a test says; stands for the services behind the real one."""

    def __init__(self, analyses) -> None:
        self.analyses = analyses
        self.answers = []
        self.calls = 0

    async def analyze(self, upload, options, *, formats):
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            await answer()
        analysis = analysis_pb2.Analysis(name=f"analyses/{uuid.uuid4()}", filename=upload.filename)
        analysis.image.sha256 = "0" * 64
        analysis.create_time.GetCurrentTime()
        if isinstance(answer, detection_pb2.Missing):
            analysis.missing.append(answer)
        await self.analyses.save(analysis)
        return analysis


class Fetcher:
    async def load(self, source):
        if isinstance(source, Link):
            return Upload(source.filename, source.url.encode())
        return source


class Bench:
    """A store, an object store and workers on one database."""

    def __init__(self, url, pool, analyses, folder) -> None:
        self.url = url
        self.pool = pool
        self.analyses = analyses
        self.store = BatchStore(pool, JobQueue(), batch_seconds=60)
        self.objects = FolderObjects(folder)
        self.poster = Poster()
        self.engine = Engine(analyses)
        self.webhooks = Webhooks(self.poster, key=b"k" * 32, https_only=False)
        self.batches = Batches(
            self.store,
            self.objects,
            self.webhooks,
            batch_seconds=60,
            keep_seconds=3600,
            max_waiting_images=100,
        )

    def work(self, **more) -> ImageWork:
        settings = {"image_seconds": 5.0, "batch_seconds": 60.0, **more}
        return ImageWork(
            store=self.store,
            analyses=self.analyses,
            engine=self.engine,
            intake=Fetcher(),
            objects=self.objects,
            **settings,
        )

    def worker(self, **more) -> BatchWorker:
        return BatchWorker(
            pool=self.pool,
            store=self.store,
            webhooks=self.webhooks,
            objects=self.objects,
            concurrency=2,
            batch_seconds=60,
            **{"images": self.work(), "grace_seconds": 5.0, **more},
        )

    async def accept(self, *names: str, **more) -> uuid.UUID:
        async def sources():
            for name in names:
                yield Upload(name, name.encode())

        return await self.batches.accept(sources(), OPTIONS, **more)

    async def ended(self, batch_id, *, seconds=60) -> batch_service_pb2.Batch:
        batch = await self.batches.wait(batch_id, seconds=seconds)
        assert batch.state != batch_service_pb2.BATCH_STATE_PROCESSING, "does not end"
        return batch

    async def analysis(self) -> uuid.UUID:
        """The id of an analysis that is kept."""
        identifier = uuid.uuid4()
        analysis = analysis_pb2.Analysis(name=f"analyses/{identifier}")
        analysis.image.sha256 = "0" * 64
        analysis.create_time.GetCurrentTime()
        await self.analyses.keep(analysis)
        return identifier


@pytest_asyncio.fixture
async def bench(url, tmp_path):
    async with AsyncExitStack() as stack:
        analyses = await stack.enter_async_context(KeptLater.connect(url))
        # Long: forty who want one of twelve connections wait for each other, on whatever machine this is.
        pool = await stack.enter_async_context(open_pool(url, connections=12, wait_seconds=30))
        await asyncio.wait_for(analyses._migrated.wait(), 30)
        yield Bench(url, pool, analyses, tmp_path / "objects")


# ---- the schema ----


async def test_several_processes_may_make_the_schema_at_once(url):
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(AnalysisStore.connect(url)) for _ in range(3)]
        await asyncio.wait_for(asyncio.gather(*(store._migrated.wait() for store in stores)), 60)
    assert bring_queue_up_to_date(url) == 0
    # A queue of an older version takes the steps that it lacks; this one can be taken twice.
    function = "procrastinate_trigger_function_status_events_update_v1"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP FUNCTION {function} CASCADE")
        connection.execute("UPDATE queue_schema SET last_step = '03.04.00_01_pre_add_retry_failed_job_procedure.sql'")
    assert bring_queue_up_to_date(url) >= 1
    assert ask(url, f"SELECT count(*) FROM pg_proc WHERE proname = '{function}'") == [(1,)]
    assert bring_queue_up_to_date(url) == 0


# ---- counting ----


async def test_a_result_that_comes_twice_counts_once(bench):
    batch_id = await bench.accept("a.jpg", "b.jpg")
    first, second = await bench.analysis(), await bench.analysis()
    assert await bench.store.take_up(batch_id, 0)
    assert await bench.store.finish(batch_id, 0, analysis_id=first)
    assert not await bench.store.finish(batch_id, 0, analysis_id=second)
    assert not await bench.store.finish(batch_id, 0, reason="LATE", message="Too late.")
    assert await bench.store.take_up(batch_id, 0) is None
    batch = await bench.batches.get(str(batch_id), items=True)
    assert (batch.processed_count, batch.failed_count, batch.total_count) == (1, 0, 2)
    assert batch.items[0].analysis.name == f"analyses/{first}"
    assert batch.state == batch_service_pb2.BATCH_STATE_PROCESSING


async def test_of_all_that_finish_at_once_one_ends_the_batch(bench):
    names = [f"{number}.jpg" for number in range(20)]
    batch_id = await bench.accept(*names, webhook_uri="http://example.org/")
    await asyncio.gather(*(bench.store.take_up(batch_id, position) for position in range(20)))
    await asyncio.gather(
        *(bench.store.finish(batch_id, position, reason="R", message="m") for position in range(20) for _ in range(2))
    )
    batch = await bench.batches.get(str(batch_id), items=True)
    assert batch.state == batch_service_pb2.BATCH_STATE_COMPLETED
    assert (batch.processed_count, batch.failed_count) == (0, 20)
    jobs = ask(bench.url, "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'announce_batch'")
    assert jobs == [(1,)]


@pytest.mark.parametrize(
    ("ending", "state", "reason"),
    [
        (INTERRUPTED, batch_service_pb2.BATCH_STATE_INTERRUPTED, "INTERRUPTED"),
        (out_of_time(60), batch_service_pb2.BATCH_STATE_FAILED, "BATCH_TIMEOUT"),
    ],
)
async def test_an_end_before_its_time_keeps_what_is_done(bench, ending, state, reason):
    batch_id = await bench.accept("a.jpg", "b.jpg", "c.jpg")
    await bench.store.take_up(batch_id, 0)
    await bench.store.finish(batch_id, 0, analysis_id=await bench.analysis())
    await bench.store.take_up(batch_id, 1)
    assert await bench.store.end(batch_id, ending)
    assert not await bench.store.end(batch_id, ending)
    # The worker of the second picture comes too late.
    assert not await bench.store.finish(batch_id, 1, analysis_id=await bench.analysis())
    batch = await bench.batches.get(str(batch_id), items=True)
    assert batch.state == state
    assert (batch.processed_count, batch.failed_count) == (1, 2)
    assert [item.error_reason for item in batch.items] == ["", reason, reason]
    # Of the jobs only that of the first picture is left, which no worker took here; it finds nothing to do.
    assert ask(bench.url, "SELECT args ->> 'position' FROM procrastinate_jobs") == [("0",)]
    await bench.work().run(batch_id, 0)
    assert bench.engine.calls == 0


async def test_a_request_is_accepted_once(bench):
    first = await bench.accept("a.jpg", request_id="mine")
    assert await bench.accept("a.jpg", request_id="mine") == first
    with pytest.raises(InvalidInput) as refused:
        await bench.accept("b.jpg", request_id="mine")
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert ask(bench.url, "SELECT count(*) FROM batches") == [(1,)]
    assert [item.key async for item in bench.objects.list("uploads/")] == [f"uploads/{first}/000"]


async def test_no_more_is_accepted_than_can_wait(bench):
    for _ in range(2):
        await bench.accept(*(f"{number}.jpg" for number in range(50)))
    with pytest.raises(Overloaded) as refused:
        await bench.accept("one-too-many.jpg")
    assert refused.value.reason == "QUEUE_FULL"


async def test_more_than_fifty_are_refused_and_nothing_is_kept(bench):
    with pytest.raises(InvalidInput) as refused:
        await bench.accept(*(f"{number}.jpg" for number in range(51)))
    assert refused.value.reason == "TOO_MANY_IMAGES"
    assert [item.key async for item in bench.objects.list("uploads/")] == []


# ---- working ----


async def test_workers_share_the_work_and_lose_nothing(bench):
    batch_ids = [await bench.accept(*(f"{number}-{n}.jpg" for n in range(10))) for number in range(3)]
    async with bench.worker().running(), bench.worker().running():
        batches = [await bench.ended(batch_id) for batch_id in batch_ids]
    for batch in batches:
        assert batch.state == batch_service_pb2.BATCH_STATE_COMPLETED
        assert (batch.processed_count, batch.failed_count) == (10, 0)
    assert bench.engine.calls == 30
    page = await bench.analyses.list(page_size=100, token="", which=AnalysisFilter())
    assert len(page.analyses) == 30
    # Finished jobs leave nothing behind.
    assert ask(bench.url, "SELECT count(*) FROM procrastinate_jobs") == [(0,)]


async def test_the_job_of_a_dead_worker_is_done_by_another(bench):
    batch_id = await bench.accept("a.jpg")
    # As a worker leaves it that is killed in the midst of it.
    with psycopg.connect(bench.url, autocommit=True) as connection:
        (dead,) = connection.execute(
            "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute') RETURNING id"
        ).fetchone()
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s", (dead,))
    await bench.store.take_up(batch_id, 0)
    async with bench.worker().running():
        batch = await bench.ended(batch_id, seconds=20)
    assert batch.processed_count == 1


@asynccontextmanager
async def outage(bench, postgres):
    """The database refuses all, and ends the connections that there are, during the body of the `async with`."""
    name = bench.url.rpartition("/")[2]
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def until(url, query, wanted):
    for _ in range(200):
        if (found := ask(url, query)) == [(wanted,)]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{found} instead of {wanted}: {query}")


async def test_a_worker_hears_and_is_heard_again_after_an_outage(bench, postgres):
    # One for pictures, one for announcements.
    alive = "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - interval '2 seconds'"
    listening = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN %'"
    )
    async with bench.worker().running():
        await until(bench.url, listening, 2)
        for _ in range(3):
            async with outage(bench, postgres):
                await asyncio.sleep(0.5)
            await until(bench.url, listening, 2)
        await asyncio.sleep(3)
        await until(bench.url, alive, 2)
        batch_id = await bench.accept("a.jpg")
        assert (await bench.ended(batch_id, seconds=20)).processed_count == 1


async def test_a_picture_in_progress_during_an_outage_is_not_begun_again(bench, postgres):
    began, may_end = asyncio.Event(), asyncio.Event()

    async def take_long():
        began.set()
        await may_end.wait()

    bench.engine.answers = [take_long]
    batch_id = await bench.accept("a.jpg")
    async with bench.worker(images=bench.work(image_seconds=30.0)).running():
        await asyncio.wait_for(began.wait(), 20)
        async with outage(bench, postgres):
            await asyncio.sleep(0.5)
        # Longer than a worker may be silent before its jobs are given to others.
        await asyncio.sleep(8)
        may_end.set()
        assert (await bench.ended(batch_id)).processed_count == 1
    assert bench.engine.calls == 1


async def test_a_picture_without_a_job_gets_one(bench):
    batch_id = await bench.accept("a.jpg", "b.jpg")
    with psycopg.connect(bench.url, autocommit=True) as connection:
        connection.execute("DELETE FROM procrastinate_jobs")
    assert await bench.store.requeue_lost() == 2
    assert await bench.store.requeue_lost() == 0
    async with bench.worker().running():
        assert (await bench.ended(batch_id)).processed_count == 2


async def test_a_worker_that_is_stopped_gives_back_what_it_cannot_finish(bench):
    began = asyncio.Event()

    async def hang():
        began.set()
        await asyncio.sleep(60)

    bench.engine.answers = [hang]
    batch_id = await bench.accept("a.jpg")
    async with bench.worker(grace_seconds=0.2).running():
        await asyncio.wait_for(began.wait(), 20)
    assert ask(bench.url, "SELECT state, attempts FROM batch_items") == [("waiting", 0)]
    assert ask(bench.url, "SELECT status::text FROM procrastinate_jobs") == [("todo",)]
    async with bench.worker().running():
        assert (await bench.ended(batch_id)).processed_count == 1


async def test_stopping_a_batch_stops_the_work_at_once(bench):
    began, stopped = asyncio.Event(), asyncio.Event()

    async def hang():
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise

    bench.engine.answers = [hang]
    batch_id = await bench.accept("a.jpg")
    async with bench.worker().running():
        await asyncio.wait_for(began.wait(), 20)
        await bench.batches.cancel(str(batch_id))
        await asyncio.wait_for(stopped.wait(), 10)
    batch = await bench.batches.get(str(batch_id), items=True)
    assert batch.state == batch_service_pb2.BATCH_STATE_INTERRUPTED
    assert bench.engine.calls == 1


async def test_a_batch_is_stopped_for_who_goes_away_but_not_because_we_end(bench):
    left, cut_off = await bench.accept("a.jpg"), await bench.accept("b.jpg")
    bench.batches.cancel_soon(left)
    assert (await bench.ended(left)).state == batch_service_pb2.BATCH_STATE_INTERRUPTED
    bench.batches.cancel_soon(cut_off)
    bench.batches.close()
    await asyncio.sleep(2)
    assert await bench.store.state(cut_off) == "processing"


async def test_a_batch_that_no_worker_ends_is_ended_by_who_looks(bench):
    batch_id = await bench.accept("a.jpg")
    await bench.store.take_up(batch_id, 0)
    with psycopg.connect(bench.url, autocommit=True) as connection:
        connection.execute("UPDATE batches SET start_time = now() - interval '61 seconds'")
    batch = await bench.batches.get(str(batch_id), items=True)
    assert (batch.state, batch.error_message) == (batch_service_pb2.BATCH_STATE_FAILED, "Processing timeout exceeded")
    assert batch.items[0].error_reason == "BATCH_TIMEOUT"


async def test_an_announcement_is_repeated_until_it_is_confirmed(bench, monkeypatch):
    monkeypatch.setattr("services.orchestrator.batch_worker.DELAYS", (0.1, 0.1, 0.1))
    bench.poster.statuses = [500, 302, 204]
    batch_id = await bench.accept("a.jpg", webhook_uri="http://example.org/")
    async with bench.worker().running():
        await bench.ended(batch_id)
        for _ in range(200):
            if ask(bench.url, "SELECT count(*) FROM procrastinate_jobs") == [(0,)]:
                break
            await asyncio.sleep(0.1)
    assert bench.poster.posts == [f"msg_{batch_id}"] * 3


async def test_an_announcement_is_given_up_in_the_end(bench, monkeypatch):
    monkeypatch.setattr("services.orchestrator.batch_worker.DELAYS", (0.1,))
    bench.poster.statuses = [500] * 10
    batch_id = await bench.accept("a.jpg", webhook_uri="http://example.org/")
    async with bench.worker().running():
        await bench.ended(batch_id)
        for _ in range(200):
            if ask(bench.url, "SELECT count(*) FROM procrastinate_jobs") == [(0,)]:
                break
            await asyncio.sleep(0.1)
    assert len(bench.poster.posts) == 2


# ---- one picture ----


async def test_a_part_that_is_away_for_a_moment_is_waited_for(bench):
    bench.engine.answers = [detection_pb2.Missing(part="age", reason="MODEL_UNAVAILABLE"), None]
    batch_id = await bench.accept("a.jpg")
    await bench.work().run(batch_id, 0)
    batch = await bench.batches.get(str(batch_id), items=True)
    assert bench.engine.calls == 2
    assert not batch.items[0].analysis.missing
    # What was not accepted is not kept either.
    page = await bench.analyses.list(page_size=100, token="", which=AnalysisFilter())
    assert [analysis.name for analysis in page.analyses] == [batch.items[0].analysis.name]


async def test_a_part_that_stays_away_is_reported(bench):
    bench.engine.answers = [detection_pb2.Missing(part="age", reason="MODEL_UNAVAILABLE") for _ in range(20)]
    batch_id = await bench.accept("a.jpg")
    await bench.work(image_seconds=2.5).run(batch_id, 0)
    batch = await bench.batches.get(str(batch_id), items=True)
    assert [item.part for item in batch.items[0].analysis.missing] == ["age"]
    assert batch.state == batch_service_pb2.BATCH_STATE_COMPLETED


async def test_a_part_that_one_picture_waited_for_in_vain_does_not_hold_up_the_next(bench):
    bench.engine.answers = [detection_pb2.Missing(part="age", reason="MODEL_UNAVAILABLE") for _ in range(20)]
    batch_id = await bench.accept("a.jpg", "b.jpg")
    work = bench.work(image_seconds=2.5)
    await work.run(batch_id, 0)
    calls = bench.engine.calls
    assert calls > 1
    await work.run(batch_id, 1)
    assert bench.engine.calls == calls + 1


async def test_a_picture_that_takes_too_long_fails_by_itself(bench):
    async def hang():
        await asyncio.sleep(60)

    bench.engine.answers = [hang]
    batch_id = await bench.accept("a.jpg", "b.jpg")
    work = bench.work(image_seconds=1.0)
    await work.run(batch_id, 0)
    await work.run(batch_id, 1)
    batch = await bench.batches.get(str(batch_id), items=True)
    assert [item.error_reason for item in batch.items] == ["DEADLINE_EXCEEDED", ""]
    assert batch.items[0].error_message == "Image analysis exceeded 1 second timeout"


async def test_when_nobody_answers_it_is_tried_again_and_given_up_in_the_end(bench):
    work = bench.work()
    batch_id = await bench.accept("a.jpg")
    bench.engine.answers = [Unavailable("Nobody answers.", reason="NO_ANALYZER") for _ in range(MAX_ATTEMPTS)]
    pauses = []
    for _ in range(MAX_ATTEMPTS - 1):
        with pytest.raises(Again) as again:
            await work.run(batch_id, 0)
        pauses.append(again.value.seconds)
    assert pauses == sorted(pauses)
    assert sum(pauses) > 60
    await work.run(batch_id, 0)
    batch = await bench.batches.get(str(batch_id), items=True)
    assert batch.items[0].error_reason == "NO_ANALYZER"


async def test_a_picture_that_kills_its_workers_is_given_up(bench):
    batch_id = await bench.accept("a.jpg")
    for _ in range(MAX_ATTEMPTS):
        await bench.store.take_up(batch_id, 0)
    await bench.work().run(batch_id, 0)
    batch = await bench.batches.get(str(batch_id), items=True)
    assert batch.items[0].error_reason == "WORKER_CRASHED"
    assert bench.engine.calls == 0


async def test_a_worker_killed_between_analysis_and_result_counts_once(bench):
    batch_id = await bench.accept("a.jpg")
    work = bench.work()
    kept = analysis_pb2.Analysis(name=f"analyses/{uuid.uuid5(batch_id, '0')}", filename="a.jpg")
    kept.image.sha256 = "0" * 64
    kept.create_time.GetCurrentTime()
    await bench.store.take_up(batch_id, 0)
    await bench.analyses.keep(kept)
    # Here it dies, and another does it again.
    await work.run(batch_id, 0)
    page = await bench.analyses.list(page_size=100, token="", which=AnalysisFilter())
    assert [analysis.name for analysis in page.analyses] == [kept.name]
    assert ask(bench.url, "SELECT count(*) FROM audit") == [(1,)]


async def test_a_defect_costs_one_picture_and_says_nothing_of_itself(bench):
    bench.engine.answers = [RuntimeError("secret")]
    batch_id = await bench.accept("a.jpg")
    await bench.work().run(batch_id, 0)
    batch = await bench.batches.get(str(batch_id), items=True)
    assert batch.items[0].error_reason == "INTERNAL"
    assert "secret" not in batch.items[0].error_message


# ---- uploads ----


async def test_uploads_are_deleted_when_their_time_is_over_and_results_stay(bench):
    batch_id = await bench.accept("a.jpg")
    waiting = await bench.accept("b.jpg")
    await bench.store.take_up(batch_id, 0)
    await bench.store.finish(batch_id, 0, analysis_id=await bench.analysis())
    assert await delete_expired_uploads(bench.store, bench.objects) == 0
    with psycopg.connect(bench.url, autocommit=True) as connection:
        connection.execute("UPDATE batches SET expire_time = now() - interval '1 second'")
    assert await delete_expired_uploads(bench.store, bench.objects) == 1
    assert await delete_expired_uploads(bench.store, bench.objects) == 0
    # A batch that is being worked on needs its pictures.
    assert [item.key async for item in bench.objects.list("uploads/")] == [f"uploads/{waiting}/000"]
    batch = await bench.batches.get(str(batch_id), items=True)
    assert batch.processed_count == 1
    assert not batch.HasField("expire_time")


async def test_what_belongs_to_nobody_is_swept_when_it_is_old(bench):
    batch_id = await bench.accept("a.jpg")
    await bench.objects.put(f"uploads/{uuid.uuid4()}/000", b"left by a crash")
    assert await sweep_orphans(bench.store, bench.objects) == 0
    assert await sweep_orphans(bench.store, bench.objects, age=dt.timedelta(0)) == 1
    assert [item.key async for item in bench.objects.list("uploads/")] == [f"uploads/{batch_id}/000"]


async def test_deleting_a_batch_stops_it_first_and_leaves_nothing(bench):
    batch_id = await bench.accept("a.jpg", "b.jpg")
    await bench.work().run(batch_id, 0)
    with psycopg.connect(bench.url, autocommit=True) as connection:  # as the worker does it that ran it
        connection.execute("DELETE FROM procrastinate_jobs WHERE args ->> 'position' = '0'")
    await bench.batches.delete(f"batches/{batch_id}")
    assert [item.key async for item in bench.objects.list("uploads/")] == []
    for table in ("batches", "batch_items", "analyses", "procrastinate_jobs"):
        assert ask(bench.url, f"SELECT count(*) FROM {table}") == [(0,)], table
    with pytest.raises(NotFound):
        await bench.batches.delete(f"batches/{batch_id}")


async def test_an_analysis_that_ends_as_its_batch_is_deleted_goes_too(bench):
    batch_id = await bench.accept("a.jpg")

    async def delete():
        await bench.batches.delete(f"batches/{batch_id}")

    bench.engine.answers = [delete]
    await bench.work().run(batch_id, 0)
    assert ask(bench.url, "SELECT count(*) FROM analyses") == [(0,)]
    assert ask(bench.url, "SELECT action FROM audit ORDER BY id") == [("analyze",), ("delete",)]


async def test_pages(bench):
    ids = [await bench.accept(f"{number}.jpg") for number in range(5)]
    names, token = [], ""
    while True:
        page = await bench.batches.page(page_size=2, token=token, state=0)
        names += [batch.name for batch in page.batches]
        token = page.next_token
        if not token:
            break
    assert names == [f"batches/{batch_id}" for batch_id in reversed(ids)]
    await bench.batches.cancel(str(ids[0]))
    page = await bench.batches.page(page_size=9, token="", state=batch_service_pb2.BATCH_STATE_INTERRUPTED)
    assert [batch.name for batch in page.batches] == [f"batches/{ids[0]}"]
    with pytest.raises(InvalidInput):
        await bench.batches.page(page_size=9, token="nonsense", state=0)


async def test_without_a_database_batches_are_refused():
    store = BatchStore(None, JobQueue(), batch_seconds=60)
    with pytest.raises(Unavailable) as refused:
        await store.count_waiting()
    assert refused.value.reason == "NO_DATABASE"
