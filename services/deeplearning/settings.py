"""Settings of the deeplearning service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.common.settings import ServiceSettings

__all__ = ["DeepLearningSettings"]


class DeepLearningSettings(ServiceSettings):
    """What the deeplearning service needs beside the common settings."""

    triton_address: str = Field("127.0.0.1:8086", description="Address (host:port) of Triton's gRPC endpoint.")
    triton_timeout_seconds: float = Field(20.0, gt=0, le=300, description="Longest wait for one answer of Triton.")
    home: Path = Field(Path(".pentimento"), description="Data folder; its models/status.json tells the digests.")
