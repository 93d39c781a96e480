"""Settings of the faces service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.common.settings import ServiceSettings

__all__ = ["FacesSettings"]


class FacesSettings(ServiceSettings):
    """What the faces service needs beside the common settings."""

    triton_address: str = Field("127.0.0.1:8086", description="Address (host:port) of Triton's gRPC endpoint.")
    triton_timeout_seconds: float = Field(20.0, gt=0, le=300, description="Longest wait for one answer of Triton.")
    home: Path = Field(Path(".pentimento"), description="Data folder; MediaPipe's network and the digests are in it.")
    mediapipe_model: Path | None = Field(
        None, description="MediaPipe's network for finding faces; by default where set-up puts it in the data folder."
    )
    max_faces: int = Field(100, ge=1, le=1000, description="Most faces that are described in one picture.")
    biometrics: bool = Field(
        True,
        description="Whether age and gender are estimated and faces compared; false refuses all of it, and shows no "
        "such answer of earlier analyses. For the orchestrator and the faces service alike.",
    )

    @property
    def mediapipe_asset(self) -> Path:
        """Where MediaPipe's network is expected."""
        return self.mediapipe_model or self.home / "models/assets/mediapipe/face_detection_short_range.tflite"
