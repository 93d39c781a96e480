"""A real PostgreSQL, for all tests that need one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid

import psycopg
import pytest

from local.postgres import database_url
from local.settings import LocalSettings


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The URL of a running PostgreSQL."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        base = held.getsockname()[1] - 9
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "PENTIMENTO_HOME": str(home), "PENTIMENTO_PORT": str(base)}
    environment.pop("DATABASE_URL", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "local.postgres"], env=environment, stderr=subprocess.DEVNULL, text=True
    )
    url = database_url(LocalSettings(home=home, port=base))
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(30)


@pytest.fixture
def url(postgres):
    """A database of its own for each test."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        # Nothing here outlives the machine: no commit waits for a disk that others write to as well.
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    yield postgres.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        for attempt in reversed(range(20)):
            try:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
                break
            except psycopg.errors.InsufficientPrivilege:  # the server's own vacuum is at it, and ends by itself
                if not attempt:
                    raise
                time.sleep(0.5)
