"""Settings of the orchestrator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from services.common.settings import ServiceSettings
from services.orchestrator.objects import open_objects
from services.orchestrator.policy import PRESETS, Policy, Preset, Thresholds
from services.orchestrator.webhooks import read_secret

__all__ = ["OrchestratorSettings"]

THRESHOLD_NAMES = frozenset(field.name for field in dataclasses.fields(Thresholds))


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
    # Each may be several pieces of pixel work at once, which all have to fit into a service's queue (`queue`, 16).
    max_concurrent_questions: int = Field(
        4,
        ge=1,
        le=1000,
        description="Questions to one service outside of analyses (/segment, /fakedetector, ...) in progress.",
    )
    max_waiting_questions: int = Field(
        124,
        ge=0,
        le=10_000,
        description="Such questions that wait for their turn; one more is refused with 429 and Retry-After.",
    )
    fetch_timeout_seconds: float = Field(15.0, gt=0, le=120, description="Longest time to fetch a picture by URL.")
    fetch_allow_loopback: bool = Field(
        False, description="Let URLs point to this machine's loopback addresses. For tests only."
    )
    policy_preset: Literal["conservative", "balanced", "sensitive"] = Field(
        "balanced", description="How readily pictures are accused; docs/policy.md has the thresholds of each."
    )
    policy_thresholds: dict[str, float] = Field(
        {},
        description="Thresholds that replace the preset's, as JSON: generated_high, generated_low, edited, "
        "possibly_edited.",
    )
    policy_weights: dict[str, float] = Field(
        {}, description='Weights of detectors other than 1, as JSON, for example {"jpeg_grid": 0}; 0 to 1.'
    )
    reuse_seconds: float = Field(
        86_400.0,
        ge=0,
        le=31_536_000,
        description="How old an analysis may be that is repeated for the same file, versions and options; 0 never.",
    )
    prior_generated: float = Field(
        0.1, gt=0, lt=1, description="Assumed share of generated pictures among those that are sent."
    )
    prior_edited: float = Field(
        0.1, gt=0, lt=1, description="Assumed share of edited pictures among those that are sent."
    )

    biometrics: bool = Field(
        True,
        description="Whether age and gender are estimated and faces compared; false refuses all of it, and shows no "
        "such answer of earlier analyses. For the orchestrator and the faces service alike.",
    )
    gallery: bool = Field(
        False,
        description="Whether people can be enrolled and looked for in pictures. Needs the database, with pgvector, and "
        "PENTIMENTO_BIOMETRICS.",
    )

    home: Path = Field(Path(".pentimento"), description="Data folder; uploads are kept in it unless a bucket is named.")
    object_store: str = Field(
        "",
        description="Where uploads are kept: s3://bucket/folder, gs://, az:// (credentials from the environment, as "
        "AWS_ACCESS_KEY_ID), or a folder; empty for `objects` in the data folder.",
    )
    upload_retention_hours: float = Field(
        24.0, gt=0, le=87_600, description="How long the uploads of batches are kept; results and hashes stay."
    )
    image_timeout_seconds: float = Field(30.0, gt=0, le=600, description="How long one picture of a batch may take.")
    batch_timeout_seconds: int = Field(
        900, ge=1, le=86_400, description="How long a batch may take from its first picture on."
    )
    worker_concurrency: int = Field(2, ge=1, le=64, description="Pictures that one worker analyses at a time.")
    max_waiting_images: int = Field(
        2000, ge=1, description="Pictures of batches that may wait for a worker; then batches are refused with 429."
    )
    max_waiting_batches: int = Field(
        16, ge=1, description="Callers of POST /analyze/batch that may wait for their answer at a time."
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Key of the signatures of webhooks (whsec_ and base64 of 24 to 64 bytes); empty refuses webhooks.",
    )

    @field_validator("webhook_secret")
    @classmethod
    def _secret_can_be(cls, secret: SecretStr) -> SecretStr:
        read_secret(secret.get_secret_value())
        return secret

    @field_validator("object_store")
    @classmethod
    def _store_can_be(cls, url: str) -> str:
        open_objects(url, home=Path())
        return url

    @property
    def webhook_key(self) -> bytes | None:
        """What webhooks are signed with; None if there are none."""
        return read_secret(self.webhook_secret.get_secret_value())

    @model_validator(mode="after")
    def _policy_can_be(self) -> OrchestratorSettings:
        if unknown := sorted(self.policy_thresholds.keys() - THRESHOLD_NAMES):
            raise ValueError(f"PENTIMENTO_POLICY_THRESHOLDS: there is no threshold {unknown[0]}")
        self.policy  # noqa: B018 - raises InvalidPolicy, a ValueError
        return self

    @property
    def policy(self) -> Policy:
        """What decides, where a request says nothing else."""
        preset = Preset(self.policy_preset)
        return Policy(
            preset=preset,
            thresholds=dataclasses.replace(PRESETS[preset], **self.policy_thresholds),
            prior_generated=self.prior_generated,
            prior_edited=self.prior_edited,
            weights=self.policy_weights,
        )
