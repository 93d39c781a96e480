"""The schema of the job queue (procrastinate's own), made and brought up to date at start.

procrastinate ships its whole schema and, for databases that have an older one, the steps in between, each a file whose
name begins with the version that needs it. The last step that a database has is kept in a table beside it.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
from procrastinate.schema import SchemaManager

__all__ = ["bring_queue_up_to_date"]


def bring_queue_up_to_date(url: str) -> int:
    """Makes the queue's tables, or takes the steps that are missing; returns how many it took.

    To be called under a lock. Each step is a transaction of its own together with the note that it was taken.

    Raises:
        psycopg.Error: the database is away, or does not let this role make tables.
    """
    steps = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"), key=lambda step: step.name)
    taken = 0
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS queue_schema (last_step text NOT NULL)")
        known = connection.execute("SELECT last_step FROM queue_schema").fetchone()
        if known is None:
            with connection.transaction():
                connection.execute(SchemaManager.get_schema())
                connection.execute("INSERT INTO queue_schema VALUES (%s)", (steps[-1].name,))
            return 1
        for step in steps:
            if step.name > known[0]:
                with connection.transaction():
                    connection.execute(step.read_text(encoding="utf-8"))
                    connection.execute("UPDATE queue_schema SET last_step = %s", (step.name,))
                taken += 1
    return taken
