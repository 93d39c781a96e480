"""Analyses in PostgreSQL.

While the database is away, analyses are answered without it; only what needs it (get, list, delete) fails, with
`Unavailable`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString, Self

import psycopg
import structlog
from pentimento.orchestrator.v1 import analysis_pb2
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from services.common.context import request_id
from services.common.errors import NotFound, Unavailable
from services.common.images import ImageInfo
from services.common.version import VERSION
from services.orchestrator.database import migrating, open_pool
from services.orchestrator.paging import time_place_of, token_of

__all__ = ["NOBODY_IN_PARTICULAR", "AnalysisFilter", "AnalysisStore", "Page", "kept_analysis"]

MIGRATIONS: Final = Path(__file__).parent / "migrations"
CONNECTION_SECONDS: Final = 1.0
"""Longest wait for a connection: an analysis should not wait for a database that is away."""

SAVE_SECONDS: Final = 2.0
"""Longest wait until an analysis is kept, for the same reason: a database may also hang."""

FIND_SECONDS: Final = 0.5
"""Longest wait to learn whether a picture is known: looking at it takes no longer."""

ANSWER_SECONDS: Final = 10.0
"""Longest wait for what only the database knows."""

CONNECTIONS: Final = 8

NOBODY_IN_PARTICULAR: Final = "anonymous"
"""Who asked, in the audit, as long as callers do not identify themselves."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Page:
    """A page of analyses, newest first, and the token of the next page ("" on the last)."""

    analyses: list[analysis_pb2.Analysis]
    next_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisFilter:
    """Which analyses: all conditions hold; those that are not given hold for all.

    Attributes:
        sha256: digest of the file, or "".
        decision, edit_decision: numbers of the contract's values, or 0.
        made_from: made at this time or later; made_before: before this time.
        filename_prefix: how the file's name begins.
    """

    sha256: str = ""
    decision: int = 0
    edit_decision: int = 0
    made_from: dt.datetime = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
    made_before: dt.datetime = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
    filename_prefix: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a statement gave: its rows, and how many it returned or changed."""

    rows: Sequence[Any]
    row_count: int


class AnalysisStore:
    """Keeps analyses. Heat maps are not kept: they are large, and an analysis can be repeated.

    Args:
        pool: connections to PostgreSQL; None keeps nothing.
        biometrics: whether analyses are given back with the biometric answers that they were kept with.
    """

    def __init__(self, pool: AsyncConnectionPool[Any] | None, *, biometrics: bool = True) -> None:
        self._pool = pool
        self._biometrics = biometrics
        self._migrated = asyncio.Event()
        self._asking: set[asyncio.Task[_Answer]] = set()
        self._noting: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, biometrics: bool = True) -> AsyncIterator[Self]:
        """A store for the body of the `async with`; the database need not be up yet. An empty url keeps nothing."""
        if not url:
            yield cls(None)
            return
        async with open_pool(url, connections=CONNECTIONS, wait_seconds=CONNECTION_SECONDS) as pool:
            store = cls(pool, biometrics=biometrics)
            async with migrating(url, MIGRATIONS, store._migrated, queue=True):
                yield store

    async def _execute(self, query: LiteralString, parameters: Sequence[Any] = (), *, seconds: float) -> _Answer:
        """Runs one statement; raises `Unavailable` if that takes longer than `seconds` or fails."""
        if self._pool is None:
            raise Unavailable("This deployment has no database: it keeps no analyses.", reason="NO_DATABASE")
        asking = asyncio.create_task(self._ask(self._pool, query, parameters))
        self._asking.add(asking)
        asking.add_done_callback(self._asked)
        try:
            await asyncio.wait({asking}, timeout=seconds)
            if asking.done():
                return asking.result()
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise _unavailable(type(error).__name__) from error
        finally:
            # Not awaited: with a server that hangs, psycopg takes ten seconds to give a statement up.
            asking.cancel()
        raise _unavailable("hangs")

    async def _ask(self, pool: AsyncConnectionPool[Any], query: LiteralString, parameters: Sequence[Any]) -> _Answer:
        async with asyncio.timeout(CONNECTION_SECONDS):
            await self._migrated.wait()
        async with pool.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return _Answer(await cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def _asked(self, asking: asyncio.Task[_Answer]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # seen: whoever asked has it, or has long gone

    async def server_version(self) -> str:
        """Version of the database, for example "18.4"; "" if it does not answer."""
        try:
            answer = await self._execute("SELECT current_setting('server_version')", seconds=SAVE_SECONDS)
        except Unavailable:
            return ""
        return str(answer.rows[0][0]).partition(" ")[0]

    @property
    def configured(self) -> bool:
        """Whether there is a database at all."""
        return self._pool is not None

    async def save(self, analysis: analysis_pb2.Analysis) -> None:
        """Keeps an analysis, without its heat maps; saving it again changes nothing.

        Raises:
            Unavailable: the database is away.
        """
        identifier = _id_of(analysis.name)
        create_time = analysis.create_time.ToDatetime(dt.UTC)
        await self._execute(
            "WITH kept AS ("
            "INSERT INTO analyses"
            " (id, create_time, filename, sha256, decision, edit_decision, fingerprint, analysis)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING RETURNING id)"
            " INSERT INTO audit (time, action, caller, request_id, analysis_id, sha256, fingerprint, versions)"
            " SELECT %s, %s, %s, %s, id, %s, %s, %s FROM kept",
            (
                identifier,
                create_time,
                analysis.filename.replace("\0", ""),
                analysis.image.sha256,
                analysis.decision,
                analysis.edit_decision,
                # Of one that repeats another, None: what is looked up is always what was looked at.
                analysis.fingerprint if analysis.fingerprint and not analysis.reused_from else None,
                _slim(analysis).SerializeToString(),
                create_time,
                "repeat" if analysis.reused_from else "analyze",
                NOBODY_IN_PARTICULAR,
                request_id(),
                analysis.image.sha256,
                analysis.fingerprint,
                Jsonb(_versions(analysis)),
            ),
            seconds=SAVE_SECONDS,
        )

    def note_call(self, image: ImageInfo) -> None:
        """Leaves a row in the audit for a picture that one of the older APIs looks at, of which nothing else is kept.

        Its caller does not wait for it, nor fails with it: a row that could not be written is told of in the log.
        """
        if self._pool is None:
            return
        noting = asyncio.create_task(self._note_call(image))
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)

    async def _note_call(self, image: ImageInfo) -> None:
        try:
            await self._execute(
                "INSERT INTO audit (time, action, caller, request_id, sha256, fingerprint, versions)"
                " VALUES (now(), 'call', %s, %s, %s, '', %s)",
                (NOBODY_IN_PARTICULAR, request_id(), image.sha256, Jsonb({"pentimento": VERSION})),
                seconds=ANSWER_SECONDS,
            )
        except Unavailable:
            log.warning("audit_row_lost", sha256=image.sha256)

    async def find(self, fingerprint: str, *, max_age_seconds: float) -> analysis_pb2.Analysis | None:
        """The newest analysis of this fingerprint that is no repetition itself; None if there is none so young.

        Raises:
            Unavailable: the database is away.
        """
        answer = await self._execute(
            "SELECT analysis FROM analyses WHERE fingerprint = %s AND create_time > now() - make_interval(secs => %s)"
            " ORDER BY create_time DESC LIMIT 1",
            (fingerprint, max_age_seconds),
            seconds=FIND_SECONDS,
        )
        return kept_analysis(answer.rows[0][0], biometrics=self._biometrics) if answer.rows else None

    async def get(self, name: str) -> analysis_pb2.Analysis:
        """The analysis of this name (analyses/{id}).

        Raises:
            NotFound: there is none.
            Unavailable: the database is away.
        """
        answer = await self._execute(
            "SELECT analysis FROM analyses WHERE id = %s", (_id_of(name),), seconds=ANSWER_SECONDS
        )
        if not answer.rows:
            raise NotFound("There is no such analysis.", metadata={"name": name})
        return kept_analysis(answer.rows[0][0], biometrics=self._biometrics)

    async def list(self, *, page_size: int, token: str, which: AnalysisFilter) -> Page:
        """Analyses, newest first.

        Args:
            page_size: at most this many.
            token: of the previous page, or "".
            which: only these.

        Raises:
            InvalidInput: the token is not one of ours.
            Unavailable: the database is away.
        """
        before_time, before_id = time_place_of(token)
        answer = await self._execute(
            "SELECT id, create_time, analysis FROM analyses"
            " WHERE (create_time, id) < (%s, %s) AND (%s = '' OR sha256 = %s)"
            " AND (%s = 0 OR decision = %s) AND (%s = 0 OR edit_decision = %s)"
            " AND create_time >= %s AND create_time < %s AND starts_with(filename, %s)"
            " ORDER BY create_time DESC, id DESC LIMIT %s",
            (
                before_time,
                before_id,
                which.sha256,
                which.sha256,
                which.decision,
                which.decision,
                which.edit_decision,
                which.edit_decision,
                which.made_from,
                which.made_before,
                which.filename_prefix.replace("\0", ""),
                page_size + 1,
            ),
            seconds=ANSWER_SECONDS,
        )
        rows = answer.rows
        analyses = [kept_analysis(row[2], biometrics=self._biometrics) for row in rows[:page_size]]
        more = len(rows) > page_size
        return Page(analyses, token_of(rows[page_size - 1][1], rows[page_size - 1][0]) if more else "")

    async def delete(self, name: str) -> None:
        """Deletes the analysis of this name (analyses/{id}).

        Raises:
            NotFound: there is none.
            Unavailable: the database is away.
        """
        answer = await self._execute(
            "WITH gone AS (DELETE FROM analyses WHERE id = %s RETURNING id, sha256)"
            " INSERT INTO audit (time, action, caller, request_id, analysis_id, sha256, fingerprint, versions)"
            " SELECT now(), 'delete', %s, %s, id, sha256, '', '{}' FROM gone",
            (_id_of(name), NOBODY_IN_PARTICULAR, request_id()),
            seconds=ANSWER_SECONDS,
        )
        if not answer.row_count:
            raise NotFound("There is no such analysis.", metadata={"name": name})


def _unavailable(why: str) -> Unavailable:
    log.warning("database_unavailable", error=why)
    return Unavailable("The database is not available at the moment.", reason="DATABASE_UNAVAILABLE")


def kept_analysis(content: bytes, *, biometrics: bool) -> analysis_pb2.Analysis:
    """An analysis as it was kept, without its biometric answers if this deployment gives none (any more)."""
    analysis = analysis_pb2.Analysis.FromString(content)
    if not biometrics:
        for face in analysis.faces:
            face.ClearField("age")
            face.ClearField("gender")
    return analysis


def _id_of(name: str) -> uuid.UUID:
    try:
        return uuid.UUID(name.removeprefix("analyses/"))
    except ValueError:
        raise NotFound("There is no such analysis.", metadata={"name": name}) from None


def _slim(analysis: analysis_pb2.Analysis) -> analysis_pb2.Analysis:
    slim = analysis_pb2.Analysis()
    slim.CopyFrom(analysis)
    for finding in slim.findings:
        finding.ClearField("heat_map")
        finding.ClearField("reliability_map")
    for face in slim.faces:
        face.ClearField("embedding")  # biometric: kept by a gallery that asks for it, and by nothing else
    return slim


def _versions(analysis: analysis_pb2.Analysis) -> dict[str, Any]:
    """What took part in an analysis, for the audit."""
    made = [finding.provenance for finding in analysis.findings]
    return {
        "detectors": {each.detector: each.version for each in made},
        "models": {model: digest for each in made for model, digest in each.model_digests.items()},
        "policy": analysis.policy_version,
        "calibration": analysis.calibration_version,
    }
