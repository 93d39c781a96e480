"""Settings of the orchestrator."""

from __future__ import annotations

from pydantic import Field

from services.common.settings import ServiceSettings

__all__ = ["OrchestratorSettings"]


class OrchestratorSettings(ServiceSettings):
    """What the orchestrator needs beside the common settings."""

    passive_address: str = Field("127.0.0.1:8083", description="Address (host:port) of the passive service.")
    deeplearning_address: str = Field("127.0.0.1:8084", description="Address (host:port) of the deeplearning service.")
    faces_address: str = Field("127.0.0.1:8085", description="Address (host:port) of the faces service.")
    triton_address: str = Field("127.0.0.1:8086", description="Address (host:port) of Triton, for the health report.")
    database_url: str = Field(
        "",
        validation_alias="DATABASE_URL",
        pattern="^(postgres(ql)?://.+)?$",
        description="PostgreSQL connection URL; empty keeps no analyses (they are answered all the same).",
    )
    analyzer_timeout_seconds: float = Field(
        25.0, gt=0, le=600, description="Longest wait for one analyser; the answer then says what is missing."
    )
    max_concurrent_analyses: int = Field(
        8, ge=1, le=1000, description="Analyses in progress; one more is refused with 429 and Retry-After."
    )
    fetch_timeout_seconds: float = Field(15.0, gt=0, le=120, description="Longest time to fetch a picture by URL.")
    fetch_allow_loopback: bool = Field(
        False, description="Let URLs point to this machine's loopback addresses. For tests only."
    )
    prior_generated: float = Field(
        0.1, gt=0, lt=1, description="Assumed share of generated pictures among those that are sent."
    )
    prior_edited: float = Field(
        0.1, gt=0, lt=1, description="Assumed share of edited pictures among those that are sent."
    )
