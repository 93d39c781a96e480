"""Questions to one service outside of analyses: so many at a time, and one more is told to come back."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from pentimento.faces.v1 import faces_service_pb2 as pb
from pentimento.faces.v1 import faces_service_pb2_grpc as pb_grpc

from services.common.errors import Overloaded
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.wiring import direct_clients


class SlowFaces(pb_grpc.FacesServiceServicer):
    """Answers lists at once, and everything else when told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.go_on = asyncio.Event()

    async def ClassifyKind(self, request, context):
        self.asked.release()
        await self.go_on.wait()
        return pb.ClassifyKindResponse()

    async def ListDetectors(self, request, context):
        return pb.ListDetectorsResponse(service_version="1")


@asynccontextmanager
async def faces_client(most, waiting=0):
    service = SlowFaces()
    server = grpc.aio.server()
    pb_grpc.add_FacesServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        settings = OrchestratorSettings(max_concurrent_questions=most, max_waiting_questions=waiting)
        channels = dict.fromkeys(("passive", "deeplearning", "faces"), channel)
        yield service, direct_clients(settings, channels)[2]
    await server.stop(None)


async def test_one_more_than_may_be_in_progress_is_refused_at_once():
    async with faces_client(2) as (service, client), asyncio.timeout(30):
        under_way = [asyncio.create_task(client.classify_kind(b"")) for _ in range(2)]
        for _ in under_way:
            await service.asked.acquire()
        with pytest.raises(Overloaded) as refused:
            await client.classify_kind(b"")
        assert refused.value.retry_after_seconds > 0
        assert (await client.list_detectors()).service_version == "1", "what costs nothing is not counted"
        service.go_on.set()
        await asyncio.gather(*under_way)
        await client.classify_kind(b"")


async def test_a_caller_that_goes_away_gives_its_place_up():
    async with faces_client(1) as (service, client), asyncio.timeout(30):
        gone = asyncio.create_task(client.classify_kind(b""))
        await service.asked.acquire()
        gone.cancel()
        await asyncio.wait([gone])
        service.go_on.set()
        await client.classify_kind(b"")


async def test_those_who_may_wait_are_answered_in_their_turn():
    async with faces_client(1, waiting=2) as (service, client), asyncio.timeout(30):
        first, *others = [asyncio.create_task(client.classify_kind(b"")) for _ in range(3)]
        await service.asked.acquire()
        with pytest.raises(Overloaded):
            await client.classify_kind(b"")
        assert service.asked.locked(), "one at a time"
        service.go_on.set()
        await asyncio.gather(first, *others)


async def test_who_waits_and_goes_away_keeps_nobody_waiting():
    async with faces_client(1, waiting=1) as (service, client), asyncio.timeout(30):
        first = asyncio.create_task(client.classify_kind(b""))
        await service.asked.acquire()
        gone = asyncio.create_task(client.classify_kind(b""))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        second = asyncio.create_task(client.classify_kind(b""))
        await asyncio.sleep(0)
        service.go_on.set()
        await asyncio.gather(first, second)
