"""Pentimento's own API for batches: converts, calls `Batches`, converts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final

import grpc
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import batch_service_pb2 as pb
from pentimento.orchestrator.v1 import batch_service_pb2_grpc as pb_grpc

from services.orchestrator.batches import Batches
from services.orchestrator.intake import Intake, Source

__all__ = ["BatchServicer"]

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200


class BatchServicer(pb_grpc.BatchServiceServicer):
    """Implements `pentimento.orchestrator.v1.BatchService`; the contract describes the RPCs."""

    def __init__(self, batches: Batches, intake: Intake) -> None:
        self._batches = batches
        self._intake = intake

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_BatchServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["BatchService"].full_name]

    async def CreateBatch(self, request: pb.CreateBatchRequest, context: Context) -> pb.CreateBatchResponse:
        batch_id = await self._batches.accept(
            self._sources(request.images),
            request.options,
            webhook_uri=request.webhook_uri,
            request_id=request.request_id,
        )
        return pb.CreateBatchResponse(batch=await self._batches.get(str(batch_id), items=False))

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        return pb.GetBatchResponse(batch=await self._batches.get(request.name, items=True))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> pb.ListBatchesResponse:
        page = await self._batches.page(
            page_size=min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE),
            token=request.page_token,
            state=request.state,
        )
        return pb.ListBatchesResponse(batches=page.batches, next_page_token=page.next_token)

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: Context) -> pb.CancelBatchResponse:
        await self._batches.cancel(request.name)
        return pb.CancelBatchResponse(batch=await self._batches.get(request.name, items=False))

    async def WatchBatch(self, request: pb.WatchBatchRequest, context: Context) -> AsyncIterator[pb.WatchBatchResponse]:
        async with aclosing(self._batches.watch(request.name)) as changes:
            async for batch, is_last in changes:
                yield pb.WatchBatchResponse(batch=batch, done=is_last)

    async def DeleteBatch(self, request: pb.DeleteBatchRequest, context: Context) -> pb.DeleteBatchResponse:
        await self._batches.delete(request.name)
        return pb.DeleteBatchResponse()

    async def _sources(self, images: Sequence[analysis_pb2.ImageSource]) -> AsyncIterator[Source]:
        for image in images:
            yield self._intake.source_of(image)
