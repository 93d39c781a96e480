"""The gallery: people whom the operator has enrolled, and the search for those who resemble a face.

Off unless a deployment wants it. Kept are a name, the grounds, the source and the embeddings, never the pictures. The
tables are made by migrations of their own, so that a database without pgvector serves everything else.

Nearest neighbours come from an HNSW index, which is approximate: `benchmarks/gallery.py` measures how often it finds
what an exact search finds, and how fast.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psycopg
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from pentimento.common.v1 import face_pb2
from pentimento.orchestrator.v1 import gallery_service_pb2 as pb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from services.common.errors import Forbidden, NotFound, Unavailable
from services.orchestrator.database import migrating, open_pool
from services.orchestrator.paging import place_of, token_of

__all__ = ["EnrolledFace", "Gallery", "GalleryStore", "PeoplePage", "biometrics_disabled"]

MIGRATIONS: Final = Path(__file__).parent / "gallery_migrations"
CONNECTIONS: Final = 4
ANSWER_SECONDS: Final = 10.0
"""Longest wait for the database."""
READY_SECONDS: Final = 1.0

SEARCH_OPTIONS: Final = "-c hnsw.ef_search=100 -c hnsw.iterative_scan=strict_order"
"""Candidates that a search keeps; and it goes on where the first ones were seen by another version of the network."""
MOST_FACES_OF_A_PERSON: Final = 20
MOST_CANDIDATES: Final = 1000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EnrolledFace:
    """One face of a person to be enrolled: digest of its picture's file, and its embedding."""

    sha256: str
    embedding: face_pb2.Embedding


@dataclass(frozen=True, slots=True)
class PeoplePage:
    """A page of people by display name, and the token of the next page ("" on the last)."""

    people: list[pb.Person]
    next_token: str


class GalleryStore:
    """Keeps people in PostgreSQL.

    Args:
        pool: connections.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._migrated = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator[Self]:
        """A store for the body of the `async with`; the database need not be up yet."""
        async with open_pool(url, connections=CONNECTIONS, wait_seconds=READY_SECONDS, options=SEARCH_OPTIONS) as pool:
            store = cls(pool)
            async with migrating(url, MIGRATIONS, store._migrated):
                yield store

    async def create(self, person: pb.Person, faces: Sequence[EnrolledFace]) -> pb.Person:
        """Enrols a person; returns it with its name, count and time.

        Raises:
            Unavailable: the database is away.
        """
        identifier, now = uuid.uuid4(), dt.datetime.now(dt.UTC)
        async with self._connection() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO people (id, create_time, display_name, consent, source) VALUES (%s, %s, %s, %s, %s)",
                (identifier, now, *(_text(each) for each in (person.display_name, person.consent, person.source))),
            )
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO people_faces (person_id, position, sha256, model_version, embedding)"
                    " VALUES (%s, %s, %s, %s, %s::vector)",
                    [
                        (identifier, position, face.sha256, face.embedding.model_version, _vector(face.embedding))
                        for position, face in enumerate(faces)
                    ],
                )
        log.info("person_enrolled", person=str(identifier), faces=len(faces))
        return _person((identifier, person.display_name, person.consent, person.source, len(faces), now))

    async def page(self, *, page_size: int, token: str) -> PeoplePage:
        """People by display name.

        Args:
            page_size: at most this many.
            token: of the previous page, or "".

        Raises:
            InvalidInput: the token is not one of ours.
            Unavailable: the database is away.
        """
        after_name, after_id = place_of(token) or ("", uuid.UUID(int=0))
        async with self._connection() as connection:
            cursor = await connection.execute(
                "SELECT id, display_name, consent, source,"
                " (SELECT count(*) FROM people_faces WHERE person_id = people.id), create_time FROM people"
                " WHERE (display_name, id) > (%s, %s) ORDER BY display_name, id LIMIT %s",
                (after_name, after_id, page_size + 1),
            )
            rows = await cursor.fetchall()
        people = [_person(row) for row in rows[:page_size]]
        more = len(rows) > page_size
        return PeoplePage(people, token_of(rows[page_size - 1][1], rows[page_size - 1][0]) if more else "")

    async def delete(self, name: str) -> None:
        """Deletes the person of this name (people/{id}) and all embeddings.

        Raises:
            NotFound: there is none.
            Unavailable: the database is away.
        """
        identifier = uuid.UUID(name.removeprefix("people/"))
        async with self._connection() as connection:
            cursor = await connection.execute("DELETE FROM people WHERE id = %s", (identifier,))
        if not cursor.rowcount:
            raise NotFound("There is no such person.", metadata={"name": name})
        log.info("person_deleted", person=str(identifier))

    async def count(self) -> int:
        """How many people are enrolled.

        Raises:
            Unavailable: the database is away.
        """
        async with self._connection() as connection:
            cursor = await connection.execute("SELECT count(*) FROM people")
            (row,) = await cursor.fetchall()
        return int(row[0])

    async def nearest(self, embedding: face_pb2.Embedding, *, most: int, threshold: float) -> list[pb.PersonMatch]:
        """The people whose faces are most like this one, most similar first.

        Args:
            embedding: of the face; only faces seen by the same version of the network are compared.
            most: at most this many people.
            threshold: similarity above which a match counts.

        Raises:
            Unavailable: the database is away.
        """
        vector = _vector(embedding)
        candidates = min(MOST_CANDIDATES, most * MOST_FACES_OF_A_PERSON)
        async with self._connection() as connection:
            cursor = await connection.execute(
                "WITH near AS MATERIALIZED ("
                "SELECT person_id, embedding <#> %s::vector AS unlikeness FROM people_faces"
                " WHERE model_version = %s ORDER BY embedding <#> %s::vector LIMIT %s),"
                " best AS (SELECT person_id, -min(unlikeness) AS similarity FROM near"
                " GROUP BY person_id ORDER BY 2 DESC LIMIT %s)"
                " SELECT id, display_name, consent, source,"
                " (SELECT count(*) FROM people_faces WHERE person_id = people.id), create_time, similarity"
                " FROM best JOIN people ON id = person_id ORDER BY similarity DESC, id",
                (vector, embedding.model_version, vector, candidates, most),
            )
            rows = await cursor.fetchall()
        return [
            pb.PersonMatch(
                person=_person(row[:6]),
                similarity=min(1.0, max(-1.0, row[6])),
                above_threshold=row[6] > threshold,
            )
            for row in rows
        ]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection, once the tables are there; what goes wrong is `Unavailable`."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._migrated.wait()
            async with asyncio.timeout(ANSWER_SECONDS), self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            log.warning("gallery_unavailable", error=type(error).__name__)
            raise Unavailable(
                "The gallery's database is not available at the moment.", reason="DATABASE_UNAVAILABLE"
            ) from error


class Gallery:
    """The gallery as a deployment allows it.

    Args:
        store: where people are kept; None if there is no database.
        enabled: whether this deployment has a gallery.
        biometrics: whether it gives biometric answers.
    """

    def __init__(self, store: GalleryStore | None, *, enabled: bool, biometrics: bool) -> None:
        self._store = store
        self._enabled = enabled
        self._biometrics = biometrics

    @property
    def searchable(self) -> bool:
        """Whether faces may be looked for in it."""
        return self._enabled and self._biometrics and self._store is not None

    def store(self, *, biometric: bool) -> GalleryStore:
        """Where people are kept.

        Args:
            biometric: whether faces are to be compared or taken in. Listing and deleting people is always possible.

        Raises:
            Forbidden: this deployment has no gallery, or gives no biometric answers.
            Unavailable: it has no database.
        """
        if not self._enabled:
            raise Forbidden("This deployment has no gallery (PENTIMENTO_GALLERY).", reason="GALLERY_DISABLED")
        if biometric and not self._biometrics:
            raise biometrics_disabled()
        if self._store is None:
            raise Unavailable("This deployment has no database: it keeps no gallery.", reason="NO_DATABASE")
        return self._store


def biometrics_disabled() -> Forbidden:
    """What a caller is told who asks for a biometric answer that this deployment does not give."""
    return Forbidden("This deployment gives no biometric answers.", reason="BIOMETRICS_DISABLED")


def _person(row: Sequence[Any]) -> pb.Person:
    """Of a row: id, display name, consent, source, number of pictures, time."""
    identifier, display_name, consent, source, pictures, create_time = row
    made = Timestamp()
    made.FromDatetime(create_time)
    return pb.Person(
        name=f"people/{identifier}",
        display_name=display_name,
        consent=consent,
        source=source,
        picture_count=pictures,
        create_time=made,
    )


def _text(value: str) -> str:
    return value.replace("\0", "")


def _vector(embedding: face_pb2.Embedding) -> str:
    """As pgvector reads it."""
    return "[" + ",".join(f"{value:.8g}" for value in embedding.values) + "]"
