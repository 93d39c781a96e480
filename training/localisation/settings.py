"""Where pictures and checkpoints lie, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["LocalisationSettings"]

_CHECKOUT: Final = Path(__file__).resolve().parents[2]


class LocalisationSettings(BaseSettings):
    """Folders of this training."""

    model_config = SettingsConfigDict(env_prefix="PENTIMENTO_", frozen=True, extra="ignore")

    data: Path = Field(_CHECKOUT / ".data", description="Folder that training data is assembled in.")
    shared_data: Path = Field(
        _CHECKOUT.parent / "shared" / "data", description="Folder of the collected research data, with its splits.csv."
    )
    face_detector: Path | None = Field(
        None, description="YuNet's ONNX file, which finds the faces that are blended; without it no face is forged."
    )
    checkpoints: Path = Field(_CHECKOUT / "training" / "checkpoints", description="Folder of the runs' checkpoints.")
    runs: Path = Field(_CHECKOUT / "training" / "runs", description="Folder of the runs' logs.")

    @property
    def decoded(self) -> Path:
        """Where decoded pictures are kept."""
        return self.data / "localisation" / "decoded"

    @property
    def listing(self) -> Path:
        """The list of pictures."""
        return self.data / "localisation" / "pictures.csv"

    @property
    def fusion(self) -> Path:
        """Where the features that the last layers learn from are kept, a folder a split."""
        return self.data / "localisation" / "fusion"
