"""Settings that every service reads from the environment, once, at start.

A setting that is wrong ends the process with a sentence that names it. docs/settings.md lists all of them; a test
fails when one is missing there.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.images import ImageLimits

__all__ = ["ServiceSettings", "load_settings"]

MEBIBYTE = 1024 * 1024
READABLE_FORMATS = frozenset({"JPEG", "PNG", "WEBP", "GIF"})


class ServiceSettings(BaseSettings):
    """What is common to all services; each service's own settings extend it."""

    model_config = SettingsConfigDict(env_prefix="PENTIMENTO_", frozen=True, extra="ignore")

    listen: str = Field("127.0.0.1:50051", description="Address (host:port) on which the service answers gRPC.")
    metrics_listen: str = Field("", description="Address (host:port) of the Prometheus metrics; empty for none.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level logged.")
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for people.")
    calibration: str = Field(
        "shipped",
        description="What scores are worth, and what drift is measured against: a calibration artefact, `shipped` for "
        "that of this version, empty for none.",
    )
    otlp_endpoint: str = Field("", description="OpenTelemetry collector (OTLP over gRPC); empty exports no spans.")
    max_message_bytes: int = Field(64 * MEBIBYTE, ge=MEBIBYTE, description="Largest gRPC message taken or sent.")
    drain_seconds: float = Field(0.5, ge=0, le=60, description="On shutdown: how long health says NOT_SERVING first.")
    grace_seconds: float = Field(20.0, ge=0, le=600, description="On shutdown: how long calls in flight may go on.")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=256,
        description="Threads for pixel work; the number of processor cores by default.",
    )
    queue: int = Field(16, ge=0, le=10_000, description="Pixel work that may wait for a thread; more is refused.")
    max_image_bytes: int = Field(10 * MEBIBYTE, ge=1024, description="Largest picture file, in bytes.")
    max_image_pixels: int = Field(50_000_000, ge=4096, description="Largest picture, in pixels.")
    max_image_frames: int = Field(1000, ge=1, description="Most frames of an animated picture.")

    @property
    def image_limits(self) -> ImageLimits:
        """The limits in the form that `services.common.images` takes; which formats a client may send, its API says."""
        return ImageLimits(
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_image_pixels,
            max_frames=self.max_image_frames,
            formats=READABLE_FORMATS,
        )


S = TypeVar("S", bound=BaseSettings)


def load_settings(settings_class: type[S]) -> S:
    """Reads the settings from the environment, or ends the process with what is wrong with them."""
    try:
        return settings_class()
    except ValidationError as error:
        prefix = settings_class.model_config.get("env_prefix", "")
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"])
            # A setting with a name of its own (an alias) is told by that.
            name = f"{prefix}{name}".upper() if name in settings_class.model_fields else name
            sys.stderr.write(f"setting {name}: {problem['msg']}\n")
        raise SystemExit(2) from None
