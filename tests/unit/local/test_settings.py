"""Settings of a local run: every port follows from one, and the environment says the same to all parts."""

from __future__ import annotations

import pytest

from local.settings import (
    PORTS_IN_USE,
    ROOT,
    SERVICES,
    LocalSettings,
    SettingsError,
    parts_environment,
    service_environment,
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("PENTIMENTO_PORT", "PENTIMENTO_HOME", "PENTIMENTO_BIND", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


def all_ports(settings):
    ports = settings.ports
    return [
        *(ports.edge, ports.envoy_admin, ports.triton_grpc, ports.triton_http, ports.triton_metrics, ports.postgres),
        *(ports.service(name) for name in SERVICES),
        *(ports.metrics(name) for name in SERVICES),
    ]


def test_defaults():
    settings = LocalSettings.from_environment()
    assert settings.port == 8080
    assert settings.home == ROOT / ".pentimento"
    assert settings.url == "http://localhost:8080"


def test_every_port_is_its_own_and_within_the_run(monkeypatch):
    monkeypatch.setenv("PENTIMENTO_PORT", "9000")
    ports = all_ports(LocalSettings.from_environment())
    assert len(set(ports)) == len(ports)
    assert min(ports) == 9000
    assert max(ports) < 9000 + PORTS_IN_USE


@pytest.mark.parametrize("port", ["0", "65521", "http"])
def test_a_wrong_port_is_named(monkeypatch, port):
    monkeypatch.setenv("PENTIMENTO_PORT", port)
    with pytest.raises(SettingsError, match="PENTIMENTO_PORT"):
        LocalSettings.from_environment()


def test_home_is_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENTIMENTO_HOME", "data")
    settings = LocalSettings.from_environment()
    assert settings.home == tmp_path / "data"
    assert settings.environment("")["PENTIMENTO_HOME"] == str(tmp_path / "data")


def test_each_setting_is_described():
    assert all(field.description for field in LocalSettings.model_fields.values())


def test_a_service_listens_where_the_others_look_for_it():
    settings = LocalSettings.from_environment()
    shared = settings.environment("postgresql://elsewhere/db")
    for name in SERVICES:
        assert service_environment(settings, name)["PENTIMENTO_LISTEN"] == shared[f"PENTIMENTO_{name.upper()}_ADDRESS"]
    assert shared["DATABASE_URL"] == "postgresql://elsewhere/db"


def test_everything_inside_is_on_loopback(monkeypatch):
    monkeypatch.setenv("PENTIMENTO_BIND", "0.0.0.0")
    settings = LocalSettings.from_environment()
    addresses = [value for name, value in settings.environment("").items() if name.endswith("_ADDRESS")]
    assert len(addresses) == len(SERVICES) + 1
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert settings.url == "http://localhost:8080"


def test_other_pythons_variables_do_not_reach_the_parts(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PENTIMENTO_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("PENTIMENTO_LOG_LEVEL", "DEBUG")
    environment = parts_environment(LocalSettings.from_environment(), "url")
    assert "PYTHONPATH" not in environment
    assert "PENTIMENTO_LISTEN" not in environment
    assert environment["PENTIMENTO_LOG_LEVEL"] == "DEBUG"
