"""Which parts of the mesh can do their work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pentimento.orchestrator.v1 import system_service_pb2 as pb

from services.common.errors import Unavailable
from services.common.triton import TritonClient
from services.common.version import VERSION
from services.orchestrator.analyzers import Analyzers
from services.orchestrator.batch_store import BatchStore
from services.orchestrator.storage import AnalysisStore

__all__ = ["HealthReporter"]

CHECK_SECONDS: Final = 1.5
WORKER_SECONDS: Final = 5.0
"""A worker says once a second that it lives."""

ANALYZER_NAMES: Final = {
    "passive": "pentimento.passive.v1.PassiveService",
    "deeplearning": "pentimento.deeplearning.v1.DeepLearningService",
    "faces": "pentimento.faces.v1.FacesService",
}


class HealthReporter:
    """Asks every part how it is, side by side.

    Args:
        channels: to the analysers, by service name.
        triton: a client of Triton.
        store: the database.
        analyzers: know the versions of the services.
        batches: know the workers.
    """

    def __init__(
        self,
        channels: Mapping[str, grpc.aio.Channel],
        triton: TritonClient,
        store: AnalysisStore,
        analyzers: Analyzers,
        batches: BatchStore,
    ) -> None:
        self._channels = channels
        self._triton = triton
        self._store = store
        self._analyzers = analyzers
        self._batches = batches

    async def report(self) -> pb.GetHealthResponse:
        """The health of all parts; DOWN as a whole only if no analyser answers, for then nothing can be analysed."""
        parts = [pb.PartHealth(part="orchestrator", state=pb.PART_STATE_SERVING, version=VERSION)]
        parts += await asyncio.gather(
            *(self._analyzer(service) for service in ANALYZER_NAMES),
            self._triton_part(),
            self._database_part(),
            self._worker_part(),
        )
        analyzers = [part.state for part in parts if part.part in ANALYZER_NAMES]
        if all(state != pb.PART_STATE_SERVING for state in analyzers):
            state = pb.PART_STATE_DOWN
        elif all(part.state == pb.PART_STATE_SERVING for part in parts):
            state = pb.PART_STATE_SERVING
        else:
            state = pb.PART_STATE_DEGRADED
        return pb.GetHealthResponse(state=state, version=VERSION, parts=parts)

    async def _analyzer(self, service: str) -> pb.PartHealth:
        stub: Any = health_pb2_grpc.HealthStub(self._channels[service])
        request = health_pb2.HealthCheckRequest(service=ANALYZER_NAMES[service])
        try:
            answer = await stub.Check(request, timeout=CHECK_SECONDS)
        except grpc.aio.AioRpcError as error:
            return pb.PartHealth(
                part=service, state=pb.PART_STATE_DOWN, message=f"does not answer ({error.code().name.lower()})"
            )
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            return pb.PartHealth(part=service, state=pb.PART_STATE_DEGRADED, message="answers, but is not serving")
        versions = await self._analyzers.service_versions()
        return pb.PartHealth(part=service, state=pb.PART_STATE_SERVING, version=versions.get(service, ""))

    async def _triton_part(self) -> pb.PartHealth:
        if await self._triton.is_ready():
            return pb.PartHealth(
                part="triton", state=pb.PART_STATE_SERVING, version=await self._triton.server_version()
            )
        return pb.PartHealth(
            part="triton", state=pb.PART_STATE_DOWN, message="does not answer: no network can be asked"
        )

    async def _database_part(self) -> pb.PartHealth:
        if not self._store.configured:
            return pb.PartHealth(
                part="database", state=pb.PART_STATE_SERVING, message="none: this deployment keeps no analyses"
            )
        if version := await self._store.server_version():
            return pb.PartHealth(part="database", state=pb.PART_STATE_SERVING, version=version)
        return pb.PartHealth(
            part="database", state=pb.PART_STATE_DOWN, message="does not answer: analyses are not kept"
        )

    async def _worker_part(self) -> pb.PartHealth:
        if not self._store.configured:
            return pb.PartHealth(
                part="worker", state=pb.PART_STATE_SERVING, message="none: this deployment takes no batches"
            )
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                workers = await self._batches.live_workers(seconds=WORKER_SECONDS)
        except (Unavailable, TimeoutError):
            workers = 0
        if workers:
            return pb.PartHealth(part="worker", state=pb.PART_STATE_SERVING)
        return pb.PartHealth(part="worker", state=pb.PART_STATE_DOWN, message="none gives a sign of life: batches wait")
