"""Document 001, the manipulation API: where a picture was manipulated, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc
from google.api import httpbody_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1 import documented_services_pb2_grpc as pb_grpc

from services.common.errors import Unavailable
from services.orchestrator.intake import Intake
from services.orchestrator.ports import DeepLearningClient
from services.orchestrator.rest.http import Context, Reply, base64_text, respond, rounded

__all__ = ["ManipulationServicer"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})
FILE_FIELDS: Final = ("image", "file", "files")

PRISTINE: Final = "pristine"
"""The network's class that document 001 does not know: its clients expect one of four manipulations."""


class ManipulationServicer(pb_grpc.ManipulationServiceServicer):
    """Answers document 001's requests.

    Args:
        deeplearning: asks the networks.
        intake: reads requests.
    """

    def __init__(self, deeplearning: DeepLearningClient, intake: Intake) -> None:
        self._deeplearning = deeplearning
        self._intake = intake

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_ManipulationServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["ManipulationService"].full_name]

    async def Segment(self, request: pb.ManipulationServiceSegmentRequest, context: Context) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            answer = await self._deeplearning.segment(await self._picture(request.body))
            return Reply(
                {
                    "mask": base64_text(answer.mask_png),
                    "overlay": base64_text(answer.overlay_png),
                    "masked_image": base64_text(answer.masked_image_png),
                    "manipulated_share": rounded(answer.manipulated_share),
                }
            )

        return await respond(context, call)

    async def Classify(self, request: pb.ManipulationServiceClassifyRequest, context: Context) -> httpbody_pb2.HttpBody:
        async def call() -> Reply:
            answer = await self._deeplearning.classify(await self._picture(request.body))
            manipulations = [known for known in answer.classes if known.class_name != PRISTINE]
            if not manipulations:
                raise Unavailable("The classifier gave no class.")
            likeliest = max(manipulations, key=lambda known: known.probability)
            knows_pristine = len(manipulations) < len(answer.classes)
            total = sum(known.probability for known in manipulations)
            return Reply(
                {
                    "class_id": likeliest.class_id,
                    "class_name": likeliest.class_name,
                    "confidence": rounded(likeliest.probability),
                    "manipulated": total >= 0.5 if knows_pristine else None,
                    "probabilities": {known.class_name: rounded(known.probability) for known in answer.classes},
                }
            )

        return await respond(context, call)

    async def _picture(self, body: httpbody_pb2.HttpBody) -> bytes:
        upload = await self._intake.single(body, fields=FILE_FIELDS)
        await self._intake.check(upload, FORMATS)
        return upload.content
