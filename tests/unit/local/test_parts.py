"""The list of parts hangs together."""

from __future__ import annotations

import socket

import pytest

from local.parts import all_parts, grpc_probe, http_probe, ports_in_use
from local.settings import SERVICES, LocalSettings


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PENTIMENTO_HOME", str(tmp_path))
    monkeypatch.setenv("PENTIMENTO_PORT", "9000")
    return LocalSettings.from_environment()


def test_all_parts_are_there(settings):
    names = [part.name for part in all_parts(settings, "url")]
    assert sorted(names) == sorted(["postgres", "triton", "worker", "envoy", *SERVICES])


def test_a_part_is_stopped_before_what_it_depends_on(settings):
    parts = {part.name: part for part in all_parts(settings, "url")}
    for part in parts.values():
        for name in part.depends_on:
            assert parts[name].tier < part.tier


def test_another_database_takes_the_place_of_the_embedded_one(settings):
    other = settings.model_copy(update={"database_url": "postgresql://elsewhere/db"})
    parts = {part.name: part for part in all_parts(other, other.database_url)}
    assert "postgres" not in parts
    assert parts["orchestrator"].depends_on == parts["worker"].depends_on == ()


def test_no_port_is_used_twice(settings):
    ports = [use.port for use in ports_in_use(all_parts(settings, "url"))]
    assert len(ports) == len(set(ports)) == 16


@pytest.mark.parametrize("make", [grpc_probe, lambda port: http_probe(port, "/ready")])
def test_a_probe_says_what_is_wrong_when_nobody_listens(make):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    assert "refused" in make(port)()
