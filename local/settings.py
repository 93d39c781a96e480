"""Settings of a run on this machine, the ports that follow from them, and the environment that its parts get.

Every port follows from one, so that two checkouts run side by side if one number differs. Only the edge listens where
`PENTIMENTO_BIND` says; all others listen on 127.0.0.1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = [
    "LOOPBACK",
    "PORTS_IN_USE",
    "ROOT",
    "SERVICES",
    "LocalSettings",
    "Ports",
    "SettingsError",
    "parts_environment",
    "service_environment",
    "worker_environment",
]

ROOT: Final = Path(__file__).resolve().parent.parent
LOOPBACK: Final = "127.0.0.1"
PORTS_IN_USE: Final = 16
"""The first port and the 15 after it belong to one run."""

SERVICES: Final = ("orchestrator", "passive", "deeplearning", "faces")


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one run.

    Args:
        base: the edge's port; the others follow it.
    """

    base: int

    @property
    def edge(self) -> int:
        """Envoy, for clients."""
        return self.base

    @property
    def envoy_admin(self) -> int:
        """Envoy's admin page."""
        return self.base + 1

    @property
    def worker(self) -> int:
        """The worker's health, over gRPC."""
        return self.base + 10

    @property
    def worker_metrics(self) -> int:
        """Prometheus metrics of the worker."""
        return self.base + 11

    def service(self, name: str) -> int:
        """The gRPC port of one of SERVICES."""
        return self.base + 2 + SERVICES.index(name)

    @property
    def triton_grpc(self) -> int:
        """Triton, KServe v2 over gRPC."""
        return self.base + 6

    @property
    def triton_http(self) -> int:
        """Triton, KServe v2 over HTTP."""
        return self.base + 7

    @property
    def triton_metrics(self) -> int:
        """Triton's Prometheus metrics."""
        return self.base + 8

    @property
    def postgres(self) -> int:
        """The embedded PostgreSQL."""
        return self.base + 9

    def metrics(self, name: str) -> int:
        """Prometheus metrics of one of SERVICES."""
        return self.base + 12 + SERVICES.index(name)


class SettingsError(Exception):
    """A variable of the environment is wrong; the text says which and why."""


class LocalSettings(BaseSettings):
    """What the person who types `make run` can set."""

    model_config = SettingsConfigDict(env_prefix="PENTIMENTO_", frozen=True, extra="ignore")

    port: int = Field(
        8080,
        ge=1,
        le=65535 - PORTS_IN_USE + 1,
        description="Port on which the edge listens; the 15 after it are used on 127.0.0.1 by the other parts.",
    )
    bind: str = Field("127.0.0.1", description="Address on which the edge listens; 0.0.0.0 for all.")
    home: Path = Field(
        ROOT / ".pentimento",
        description="Folder of everything that a run writes: models, database, logs; default: in the checkout.",
    )
    database_url: str = Field(
        "",
        validation_alias="DATABASE_URL",
        pattern="^(postgres(ql)?://.+)?$",
        description="PostgreSQL connection URL; if set, no PostgreSQL is started here.",
    )
    start_timeout_seconds: float = Field(
        60.0, gt=0, le=3600, description="How long a part may take until it is ready before it is reported."
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @classmethod
    def from_environment(cls) -> LocalSettings:
        """Reads and checks the variables; raises SettingsError."""
        try:
            return cls.model_validate({})
        except ValidationError as error:
            problems = []
            for problem in error.errors():
                name = "_".join(str(part) for part in problem["loc"]).upper()
                prefix = "" if name == "DATABASE_URL" else "PENTIMENTO_"
                problems.append(f"setting {prefix}{name}: {problem['msg']}")
            raise SettingsError("\n".join(problems)) from None

    @property
    def ports(self) -> Ports:
        """The ports that follow from `port`."""
        return Ports(self.port)

    @property
    def run_folder(self) -> Path:
        """Files that are of use only while the mesh runs."""
        return self.home / "run"

    @property
    def log_folder(self) -> Path:
        """A log file a part."""
        return self.home / "logs"

    @property
    def edge_host(self) -> str:
        """A host name by which this machine reaches the edge."""
        return "localhost" if self.bind in ("0.0.0.0", "::", LOOPBACK) else self.bind  # noqa: S104 - compared only

    @property
    def url(self) -> str:
        """Where this machine reaches the API."""
        return f"http://{self.edge_host}:{self.port}"

    def environment(self, database_url: str) -> dict[str, str]:
        """What every part gets, beside what was in the environment already.

        Args:
            database_url: where the database is, embedded or not.
        """
        ports = self.ports
        return {
            "DATABASE_URL": database_url,
            "PENTIMENTO_BIND": self.bind,
            "PENTIMENTO_ENVOY_ADMIN_PORT": str(ports.envoy_admin),
            "PENTIMENTO_HOME": str(self.home),
            "PENTIMENTO_PORT": str(ports.edge),
            "PENTIMENTO_TRITON_ADDRESS": f"{LOOPBACK}:{ports.triton_grpc}",
            "PENTIMENTO_TRITON_GRPC_PORT": str(ports.triton_grpc),
            "PENTIMENTO_TRITON_HTTP_PORT": str(ports.triton_http),
            "PENTIMENTO_TRITON_METRICS_PORT": str(ports.triton_metrics),
            **{f"PENTIMENTO_{name.upper()}_ADDRESS": f"{LOOPBACK}:{ports.service(name)}" for name in SERVICES},
        }


def service_environment(settings: LocalSettings, name: str) -> dict[str, str]:
    """What one of SERVICES gets beside `LocalSettings.environment`: where it listens itself."""
    return {
        "PENTIMENTO_LISTEN": f"{LOOPBACK}:{settings.ports.service(name)}",
        "PENTIMENTO_METRICS_LISTEN": f"{LOOPBACK}:{settings.ports.metrics(name)}",
    }


def worker_environment(settings: LocalSettings) -> dict[str, str]:
    """What the worker gets beside `LocalSettings.environment`: where its health is asked."""
    return {
        "PENTIMENTO_LISTEN": f"{LOOPBACK}:{settings.ports.worker}",
        "PENTIMENTO_METRICS_LISTEN": f"{LOOPBACK}:{settings.ports.worker_metrics}",
    }


def parts_environment(settings: LocalSettings, database_url: str) -> dict[str, str]:
    """The whole environment of the process manager and so of every part, but for those of each alone (above).

    Variables that other programs set for their own Python would lead the parts astray; they are left out.
    """
    astray = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PENTIMENTO_LISTEN", "PENTIMENTO_METRICS_LISTEN"}
    inherited = {name: value for name, value in os.environ.items() if name not in astray}
    return {**inherited, "PYTHONUNBUFFERED": "1", **settings.environment(database_url)}
