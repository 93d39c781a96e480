"""The embedded PostgreSQL: made once, back after a kill, gone when it should be."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from local.postgres import PostgresError, database_url, find_install, hold_lock
from local.settings import LocalSettings

pytestmark = pytest.mark.integration

START_SECONDS = 60
STOP_SECONDS = 20


def free_base():
    """A port for the edge such that PostgreSQL's is free."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1] - 9


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The data folder that this module's tests share: making one takes a second or two."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PENTIMENTO_HOME", str(home))
    monkeypatch.setenv("PENTIMENTO_PORT", str(free_base()))
    return LocalSettings.from_environment()


def start():
    return subprocess.Popen([sys.executable, "-m", "local.postgres"], stderr=subprocess.PIPE, text=True)


def connect(settings):
    """A connection, as soon as there is one to be had."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return psycopg.connect(database_url(settings), autocommit=True, connect_timeout=5)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def running(settings):
    process = start()
    try:
        connect(settings).close()
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=STOP_SECONDS)


def first_process(home):
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])


def processes_in(folder):
    """The processes that work in a folder, as all of PostgreSQL's do."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_the_database_is_ready_for_the_services(settings, home):
    with running(settings) as process, connect(settings) as connection:

        def ask(query):
            return connection.execute(query).fetchone()[0]

        assert ask("SHOW server_encoding") == "UTF8"
        assert ask("SELECT upper('é')") == "É"
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        assert ask("SELECT '[0,3]'::vector <-> '[4,0]'::vector") == 5.0
        assert ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert ask("SELECT password_encryption FROM (SELECT current_setting('password_encryption')) AS s"
                   "(password_encryption)") == "scram-sha-256"  # fmt: skip

        # A database of the role's own making has the extension, too.
        connection.execute("CREATE DATABASE another")
        with psycopg.connect(database_url(settings), dbname="another") as other:
            assert other.execute("SELECT '[1]'::vector <-> '[1]'::vector").fetchone() == (0.0,)
        connection.execute("DROP DATABASE another")

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(database_url(settings), password="wrong")
        assert stat.S_IMODE((home / "postgres-password").stat().st_mode) == 0o600
        assert process.poll() is None
    assert processes_in(home / "postgres" / "data") == []


def test_sigterm_does_not_wait_for_clients(settings):
    with running(settings) as process:
        connection = connect(settings)
        began = time.monotonic()
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
        assert time.monotonic() - began < 5
        connection.close()


def test_what_was_committed_outlives_a_kill(settings, home):
    data = home / "postgres" / "data"
    with running(settings), connect(settings) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
        os.kill(first_process(home), signal.SIGKILL)

    process = start()
    with connect(settings) as connection:
        connection.execute("INSERT INTO kept VALUES (1)")
        os.kill(process.pid, signal.SIGKILL)  # the process that watches it
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT pg_sleep(30)")
    process.communicate(timeout=STOP_SECONDS)

    with running(settings), connect(settings) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(1,)]
        connection.execute("DROP TABLE kept")
    assert processes_in(data) == []


def test_a_stale_process_file_that_names_another_program_is_no_obstacle(settings, home):
    data = home / "postgres" / "data"
    with running(settings):
        text = (data / "postmaster.pid").read_text()
    stale = text.splitlines()
    stale[0] = str(os.getpid())
    (data / "postmaster.pid").write_text("\n".join(stale) + "\n")
    with running(settings):
        assert first_process(home) != os.getpid()


def test_a_new_password_file_is_a_new_password(settings, home):
    with running(settings):
        old = database_url(settings)
    (home / "postgres-password").unlink()
    with running(settings), pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(old)


def test_data_of_another_version_are_left_alone(settings, home):
    with running(settings):
        pass
    version_file = home / "postgres" / "data" / "PG_VERSION"
    own = version_file.read_text()
    version_file.write_text("15\n")
    try:
        process = start()
        _, complaint = process.communicate(timeout=STOP_SECONDS)
        assert process.returncode == 1
        assert f"made by PostgreSQL 15, and this is PostgreSQL {find_install()[1]}" in complaint
    finally:
        version_file.write_text(own)


def test_only_one_runs_on_the_data(settings, home, monkeypatch):
    monkeypatch.setattr("local.postgres.LOCK_TIMEOUT_SECONDS", 3.0)
    with running(settings), pytest.raises(PostgresError, match="another PostgreSQL is running"):
        hold_lock(home / "postgres.lock", home / "postgres" / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder in which nobody else may go")
def test_as_root_in_a_folder_where_nobody_else_may_go(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PENTIMENTO_HOME", str(tmp_path / "with space"))
    monkeypatch.setenv("PENTIMENTO_PORT", str(free_base()))
    settings = LocalSettings.from_environment()
    with running(settings), connect(settings) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        owner = Path(f"/proc/{first_process(settings.home)}").stat().st_uid
        assert owner != 0
