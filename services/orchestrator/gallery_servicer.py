"""Pentimento's own API for the gallery: converts, calls, converts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import grpc
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import gallery_service_pb2 as pb
from pentimento.orchestrator.v1 import gallery_service_pb2_grpc as pb_grpc

from services.common.errors import InvalidInput
from services.orchestrator.analyzers import FacesClient
from services.orchestrator.gallery import EnrolledFace, Gallery
from services.orchestrator.intake import Intake

__all__ = ["GalleryServicer"]

Context = grpc.aio.ServicerContext[Any, Any]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP"})
DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000
DEFAULT_MATCHES: Final = 5
LOOKED_AT_AT_ONCE: Final = 2
"""Pictures of one person that are looked at side by side."""


class GalleryServicer(pb_grpc.GalleryServiceServicer):
    """Implements `pentimento.orchestrator.v1.GalleryService`; the contract describes the RPCs."""

    def __init__(self, gallery: Gallery, faces: FacesClient, intake: Intake) -> None:
        self._gallery = gallery
        self._faces = faces
        self._intake = intake

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_GalleryServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["GalleryService"].full_name]

    async def CreatePerson(self, request: pb.CreatePersonRequest, context: Context) -> pb.CreatePersonResponse:
        store = self._gallery.store(biometric=True)
        places = asyncio.Semaphore(LOOKED_AT_AT_ONCE)

        async def look(index: int, image: analysis_pb2.ImageSource) -> EnrolledFace:
            async with places:
                return await self._face_of(image, field=f"images[{index}]")

        faces = await asyncio.gather(*(look(*item) for item in enumerate(request.images)))
        return pb.CreatePersonResponse(person=await store.create(request.person, faces))

    async def ListPeople(self, request: pb.ListPeopleRequest, context: Context) -> pb.ListPeopleResponse:
        store = self._gallery.store(biometric=False)
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        page = await store.page(page_size=size, token=request.page_token)
        return pb.ListPeopleResponse(people=page.people, next_page_token=page.next_token)

    async def DeletePerson(self, request: pb.DeletePersonRequest, context: Context) -> pb.DeletePersonResponse:
        await self._gallery.store(biometric=False).delete(request.name)
        return pb.DeletePersonResponse()

    async def SearchPeople(self, request: pb.SearchPeopleRequest, context: Context) -> pb.SearchPeopleResponse:
        store = self._gallery.store(biometric=True)
        upload = await self._intake.from_source(request.image)
        await self._intake.check(upload, FORMATS)
        embedded = await self._faces.embed_faces(upload.content)
        most = request.max_matches or DEFAULT_MATCHES
        answer = pb.SearchPeopleResponse(
            threshold=embedded.threshold,
            false_match_rate=embedded.false_match_rate,
            people_count=await store.count(),
        )
        # At least one of so many, each by itself with this rate: an upper bound, for people's faces are no strangers'.
        answer.gallery_false_match_rate = 1.0 - (1.0 - answer.false_match_rate) ** answer.people_count
        for face in embedded.faces:
            matches = await store.nearest(face.embedding, most=most, threshold=embedded.threshold)
            face.ClearField("embedding")  # biometric data: it does not leave
            answer.faces.append(pb.FaceMatches(face=face, matches=matches))
        return answer

    async def _face_of(self, image: analysis_pb2.ImageSource, *, field: str) -> EnrolledFace:
        """The one face of a picture that is to be enrolled."""
        upload = await self._intake.from_source(image)
        await self._intake.check(upload, FORMATS)
        faces = (await self._faces.embed_faces(upload.content)).faces
        if len(faces) != 1:
            found = f"{len(faces)} faces were" if faces else "no face was"
            raise InvalidInput(
                f"A picture to be enrolled shows exactly one face; {found} found.",
                reason="NOT_ONE_FACE",
                field=field,
            )
        return EnrolledFace(hashlib.sha256(upload.content).hexdigest(), faces[0].embedding)
