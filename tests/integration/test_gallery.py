"""The gallery in a real PostgreSQL with pgvector: enrolled, found, deleted; and what a deployment may forbid of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import numpy as np
import psycopg
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pentimento.common.v1 import face_pb2
from pentimento.faces.v1 import faces_service_pb2 as faces_pb
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.orchestrator.v1 import gallery_service_pb2 as pb
from pentimento.orchestrator.v1 import gallery_service_pb2_grpc as pb_grpc
from PIL import Image

from services.common.images import ImageLimits
from services.common.interceptor import CallInterceptor
from services.common.limiter import WorkLimiter
from services.orchestrator.fetching import UrlFetcher
from services.orchestrator.gallery import Gallery, GalleryStore
from services.orchestrator.gallery_servicer import GalleryServicer
from services.orchestrator.intake import Intake
from services.orchestrator.storage import AnalysisStore

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

THRESHOLD = 0.6
VERSION = "one"


def direction(seed: int) -> np.ndarray:
    """Where the faces of one person lie; two people are at right angles, all but."""
    vector = np.random.default_rng(seed).normal(size=512)
    return vector / np.linalg.norm(vector)


def embedding(seed: int, *, near: float = 0.02, noise: int = 0) -> face_pb2.Embedding:
    """A face of the person `seed`, a little off."""
    vector = direction(seed) + near * direction(10_000 + noise) * np.sqrt(512) / 20
    return face_pb2.Embedding(values=vector / np.linalg.norm(vector), model="facenet", model_version=VERSION)


def picture(person: int, *, faces: int = 1, number: int = 0) -> bytes:
    """A picture from which `Faces` reads who is in it: the colour is the person, the height how many."""
    buffer = io.BytesIO()
    Image.new("RGB", (64 + number, 10 * (faces + 1)), (person, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class Faces:
    """Stands for the faces service: its networks are not the matter here."""

    def __init__(self) -> None:
        self.version = VERSION

    async def embed_faces(self, content: bytes, *, max_faces: int = 0) -> faces_pb.EmbedFacesResponse:
        with Image.open(io.BytesIO(content)) as image:
            person, count, noise = image.getpixel((0, 0))[0], image.height // 10 - 1, image.width
        found = [
            face_pb2.Face(confidence=0.9, embedding=embedding(person + each, noise=noise)) for each in range(count)
        ]
        for face in found:
            face.embedding.model_version = self.version
        return faces_pb.EmbedFacesResponse(faces=found, threshold=THRESHOLD, false_match_rate=0.001)


class Front:
    """The gallery's API on a port of this machine."""

    def __init__(self, stub, faces: Faces) -> None:
        self.stub = stub
        self.faces = faces

    async def enrol(self, name: str, *pictures: bytes, consent: str = "signed form, 3 May 2026") -> pb.Person:
        request = pb.CreatePersonRequest(
            person=pb.Person(display_name=name, consent=consent, source="press kit"),
            images=[analysis_pb2.ImageSource(content=each) for each in pictures],
        )
        return (await self.stub.CreatePerson(request)).person

    async def search(self, content: bytes, **options) -> pb.SearchPeopleResponse:
        request = pb.SearchPeopleRequest(image=analysis_pb2.ImageSource(content=content), **options)
        return await self.stub.SearchPeople(request)

    async def names(self) -> list[str]:
        return [person.display_name for person in (await self.stub.ListPeople(pb.ListPeopleRequest())).people]


@asynccontextmanager
async def serving(url: str, *, enabled: bool = True, biometrics: bool = True):
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(GalleryStore.connect(url)) if url else None
        fetcher = await stack.enter_async_context(UrlFetcher())
        work = WorkLimiter(workers=2, queue=64)
        stack.callback(work.close)
        intake = Intake(fetcher, work=work, limits=ImageLimits())
        faces = Faces()
        server = grpc.aio.server(interceptors=[CallInterceptor()])
        GalleryServicer(Gallery(store, enabled=enabled, biometrics=biometrics), faces, intake).register(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        yield Front(pb_grpc.GalleryServiceStub(channel), faces)


@pytest_asyncio.fixture
async def front(url):
    async with serving(url) as front:
        while True:  # until the tables are there
            with contextlib.suppress(grpc.aio.AioRpcError):
                await front.names()
                break
        yield front


def ask(url: str, query: str) -> list[tuple]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()


async def refusal(awaitable) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    reason = field = ""
    for detail in rpc_status.from_call(caught.value).details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            field = bad.field_violations[0].field
    return caught.value.code(), reason, field


async def test_who_is_enrolled_is_found_and_nobody_else(front):
    ada = await front.enrol("Ada", picture(10), picture(10, number=1))
    bob = await front.enrol("Bob", picture(20))
    assert (ada.picture_count, bob.picture_count) == (2, 1)
    assert ada.consent == "signed form, 3 May 2026"
    assert ada.name.startswith("people/")
    answer = await front.search(picture(10, number=7))
    (found,) = answer.faces
    assert [(match.person.display_name, match.above_threshold) for match in found.matches] == [
        ("Ada", True),
        ("Bob", False),
    ]
    assert found.matches[0].similarity > 0.9 > THRESHOLD > found.matches[1].similarity
    assert found.matches[0].person == ada, "one match a person, however many pictures"
    assert not found.face.HasField("embedding"), "biometric data does not leave"
    assert (answer.threshold, answer.false_match_rate, answer.people_count) == (THRESHOLD, 0.001, 2)
    assert answer.gallery_false_match_rate == pytest.approx(1 - 0.999**2)
    stranger = await front.search(picture(200))
    assert not any(match.above_threshold for match in stranger.faces[0].matches)


async def test_each_face_of_a_picture_has_its_own_matches_and_at_most_k(front):
    for number in range(8):
        await front.enrol(f"Person {number}", picture(30 + number))
    answer = await front.search(picture(32, faces=2, number=5), max_matches=3)
    assert [face.matches[0].person.display_name for face in answer.faces] == [
        "Person 2",
        "Person 3",
    ]
    assert [len(face.matches) for face in answer.faces] == [3, 3]
    for face in answer.faces:
        similarities = [match.similarity for match in face.matches]
        assert similarities == sorted(similarities, reverse=True)


async def test_people_are_listed_by_name_page_by_page(front):
    for name in ("Cy", "Ada", "Bob", "Ada"):
        await front.enrol(name, picture(10))
    seen, token = [], ""
    while True:
        page = await front.stub.ListPeople(pb.ListPeopleRequest(page_size=3, page_token=token))
        seen += [(person.display_name, person.name) for person in page.people]
        token = page.next_page_token
        if not token:
            break
    assert [name for name, _ in seen] == ["Ada", "Ada", "Bob", "Cy"]
    assert len({identifier for _, identifier in seen}) == 4
    code, _, field = await refusal(front.stub.ListPeople(pb.ListPeopleRequest(page_token="nonsense")))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token")


async def test_deleting_a_person_deletes_everything_of_them(front, url):
    ada = await front.enrol("Ada", picture(10), picture(10, number=1))
    await front.enrol("Bob", picture(20))
    await front.stub.DeletePerson(pb.DeletePersonRequest(name=ada.name))
    assert await front.names() == ["Bob"]
    assert ask(url, "SELECT count(*) FROM people_faces") == [(1,)]
    answer = await front.search(picture(10))
    assert [match.person.display_name for match in answer.faces[0].matches] == ["Bob"]
    code, reason, _ = await refusal(front.stub.DeletePerson(pb.DeletePersonRequest(name=ada.name)))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_kept_are_grounds_source_and_digests_never_pictures(front, url):
    content = picture(10)
    await front.enrol("Ada", content)
    ((name, consent, source, digest),) = ask(
        url, "SELECT display_name, consent, source, sha256 FROM people JOIN people_faces ON person_id = id"
    )
    assert (name, consent, source) == ("Ada", "signed form, 3 May 2026", "press kit")
    assert digest == hashlib.sha256(content).hexdigest()
    kinds = ask(url, "SELECT data_type FROM information_schema.columns WHERE table_name LIKE 'people%'")
    assert ("bytea",) not in kinds


async def test_faces_seen_by_another_version_of_the_network_are_not_compared(front):
    await front.enrol("Ada", picture(10))
    front.faces.version = "two"
    assert not (await front.search(picture(10))).faces[0].matches
    await front.enrol("Ada anew", picture(10))
    assert [match.person.display_name for match in (await front.search(picture(10))).faces[0].matches] == ["Ada anew"]


@pytest.mark.parametrize("faces", [0, 2])
async def test_a_picture_to_be_enrolled_shows_exactly_one_face(front, faces):
    code, reason, field = await refusal(front.enrol("Ada", picture(10), picture(10, faces=faces)))
    assert (code, reason, field) == (grpc.StatusCode.INVALID_ARGUMENT, "NOT_ONE_FACE", "images[1]")
    assert await front.names() == [], "all or nothing"


async def test_nobody_is_enrolled_without_stated_grounds(front):
    code, _, field = await refusal(front.enrol("Ada", picture(10), consent=""))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "person.consent")


async def test_off_by_default(url):
    async with serving(url, enabled=False) as front:
        for call in (front.names(), front.enrol("Ada", picture(10)), front.search(picture(10))):
            assert (await refusal(call))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "GALLERY_DISABLED")


async def test_without_biometrics_nobody_is_taken_in_or_looked_for_but_people_can_leave(front, url):
    ada = await front.enrol("Ada", picture(10))
    async with serving(url, biometrics=False) as closed:
        for call in (closed.enrol("Bob", picture(20)), closed.search(picture(10))):
            assert (await refusal(call))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "BIOMETRICS_DISABLED")
        await closed.stub.DeletePerson(pb.DeletePersonRequest(name=ada.name))
    assert await front.names() == []


async def test_without_a_database_it_says_so():
    async with serving("") as front:
        assert (await refusal(front.names()))[:2] == (grpc.StatusCode.UNAVAILABLE, "NO_DATABASE")


async def test_a_deployment_without_a_gallery_has_nothing_of_it_in_its_database(url):
    async with AnalysisStore.connect(url) as store:
        while not await store.server_version():
            pass
        tables = {name for (name,) in ask(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert "analyses" in tables
    assert "people" not in tables


async def test_analyses_come_back_without_biometric_answers_where_a_deployment_gives_none(url):
    face = face_pb2.Face(
        confidence=0.9,
        age=face_pb2.AgeEstimate(years=31),
        gender=face_pb2.GenderEstimate(gender=face_pb2.GENDER_FEMALE),
        kind=face_pb2.KindEstimate(kind=face_pb2.FACE_KIND_HUMAN),
    )
    analysis = analysis_pb2.Analysis(
        name="analyses/0b9b9a0e-5a3c-4d2b-8a52-1a64f6d0c001", fingerprint="f", faces=[face]
    )
    analysis.image.sha256 = "0" * 64
    analysis.create_time.GetCurrentTime()
    async with AnalysisStore.connect(url) as open_store, AnalysisStore.connect(url, biometrics=False) as closed_store:
        for store in (open_store, closed_store):
            while not await store.server_version():
                pass
        await open_store.save(analysis)
        assert (await open_store.get(analysis.name)).faces[0].HasField("age")
        for kept in (await closed_store.get(analysis.name), await closed_store.find("f", max_age_seconds=60)):
            assert not kept.faces[0].HasField("age")
            assert not kept.faces[0].HasField("gender")
            assert kept.faces[0].HasField("kind")
